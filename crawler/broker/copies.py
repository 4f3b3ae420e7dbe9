"""How many images have the bytes of another one: counted when it is asked for, on disk."""

from __future__ import annotations

import contextlib
import sqlite3

from crawler.broker.views import View

#: Digits of a digest that are looked at: 128 bits.
DIGITS = 32


def exact_duplicates(view: View) -> int:
    """
    Return how many stored images have the same bytes as another one, the first of each kind not counted.

    To keep this as a counter would cost a page at a random place for every record; so all digests are read, and put in
    order in a file that nobody else sees. 1,000,000 took six seconds on a busy machine, and 14 MB.
    """
    with contextlib.closing(sqlite3.connect("")) as scratch:
        scratch.execute("CREATE TABLE digests(value TEXT)")
        for digests in view.digests():
            scratch.executemany("INSERT INTO digests VALUES (?)", [(digest[:DIGITS],) for digest in digests])
        return int(scratch.execute("SELECT count(*) - count(DISTINCT value) FROM digests").fetchone()[0])
