"""What SQLite alone reaches with the rows of tasks, on the same disk and in the same run: the measure of the queue."""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

#: Rows of a transaction that inserts, and tasks of one that leases or ends: what eight batches of leases have.
BATCH, ENDED = 2_000, 512
HOSTS = 100_000
#: Tasks that are leased and ended at most.
MOST = 100_000


class Rates(NamedTuple):
    """Rows per second, durably."""

    #: Inserted into a table with an index on (host, id).
    inserted: float
    #: Leased (an update) and ended (an update, and an insert of a record), at random places.
    ended: float


def rates(folder: Path, size: int) -> Rates:
    """Measure with *size* tasks."""
    db = sqlite3.connect(folder / "plain.db", isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA cache_size = -65536")
    db.execute("CREATE TABLE tasks(id INTEGER PRIMARY KEY, host INTEGER NOT NULL, state INTEGER, url TEXT NOT NULL)")
    db.execute("CREATE INDEX backlog ON tasks(host, id) WHERE state = 0")
    db.execute("CREATE TABLE records(seq INTEGER PRIMARY KEY, task INTEGER NOT NULL, body BLOB NOT NULL)")
    seconds = sum(_insert(db, range(first, first + BATCH)) for first in range(0, size, BATCH))
    chosen = random.Random(0).sample(range(size), min(size, MOST))
    ended = sum(_end(db, chosen[first : first + ENDED]) for first in range(0, len(chosen), ENDED))
    db.close()
    return Rates(size / seconds, len(chosen) / ended)


def _insert(db: sqlite3.Connection, numbers: range) -> float:
    rows = [(n, hash((n * 7919 % HOSTS, 1)), 0, f"https://host{n}.example/{n}") for n in numbers]
    return _commit(db, ("INSERT INTO tasks VALUES (?, ?, ?, ?)", rows))


def _end(db: sqlite3.Connection, tasks: list[int]) -> float:
    leases = [(task,) for task in tasks]
    bodies = [(task, f"{task:0200x}".encode()) for task in tasks]
    seconds = _commit(db, ("UPDATE tasks SET state = 1 WHERE id = ?", leases))
    return seconds + _commit(
        db,
        ("UPDATE tasks SET state = 2 WHERE id = ?", leases),
        ("INSERT INTO records(task, body) VALUES (?, ?)", bodies),
    )


def _commit(db: sqlite3.Connection, *statements: tuple[str, Iterable[tuple[Any, ...]]]) -> float:
    """Return the seconds that a transaction of *statements* takes."""
    began = time.perf_counter()
    db.execute("BEGIN IMMEDIATE")
    for sql, rows in statements:
        db.executemany(sql, rows)
    db.execute("COMMIT")
    return time.perf_counter() - began
