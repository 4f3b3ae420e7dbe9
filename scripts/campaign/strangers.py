"""
Connections of strangers: half-open ones, nonsense and wrong keys, beside workers that lease.

Run as a program it is the strangers: `strangers.py HOST PORT KEY`.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from statistics import quantiles
from typing import Any, NamedTuple

from crawler.broker import handshake, keys
from crawler.errors import CrawlerError
from crawler.join import connect, greet
from crawler.model import Completion, Outcome, Progress, Role
from crawler.reasons import Reason

MEANING = "1,000 half-open, 1,000 nonsense and 1,000 wrong-key connections during a run"
#: Connections of each kind.
EACH = 1_000
#: URLs that are leased and recorded as failed, and the hosts they are on.
TASKS, HOSTS = 120_000, 2_000
WORKERS, BATCH = 4, 8
#: Seconds between two requests of a worker; of the undisturbed phase; for the coordinator to be rid of strangers.
PAUSE, QUIET, SETTLED = 0.02, 15.0, 30.0
#: Seconds before anything is measured.
WARM_UP = 3.0
#: How much the time of a lease may grow, and what is never too much.
FACTOR, ENOUGH = 2.0, 0.050
LIMIT = 120.0
FILES = 8_192


class Result(NamedTuple):
    """What it came to: times of leases in seconds, and what the coordinator holds before and after."""

    p99_undisturbed: float
    p99_disturbed: float
    leases: int
    seconds_disturbed: float
    #: (threads, descriptors).
    before: tuple[int, int]
    after: tuple[int, int]
    #: What became of the strangers, in their own words.
    strangers: str
    unexpected: list[str]

    def lines(self) -> list[str]:
        """Return it for people."""
        return [
            f"{self.leases:,} leases; 99th percentile {1000 * self.p99_undisturbed:.1f} ms, with strangers "
            f"{1000 * self.p99_disturbed:.1f} ms ({3 * EACH:,} of them within {self.seconds_disturbed:.1f} s)",
            f"the coordinator's threads {self.before[0]}, then {self.after[0]}; descriptors {self.before[1]}, then "
            f"{self.after[1]}",
            f"strangers: {self.strangers}",
        ]


class _Worker(threading.Thread):
    """Leases, and records as failed; notes how long each lease took."""

    def __init__(self, address: str, key: Path) -> None:
        super().__init__(name="stub worker", daemon=True)
        self._client = connect(address, str(key), LIMIT)
        self._queue: Any = self._client.proxy("task_queue")
        self._ending = threading.Event()
        #: (time.monotonic(), seconds that a lease took).
        self.times: list[tuple[float, float]] = []
        self.error: CrawlerError | None = None

    def run(self) -> None:
        """Work until `end`."""
        try:
            session = self._queue.hello(greet(Role.WORKER)).session
            self._client.session = session
            number = 0
            while not self._ending.wait(PAUSE):
                number += 1
                self._exchange(session, number)
            self._queue.leave(session)
        except CrawlerError as error:
            self.error = error

    def _exchange(self, session: str, number: int) -> None:
        began = time.monotonic()
        grant = self._queue.lease(session, number, BATCH, 0.0, Progress())
        self.times.append((began, time.monotonic() - began))
        ends = [
            Completion(token=lease.token, task_id=lease.task.id, outcome=Outcome.FAILED, reason=Reason.HTTP_NOT_FOUND)
            for lease in grant.leases
        ]
        if ends:
            self._queue.complete(session, ends)

    def wait_for_lists(self) -> None:
        """Wait until all lists are read: while they are, a lease takes longer."""
        end = time.monotonic() + LIMIT
        while not self._queue.stats().lists_read and time.monotonic() < end:
            time.sleep(PAUSE)

    def end(self) -> None:
        """End it."""
        self._ending.set()
        self.join(LIMIT)
        self._client.close()


def campaign(folder: Path, seed: int) -> Result:
    """Run it; the seed decides nothing here."""
    subprocess.run([*_crawler(), "keygen", "key"], cwd=folder, check=True, capture_output=True, timeout=LIMIT)
    urls = (f"http://host-{number % HOSTS}.invalid/{number}\n" for number in range(TASKS))
    (folder / "urls.txt").write_text("".join(urls))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    options = ("--workers", "0", "--listen", f"127.0.0.1:{port}", "--key", "key", "--robots", "ignore", "--keep-open")
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen([*_crawler(), "seed", "urls.txt", *options], cwd=folder, stdout=log, stderr=log)
    try:
        result = _measure(process.pid, port, folder / "key")
        process.send_signal(signal.SIGTERM)
        status = process.wait(LIMIT)
    finally:
        process.kill()
        process.wait(LIMIT)
    if status != 75 or "Traceback" in (folder / "log").read_text():
        result.unexpected.append(f"the coordinator ended with {status}: see {folder / 'log'}")
    return result


def _measure(pid: int, port: int, key: Path) -> Result:
    _wait_for(port)
    workers = [_Worker(f"127.0.0.1:{port}", key) for _ in range(WORKERS)]
    for worker in workers:
        worker.start()
    workers[0].wait_for_lists()
    time.sleep(WARM_UP)
    before, began = _holds(pid), time.monotonic()
    time.sleep(QUIET)
    came = time.monotonic()
    is_refused, said = _send_strangers(port, key)
    gone = time.monotonic()
    end = gone + SETTLED
    while any(map(int.__gt__, _holds(pid), before)) and time.monotonic() < end:
        time.sleep(PAUSE)
    after = _holds(pid)
    for worker in workers:
        worker.end()
    quiet, loud = _p99(workers, began, came), _p99(workers, came, gone)
    return Result(
        p99_undisturbed=quiet,
        p99_disturbed=loud,
        leases=sum(len(worker.times) for worker in workers),
        seconds_disturbed=gone - came,
        before=before,
        after=after,
        strangers=said,
        unexpected=[
            *([] if is_refused else ["a stranger with a wrong key was not refused"]),
            *(f"a worker ended: {worker.error}" for worker in workers if worker.error),
            *([f"99th percentile of a lease {1000 * loud:.1f} ms"] if loud > max(FACTOR * quiet, ENOUGH) else []),
            *(["threads or descriptors were left behind"] if any(map(int.__gt__, after, before)) else []),
        ],
    )


def _p99(workers: list[_Worker], since: float, until: float) -> float:
    return quantiles([took for worker in workers for at, took in worker.times if since <= at < until], n=100)[98]


def _holds(pid: int) -> tuple[int, int]:
    """Return (threads, descriptors) of a process."""
    return len(os.listdir(f"/proc/{pid}/task")), len(os.listdir(f"/proc/{pid}/fd"))


def _wait_for(port: int) -> None:
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
            return
        time.sleep(PAUSE)


def _crawler() -> list[str]:
    return [sys.executable, "-P", "-m", "crawler"]


# ------------------------------------------------------------------ the strangers


def _send_strangers(port: int, key: Path) -> tuple[bool, str]:
    """Run the strangers in a process of their own; return whether each wrong key was refused, and what they say."""
    words = [sys.executable, "-P", __file__, "127.0.0.1", str(port), str(key)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=LIMIT, check=False)
    return done.returncode == 0, (done.stdout + done.stderr).strip()


def _besiege(host: str, port: int, key: Path) -> int:
    """Be all the strangers; return 1 where not all with a wrong key were refused as such."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, FILES))
    address, proof = (host, port), handshake.client_proof(keys.load(key))
    wrong = proof._replace(secret=os.urandom(32))
    refused, silent = Counter[str](), []
    for _ in range(EACH):
        with contextlib.suppress(OSError):
            silent.append(socket.create_connection(address, 5.0))
        with contextlib.suppress(OSError), socket.create_connection(address, 5.0) as nonsense:
            nonsense.sendall(os.urandom(200))
        try:
            handshake.dial(address, wrong).close()
            refused["let in"] += 1
        except (CrawlerError, OSError, EOFError) as error:
            refused[type(error).__name__] += 1
    for connection in silent:
        connection.close()
    print(f"wrong keys {dict(refused)}, {len(silent)} half-open, {EACH} nonsense")
    return 1 if refused != {"KeyRefused": EACH} else 0


if __name__ == "__main__":
    sys.exit(_besiege(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])))
