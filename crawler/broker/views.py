"""What can be asked of a ledger, also while it is written and by another process."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from crawler import facts
from crawler.broker.changes import COLUMNS, LINE_BITS, TASKS, task_of
from crawler.broker.ended import Body, decode_body
from crawler.broker.hosts import Facts
from crawler.broker.registry import read_facts, read_paused
from crawler.broker.schema import version
from crawler.broker.syncs import log_of
from crawler.errors import OutUnusable
from crawler.model import ListState, Outcome, Record, Task
from crawler.reasons import Reason

_HOSTS = """
WITH RECURSIVE found(host) AS (
    SELECT min(host) FROM backlog WHERE host > ?
    UNION ALL SELECT (SELECT min(host) FROM backlog WHERE host > found.host) FROM found
    WHERE found.host IS NOT NULL)
SELECT host FROM found WHERE host IS NOT NULL LIMIT ?
"""


class SavedLease(NamedTuple):
    """A lease as an earlier coordinator left it."""

    token: int
    session: str
    expires: float
    host: int
    #: Of the robots.txt that is leased, None where it is a task.
    origin: str | None
    task: Task


class EntryRow(NamedTuple):
    """One entry with its task and, where it has one, its record."""

    list_name: str
    line: int
    task_id: int
    url: str
    record: Record | None
    #: Columns that are carried through: a map by name, in MessagePack. None where there are none.
    columns: bytes | None = None


class View:
    """
    A reading connection; its methods may be called from any thread.

    Args:
        path: The ledger.

    Raises:
        OutUnusable: There is no such ledger.
        VersionMismatch: A newer program made it.
    """

    def __init__(self, path: Path) -> None:
        try:
            address = f"{path.absolute().as_uri()}?{_mode(path)}"
            with ExitStack() as undo:
                self._db = sqlite3.connect(address, uri=True, check_same_thread=False)
                undo.callback(self._db.close)
                self._db.execute("PRAGMA query_only = ON")
                self._db.execute("SELECT 1 FROM meta LIMIT 1")
                found = version(self._db, path)
                undo.pop_all()
            #: A ledger of schema 1, which nothing but its next crawl makes anew, has no columns.
            self._columns = "columns" if found > 1 else "NULL"
        except sqlite3.Error as error:
            raise OutUnusable(f"{path} is no ledger of crawler that can be read: {error}") from error
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close the connection."""
        self._db.close()

    def meta(self, name: str) -> Any:
        """Return the value kept under *name*, None where there is none."""
        rows = self._all("SELECT value FROM meta WHERE name = ?", name)
        return rows[0][0] if rows else None

    def metas(self, prefix: str) -> dict[str, Any]:
        """Return all values that are kept under names beginning with *prefix*."""
        return dict(self._all("SELECT name, value FROM meta WHERE substr(name, 1, ?) = ?", len(prefix), prefix))

    def kept(self, ids: list[int]) -> dict[int, tuple[str, str]]:
        """Return (path, SHA-256) of the image recorded last for each of the tasks *ids*, at most 500, that has one."""
        marks = ",".join("?" * len(ids))
        sql = (
            "SELECT t.id, r.body FROM tasks t JOIN records r ON r.seq = t.seq"
            f" WHERE r.reason IS NULL AND t.id IN ({marks})"
        )
        bodies = {task: decode_body(blob) for task, blob in self._all(sql, *ids)}
        return {task: (body.path, body.sha256 or "") for task, body in bodies.items() if body.path}

    def has_former(self) -> bool:
        """Tell whether any image was recorded whose task has another record by now."""
        if self.last_seq() == self.tasks():  # one record each
            return False
        sql = (
            "SELECT 1 FROM records r LEFT JOIN tasks t ON t.seq = r.seq AND t.id = r.task"
            " WHERE r.reason IS NULL AND t.id IS NULL LIMIT 1"
        )
        return bool(self._all(sql))

    def last_seq(self) -> int:
        """Return the `seq` of the last recording, 0 where there is none."""
        return int(self._all("SELECT ifnull(max(seq), 0) FROM records")[0][0])

    def counters(self) -> dict[str, int]:
        """Return all counters."""
        return dict(self._all("SELECT name, n FROM counters"))

    def reasons(self) -> dict[str, int]:
        """Return the number of failed tasks by reason, those with none left out."""
        counters = self.counters().items()
        return {name.removeprefix("reason:"): n for name, n in counters if name.startswith("reason:") and n > 0}

    def example(self, reason: str) -> tuple[str, str]:
        """Return (URL, detail) of a task that failed with *reason*."""
        sql = (
            "SELECT t.url, r.body FROM records r JOIN tasks t ON t.id = r.task AND t.seq = r.seq"
            " WHERE r.reason = ? AND t.state = 2 LIMIT 1"
        )
        rows = self._all(sql, reason)
        return (rows[0][0], decode_body(rows[0][1]).detail or "") if rows else ("", "")

    def worst_hosts(self, count: int) -> list[tuple[str, int]]:
        """Return (a URL of it, failed tasks) of the *count* hosts with most failures, lines that are no URL apart."""
        sql = (
            "SELECT min(t.url), count(*) AS n FROM records r JOIN tasks t ON t.id = r.task AND t.seq = r.seq"
            " WHERE r.reason IS NOT NULL AND r.reason != 'bad_url' AND t.state = 2"
            " GROUP BY t.host ORDER BY n DESC, 1 LIMIT ?"
        )
        return [(url, n) for url, n in self._all(sql, count)]

    def tasks(self) -> int:
        """Return the number of tasks; ids are dense."""
        return int(self._all("SELECT ifnull(max(id), 0) FROM tasks")[0][0])

    def delayed(self, after: float = 0.0) -> int:
        """Return the number of delayed tasks that are not with the frontier and due at or *after* a time."""
        return int(self._all("SELECT count(*) FROM tasks WHERE state = 1 AND due >= ?", after)[0][0])

    def lists(self) -> list[ListState]:
        """Return all lists in the order in which they were opened."""
        rows = self._all("SELECT id, name, next_line, offset, digest, sealed FROM lists ORDER BY id")
        return [
            ListState(id=row[0], name=row[1], next_line=row[2], offset=row[3], digest=row[4], sealed=bool(row[5]))
            for row in rows
        ]

    def backlog(self, after: Mapping[int, int], count: int) -> dict[int, list[Task]]:
        """Return for each host up to *count* ready tasks in order, those with ids above what *after* says of it."""
        if not after:
            return {}
        hosts = f"WITH h(host, after) AS (VALUES {', '.join(['(?, ?)'] * len(after))})"
        ids = "SELECT task FROM backlog WHERE host = h.host AND task > h.after ORDER BY task LIMIT ?"
        sql = f"{hosts} SELECT h.host, {COLUMNS} FROM h CROSS JOIN {TASKS} WHERE t.id IN ({ids}) ORDER BY t.id"
        found: dict[int, list[Task]] = {host: [] for host in after}
        for host, *row in self._all(sql, *chain.from_iterable(after.items()), count):
            found[host].append(task_of(row))
        return found

    def hosts(self, after: int, count: int) -> list[int]:
        """Return up to *count* hosts above *after* that have ready tasks, in order."""
        return [row[0] for row in self._all(_HOSTS, after, count)]

    def columns_of(self, tasks: list[int]) -> dict[int, bytes]:
        """Return the columns of the first entry of each of the *tasks*, by task; those without any are left out."""
        marks = ",".join("?" * len(tasks))
        sql = f"SELECT t.id, e.columns FROM tasks t JOIN entries e ON e.id = t.entry WHERE t.id IN ({marks})"
        return dict(self._all(sql, *tasks))

    def hashes(self, count: int = 10_000) -> Iterator[int]:
        """Yield the perceptual hashes that images are compared with, signed, read *count* at a time."""
        rows = self._all("SELECT hash FROM likeness ORDER BY hash LIMIT ?", count)
        while rows:
            yield from (row[0] for row in rows)
            rows = self._all("SELECT hash FROM likeness WHERE hash > ? ORDER BY hash LIMIT ?", rows[-1][0], count)

    def next_due(self) -> float | None:
        """Return when the next delayed task that is not with the frontier becomes due, None where there is none."""
        row = self._all("SELECT due FROM tasks WHERE state = 1 AND due IS NOT NULL ORDER BY due LIMIT 1")
        return row[0][0] if row else None

    def leases(self) -> list[SavedLease]:
        """Return the leases that an earlier coordinator left."""
        sql = (
            "SELECT l.token, l.session, l.expires, ifnull(l.host, t.host), l.origin, t.id, t.url, t.target, t.hops,"
            " t.attempts, t.losses, t.digest, r.body FROM leases l LEFT JOIN tasks t ON t.id = l.task"
            " LEFT JOIN records r ON r.seq = t.seq AND r.reason IS NULL WHERE t.state < 2 OR l.origin IS NOT NULL"
        )
        return [
            SavedLease(token, session, expires, host, origin, task_of(task) if origin is None else _rules(origin))
            for token, session, expires, host, origin, *task in self._all(sql)
        ]

    def facts(self, keys: list[int], product: str, now: float) -> dict[int, Facts]:
        """Return what is known of each of the hosts *keys*, and what its rules say to *product*."""
        return read_facts(self._all, keys, product, now)

    def paused(self, now: float) -> list[tuple[int, float]]:
        """Return (key, time) of hosts that must not be asked before a time to come."""
        return read_paused(self._all, now)

    def records(self, after: int, count: int) -> list[Record]:
        """Return up to *count* recordings with a `seq` above *after*, in order."""
        sql = (
            "SELECT r.seq, t.id, t.url, r.reason, r.finished, r.body FROM records r JOIN tasks t ON t.id = r.task"
            " WHERE r.seq > ? ORDER BY r.seq LIMIT ?"
        )
        return [_record(row) for row in self._all(sql, after, count)]

    def entries(self, lists: list[ListState] | None = None, count: int = 1000) -> Iterator[EntryRow]:
        """
        Yield every entry in the order of lists and lines.

        Args:
            lists: The lists as they stood at some time, whose entries up to then are wanted; None for now.
            count: Entries read at a time.
        """
        sql = (
            f"SELECT e.id, {self._columns}, t.id, t.url, r.seq, r.reason, r.finished, r.body"
            " FROM entries e JOIN tasks t ON t.id = e.task LEFT JOIN records r ON r.seq = t.seq AND t.state = 2"
            " WHERE e.id > ? AND e.id < ? ORDER BY e.id LIMIT ?"
        )
        for state in self.lists() if lists is None else lists:
            for entry, columns, task, url, seq, *rest in self._of_list(sql, state, count):
                record = None if seq is None else _record((seq, task, url, *rest))
                yield EntryRow(state.name, entry & ((1 << LINE_BITS) - 1), task, url, record, columns)

    def carried(self, lists: list[ListState], count: int = 1000) -> Iterator[bytes]:
        """Yield the columns of the entries that `entries` yields for *lists*, those without any left out."""
        sql = f"SELECT id, {self._columns} FROM entries WHERE id > ? AND id < ? ORDER BY id LIMIT ?"
        for state in lists:
            yield from (row[1] for row in self._of_list(sql, state, count) if row[1] is not None)

    def _of_list(self, sql: str, state: ListState, count: int) -> Iterator[Any]:
        """Yield what *sql* selects of the entries of a list, in order, read *count* at a time."""
        last, end = state.id << LINE_BITS, state.id << LINE_BITS | state.next_line
        while rows := self._all(sql, last, end, count):
            yield from rows
            last = rows[-1][0]

    def current(self, count: int = 1000) -> Iterator[Record]:
        """Yield the current record of every task that has one, in the order of ids, read *count* at a time."""
        sql = (
            "SELECT r.seq, t.id, t.url, r.reason, r.finished, r.body FROM tasks t JOIN records r ON r.seq = t.seq"
            " WHERE t.state = 2 AND t.id > ? ORDER BY t.id LIMIT ?"
        )
        last = 0
        while rows := self._all(sql, last, count):
            yield from map(_record, rows)
            last = rows[-1][1]

    def _all(self, sql: str, *values: Any) -> list[Any]:
        with self._lock:
            return self._db.execute(sql, values).fetchall()


