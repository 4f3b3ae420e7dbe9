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
from tests.site import Site, mixed, photo

#: Seconds after which the site answers, so that something is in flight whenever a fault comes.
DELAY = 0.2
#: Exit statuses that a member may have: well, stopped, the disk failed, killed by us, SIGTERM before it could listen.
EXPECTED = (0, 75, 74, -9, -15)
#: What a fault of the campaign itself may end a task with, and how many of which faults that takes.
OURS = {"poisoned": ("kill downloader", 3), "verifier_died": ("kill verifier", 2)}


def path_of(number: int) -> str:
    """Return the path of line *number* of the campaign's list."""
    return f"/slow/{DELAY}{mixed(number)}"


def expected(path: str) -> tuple[str | None, str | None]:
    """Return (reason, digest) of the record that *path* must end with: one of them is None."""
    _, _, _, kind, name = path.split("/", 4)
    if kind == "photo":
        return None, hashlib.sha256(photo(int(name.removesuffix(".jpg")))).hexdigest()
    return {"missing": "http_not_found", "html": "html", "truncated": "truncated"}[kind], None


class Report(NamedTuple):
    """What a run came to."""

    attempted: int
    recorded: int
    #: URLs without a record, or whose image is not in the store with its bytes.
    lost: int
    #: Tasks with more than one record.
    duplicated: int
    #: Tasks that were fetched more often than an undisturbed run would, and ended as they must.
    recovered: int
    #: Fetches beyond those of an undisturbed run, and tasks that were leased at the moments of the faults, added up.
    extra_fetches: int
    in_hand: int
    #: Images in the store that no record names, left by kills between storing and recording.
    orphans: int
    #: What must not be, a line each.
    unexpected: list[str]

    @property
    def is_good(self) -> bool:
        """Tell whether every promise was kept."""
        return not (self.lost or self.duplicated or self.unexpected)


def judge(fleet: Fleet, site: Site, urls: list[str], faults: Counter[str], in_hand: int) -> Report:
    """Count."""
    found = _records(fleet.out)
    by_url: dict[str, list[dict[str, Any]]] = {}
    for record in found:
        by_url.setdefault(record["url"], []).append(record)
    fetched = Counter(request.path for request in site.requests)
    unexpected, lost, recovered, extra = [], 0, 0, 0
    spared = Counter({reason: faults[name] // least for reason, (name, least) in OURS.items()})
    for url in urls:
        path = urlsplit(url).path
        reason, digest = expected(path)
        beyond = max(0, fetched[path] - (3 if reason == "truncated" else 1))
        extra += beyond
        if url not in by_url:
            lost += 1
            continue
        record = by_url[url][-1]
        if (record["reason"], record["sha256"]) != (reason, digest):
            if spared[record["reason"]] > 0:
                spared[record["reason"]] -= 1
            else:
                unexpected.append(f"{path}: {record['reason'] or record['sha256']} ({record.get('detail')})")
        elif digest is not None and not _is_whole(fleet.out / record["path"], digest):
            lost += 1
            unexpected.append(f"{path}: recorded as stored, and {record['path']} is not there with its bytes")
        else:
            recovered += beyond > 0
    unexpected += [f"recorded and never listed: {url}" for url in by_url.keys() - set(urls)]
    named = {record["path"] for record in found if record["path"]}
    kept = [str(file.relative_to(fleet.out)) for file in (fleet.out / "images").glob("??/*")]
    return Report(
        attempted=len(urls),
        recorded=len(by_url),
        lost=lost,
        duplicated=sum(len(lines) > 1 for lines in by_url.values()),
        recovered=recovered,
        extra_fetches=extra,
        in_hand=in_hand,
        orphans=len(set(kept) - named),
        unexpected=unexpected + _ledger(fleet.out, len(found)) + _ends(fleet),
    )


def _records(out: Path) -> list[dict[str, Any]]:
    file = out / "completions.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def _is_whole(file: Path, digest: str) -> bool:
    return file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest() == digest


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


def _ends(fleet: Fleet) -> list[str]:
    """Look at how the processes ended, and what they said."""
    wrong = []
    for member in fleet.members:
        wrong += [f"{member.name} ended with {status}" for status in member.ends if status not in EXPECTED]
        said = member.log.read_text("utf-8", "replace")
        if "Traceback" in said or "internal error" in said:
            wrong.append(f"{member.name} met something unforeseen: see {member.log}")
    return wrong
