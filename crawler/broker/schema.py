"""The tables of a ledger, and how one that an older program made becomes one of this program."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

from crawler.errors import VersionMismatch

#: Version of the tables below.
SCHEMA = 2

TABLES = """
CREATE TABLE meta(name TEXT PRIMARY KEY, value) WITHOUT ROWID;
-- name: entries, stored, failed, bytes, near_duplicates (of the stored), or reason:NAME
CREATE TABLE counters(name TEXT PRIMARY KEY, n INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE lists(
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, next_line INTEGER NOT NULL DEFAULT 1, offset INTEGER NOT NULL DEFAULT 0,
    digest TEXT NOT NULL DEFAULT '', total INTEGER, sealed INTEGER NOT NULL DEFAULT 0);
-- id: list << 40 | line; columns: those that are carried through, a map in MessagePack
CREATE TABLE entries(id INTEGER PRIMARY KEY, task INTEGER NOT NULL, columns BLOB);
-- state: 0 ready, 1 delayed (due NULL: handed to the frontier), 2 done (seq: its current record)
-- host: 64-bit hash of the name; token: the one that ended its last lease
-- digest: MD5 or SHA-256 that the list says; entry: the first one, where that has columns
CREATE TABLE tasks(
    id INTEGER PRIMARY KEY, host INTEGER NOT NULL, state INTEGER NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0,
    losses INTEGER NOT NULL DEFAULT 0, hops INTEGER NOT NULL DEFAULT 0, token INTEGER, due REAL, seq INTEGER,
    url TEXT NOT NULL, target TEXT, digest TEXT, entry INTEGER);
CREATE INDEX delayed ON tasks(due) WHERE state = 1;
-- the ready tasks by host; and hash: 64-bit hash of the URL, to find duplicates. New tasks come into both later, in
-- sorted portions: those above the ids that meta keeps for them (see intake.py)
CREATE TABLE backlog(host INTEGER NOT NULL, task INTEGER NOT NULL, PRIMARY KEY (host, task)) WITHOUT ROWID;
CREATE TABLE urls(hash INTEGER PRIMARY KEY, task INTEGER NOT NULL);
-- origin: of the robots.txt that is leased in place of a task (0), with its host
CREATE TABLE leases(
    token INTEGER PRIMARY KEY, task INTEGER NOT NULL, session TEXT NOT NULL, expires REAL NOT NULL,
    host INTEGER, origin TEXT);
-- hosts that have a state to be kept: 0 healthy, 1 slowed, 2 open, 3 unavailable; until: not asked before
CREATE TABLE hosts(
    key INTEGER PRIMARY KEY, name TEXT NOT NULL, state INTEGER NOT NULL, until REAL NOT NULL, body BLOB NOT NULL);
CREATE INDEX unwell ON hosts(state) WHERE state > 0;
-- what the robots.txt of an origin says, deflated; reason: why it could not be had
CREATE TABLE robots(
    host INTEGER NOT NULL, origin TEXT NOT NULL, expires REAL NOT NULL, text BLOB, reason TEXT, detail TEXT,
    PRIMARY KEY (host, origin)) WITHOUT ROWID;
-- perceptual hashes of images that are like none before, where images are compared; see duplicates.py
CREATE TABLE likeness(hash INTEGER PRIMARY KEY, task INTEGER NOT NULL);
-- every recording; the current one of a task is named by tasks.seq
CREATE TABLE records(
    seq INTEGER PRIMARY KEY, task INTEGER NOT NULL, reason TEXT, finished REAL NOT NULL, body BLOB NOT NULL);
"""


def _to_2(db: sqlite3.Connection) -> None:
    """Give entries columns, tasks digests, images hashes, and the backlog a table of its own in place of an index."""
    db.execute("ALTER TABLE entries ADD COLUMN columns BLOB")
    db.execute("ALTER TABLE tasks ADD COLUMN digest TEXT")
    db.execute("ALTER TABLE tasks ADD COLUMN entry INTEGER")
    db.execute("CREATE TABLE likeness(hash INTEGER PRIMARY KEY, task INTEGER NOT NULL)")
    db.execute(
        "CREATE TABLE ready(host INTEGER NOT NULL, task INTEGER NOT NULL, PRIMARY KEY (host, task)) WITHOUT ROWID"
    )
    db.execute("INSERT INTO ready SELECT host, id FROM tasks WHERE state = 0 ORDER BY host, id")
    db.execute("DROP INDEX backlog")
    db.execute("ALTER TABLE ready RENAME TO backlog")
    for table in ("backlog", "urls"):  # what an older program put is in both
        db.execute("INSERT INTO meta SELECT ?, ifnull(max(id), 0) FROM tasks", (f"sorted:{table}",))


#: What makes the next version of each one.
_STEPS: dict[int, Callable[[sqlite3.Connection], None]] = {1: _to_2}


def version(db: sqlite3.Connection, path: Path) -> int:
    """
    Return the version of the tables in *path*, 0 where there are none.

    Raises:
        VersionMismatch: A newer program made them.
    """
    found = int(db.execute("PRAGMA user_version").fetchone()[0])
    if found > SCHEMA:
        raise VersionMismatch(f"{path} has schema {found}, this program knows up to {SCHEMA}: use a newer crawler")
    return found


def prepare(db: sqlite3.Connection, path: Path) -> int:
    """
    Make the tables, or bring them to the version of this program; in one transaction, so that a kill leaves what was.

    Returns:
        The version that was found, 0 for a new ledger.

    Raises:
        VersionMismatch: A newer program made it.
    """
    found = version(db, path)
    if found == 0:
        db.executescript(f"BEGIN; {TABLES} PRAGMA user_version = {SCHEMA}; COMMIT;")
    elif found < SCHEMA:
        db.execute("BEGIN IMMEDIATE")
        try:
            for step in range(found, SCHEMA):
                _STEPS[step](db)
            db.execute(f"PRAGMA user_version = {SCHEMA}")
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
    return found