def _mode(path: Path) -> str:
    """Return how a ledger is opened to be read."""
    # Not mode=ro: whoever closes a ledger last must be able to fold its write-ahead log into it.
    if os.access(path, os.W_OK) and os.access(path.parent, os.W_OK):
        return "mode=rw"
    # Without a log nobody writes; and as none can be made here, SQLite reads the file only when it is told so.
    return "mode=ro" if log_of(path).exists() else "mode=ro&immutable=1"


def _rules(origin: str) -> Task:
    return Task(id=0, url=f"{origin}/robots.txt")


def _record(row: Any) -> Record:
    seq, task, url, reason, finished, blob = row
    body = decode_body(blob)
    moment = datetime.fromtimestamp(finished, UTC).isoformat(timespec="milliseconds")
    return Record(
        seq=seq,
        id=task,
        url=url,
        outcome=Outcome.FAILED if reason else Outcome.STORED,
        reason=Reason(reason) if reason else None,
        http_status=body.http_status,
        path=body.path,
        sha256=body.sha256,
        bytes=body.bytes,
        width=body.width,
        height=body.height,
        format=body.format,
        attempts=body.attempts,
        worker=body.worker,
        finished_at=moment.replace("+00:00", "Z"),
        detail=body.detail,
        facts=_facts(body),
    )


def _facts(body: Body) -> facts.Facts | None:
    """Return the facts of a record, with those that are kept beside them for the next fetch."""
    if body.facts is None or body.facts.fetch_seconds is None:  # none, or none about the response
        return body.facts
    return msgspec.structs.replace(body.facts, etag=body.etag, last_modified=body.last_modified)
