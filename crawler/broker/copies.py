"""How many images have the bytes of another one: counted when it is asked for, and kept until images come or go."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import msgspec

from crawler.broker.views import View

#: Digits of a digest that are looked at: 128 bits.
DIGITS = 32
#: Digests read at a time.
BATCH = 10_000
#: What the last count is kept under: it, and what `_IMAGES` said of the ledger then.
COUNTED = "exact_duplicates"
#: Seconds to wait for whoever writes before a count is not kept.
KEEP_WAIT = 1.0

# (`seq` of the last image that was recorded, how many are stored): while both are the same, so are the images. What is
# taken back lowers the second, and comes again with a `seq` of its own.
_IMAGES = """
SELECT ifnull((SELECT seq FROM records WHERE reason IS NULL ORDER BY seq DESC LIMIT 1), 0),
    ifnull((SELECT n FROM counters WHERE name = 'stored'), 0)
"""


class CopiesView(View):
    """What is asked of a ledger about the bytes of its images."""

    def images(self) -> list[int]:
        """Return what is the same only as long as the images are."""
        return list(self._all(_IMAGES)[0])

    def digests(self) -> Iterator[list[str]]:
        """Yield the SHA-256 of all images that are stored, in batches."""
        sql = (
            "SELECT t.id, r.body FROM tasks t JOIN records r ON r.seq = t.seq"
            " WHERE t.state = 2 AND r.reason IS NULL AND t.id > ? ORDER BY t.id LIMIT ?"
        )
        last = 0
        while rows := self._all(sql, last, BATCH):
            yield [digest for _, blob in rows if (digest := _decode_digest(blob).sha256)]
            last = rows[-1][0]


class _Digest(msgspec.Struct):
    """What is read of a record's body where nothing else is wanted."""

    sha256: str | None = None


_decode_digest = msgspec.msgpack.Decoder(_Digest).decode


def exact_duplicates(ledger: Path) -> int:
    """
    Return how many stored images have the same bytes as another one, the first of each kind not counted.

    To keep this as a counter would cost a page at a random place for every record; so all digests are read, and put in
    order in a file that nobody else sees. What was counted holds until an image is recorded or taken back.

    Args:
        ledger: The file; it need not be one that can be written.

    Raises:
        OutUnusable: There is no such ledger.
        VersionMismatch: A newer program made it.
    """
    with closing(CopiesView(ledger)) as view:
        images = view.images()
        count, *counted_of = json.loads(view.meta(COUNTED) or "[0]")
        if counted_of != images:
            count = _count(view)
            _keep(ledger, count, images)
        return int(count)


def _count(view: CopiesView) -> int:
    with closing(sqlite3.connect("")) as scratch:
        scratch.execute("CREATE TABLE digests(value TEXT)")
        for digests in view.digests():
            scratch.executemany("INSERT INTO digests VALUES (?)", [(digest[:DIGITS],) for digest in digests])
        # Groups are sorted; count(DISTINCT) would put each value into a tree, which takes four times as long.
        sql = "SELECT ifnull(sum(same - 1), 0) FROM (SELECT count(*) AS same FROM digests GROUP BY value)"
        return int(scratch.execute(sql).fetchone()[0])


def _keep(ledger: Path, count: int, images: list[int]) -> None:
    """
    Keep a count, if the images are the same still; where that cannot be written it will be counted again.

    The ledger may be another user's, or on a disk that is full or read-only; a run may have begun on it meanwhile.
    """
    address = f"{ledger.absolute().as_uri()}?mode=rw"
    with suppress(sqlite3.OperationalError), closing(sqlite3.connect(address, timeout=KEEP_WAIT, uri=True)) as db, db:
        db.execute("BEGIN IMMEDIATE")
        if list(db.execute(_IMAGES).fetchone()) == images:
            db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (COUNTED, json.dumps([count, *images])))
