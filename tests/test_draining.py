"""Stopped gently: what is in hand is ended or given back, whoever sends the signal and whoever is away."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
import threading
from pathlib import Path
from typing import NoReturn

import pytest

from crawler import run as running_module
from crawler.cli.terminal import say
from crawler.coordinator import Opening
from crawler.errors import Stopped
from crawler.join import connect, greet
from crawler.model import Progress, Role
from crawler.out import Out
from crawler.producer import from_urls
from crawler.progress import Watch
from crawler.run import LINGER, Hands, Run, Stop, seed
from crawler.settings import Politeness, Settings
from tests.command import LOCAL, command, records, run, running, served, status, write_list
from tests.conftest import free_port, wait_until
from tests.site import Site

SMALL = ("--processes", "1", "--threads", "8")
#: Seconds in which whatever is stopped has ended; see `wait_until`.
PATIENCE = 40


def write_slow(folder: Path, site: Site, count: int, seconds: float) -> None:
    """Write a list of photos that are answered after *seconds*."""
    write_list(folder, *(site.url(f"/slow/{seconds}/photo/{number}.jpg") for number in range(count)))


def seed_at_a_terminal(folder: Path, site: Site, *options: str, hang_up: signal.Handlers) -> int:
    """Seed `urls.txt` at a real terminal that is closed when some of it was asked for; return the exit status."""
    master, slave = pty.openpty()

    def take_terminal() -> None:
        os.setsid()
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
        signal.signal(signal.SIGHUP, hang_up)

    process = subprocess.Popen(
        command("seed", "urls.txt", *options, *LOCAL),
        cwd=folder,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        preexec_fn=take_terminal,  # noqa: PLW1509  (the child only takes its terminal)
    )
    os.close(slave)
    reading = threading.Thread(target=read_to_the_end, args=(master, ending := threading.Event()))
    reading.start()
    try:
        wait_until(lambda: len(site.requests) > 8)
        ending.set()
        reading.join(PATIENCE)
        os.close(master)  # the terminal's window is gone: SIGHUP, and every write fails
        return process.wait(PATIENCE)
    finally:
        process.kill()
        process.wait(PATIENCE)


def test_a_terminal_that_is_closed(tmp_path: Path, site: Site) -> None:
    """A real one: what was to be shown there is lost, what was to be recorded is not, and the status is 75."""
    write_slow(tmp_path, site, 60, 0.2)
    assert seed_at_a_terminal(tmp_path, site, "-v", hang_up=signal.SIG_DFL) == 75
    assert status(tmp_path, "urls.crawl")["leased"] == 0
    assert run(tmp_path, "seed", "urls.txt", *LOCAL).returncode == 0
    assert len(records(tmp_path, "urls.crawl")) == len(site.requests) == 60


@pytest.mark.parametrize("options", [(), ("-v",)])
def test_a_terminal_that_is_gone_says_nothing_about_a_run(tmp_path: Path, site: Site, options: tuple[str, ...]) -> None:
    """One that was told to go on without it (`trap '' HUP`) ends as if somebody had read what it says."""
    write_slow(tmp_path, site, 30, 0.2)
    assert seed_at_a_terminal(tmp_path, site, *options, hang_up=signal.SIG_IGN) == 0
    assert len(records(tmp_path, "urls.crawl")) == 30


def test_an_error_that_nobody_can_see_has_its_status(tmp_path: Path) -> None:
    """What was to be said of it is lost with the terminal, the status is not."""
    master, slave = pty.openpty()
    os.close(master)
    at_once = command("seed", "missing.txt")
    assert subprocess.run(at_once, cwd=tmp_path, stdin=slave, stdout=slave, stderr=slave, check=False).returncode == 65
    os.close(slave)


def test_what_cannot_be_written_is_an_error() -> None:
    """A terminal that is gone is none, a full disk is."""
    with open("/dev/full", "w", encoding="ascii") as full:
        words = [sys.executable, "-P", "-c", "from crawler.cli.terminal import say; say('a line')"]
        said = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, check=False).stderr
    assert os.strerror(errno.ENOSPC) in said


def test_a_disk_that_fails_is_no_terminal_that_is_gone(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are the same error; standard output is a file here."""

    def fail(text: str, err: bool) -> NoReturn:
        raise OSError(errno.EIO, text)

    monkeypatch.setattr("crawler.cli.terminal.click.echo", fail)
    with pytest.raises(OSError, match="a line"):
        say("a line")


def test_a_terminal_that_is_closed_on_a_run_that_ignores_that(tmp_path: Path, site: Site) -> None:
    """`nohup crawler seed …` goes on to its end."""
    write_slow(tmp_path, site, 30, 0.2)
    words = ["nohup", *command("seed", "urls.txt", *LOCAL)]
    with subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        wait_until(lambda: len(site.requests) > 4)
        process.send_signal(signal.SIGHUP)
        assert process.wait(PATIENCE) == 0
    assert len(records(tmp_path, "urls.crawl")) == 30


def test_nobody_reads_what_a_run_says(tmp_path: Path, site: Site) -> None:
    """The pipe of its standard error is closed at the other end: it goes on to its end."""
    write_slow(tmp_path, site, 30, 0.2)
    with running(tmp_path, "seed", "urls.txt", *LOCAL) as process:
        assert process.stderr is not None and process.stdout is not None
        process.stderr.close()
        assert process.wait(PATIENCE) == 0
        process.stderr = None
    assert len(records(tmp_path, "urls.crawl")) == 30


