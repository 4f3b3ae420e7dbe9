"""SIGTERM at random times: does a run end within its grace, give back what it holds, and lose nothing?"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import NamedTuple
from urllib.parse import urlsplit

from tests.site import Site

MEANING = "SIGTERM at 200 random times"
STOPS = 200
#: Runs side by side, each with an OUT of its own.
LANES = 2
#: Seconds to end, and how much longer it may take.
GRACE, SLACK = 4.0, 1.0
#: Seconds within which a process is stopped, from the moment when it has taken OUT.
WHEN = (0.0, 2.5)
#: Paths that are answered at once, and some that take longer than the grace: these must be given back.
QUICK, SLOW = 8_000, 4
#: Seconds for the last run to end.
LIMIT = 600.0
LOOK = 0.01
STOPPED = 75


class Result(NamedTuple):
    """What it came to."""

    attempted: int
    recorded: int
    stops: int
    #: Seconds from the signal to the end.
    median: float
    longest: float
    #: Fetches of quick paths beyond one each; slow ones are given up on purpose.
    fetched_again: int
    unexpected: list[str]

    def lines(self) -> list[str]:
        """Return it for people."""
        return [
            f"{self.stops} times stopped, grace {GRACE:.0f} s",
            f"ended after {self.median:.2f} s in the median, {self.longest:.2f} s at most",
            f"attempted {self.attempted:,}, recorded {self.recorded:,}, quick ones fetched again {self.fetched_again}",
        ]


class _Lane:
    """One crawl that is stopped again and again."""

    def __init__(self, folder: Path, site: Site, seed: int) -> None:
        folder.mkdir()
        self._folder = folder
        self._chance = random.Random(seed)
        quick = [site.url(f"/slow/0.2/photo/{seed}{number:05}.jpg") for number in range(QUICK)]
        slow = [site.url(f"/slow/{2 * GRACE}/photo/{seed}9{number:05}.jpg", host=2) for number in range(SLOW)]
        self.urls = slow + quick
        (folder / "urls.txt").write_text("".join(f"{url}\n" for url in self.urls))
        self.out = folder / "urls.crawl"
        self.seconds: list[float] = []
        self.unexpected: list[str] = []

    def run(self) -> None:
        """Stop it again and again, then let it end."""
        for number in range(STOPS // LANES):
            self._stop_once(is_group=number % 2 == 1)
        with self._started() as process:
            status = process.wait(LIMIT)
        if status:
            self.unexpected.append(f"the last run ended with {status}")

    def _stop_once(self, is_group: bool) -> None:
        with self._started() as process:
            self._wait_for(process.pid)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(self._chance.uniform(*WHEN))
                self.unexpected.append("a run ended before it was stopped")
                return
            at = time.monotonic()
            # As a service manager does it: to all of its processes.
            (os.killpg if is_group else os.kill)(process.pid, signal.SIGTERM)
            status = process.wait(LIMIT)
            self._judge(status, time.monotonic() - at)

    def _wait_for(self, pid: int) -> None:
        """Wait until a process has taken OUT: before, there is nothing to be ended gently."""
        lock, give_up = self.out / ".lock", time.monotonic() + LIMIT
        while time.monotonic() < give_up and not (lock.exists() and lock.read_text().strip() == str(pid)):
            time.sleep(LOOK)

    def _judge(self, status: int, seconds: float) -> None:
        self.seconds.append(seconds)
        if status != STOPPED:
            self.unexpected.append(f"ended with {status}")
        if seconds > GRACE + SLACK:
            self.unexpected.append(f"ended after {seconds:.2f} s")
        if leases := self._leases():
            self.unexpected.append(f"{leases} leases were not given back")

    @contextlib.contextmanager
    def _started(self) -> Iterator[subprocess.Popen[bytes]]:
        options = ("--allow-net", "127.0.0.0/8", "--processes", "1", "--threads", "16", "--grace", str(GRACE))
        command = [sys.executable, "-P", "-m", "crawler", "seed", "urls.txt", "--robots", "ignore", *options]
        with (self._folder / "log").open("ab") as log:
            process = subprocess.Popen(command, cwd=self._folder, stdout=log, stderr=log, process_group=0)
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(LIMIT)

    def _leases(self) -> int:
        with contextlib.suppress(sqlite3.OperationalError):  # not made yet
            db = sqlite3.connect(f"file:{self.out / 'ledger.db'}?mode=ro", uri=True, timeout=5)
            with contextlib.closing(db):
                count: int = db.execute("SELECT count(*) FROM leases WHERE task > 0").fetchone()[0]
                return count
        return 0

    def records(self) -> Counter[str]:
        """Return how many lines each URL has."""
        lines = (self.out / "completions.jsonl").read_text().splitlines()
        stored = [record["url"] for record in map(json.loads, lines) if record["outcome"] == "stored"]
        return Counter(stored)

    def judge(self) -> None:
        """Hold the records against the list."""
        found = self.records()
        wrong = {
            "without an image": sum(url not in found for url in self.urls),
            "recorded twice": sum(count > 1 for count in found.values()),
        }
        self.unexpected += [f"{count} URLs {what}" for what, count in wrong.items() if count]
        if "Traceback" in (self._folder / "log").read_text("utf-8", "replace"):
            self.unexpected.append(f"something unforeseen: see {self._folder / 'log'}")


def campaign(folder: Path, seed: int) -> Result:
    """Run it."""
    with Site(2) as site:
        lanes = [_Lane(folder / f"lane-{number}", site, 10 * seed + number) for number in range(LANES)]
        threads = [threading.Thread(target=lane.run, name="lane") for lane in lanes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        fetched = Counter(request.path for request in site.requests)
    for lane in lanes:
        lane.judge()
    seconds = [value for lane in lanes for value in lane.seconds]
    quick = [urlsplit(url).path for lane in lanes for url in lane.urls[SLOW:]]
    return Result(
        attempted=sum(len(lane.urls) for lane in lanes),
        recorded=sum(len(lane.records()) for lane in lanes),
        stops=len(seconds),
        median=median(seconds),
        longest=max(seconds),
        fetched_again=sum(fetched[path] - 1 for path in quick),
        unexpected=[line for lane in lanes for line in lane.unexpected],
    )
