"""
Records against files: what a store lacks of what was recorded, and what it holds without a record.

Neither side is held in memory: what was recorded is sorted on disk, the store is walked in the same order, and the two
are read side by side.
"""

from __future__ import annotations

import contextlib
import enum
import sqlite3
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import msgspec

from crawler.broker.ended import decode_body
from crawler.broker.registry import STATES
from crawler.broker.sessions import LOCAL
from crawler.broker.state import MAX_SHOWN, OWN
from crawler.broker.views import View
from crawler.errors import StorageFailed
from crawler.stats import HostState, HostStats, HostWait

#: Records read at a time.
BATCH = 1_000
#: What goes before the path of a record whose store is in OUT.
PREFIX = "images/"


class Fault(enum.StrEnum):
    """What can be wrong with a file."""

    #: It is not there.
    MISSING = "missing"
    OTHER_SIZE = "other_size"
    #: Its size is right, its bytes are others.
    OTHER_DIGEST = "other_digest"
    UNREADABLE = "unreadable"
    #: It is there, and no record names it.
    ORPHAN = "orphan"


class Finding(NamedTuple):
    """One file, looked at."""

    #: Relative to the store's root.
    path: str
    #: As recorded; of an orphan its own.
    size: int
    #: Current records that name it.
    records: int
    #: None where it is what was recorded.
    fault: Fault | None


class Found(Protocol):
    """A file of a store."""

    @property
    def path(self) -> str:
        """Return its path relative to the store's root."""

    @property
    def size(self) -> int:
        """Return its size."""


class Files(Protocol):
    """What is asked of a store."""

    def walk(self) -> Iterator[Found]:
        """Yield all files by path."""

    def size(self, path: str) -> int | None:
        """Return a file's size, None where there is none."""

    def digest(self, path: str) -> str:
        """Return a file's SHA-256; raises OSError."""


class AuditView(View):
    """What is asked of a ledger when no run does."""

    def stored(self) -> int:
        """Return the number of tasks that are recorded as stored."""
        return self.counters().get("stored", 0)

    def images(self) -> Iterator[list[tuple[str, int, str]]]:
        """Yield (path relative to the store, size, SHA-256) of all tasks that are recorded as stored, in batches."""
        sql = (
            "SELECT t.id, r.body FROM tasks t JOIN records r ON r.seq = t.seq"
            " WHERE t.state = 2 AND r.reason IS NULL AND t.id > ? ORDER BY t.id LIMIT ?"
        )
        last = 0
        while rows := self._all(sql, last, BATCH):
            bodies = [decode_body(blob) for _, blob in rows]
            yield [(body.path.removeprefix(PREFIX), body.bytes or 0, body.sha256 or "") for body in bodies if body.path]
            last = rows[-1][0]

    def former(self) -> Iterator[list[str]]:
        """Yield the paths of images that were recorded once, and whose task has another record by now, in batches."""
        sql = (
            "SELECT r.seq, r.body FROM records r LEFT JOIN tasks t ON t.id = r.task AND t.seq = r.seq AND t.state = 2"
            " WHERE r.reason IS NULL AND t.id IS NULL AND r.seq > ? ORDER BY r.seq LIMIT ?"
        )
        last = 0
        while rows := self._all(sql, last, BATCH):
            bodies = [decode_body(blob) for _, blob in rows]
            yield [body.path.removeprefix(PREFIX) for body in bodies if body.path]
            last = rows[-1][0]

    def host_stats(self, now: float) -> HostStats:
        """Count hosts by state, as the last run left them, and name those that wait longest."""
        counts = dict(self._all("SELECT state, count(*) FROM hosts WHERE state > 0 GROUP BY state"))
        by_state = {state: counts.get(number, 0) for number, state in enumerate(STATES)}
        sql = "SELECT name, state, until, body FROM hosts WHERE until > ? ORDER BY until DESC LIMIT ?"
        return HostStats(
            slowed=by_state[HostState.SLOWED],
            open=by_state[HostState.OPEN],
            unavailable=by_state[HostState.UNAVAILABLE],
            waiting=[_waiting(row) for row in self._all(sql, now, MAX_SHOWN)],
        )


class _Seen(msgspec.Struct):
    detail: str = ""


_decode_seen = msgspec.msgpack.Decoder(_Seen).decode


def _waiting(row: Any) -> HostWait:
    name, state, until, body = row
    return HostWait(name=name, state=STATES[state], until=until, detail=_decode_seen(body).detail)


def examine(view: AuditView, files: Files) -> Iterator[Finding]:
    """
    Hold every recorded image against its file, and yield each one, and each orphan, by path.

    What is stored while this runs may look like an orphan: its record was not there yet.

    Raises:
        StorageFailed: There is no room to sort in.
    """
    with contextlib.closing(sqlite3.connect("")) as scratch:  # a file that nobody else sees, gone with the connection
        with _translated():
            _collect(view, scratch)
        walk = files.walk()
        file = next(walk, None)
        for path, size, sha256, records in _sorted(scratch):
            while file is not None and file.path < path:
                yield Finding(file.path, file.size, 0, Fault.ORPHAN)
                file = next(walk, None)
            if file is not None and file.path == path:
                found: int | None = file.size
                file = next(walk, None)
            else:  # not met on the walk: it may have come since, or have another kind of name
                found = files.size(path)
            if not records:  # an image that was recorded before a refresh found another, or none, is no orphan
                continue
            yield Finding(path, size, records, _judge(files, path, found, size, sha256))
        while file is not None:
            yield Finding(file.path, file.size, 0, Fault.ORPHAN)
            file = next(walk, None)


def _collect(view: AuditView, scratch: sqlite3.Connection) -> None:
    scratch.execute("CREATE TABLE images(path TEXT, size INTEGER, sha256 TEXT)")
    for images in view.images():
        scratch.executemany("INSERT INTO images VALUES (?, ?, ?)", images)
    for paths in view.former():
        scratch.executemany("INSERT INTO images VALUES (?, NULL, NULL)", [(path,) for path in paths])


def _sorted(scratch: sqlite3.Connection) -> Iterator[tuple[str, int, str, int]]:
    sql = "SELECT path, max(size), max(sha256), count(size) FROM images GROUP BY path ORDER BY path"
    with _translated():
        yield from scratch.execute(sql)


def _judge(files: Files, path: str, found: int | None, size: int, sha256: str) -> Fault | None:
    if found is None:
        return Fault.MISSING
    if found != size:
        return Fault.OTHER_SIZE
    try:
        return None if files.digest(path) == sha256 else Fault.OTHER_DIGEST
    except FileNotFoundError:
        return Fault.MISSING
    except OSError:
        return Fault.UNREADABLE


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_FULL:
            raise
        raise StorageFailed("no room to sort the records in: name a folder with room in TMPDIR") from error


def end_leases(db: sqlite3.Connection, now: float) -> float | None:
    """
    End the leases that nobody can use any more, so that no late worker takes one up again; nothing runs on the ledger.

    Returns:
        When the last of the others runs out, None where there is none: then nothing in the store can still be recorded.
    """
    sql = "DELETE FROM leases WHERE expires <= ? OR session GLOB ? OR session GLOB ?"
    db.execute(sql, (now, f"{LOCAL}*", f"{OWN}*"))
    last: float | None = db.execute("SELECT max(expires) FROM leases").fetchone()[0]
    return last
