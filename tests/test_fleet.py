"""Several workers and producers on one queue, over sockets, with and without a key."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from crawler.consumer.store.directory import Directory
from crawler.join import Joining, work
from crawler.model import QueueStatus
from tests.command import LIMIT, LOCAL, records, rows, run, running, served, status, write_list
from tests.conftest import ROOT, free_port, wait_until
from tests.site import Site, photo

SMALL = ("--processes", "1", "--threads", "8")


def test_a_worker_without_the_store_sends_its_downloads(tmp_path: Path, site: Site) -> None:
    """The coordinator verifies and stores them; the files are the same, byte for byte."""
    write_list(tmp_path, *(site.url(f"/photo/{n}.jpg") for n in range(30)), site.url("/cut/1.jpg"))
    with running(tmp_path, "seed", "urls.txt", *LOCAL, "--workers", "0") as seed:
        served(tmp_path, "urls.crawl")
        worker = run(tmp_path, "worker", "urls.crawl", "--store", "none", *SMALL)
        assert (worker.returncode, seed.wait(LIMIT)) == (0, 0), worker.stderr
    kept = records(tmp_path, "urls.crawl")
    assert sum(record["outcome"] == "stored" for record in kept) == 30
    assert [record["reason"] for record in kept if record["reason"]] == ["image_truncated"]
    for record in kept:
        if record["path"]:
            number = int(record["url"].rpartition("/")[2].partition(".")[0])
            assert (tmp_path / "urls.crawl" / record["path"]).read_bytes() == photo(number)
        assert record["worker"] == socket.gethostname()
    assert not list((tmp_path / "urls.crawl" / "images").glob(".*"))


def test_machines_join_with_a_key(tmp_path: Path, site: Site) -> None:
    """keygen, --listen and --key; the join command is printed; the key's private part stays at the coordinator."""
    assert run(tmp_path, "keygen", "key").returncode == 0
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    for name in ("key", "cert.pem"):
        (theirs / name).write_bytes((tmp_path / "key" / name).read_bytes())
    (theirs / "key").chmod(0o600)
    write_list(tmp_path, *(site.url(f"/photo/{n}.jpg") for n in range(10)))
    address = f"127.0.0.1:{free_port()}"
    with running(tmp_path, "seed", "urls.txt", *LOCAL, "--workers", "0", "--listen", address, "--key", "key") as seed:
        served(tmp_path, "urls.crawl")
        worker = run(tmp_path, "worker", address, "--key", "theirs", *SMALL)
        said = seed.communicate(timeout=LIMIT)[1]
        assert (worker.returncode, seed.returncode) == (0, 0), worker.stderr
    assert f"crawler worker {address} --key key" in said
    assert len(records(tmp_path, "urls.crawl")) == 10


def test_a_wrong_key_is_77(tmp_path: Path, site: Site) -> None:
    """The service goes on unharmed."""
    run(tmp_path, "keygen", "key")
    run(tmp_path, "keygen", "wrong")
    write_list(tmp_path, *(site.url(f"/photo/{n}.jpg") for n in range(5)))
    address = f"127.0.0.1:{free_port()}"
    with running(tmp_path, "seed", "urls.txt", *LOCAL, "--workers", "0", "--listen", address, "--key", "key") as seed:
        served(tmp_path, "urls.crawl")
        wrong = run(tmp_path, "worker", address, "--key", "wrong", *SMALL)
        assert wrong.returncode == 77, wrong.stderr
        assert run(tmp_path, "worker", "urls.crawl", *SMALL).returncode == 0
        assert seed.wait(LIMIT) == 0


def test_nonsense_on_the_port_is_one_line_and_no_harm(tmp_path: Path, site: Site) -> None:
    """A plain socket that talks nonsense, and one that says nothing."""
    write_list(tmp_path, *(site.url(f"/photo/{n}.jpg") for n in range(5)))
    with running(tmp_path, "seed", "urls.txt", *LOCAL, "--workers", "0") as seed:
        served(tmp_path, "urls.crawl")
        host, _, port = (tmp_path / "urls.crawl" / "run" / "address").read_text().strip().rpartition(":")
        with socket.create_connection((host, int(port))), socket.create_connection((host, int(port))) as loud:
            loud.sendall(b"GET / HTTP/1.0\r\n\r\n" * 50)
            worker = run(tmp_path, "worker", "urls.crawl", *SMALL)
        said = seed.communicate(timeout=LIMIT)[1]
        assert (worker.returncode, seed.returncode) == (0, 0), worker.stderr
    assert said.count("no crawler is on the other side") == 1
    assert "Traceback" not in said


