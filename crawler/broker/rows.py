"""Many rows by few statements: SQLite goes through each of them once, and lets other threads run once in each."""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Sequence
from itertools import chain
from typing import Any

#: Rows that one statement inserts, as many as a batch of leases has.
ROWS = 64
#: Values that one statement looks for.
VALUES = 500


def insert(db: sqlite3.Connection, into: str, rows: Sequence[tuple[Any, ...]]) -> None:
    """Insert *rows*, all of one width; *into* is the statement up to its values, as `INSERT INTO records`."""
    first = 0
    while first < len(rows):
        # Few statements, and few different ones: SQLite keeps those it knows.
        count = min(ROWS, 1 << (len(rows) - first).bit_length() - 1)
        some = rows[first : first + count]
        db.execute(_statement(into, len(some[0]), count), list(chain.from_iterable(some)))
        first += count


def among(db: sqlite3.Connection, sql: str, values: Sequence[Any]) -> list[Any]:
    """Run *sql*, in which `IN ?` stands for any of *values*, some of these at a time; return all rows."""
    rows: list[Any] = []
    for first in range(0, len(values), VALUES):
        some = values[first : first + VALUES]
        rows += db.execute(sql.replace("IN ?", f"IN ({', '.join('?' * len(some))})"), some)
    return rows


@functools.cache
def _statement(into: str, width: int, rows: int) -> str:
    row = f"({', '.join('?' * width)})"
    return f"{into} VALUES {', '.join([row] * rows)}"
