"""Tasks that have their record and go back to the queue: which, and what is changed for it."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from crawler.broker.ended import decode_body
from crawler.broker.hosts import host_key
from crawler.model import Choice

#: Records looked at, and tasks changed, at a time.
BATCH = 1_000
#: Recordings looked at in one transaction where others wait for theirs.
PORTION = 10_000
#: All recordings.
ALL = range(1, 1 << 62)
#: What tasks are counted under that had not failed.
STORED = "stored"


class Revived(NamedTuple):
    """What went back, or would."""

    #: Tasks by the reason for which they failed; `STORED` for those that had not.
    counts: Counter[str]
    #: Bytes of the images that do not count any more.
    size: int
    #: How many of these are nearly the same as another.
    near_duplicates: int
    #: Hosts of these tasks: they get a new chance.
    hosts: set[int]


def portions(newest: int) -> list[range]:
    """Return the recordings up to the *newest*, in portions that are revived one after the other."""
    return [range(first, min(first + PORTION, newest + 1)) for first in range(1, newest + 1, PORTION)]


def revive(db: sqlite3.Connection, choice: Choice, now: float, seqs: range = ALL) -> Revived:
    """
    Put the tasks of *choice* back, due *now* and with all their attempts; count them only, where that is asked.

    Of their current records those in *seqs* are looked at. May be called again: what went back has no such record.
    Their hosts are forgiven: a breaker that is open, or rules that could not be had, say nothing about the next try.
    """
    counts: Counter[str] = Counter()
    hosts: set[int] = set()
    size = duplicates = 0
    for batch in _chosen(db, choice, seqs):
        counts.update(found.reason or STORED for found in batch)
        size += sum(found.size for found in batch)
        duplicates += sum(found.is_duplicate for found in batch)
        if choice.dry_run:
            continue
        hosts.update(host for found in batch for host in (found.host, found.home))
        # Without a current record: an image that is gone must be fetched whatever its host says of changes.
        sql = (
            "UPDATE tasks SET state = 1, due = ?, host = ?, attempts = 0, losses = 0, hops = 0, target = NULL,"
            " seq = NULL WHERE id = ?"
        )
        db.executemany(sql, [(now, found.home, found.task) for found in batch])
    if not choice.dry_run:
        _forgive(db, hosts)
        _count(db, counts, size, duplicates)
    return Revived(counts, size, duplicates, hosts)


def refresh(db: sqlite3.Connection) -> int:
    """
    Have all stored images asked for again, if they have changed; return how many.

    Nothing is done while tasks are left to do: an earlier call has not come to its end.
    """
    if db.execute("SELECT 1 FROM tasks WHERE state < 2 LIMIT 1").fetchone():
        return 0
    size, last, tasks, duplicates = 0, 0, 0, 0
    sql = (
        "SELECT r.seq, t.id, t.url, r.body FROM records r JOIN tasks t ON t.seq = r.seq"
        " WHERE r.seq > ? AND r.reason IS NULL"
    )
    while rows := db.execute(f"{sql} ORDER BY r.seq LIMIT ?", (last, BATCH)).fetchall():
        last = rows[-1][0]
        tasks += len(rows)
        bodies = [decode_body(blob) for *_, blob in rows]
        size += sum(body.bytes or 0 for body in bodies)
        duplicates += sum(body.is_duplicate for body in bodies)
        change = "UPDATE tasks SET state = 0, host = ?, attempts = 0, losses = 0, hops = 0, target = NULL WHERE id = ?"
        ready = sorted((host_key(_name(url)), task) for _, task, url, _ in rows)
        db.executemany(change, ready)
        db.executemany("INSERT INTO backlog VALUES (?, ?)", ready)
    _count(db, Counter({STORED: tasks}), size, duplicates)
    return tasks


class _Found(NamedTuple):
    """A task that is meant."""

    task: int
    #: Where it was fetched last.
    host: int
    #: Where it is fetched first: the host of its URL.
    home: int
    reason: str | None
    #: Bytes of its image.
    size: int
    #: Whether that is stored, though nearly the same as another.
    is_duplicate: bool


def _chosen(db: sqlite3.Connection, choice: Choice, seqs: range) -> Iterator[list[_Found]]:
    """Yield batches of tasks, in the order of their records."""
    where, values = _conditions(choice)
    sql = (
        "SELECT r.seq, t.id, t.host, r.reason, t.url, t.target, r.body FROM records r"
        f" JOIN tasks t ON t.id = r.task AND t.seq = r.seq WHERE t.state = 2 AND r.seq > ? AND r.seq < ? {where}"
        " ORDER BY r.seq LIMIT ?"
    )
    last = seqs.start - 1
    while rows := db.execute(sql, (last, seqs.stop, *values, BATCH)).fetchall():
        last = rows[-1][0]
        yield [found for row in rows if (found := _judge(row, choice)) is not None]


def _conditions(choice: Choice) -> tuple[str, list[Any]]:
    """Return what the statement says of the choice, and its values."""
    if choice.ids is not None:
        return f"AND r.reason IS NULL AND t.id IN ({','.join('?' * len(choice.ids))})", list(choice.ids)
    where, values = "AND r.reason IS NOT NULL AND r.reason != 'bad_url'", list[Any]()
    if choice.reasons:
        where += f" AND r.reason IN ({','.join('?' * len(choice.reasons))})"
        values += choice.reasons
    if choice.before is not None:
        where += " AND r.finished < ?"
        values.append(choice.before)
    return where, values


def _judge(row: Any, choice: Choice) -> _Found | None:
    """Return the task of a row, None where what only its URL and body tell says that it is not meant."""
    _, task, host, reason, url, target, blob = row
    body = decode_body(blob)
    if choice.http_statuses and body.http_status not in choice.http_statuses:
        return None
    if choice.hosts and not _is_at(target or url, choice.hosts):
        return None
    return _Found(task, host, host_key(_name(url)), reason, body.bytes or 0, reason is None and body.is_duplicate)


def _name(url: str) -> str:
    return (urlsplit(url).hostname or "").rstrip(".")


def _is_at(url: str, hosts: tuple[str, ...]) -> bool:
    name = _name(url)
    return any(name == host or (host.startswith("*.") and name.endswith(host[1:])) for host in hosts)


def _forgive(db: sqlite3.Connection, hosts: set[int]) -> None:
    keys = [(key,) for key in hosts]
    db.executemany("UPDATE hosts SET state = 0, until = 0 WHERE key = ? AND state > 1", keys)
    db.executemany("DELETE FROM robots WHERE host = ? AND reason IS NOT NULL", keys)


def _count(db: sqlite3.Connection, counts: Counter[str], size: int, duplicates: int) -> None:
    """Correct the ledger's counters."""
    failed = counts.total() - counts[STORED]
    changes = {"failed": -failed, "stored": -counts[STORED], "bytes": -size, "near_duplicates": -duplicates}
    changes |= {f"reason:{reason}": -n for reason, n in counts.items() if reason != STORED}
    sql = "UPDATE counters SET n = n + ? WHERE name = ?"
    db.executemany(sql, [(n, name) for name, n in changes.items() if n])