def test_a_coordinator_that_is_away_is_69(tmp_path: Path) -> None:
    """The worker says so once, tries again, and gives up after its limit."""
    run(tmp_path, "keygen", "key")
    done = run(tmp_path, "worker", f"127.0.0.1:{free_port()}", "--key", "key", "--give-up", "1", *SMALL)
    assert done.returncode == 69
    assert "is away" in done.stderr and "Traceback" not in done.stderr


def test_a_group_readable_key_is_refused(tmp_path: Path) -> None:
    """It says what to do."""
    run(tmp_path, "keygen", "key")
    (tmp_path / "key" / "key").chmod(0o640)
    done = run(tmp_path, "worker", "127.0.0.1:1", "--key", "key")
    assert done.returncode == 77
    assert "chmod 600" in done.stderr


@pytest.mark.parametrize("more", [(), ("--key", "open")])
def test_listening_beyond_loopback_needs_a_key(tmp_path: Path, site: Site, more: tuple[str, ...]) -> None:
    """No key, or one without a certificate: refused, with what to do."""
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / "key").write_text("ab" * 32)
    (tmp_path / "open" / "key").chmod(0o600)
    write_list(tmp_path, site.url("/photo/1.jpg"))
    done = run(tmp_path, "seed", "urls.txt", *LOCAL, "--listen", "0.0.0.0:0", *more)
    assert done.returncode == 2
    assert "crawler keygen" in done.stderr


def test_lists_are_added_to_a_running_queue(tmp_path: Path, site: Site) -> None:
    """--to, with --keep-open; one list twice adds nothing; SIGTERM ends the wait."""
    write_list(tmp_path, site.url("/photo/1.jpg"))
    write_list(tmp_path, site.url("/photo/1.jpg"), site.url("/photo/2.jpg"), name="more.txt")
    with running(tmp_path, "seed", "urls.txt", *LOCAL, "--keep-open") as seed:
        served(tmp_path, "urls.crawl")
        for _ in range(2):
            added = run(tmp_path, "seed", "more.txt", "--to", "urls.crawl")
            assert added.returncode == 0, added.stderr
        wait_until(lambda: status(tmp_path, "urls.crawl").get("stored") == 2)
        assert status(tmp_path, "urls.crawl")["entries"] == 3
        seed.send_signal(signal.SIGTERM)
        assert seed.wait(LIMIT) == 75


def test_retry_of_a_running_crawl(tmp_path: Path, site: Site) -> None:
    """Failed tasks are fetched again at once."""
    write_list(tmp_path, site.url("/flaky/1/1.jpg"))
    with running(tmp_path, "seed", "urls.txt", *LOCAL, "--keep-open", "--attempts", "1") as seed:
        served(tmp_path, "urls.crawl")
        wait_until(lambda: status(tmp_path, "urls.crawl").get("failed") == 1)
        assert run(tmp_path, "retry", "urls.crawl").returncode == 0
        wait_until(lambda: status(tmp_path, "urls.crawl").get("stored") == 1)
        seed.send_signal(signal.SIGTERM)
        assert seed.wait(LIMIT) == 75


def test_a_killed_worker_costs_nothing(tmp_path: Path, site: Site) -> None:
    """Its tasks are leased again when its connections close."""
    write_list(tmp_path, *(site.url(f"/slow/0.2/photo/{n}.jpg") for n in range(40)))
    with running(tmp_path, "seed", "urls.txt", *LOCAL, "--workers", "0") as seed:
        served(tmp_path, "urls.crawl")
        with running(tmp_path, "worker", "urls.crawl", *SMALL) as victim:
            wait_until(lambda: status(tmp_path, "urls.crawl").get("stored", 0) > 4)
            os.kill(victim.pid, signal.SIGKILL)
        assert run(tmp_path, "worker", "urls.crawl", *SMALL).returncode == 0
        assert seed.wait(LIMIT) == 0
    kept = records(tmp_path, "urls.crawl")
    assert [record["outcome"] for record in kept] == ["stored"] * 40
    assert len({record["id"] for record in kept}) == 40


