"""What SQLite alone reaches with the rows of tasks, on the same disk and in the same run: the measure of the queue."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

#: Rows of a transaction.
BATCH = 2_000
HOSTS = 100_000


def rate(folder: Path, size: int) -> float:
    """Return the rows per second that are inserted, durably, into a table with an index on (host, id)."""
    db = sqlite3.connect(folder / "plain.db", isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA cache_size = -65536")
    db.execute("CREATE TABLE tasks(id INTEGER PRIMARY KEY, host INTEGER NOT NULL, state INTEGER, url TEXT NOT NULL)")
    db.execute("CREATE INDEX backlog ON tasks(host, id) WHERE state = 0")
    seconds = 0.0
    for first in range(0, size, BATCH):
        rows = [
            (n, hash((n * 7919 % HOSTS, 1)), 0, f"https://host{n}.example/{n}") for n in range(first, first + BATCH)
        ]
        began = time.perf_counter()
        db.execute("BEGIN IMMEDIATE")
        db.executemany("INSERT INTO tasks VALUES (?, ?, ?, ?)", rows)
        db.execute("COMMIT")
        seconds += time.perf_counter() - began
    db.close()
    return size / seconds
