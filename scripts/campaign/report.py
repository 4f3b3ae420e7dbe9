"""Hold what a run left behind against what the site served."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from scripts.campaign.fleet import Fleet
from tests.site import mixed, photo

#: Exit statuses that a member may have: well, stopped, the disk failed, killed by us, SIGTERM before it could listen.
EXPECTED = (0, 75, 74, -9, -15)
#: What a fault of the campaign itself may end a task with, and how many of which faults that takes.
OURS = {"poisoned": ("kill downloader", 3), "verifier_died": ("kill verifier", 2)}
#: Times that the site is asked for what it cuts off, before that is recorded.
ATTEMPTS = 3
#: What a worker says of ends that the queue refused, and of leases that it gave up by its own clock.
LATE, OVER = "came too late", "leases ran out"
#: What it says when its children were killed before they were ready.
STILLBORN = "s cannot be started: status -9"


def path_of(number: int, answer: float) -> str:
    """Return the path of line *number* of a list whose URLs are answered after *answer* seconds."""
    return f"/slow/{answer}{mixed(number)}"


def expected(path: str) -> tuple[str | None, str | None]:
    """Return (reason, digest) of the record that *path* must end with: one of them is None."""
    _, _, _, kind, name = path.split("/", 4)
    if kind == "photo":
        return None, hashlib.sha256(photo(int(name.removesuffix(".jpg")))).hexdigest()
    return {"missing": "http_not_found", "html": "html", "truncated": "truncated"}[kind], None


def fetches(path: str) -> int:
    """Return how often an undisturbed run fetches *path*."""
    return ATTEMPTS if expected(path)[0] == "truncated" else 1


class Report(NamedTuple):
    """What a run came to."""

    attempted: int
    recorded: int
    #: URLs without a record, or whose image is not in the store.
    lost: int
    #: Tasks with more than one record.
    duplicated: int
    #: Images in the store with other bytes than their record says.
    wrong_files: int
    #: Tasks that were fetched more often than an undisturbed run would, and ended as they must.
    recovered: int
    #: Fetches beyond those of an undisturbed run.
    extra_fetches: int
    #: Tasks that the victims held at the moments of the faults, added up.
    in_hand: int
    #: Images in the store that no record names, left by kills between storing and recording.
    orphans: int
    #: Ends that the queue refused because their leases were over, and leases that workers gave up by their own clock.
    refused: int
    given_up: int
    #: What must not be, a line each.
    unexpected: list[str]

    @property
    def is_good(self) -> bool:
        """Tell whether every promise was kept."""
        return not (self.lost or self.duplicated or self.wrong_files or self.unexpected)


class _Judge:
    """Counts what became of each URL."""

    def __init__(self, out: Path, fetched: Counter[str], faults: Counter[str]) -> None:
        self._out = out
        self._fetched = fetched
        self._spared = Counter({reason: faults[name] // least for reason, (name, least) in OURS.items()})
        self.records = _records(out)
        self.by_url: dict[str, list[dict[str, Any]]] = {}
        for record in self.records:
            self.by_url.setdefault(record["url"], []).append(record)
        self.counts = Counter[str]()
        self.unexpected: list[str] = []

    def judge(self, url: str) -> None:
        """Count one URL."""
        path = urlsplit(url).path
        beyond = max(0, self._fetched[path] - fetches(path))
        self.counts["extra"] += beyond
        if url not in self.by_url:
            self.counts["lost"] += 1
        elif self._is_right(path, self.by_url[url][-1]):
            self.counts["recovered"] += beyond > 0

    def _is_right(self, path: str, record: dict[str, Any]) -> bool:
        reason, digest = expected(path)
        if (record["reason"], record["sha256"]) != (reason, digest):
            self._spare(path, record)
            return False
        fault = None if digest is None else _fault(self._out / record["path"], digest)
        if fault:
            self.counts[fault] += 1
            self.unexpected.append(f"{path}: recorded as stored, and {record['path']} is {fault.replace('_', ' ')}")
        return not fault

    def _spare(self, path: str, record: dict[str, Any]) -> None:
        """Pass what the campaign itself may have caused, as often as it may have."""
        if self._spared[record["reason"]] > 0:
            self._spared[record["reason"]] -= 1
            return
        self.unexpected.append(f"{path}: {record['reason'] or record['sha256']} ({record.get('detail')})")


def judge(fleet: Fleet, fetched: Counter[str], urls: list[str], faults: Counter[str], in_hand: int) -> Report:
    """
    Count.

    Args:
        fleet: What ran, and where it left what it brought.
        fetched: How often the site was asked for each path.
        urls: The list.
        faults: What was done, by kind.
        in_hand: Tasks that the victims held, added up.
    """
    found = _Judge(fleet.out, fetched, faults)
    for url in urls:
        found.judge(url)
    strangers = [f"recorded and never listed: {url}" for url in found.by_url.keys() - set(urls)]
    named = {record["path"] for record in found.records if record["path"]}
    kept = {str(file.relative_to(fleet.out)) for file in (fleet.out / "images").glob("??/*")}
    said = "".join(member.log.read_text("utf-8", "replace") for member in fleet.members)
    wrong = _ledger(fleet.out, len(found.records)) + _forgotten(fleet) + _ends(fleet)
    return Report(
        attempted=len(urls),
        recorded=len(found.by_url),
        lost=found.counts["lost"],
        duplicated=sum(len(lines) > 1 for lines in found.by_url.values()),
        wrong_files=found.counts["wrong"],
        recovered=found.counts["recovered"],
        extra_fetches=found.counts["extra"],
        in_hand=in_hand,
        orphans=len(kept - named),
        refused=_sum(said, LATE),
        given_up=_sum(said, OVER),
        unexpected=found.unexpected + strangers + wrong,
    )


def _records(out: Path) -> list[dict[str, Any]]:
    file = out / "completions.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def _fault(file: Path, digest: str) -> str:
    """Tell what is wrong with an image, "" where nothing is."""
    if not file.is_file():
        return "lost"
    return "" if hashlib.sha256(file.read_bytes()).hexdigest() == digest else "wrong"


def _sum(said: str, text: str) -> int:
    """Add up the numbers with which lines begin that say *text*."""
    return sum(int(line.split()[0]) for line in said.splitlines() if text in line and line.split()[0].isdigit())


def _ledger(out: Path, lines: int) -> list[str]:
    """Hold the ledger against completions.jsonl and against itself."""
    with closing(sqlite3.connect(f"file:{out / 'ledger.db'}?mode=ro", uri=True)) as db:
        damage = db.execute("PRAGMA integrity_check").fetchone()[0]
        records = db.execute("SELECT count(*) FROM records").fetchone()[0]
        leases = db.execute("SELECT count(*) FROM leases WHERE task > 0").fetchone()[0]
    wrong = {
        f"the ledger is damaged: {damage}": damage != "ok",
        f"{records} records in the ledger, {lines} lines in completions.jsonl": records != lines,
        f"{leases} leases at the end": leases > 0,
    }
    return [text for text, holds in wrong.items() if holds]


def _forgotten(fleet: Fleet) -> list[str]:
    """Hold completions.jsonl against what it was whenever the coordinator had ended: it may only grow."""
    if not fleet.kept:
        return []
    data = (fleet.out / "completions.jsonl").read_bytes()
    lost = sum(hashlib.sha256(data[:size]).hexdigest() != digest for size, digest in fleet.kept)
    return [f"completions.jsonl does not begin as it was after {lost} ends of the coordinator"] if lost else []


def _ends(fleet: Fleet) -> list[str]:
    """Look at how the processes ended, and what they said."""
    wrong = []
    for member in fleet.members:
        said = member.log.read_text("utf-8", "replace")
        bad = [status for status in member.ends if status not in EXPECTED]
        # It gives up where five children in a row are killed before they are ready, which on a busy machine we do.
        spared = said.count(STILLBORN) if set(bad) == {1} else 0
        wrong += [f"{member.name} ended with {status}" for status in bad[spared:]]
        if "Traceback" in said or "internal error" in said:
            wrong.append(f"{member.name} met something unforeseen: see {member.log}")
    return wrong