def test_a_worker_that_is_stopped_for_longer_than_its_leases(tmp_path: Path, site: Site) -> None:
    """Another one does its tasks, while it is still stopped; what it does when it wakes up changes no record."""
    urls = [site.url(f"/slow/1/photo/{n}.jpg") for n in range(24)]
    write_list(tmp_path, *urls)
    clock = tmp_path / "clock"
    clock.write_bytes(struct.pack("d", 0.0))
    launcher = [sys.executable, "-P", str(ROOT / "scripts" / "campaign" / "coordinator.py"), "3", str(clock)]
    with ExitStack() as stack:
        words = [*launcher, "seed", "urls.txt", *LOCAL, "--workers", "0", "--keep-open"]
        seed = stack.enter_context(subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.DEVNULL))
        stack.callback(seed.kill)
        served(tmp_path, "urls.crawl")
        zombie = stack.enter_context(running(tmp_path, "worker", "urls.crawl", *SMALL))
        wait_until(lambda: status(tmp_path, "urls.crawl").get("leased") == 8)
        os.killpg(zombie.pid, signal.SIGSTOP)
        other = stack.enter_context(running(tmp_path, "worker", "urls.crawl", *SMALL))
        wait_until(lambda: len((tmp_path / "urls.crawl" / "completions.jsonl").read_bytes().splitlines()) == 24)
        before = (tmp_path / "urls.crawl" / "completions.jsonl").read_bytes()
        os.killpg(zombie.pid, signal.SIGCONT)
        wait_until(lambda: len(status(tmp_path, "urls.crawl").get("workers", [])) == 2)
        seed.send_signal(signal.SIGTERM)
        assert (seed.wait(LIMIT), other.wait(LIMIT), zombie.wait(LIMIT)) == (75, 75, 75)
    assert (tmp_path / "urls.crawl" / "completions.jsonl").read_bytes() == before
    assert sorted(record["url"] for record in records(tmp_path, "urls.crawl")) == sorted(urls)
    assert 24 <= len(site.requests) <= 24 + 8


def test_a_worker_rides_out_a_restart_of_the_coordinator(tmp_path: Path, site: Site) -> None:
    """Killed with -9 and started again at the same address: the worker goes on, nothing is lost."""
    run(tmp_path, "keygen", "key")
    urls = [site.url(f"/slow/0.2/photo/{n}.jpg") for n in range(60)]
    write_list(tmp_path, *urls)
    seed = ("seed", "urls.txt", *LOCAL, "--workers", "0", "--listen", f"127.0.0.1:{free_port()}", "--key", "key")
    with running(tmp_path, *seed) as first:
        served(tmp_path, "urls.crawl")
        with running(tmp_path, "worker", "urls.crawl", *SMALL) as worker:
            wait_until(lambda: status(tmp_path, "urls.crawl").get("stored", 0) > 8)
            first.kill()
            first.wait(LIMIT)
            again = run(tmp_path, *seed)
            assert (again.returncode, worker.wait(LIMIT)) == (0, 0), again.stderr
    kept = records(tmp_path, "urls.crawl")
    assert sorted(record["url"] for record in kept) == sorted(urls)
    assert all(record["outcome"] == "stored" for record in kept)


