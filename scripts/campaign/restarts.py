"""Killed at 10, 50 and 90 % and resumed: is what comes out what an undisturbed run brings?"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from scripts.campaign.report import path_of
from tests.site import Site

MEANING = "all of it killed at 10, 50 and 90 % and resumed"
TASKS = 3_000
SHARES = (0.1, 0.5, 0.9)
HOSTS = 8
#: Seconds after which the site answers, and in which it has answered those who are dead.
ANSWER, SETTLED = 0.2, 1.0
#: Seconds that one run may take.
LIMIT = 600.0
LOOK = 0.02
#: What may differ between two runs.
MAY_DIFFER = ("seq", "attempts", "worker", "finished_at")


class Kill(NamedTuple):
    """What one run that was killed and resumed came to."""

    share: float
    #: Records when it was killed, and leases in its ledger.
    recorded: int
    in_hand: int
    #: Fetches before and after the kill, and of the undisturbed run.
    before: int
    after: int
    undisturbed: int
    differences: int


class Result(NamedTuple):
    """What all came to."""

    kills: list[Kill]
    unexpected: list[str]

    def lines(self) -> list[str]:
        """Return it for people."""
        return [
            f"killed at {kill.share:.0%}: {kill.recorded:,} recorded, {kill.in_hand} in hand; {kill.before:,} fetches, "
            f"then {kill.after:,} ({kill.undisturbed:,} undisturbed); differences {kill.differences}"
            for kill in self.kills
        ]


class _Crawl:
    """One crawl of the list."""

    def __init__(self, folder: Path, urls: list[str]) -> None:
        folder.mkdir()
        self._folder = folder
        self.out = folder / "urls.crawl"
        (folder / "urls.txt").write_text("".join(f"{url}\n" for url in urls))

    def start(self) -> subprocess.Popen[bytes]:
        """Start it, or go on with it."""
        options = ("--allow-net", "127.0.0.0/8", "--processes", "2", "--threads", "16", "--robots", "ignore")
        command = [sys.executable, "-P", "-m", "crawler", "seed", "urls.txt", *options]
        with (self._folder / "log").open("ab") as log:
            return subprocess.Popen(command, cwd=self._folder, stdout=log, stderr=log, process_group=0)

    def lines(self) -> list[str]:
        """Return what is recorded, without a last line that is not whole."""
        file = self.out / "completions.jsonl"
        return file.read_text().rpartition("\n")[0].splitlines() if file.exists() else []

    def kill_at(self, count: int) -> int:
        """Run until *count* tasks are recorded, kill all of it; return how many tasks it held."""
        process = self.start()
        end = time.monotonic() + LIMIT
        while len(self.lines()) < count and process.poll() is None and time.monotonic() < end:
            time.sleep(LOOK)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(LIMIT)
        with contextlib.closing(sqlite3.connect(f"file:{self.out / 'ledger.db'}?mode=ro", uri=True)) as db:
            held: int = db.execute("SELECT count(*) FROM leases WHERE task > 0").fetchone()[0]
            return held

    def facts(self) -> dict[str, dict[str, Any]]:
        """Return each URL's record without what may differ."""
        records = [json.loads(line) for line in self.lines()]
        return {record["url"]: {k: v for k, v in record.items() if k not in MAY_DIFFER} for record in records}

    def files(self) -> dict[str, str]:
        """Return each image's digest."""
        images = sorted((self.out / "images").rglob("*"))
        return {
            str(file.relative_to(self.out)): hashlib.sha256(file.read_bytes()).hexdigest()
            for file in images
            if file.is_file()
        }


def campaign(folder: Path, seed: int) -> Result:
    """Run it; the seed decides by how much the moment of each kill is off."""
    kills, unexpected = [], []
    with Site(HOSTS) as site:
        urls = [site.url(path_of(number, ANSWER), 1 + number % HOSTS) for number in range(TASKS)]
        whole = _Crawl(folder / "undisturbed", urls)
        if status := whole.start().wait(LIMIT):
            unexpected.append(f"the undisturbed run ended with {status}")
        undisturbed = len(site.requests)
        for share in SHARES:
            crawl = _Crawl(folder / f"killed-at-{share}", urls)
            since = len(site.requests)
            held = crawl.kill_at(int(share * TASKS) + seed)
            time.sleep(SETTLED)
            recorded, before = len(crawl.lines()), len(site.requests) - since
            if status := crawl.start().wait(LIMIT):
                unexpected.append(f"resumed after {share:.0%}, it ended with {status}")
            after = len(site.requests) - since - before
            lines = len(crawl.lines())
            differences = _differences(whole.facts(), crawl.facts()) + _differences(whole.files(), crawl.files())
            kill = Kill(share, recorded, held, before, after, undisturbed, differences + abs(lines - TASKS))
            kills.append(kill)
            unexpected += _wrong(kill)
    return Result(kills, unexpected)


def _differences(one: dict[str, Any], other: dict[str, Any]) -> int:
    return sum(one.get(name) != other.get(name) for name in one.keys() | other.keys())


def _wrong(kill: Kill) -> list[str]:
    wrong = {
        f"{kill.differences} records or files differ": kill.differences > 0,
        f"{kill.before + kill.after} fetches": kill.before + kill.after > kill.undisturbed + kill.in_hand,
    }
    return [f"killed at {kill.share:.0%}: {text}" for text, holds in wrong.items() if holds]