def read_to_the_end(descriptor: int, ending: threading.Event) -> None:
    """Read what a terminal is sent, as its window does."""
    os.set_blocking(descriptor, False)
    while not ending.wait(0.01):
        with contextlib.suppress(OSError):  # nothing there
            os.read(descriptor, 65536)


def test_a_service_manager_stops_a_worker(tmp_path: Path, site: Site) -> None:
    """SIGTERM to all of its processes at once: nothing dies of it, leases are given back, nothing is fetched twice."""
    write_slow(tmp_path, site, 60, 0.3)
    with running(tmp_path, "seed", "urls.txt", *LOCAL, "--workers", "0") as coordinator:
        served(tmp_path, "urls.crawl")
        with running(tmp_path, "worker", "urls.crawl", *SMALL) as worker:
            wait_until(lambda: status(tmp_path, "urls.crawl").get("stored", 0) > 8)
            os.killpg(worker.pid, signal.SIGTERM)
            said = worker.communicate(timeout=PATIENCE)[1]
            assert (worker.returncode, "died" in said) == (75, False), said
        now = status(tmp_path, "urls.crawl")
        assert (now["leased"], now["workers"]) == (0, [])
        assert run(tmp_path, "worker", "urls.crawl", *SMALL).returncode == 0
        assert coordinator.wait(PATIENCE) == 0
    assert len(records(tmp_path, "urls.crawl")) == len(site.requests) == 60


@pytest.mark.once
def test_what_takes_longer_than_the_grace_is_given_back(tmp_path: Path, site: Site) -> None:
    """By a worker with other tasks that end in time: those are recorded, the others are READY, and charged nothing."""
    quick = [site.url(f"/slow/0.5/photo/{number}.jpg") for number in range(4)]
    slow = [site.url(f"/slow/600/photo/{number}.jpg") for number in range(4)]
    write_list(tmp_path, *slow, *quick)
    # Time for a disk that is busy with other tests: what is not synced by the end of the grace is given back too.
    with running(tmp_path, "seed", "urls.txt", *LOCAL, "--grace", "20", "--stall", "100") as process:
        wait_until(lambda: len(status(tmp_path, "urls.crawl").get("workers", [])) == 1)
        wait_until(lambda: status(tmp_path, "urls.crawl")["leased"] == 8)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 75
    now = status(tmp_path, "urls.crawl")
    assert (now["stored"], now["ready"], now["leased"], now["failed"]) == (4, 4, 0, 0)


def test_a_coordinator_that_is_stopped_waits_for_last_completions(tmp_path: Path, site: Site) -> None:
    """
    Of a worker that is not its child: what was being fetched is recorded, and is not fetched again.

    It takes longer than the coordinator lingers for workers to leave.
    """
    write_slow(tmp_path, site, 8, LINGER + 2)
    with running(tmp_path, "seed", "urls.txt", *LOCAL, "--workers", "0") as coordinator:
        served(tmp_path, "urls.crawl")
        with running(tmp_path, "worker", "urls.crawl", *SMALL) as worker:
            wait_until(lambda: status(tmp_path, "urls.crawl").get("leased") == 8)
            coordinator.send_signal(signal.SIGTERM)
            assert (coordinator.wait(PATIENCE), worker.wait(PATIENCE)) == (75, 75)
    assert len(records(tmp_path, "urls.crawl")) == len(site.requests) == 8
    assert run(tmp_path, "seed", "urls.txt", *LOCAL).returncode == 0
    assert len(records(tmp_path, "urls.crawl")) == len(site.requests) == 8


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_worker_is_stopped_while_its_coordinator_is_away(tmp_path: Path, site: Site, how: signal.Signals) -> None:
    """It waits for it no longer than its grace, however long it would have tried: 75, not 69."""
    run(tmp_path, "keygen", "key")
    write_slow(tmp_path, site, 60, 0.2)
    at = ("--listen", f"127.0.0.1:{free_port()}", "--key", "key")
    with running(tmp_path, "seed", "urls.txt", *LOCAL, "--workers", "0", *at) as coordinator:
        served(tmp_path, "urls.crawl")
        terms = ("--key", "key", "--grace", "2", "--give-up", "3600")
        with running(tmp_path, "worker", at[1], *SMALL, *terms) as worker:
            wait_until(lambda: status(tmp_path, "urls.crawl").get("stored", 0) > 4)
            coordinator.send_signal(how)
            worker.send_signal(signal.SIGTERM)
            said = worker.communicate(timeout=PATIENCE)[1]
            assert (worker.returncode, "Traceback" in said) == (75, False), said


def test_the_grace_is_for_all_of_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for a worker that holds a lease and says nothing, beyond the grace: not for it to leave either."""
    for name in ("LINGER", "END_WAIT"):
        monkeypatch.setattr(running_module, name, 3600.0)
    out, stop = Out(tmp_path / "out"), Stop()
    opening = Opening(None, Settings(politeness=Politeness(robots=False)))
    work = Run([from_urls(["http://host.invalid/1"])], out, opening, hands=Hands(workers=0), grace=0.5)
    ended: list[Exception] = []

    def conduct() -> None:
        try:
            seed(work, stop, Watch())
        except Stopped as error:
            ended.append(error)

    conductor = threading.Thread(target=conduct, daemon=True)
    conductor.start()
    wait_until(out.address.exists)
    client = connect(out.address.read_text().strip(), str(out.run), 60.0)
    try:
        queue = client.proxy("task_queue")
        session = client.session = queue.hello(greet(Role.WORKER)).session
        wait_until(lambda: queue.lease(session, len(ended) + 1, 1, 1.0, Progress()).leases)
        stop.ask()
        conductor.join(PATIENCE)
        assert len(ended) == 1
    finally:
        client.close()