def test_a_coordinator_that_is_killed_while_a_worker_joins(
    tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its hello and the proof that it sees the store: it says hello to the next one, and proves it there."""
    run(tmp_path, "keygen", "key")
    write_list(tmp_path, *(site.url(f"/photo/{n}.jpg") for n in range(10)))
    address = f"127.0.0.1:{free_port()}"
    seed = ("seed", "urls.txt", *LOCAL, "--workers", "0", "--listen", address, "--key", "key")
    with ExitStack() as stack:
        processes = [stack.enter_context(running(tmp_path, *seed))]
        served(tmp_path, "urls.crawl")
        prove, sessions = Directory.prove, []

        def restarted(store: Directory, session: str, nonce: str) -> None:
            sessions.append(session)
            if len(sessions) == 1:
                processes[0].kill()
                processes[0].wait(LIMIT)
                processes.append(stack.enter_context(running(tmp_path, *seed)))
            prove(store, session, nonce)

        monkeypatch.setattr(Directory, "prove", restarted)
        joining = Joining(address=address, key=str(tmp_path / "key"), processes=1, threads=4, verifiers=1)
        assert work(joining, lambda worker: None) is QueueStatus.FINISHED
        assert processes[1].wait(LIMIT) == 0
    assert len(set(sessions)) == len(sessions) == 2
    assert [record["outcome"] for record in records(tmp_path, "urls.crawl")] == ["stored"] * 10


def test_sigterm_of_a_worker_gives_back(tmp_path: Path, site: Site) -> None:
    """It leaves with 75; others do the rest."""
    write_list(tmp_path, *(site.url(f"/slow/0.3/photo/{n}.jpg") for n in range(40)))
    with running(tmp_path, "seed", "urls.txt", *LOCAL, "--workers", "0") as seed:
        served(tmp_path, "urls.crawl")
        with running(tmp_path, "worker", "urls.crawl", *SMALL) as leaver:
            wait_until(lambda: status(tmp_path, "urls.crawl").get("stored", 0) > 2)
            leaver.send_signal(signal.SIGTERM)
            assert leaver.wait(LIMIT) == 75
        wait_until(lambda: status(tmp_path, "urls.crawl").get("leased") == 0)
        assert run(tmp_path, "worker", "urls.crawl", *SMALL).returncode == 0
        assert seed.wait(LIMIT) == 0
    assert len(records(tmp_path, "urls.crawl")) == 40
    assert len(site.requests) == 40


def test_a_stopped_coordinator_tells_its_workers(tmp_path: Path, site: Site) -> None:
    """They leave at once with 75, and do not wait for it to come back."""
    write_list(tmp_path, *(site.url(f"/slow/0.2/photo/{n}.jpg") for n in range(600)))
    with running(tmp_path, "seed", "urls.txt", *LOCAL, "--workers", "0") as seed:
        served(tmp_path, "urls.crawl")
        with running(tmp_path, "worker", "urls.crawl", *SMALL) as worker:
            wait_until(lambda: status(tmp_path, "urls.crawl").get("stored", 0) > 2)
            seed.send_signal(signal.SIGTERM)
            said = worker.communicate(timeout=100)[1]  # less than it would wait for a coordinator that is away
            assert (worker.returncode, seed.wait(LIMIT)) == (75, 75)
    assert "is away" not in said


def test_a_list_is_added_from_another_machine(tmp_path: Path, site: Site) -> None:
    """--to HOST:PORT with the key, over TLS, to a queue whose worker came before it."""
    run(tmp_path, "keygen", "key")
    write_list(tmp_path, site.url("/photo/1.jpg"))
    write_list(tmp_path, site.url("/photo/2.jpg"), site.url("/photo/1.jpg"), name="more.txt")
    address = f"127.0.0.1:{free_port()}"
    at = ("--listen", address, "--key", "key")
    with (
        running(tmp_path, "worker", address, "--key", "key", *SMALL),
        running(tmp_path, "seed", "urls.txt", *LOCAL, "--workers", "0", "--keep-open", *at) as seed,
    ):
        served(tmp_path, "urls.crawl")
        assert run(tmp_path, "seed", "more.txt", "--to", address, "--key", "key").returncode == 0
        wait_until(lambda: status(tmp_path, "urls.crawl").get("stored") == 2)
        seed.send_signal(signal.SIGTERM)
        assert seed.wait(LIMIT) == 75
    assert [row["list"] for row in rows(tmp_path, "urls.crawl")] == ["urls.txt", "more.txt", "more.txt"]
