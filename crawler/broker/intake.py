"""
New rows of sorted tables, on their way into them.

A row at a random place of a large table costs a page: read, kept in the log, written. So new rows wait in memory, and a
hand goes round their keys: whoever adds rows moves as many that come next after it, which fall on pages side by side,
the more the more wait. They are durable all the while, because each can be made again from its task: `meta` keeps the
id up to which all are in the table, and a start takes up those above it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

#: Rows of a table that wait; beyond, each that comes moves another.
WAITING = 250_000
#: Rows moved at a time, so that nobody waits long for the commit.
SLICE = 2_000


class Sorted(NamedTuple):
    """A table, and its key."""

    table: str
    #: The columns of the key; what is left of (first, task).
    key: tuple[str, ...]


URLS = Sorted("urls", ("hash",))
BACKLOG = Sorted("backlog", ("host", "task"))


class Intake:
    """
    Rows that wait to be sorted into one table. All of it belongs to a transaction of the writing connection.

    Args:
        db: The writing connection.
        target: Where the rows go.
    """

    def __init__(self, db: sqlite3.Connection, target: Sorted) -> None:
        self._db = db
        self._target = target
        first, is_url = target.key[0], target is URLS
        primary = (
            "hash INTEGER PRIMARY KEY, task INTEGER NOT NULL" if is_url else "host, task, PRIMARY KEY (host, task)"
        )
        db.execute(f"CREATE TEMP TABLE new_{target.table}({primary}) {'' if is_url else 'WITHOUT ROWID'}")
        columns, marks = ", ".join(target.key), ", ".join("?" * len(target.key))
        self._after = f"({columns}) > ({marks})" if len(target.key) > 1 else f"{columns} > ?"
        self._up_to = self._after.replace(">", "<=")
        self._insert = f"INSERT OR IGNORE INTO temp.new_{target.table} VALUES (?, ?)"
        self._columns, self._order = f"{first}, task", columns
        self._hand: tuple[int, ...] | None = None
        self._waiting = 0
        #: Highest id when the hand began its round: at its end all up to it are in the table.
        self._round = 0
        self._kept: tuple[Any, ...] = (None, 0, 0)

    def __len__(self) -> int:
        """Count the rows that wait, those of the transaction under way included."""
        return self._waiting

    def begin(self) -> None:
        """Forget what an unfinished transaction did; its rows went with it."""
        self._hand, self._waiting, self._round = self._kept

    def committed(self) -> None:
        """Keep what the transaction did."""
        self._kept = (self._hand, self._waiting, self._round)

    def mark(self) -> int:
        """Return the id up to which all tasks are in the table."""
        row = self._db.execute("SELECT value FROM meta WHERE name = ?", (f"sorted:{self._target.table}",)).fetchone()
        return int(row[0]) if row else 0

    def add(self, rows: Iterable[tuple[int, int]], last: int) -> None:
        """Take (key, task) *rows*; *last* is the highest id of all tasks by now."""
        cursor = self._db.executemany(self._insert, rows)
        self._note_added(cursor.rowcount, last)

    def select(self, sql: str, values: Sequence[Any], last: int) -> None:
        """Take the rows of a statement."""
        cursor = self._db.execute(f"INSERT OR IGNORE INTO temp.new_{self._target.table} {sql}", values)
        self._note_added(cursor.rowcount, last)

    def _note_added(self, count: int, last: int) -> None:
        if not self._waiting:
            self._hand, self._round = None, last
        self._waiting += max(0, count)

    def move(self, last: int, count: int = SLICE) -> set[int]:
        """
        Move up to about *count* rows into the table, those that come next after the hand.

        Args:
            last: Highest id of all tasks by now.
            count: Rows, at least 1.

        Returns:
            The hosts of what was moved, where it is the backlog.
        """
        if not self._waiting:
            return set()
        table = f"temp.new_{self._target.table}"
        after, values = ("1", ()) if self._hand is None else (self._after, self._hand)
        sql = f"SELECT {self._order} FROM {table} WHERE {after} ORDER BY {self._order} LIMIT 1 OFFSET ?"
        bound = self._db.execute(sql, (*values, count - 1)).fetchone()
        where, values = (after, values) if bound is None else (f"{after} AND {self._up_to}", (*values, *bound))
        sql = f"SELECT DISTINCT {self._target.key[0]} FROM {table} WHERE {where}"
        moved = {row[0] for row in self._db.execute(sql, values)} if self._target is BACKLOG else set[int]()
        self._db.execute(
            f"INSERT OR IGNORE INTO {self._target.table} SELECT {self._columns} FROM {table}"
            f" WHERE {where} ORDER BY {self._order}",
            values,
        )
        self._waiting -= self._db.execute(f"DELETE FROM {table} WHERE {where}", values).rowcount
        self._turn(bound, last)
        return moved

    def _turn(self, bound: tuple[int, ...] | None, last: int) -> None:
        """Let the hand go on; at the end of a round, note how far everything is in the table."""
        self._hand = bound
        if bound is None or not self._waiting:
            done = self._round if self._waiting else last
            self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (f"sorted:{self._target.table}", done))
            self._hand, self._round = None, last
