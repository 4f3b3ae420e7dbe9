"""
Near duplicates: which images look like one that was recorded before, by their perceptual hashes.

What came first has to be decided in one place for all workers, and must last as long as the record that says it. So it
is decided where a record is made: by the thread that writes the ledger, in the transaction of the record. A repeated
`complete` finds the record made, and a kill leaves record and hash or neither. The table `likeness` is the truth; the
index, made from it at each start, only says what to look up there, so that a transaction that was rolled back leaves
nothing in it that counts.

An image is compared with those before it that are stored and are no duplicates themselves: every duplicate is near the
image it names, and no chain of them leads away from it. Of several it names the nearest, of these the one whose task is
oldest. A task that is fetched anew lets go of its former image; images that named it go on naming it.

1. Kept: the record says of which task the image is a duplicate.
2. Dropped: the record says `near_duplicate`. Its worker has stored the image by then, so a file without a record is
   left, which `status --verify --sweep` removes like any other; from a shard it is taken out before that is published.
   Nothing is removed here: the same bytes may be on their way to the record of another URL. To ask the queue before
   storing would save the writing of the file, and nothing else: the answer could not count, since until the record is
   made another image may come first.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable
from pathlib import Path

import msgspec

from crawler.broker.ended import NOT_MODIFIED, Body, Ended, decode_body
from crawler.broker.likeness import MAX_DISTANCE, Likeness
from crawler.errors import OutUnusable, UsageError
from crawler.reasons import Reason
from crawler.settings import NearDuplicates, Settings

#: A ledger keeps signed numbers.
_SIGN = 1 << 63


class Duplicates:
    """
    The images of a crawl so far, by what they look like.

    Args:
        asked: How near duplicates are, and what becomes of them.
        folder: Where the index may lie.
        hashes: Those of earlier runs, signed.

    Raises:
        UsageError: The distance is too large.
        OutUnusable: There is no room for the index.
    """

    def __init__(self, asked: NearDuplicates, folder: Path, hashes: Iterable[int]) -> None:
        if not 0 <= asked.distance <= MAX_DISTANCE:
            raise UsageError(f"near duplicates are looked for within 0 to {MAX_DISTANCE} bits, not {asked.distance}")
        self._asked = asked
        try:
            self._index = Likeness(folder, (value & 2 * _SIGN - 1 for value in hashes))
        except OSError as error:
            raise OutUnusable(f"no room in {folder} for the index of hashes: {error}") from error

    def judge(self, db: sqlite3.Connection, ended: list[Ended]) -> list[Ended]:
        """
        Return how tasks end, now that is known which of their images are duplicates; they are to be recorded so.

        May be called again with the same, in another transaction, when the first was rolled back.
        """
        batch = _Batch(db)
        return [self._judge(batch, end) for end in ended]

    def _judge(self, batch: _Batch, end: Ended) -> Ended:
        if end.body.http_status == NOT_MODIFIED and end.reason is None:  # it is what its record says already
            return end
        batch.over.add(end.task_id)
        value = None if end.reason is not None else _hash_of(end.body)
        if value is None:
            return end
        near = self._index.find(value, self._asked.distance)
        first = batch.first(near, end.task_id)
        if first is not None:
            return self._duplicate(end, *first)
        if (0, value) not in near:
            self._index.add(value)
        batch.add(value, end.task_id)
        return end

    def _duplicate(self, end: Ended, bits: int, task: int) -> Ended:
        assert end.body.facts is not None
        facts = msgspec.structs.replace(end.body.facts, duplicate_of=task, duplicate_distance=bits)
        body = end.body
        if not self._asked.drop:
            return end._replace(body=msgspec.structs.replace(body, facts=facts))
        detail = f"{bits} {'bit' if bits == 1 else 'bits'} from the image of task {task}"
        dropped = Body(
            attempts=body.attempts, worker=body.worker, detail=detail, http_status=body.http_status, facts=facts
        )
        return end._replace(reason=Reason.NEAR_DUPLICATE, body=dropped)


class _Batch:
    """Tasks that are judged together: of those before, the ledger does not say yet how they ended."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        #: Task by hash, of those that are no duplicates.
        self._new: dict[int, int] = {}
        #: Tasks that have another record soon than the ledger has.
        self.over = set[int]()

    def add(self, value: int, task: int) -> None:
        """Take the hash of an image that is like none before."""
        self._db.execute("INSERT OR REPLACE INTO likeness VALUES (?, ?)", (_signed(value), task))
        self._new[value] = task

    def first(self, near: list[tuple[int, int]], own: int) -> tuple[int, int] | None:
        """Return (bits, task) of the image that another one is a duplicate of, None where it is of none."""
        found = [(bits, task) for bits, value in near if (task := self._task(value)) not in (None, own)]
        return min(found, default=None)

    def _task(self, value: int) -> int | None:
        """Return the task whose image has a hash, None where none has it now."""
        if value in self._new:
            return self._new[value]
        sql = (
            "SELECT l.task, r.body FROM likeness l JOIN tasks t ON t.id = l.task"
            " JOIN records r ON r.seq = t.seq AND r.reason IS NULL WHERE l.hash = ?"
        )
        row = self._db.execute(sql, (_signed(value),)).fetchone()
        if row is None or row[0] in self.over:
            return None
        body = decode_body(row[1])
        is_current = body.facts is not None and body.facts.phash == f"{value:016x}" and not body.is_duplicate
        return int(row[0]) if is_current else None


def compared(settings: Settings, folder: Path, hashes: Iterable[int]) -> Duplicates | None:
    """
    Return what compares the images of a run, None where that was not asked for.

    Args:
        settings: Of the run.
        folder: Where the index may lie.
        hashes: Those of earlier runs, signed.

    Raises:
        UsageError: The distance is too large, or images have no hashes.
        OutUnusable: There is no room for the index.
    """
    if settings.near_duplicates is None:
        return None
    if "phash" not in settings.treatment.facts:
        raise UsageError("near duplicates are found by perceptual hashes: ask for the facts `phash` too")
    return Duplicates(settings.near_duplicates, folder, hashes)


def _hash_of(body: Body) -> int | None:
    """Return the hash of an image, None where it has none; what a verifier says can be any text."""
    text = body.facts and body.facts.phash
    return int(text, 16) if text and re.fullmatch("[0-9a-f]{16}", text) else None


def _signed(value: int) -> int:
    return value - 2 * _SIGN if value >= _SIGN else value
