"""
New rows of sorted tables, on their way into them.

A row at a random place of a large table costs a page: read, kept in the log, written. So new rows wait in memory, in
buckets by the first bits of their keys, and a hand goes round the buckets: whoever adds rows moves as many that are
next to each other, which fall on pages side by side, the more the more wait. They are durable all the while, because
each can be made again from its task: `meta` keeps the id up to which all are in the table, and a start takes up those
above it.
"""

from __future__ import annotations

import sqlite3
from array import array
from collections import deque
from collections.abc import Iterable

from crawler.broker.rows import insert

#: Rows of a table that wait; beyond, each that comes moves another.
WAITING = 250_000
#: Rows moved at a time, so that nobody waits long for the commit.
SLICE = 2_000
#: Bits of a key, 64 of them with a sign, that are not its bucket's. As many buckets make one about a slice.
BUCKET_BITS = 56


class Intake:
    """
    Rows (key, task) that wait to be sorted into one table: all of it in a transaction of the writing connection.

    Args:
        db: The writing connection.
        table: Where the rows go: of two columns, the key first.
    """

    def __init__(self, db: sqlite3.Connection, table: str) -> None:
        self._db = db
        self._table = table
        #: Keys and tasks by turns; of keys below 0 at the end, where their negative numbers find them.
        self._buckets = [array("q") for _ in range(1 << 64 - BUCKET_BITS)]
        #: The bucket that comes into the hand next.
        self._next = 0
        #: The sorted rest of the bucket before it.
        self._hand = deque[tuple[int, int]]()
        self._waiting = 0
        #: What the transaction under way has added, which gets its bucket when that is committed, and moved.
        self._added: list[tuple[int, int]] = []
        self._moved: list[tuple[int, int]] = []
        #: Highest id of all tasks, and what it was before the transaction under way.
        self._last = self._kept_last = 0
        #: Highest id when the hand began its round: at its end all up to it are in the table.
        self._round = self._kept_round = 0

    def __len__(self) -> int:
        """Count the rows that wait, those of the transaction under way included."""
        return self._waiting + len(self._added) - len(self._moved)

    def begin(self) -> None:
        """Forget what an unfinished transaction did."""
        self._added.clear()
        self._hand.extendleft(reversed(self._moved))
        self._moved.clear()
        self._last, self._round = self._kept_last, self._kept_round

    def committed(self) -> list[tuple[int, int]]:
        """Keep what the transaction did; return the rows that it moved."""
        for row in self._added:
            self._buckets[row[0] >> BUCKET_BITS].extend(row)
        self._waiting = len(self)
        self._kept_last, self._kept_round = self._last, self._round
        moved, self._added, self._moved = self._moved, [], []
        return moved

    def mark(self) -> int:
        """Return the id up to which all tasks are in the table."""
        row = self._db.execute("SELECT value FROM meta WHERE name = ?", (f"sorted:{self._table}",)).fetchone()
        return int(row[0]) if row else 0

    def add(self, rows: Iterable[tuple[int, int]], last: int) -> None:
        """Take (key, task) *rows*; *last* is the highest id of all tasks by now."""
        if not self:
            self._next, self._round = 0, last
        self._added += rows
        self._last = last

    def move(self, count: int = SLICE) -> set[int]:
        """Move up to *count* committed rows into the table, those that come next; return their keys."""
        rows: list[tuple[int, int]] = []
        while (left := min(count, self._waiting - len(self._moved)) - len(rows)) > 0:
            if not self._hand:
                self._take_up()
            rows += [self._hand.popleft() for _ in range(min(left, len(self._hand)))]
        insert(self._db, f"INSERT OR IGNORE INTO {self._table}", rows)
        self._moved += rows
        if rows and not self:
            self._note(self._last)
        return {key for key, _ in rows}

    def _take_up(self) -> None:
        """Take the next bucket into the hand; at the end of a round, note how far everything is in the table."""
        if self._next == len(self._buckets):
            self._note(self._round)
            # What the transaction under way adds comes into buckets that the hand may have passed by then.
            self._next, self._round = 0, self._kept_last
        bucket, self._buckets[self._next] = self._buckets[self._next], array("q")
        self._next += 1
        self._hand.extend(sorted(zip(bucket[::2], bucket[1::2], strict=True)))

    def _note(self, last: int) -> None:
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (f"sorted:{self._table}", last))
