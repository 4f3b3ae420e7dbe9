"""What can be changed in a ledger: the statements of one transaction, called by the writing thread alone."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from crawler.broker.ended import NOT_MODIFIED, Body, Delayed, Ended, decode_body, encode_body
from crawler.broker.hosts import Held, host_keys
from crawler.broker.intake import SLICE, WAITING, Intake
from crawler.broker.rows import among, insert
from crawler.broker.urls import KnownUrls
from crawler.model import Batch, ListState, Row, Task
from crawler.reasons import Reason

#: Bits of an entry's id that are its line.
LINE_BITS = 40
#: What a task is read from, as `task_of` takes it; one that is stored already has a record.
COLUMNS = "t.id, t.url, t.target, t.hops, t.attempts, t.losses, t.digest, r.body"
TASKS = "tasks t LEFT JOIN records r ON r.seq = t.seq AND r.reason IS NULL"
TASK = f"{COLUMNS} FROM {TASKS}"
#: What is inserted into `recording` ends a task: all that follows from it is one step of SQLite for many of them, in
#: which other threads run on. A task leaves the backlog by the host that it has there.
_RECORDING = """
CREATE TEMP VIEW IF NOT EXISTS recording(seq, task, reason, finished, body, attempts, token)
    AS SELECT 0, 0, 0, 0, 0, 0, 0;
CREATE TEMP TRIGGER IF NOT EXISTS record INSTEAD OF INSERT ON recording BEGIN
    INSERT INTO records VALUES (NEW.seq, NEW.task, NEW.reason, NEW.finished, NEW.body);
    DELETE FROM backlog WHERE host = (SELECT host FROM tasks WHERE id = NEW.task) AND task = NEW.task;
    UPDATE tasks SET state = 2, due = NULL, attempts = NEW.attempts, token = NEW.token, seq = NEW.seq
        WHERE id = NEW.task;
    DELETE FROM leases WHERE token = NEW.token;
END;
"""


class PutResult(NamedTuple):
    """What a put did."""

    next_line: int
    #: Tasks that were new.
    tasks: int
    #: Entries that were added.
    entries: int
    #: Lines that are no URL, and whose text was new.
    bad: int
    #: Hosts that have more in the backlog now.
    hosts: set[int]


def task_of(row: Sequence[Any]) -> Task:
    """Return the task of a row of `TASK`."""
    number, url, target, hops, attempts, losses, digest, blob = row
    last = None if blob is None else decode_body(blob)
    return Task(
        id=number,
        url=url,
        target=target,
        hops=hops,
        attempts=attempts,
        losses=losses,
        etag=last.etag if last else None,
        last_modified=last.last_modified if last else None,
        digest=digest,
    )


class Changes:
    """
    The statements, on the writing connection.

    What is counted in memory (next id, next seq, counters) belongs to a transaction until `committed`.
    """

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        db.executescript(_RECORDING)
        self._task = self._one("SELECT ifnull(max(id), 0) FROM tasks")
        self._seq = self._one("SELECT ifnull(max(seq), 0) FROM records")
        self._counts: Counter[str] = Counter()
        self._urls = KnownUrls(db)
        self._new_ready = Intake(db, "backlog")
        self._kept = (self._task, self._seq)
        sql = (
            "SELECT host, id FROM tasks t WHERE id > ? AND state = 0"
            " AND NOT EXISTS (SELECT 1 FROM backlog b WHERE b.host = t.host AND b.task = t.id)"
        )
        self._new_ready.add(db.execute(sql, (self._new_ready.mark(),)), self._task)
        self._new_ready.committed()

    # ------------------------------------------------------------ the transaction

    def begin(self) -> None:
        """Forget what an unfinished transaction counted."""
        self._task, self._seq = self._kept
        self._counts.clear()
        self._urls.begin()
        self._new_ready.begin()

    def finish(self) -> None:
        """Write the counters."""
        sql = "INSERT INTO counters VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET n = n + excluded.n"
        self._db.executemany(sql, [(name, n) for name, n in self._counts.items() if n])

    def committed(self) -> None:
        """Keep what the transaction counted."""
        self._kept = (self._task, self._seq)
        self._urls.committed()
        self._new_ready.committed()

    @property
    def unsorted(self) -> int:
        """Return the number of new tasks that are not in the backlog yet."""
        return len(self._new_ready)

    @property
    def db(self) -> sqlite3.Connection:
        """Return the writing connection, for statements that stand in files of their own."""
        return self._db

    # ------------------------------------------------------------ a start, lists and entries

    def set_meta(self, name: str, value: Any) -> None:
        """Keep *value* under *name*."""
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))

    def drop_meta(self, name: str) -> None:
        """Keep nothing under *name*."""
        self._db.execute("DELETE FROM meta WHERE name = ?", (name,))

    def next_epoch(self, ended: tuple[str, ...], now: float) -> int:
        """Count this start of a coordinator, from 1; leases of sessions that begin with one of *ended* are over."""
        self._follow_clock(now)
        for prefix in ended:
            self._db.execute("DELETE FROM leases WHERE session GLOB ?", (f"{prefix}*",))
        row = self._db.execute("SELECT value FROM meta WHERE name = 'epoch'").fetchone()
        epoch = int(row[0] if row else 0) + 1
        self.set_meta("epoch", epoch)
        sql = "UPDATE tasks SET due = 0 WHERE state = 1 AND due IS NULL AND id NOT IN (SELECT task FROM leases)"
        self._db.execute(sql)
        return epoch

    def _follow_clock(self, now: float) -> None:
        """Let nothing wait for longer because the clock was set back since the last record."""
        row = self._db.execute("SELECT finished FROM records ORDER BY seq DESC LIMIT 1").fetchone()
        behind = row[0] - now if row else 0.0
        if behind > 0:
            self._db.execute("UPDATE tasks SET due = due - ? WHERE state = 1 AND due > ?", (behind, now))
            self._db.execute("UPDATE hosts SET until = until - ? WHERE until > ?", (behind, now))
            self._db.execute("UPDATE robots SET expires = expires - ?", (behind,))

    def open_list(self, name: str, fresh: bool) -> ListState:
        """Return the newest list called *name*, made where there is none or *fresh* is asked."""
        sql = "SELECT id, next_line, offset, digest, sealed FROM lists WHERE name = ? ORDER BY id DESC LIMIT 1"
        row = None if fresh else self._db.execute(sql, (name,)).fetchone()
        if row is None:
            cursor = self._db.execute("INSERT INTO lists(name) VALUES (?)", (name,))
            return ListState(id=int(cursor.lastrowid or 0), name=name)
        return ListState(id=row[0], name=name, next_line=row[1], offset=row[2], digest=row[3], sealed=bool(row[4]))

    def seal(self, list_id: int) -> None:
        """Note that a list has been read to its end."""
        self._db.execute("UPDATE lists SET sealed = 1 WHERE id = ?", (list_id,))

    def put(self, list_id: int, batch: Batch, now: float) -> PutResult:
        """Add a batch of entries, and a task for each URL that is new; nothing where it is not the expected one."""
        found = self._db.execute("SELECT next_line FROM lists WHERE id = ?", (list_id,)).fetchone()
        if found is None or found[0] != batch.first_line:
            return PutResult(found[0] if found else 0, 0, 0, 0, set())
        rows: dict[str, Row] = {}
        for row in batch.rows:  # the first line of a URL speaks for it
            rows.setdefault(row.url, row)
        self._urls.take_up(self._task)
        known, free = self._urls.look_up(list(rows))
        new = [row for row in rows.values() if row.url in free]
        ids = self._add_tasks(list_id, new, free)
        known.update(ids)
        entries = [(list_id << LINE_BITS | row.line, known[row.url], row.columns) for row in batch.rows]
        insert(self._db, "INSERT INTO entries(id, task, columns)", entries)
        self._counts["entries"] += len(entries)
        self._end_bad(new, ids, now)
        sql = "UPDATE lists SET next_line = ?, offset = ?, digest = ?, total = ?, sealed = 0 WHERE id = ?"
        self._db.execute(sql, (batch.next_line, batch.offset, batch.digest, batch.total_bytes, list_id))
        bad = sum(1 for row in new if row.error)
        return PutResult(batch.next_line, len(new), len(entries), bad, self._sort_in_what_is_too_much())

    def _sort_in_what_is_too_much(self) -> set[int]:
        """Move rows for those that came while many wait; return the hosts that have more in the backlog."""
        self._urls.new.move(min(len(self._urls.new) - WAITING, 2 * SLICE))
        return self._new_ready.move(min(len(self._new_ready) - WAITING, 2 * SLICE))

    def sort_in(self) -> set[int]:
        """Move some new tasks into the backlog; return the hosts that have more there."""
        return self._new_ready.move()

    def _add_tasks(self, list_id: int, rows: list[Row], keys: dict[str, int]) -> dict[str, int]:
        hosts = host_keys(row.host for row in rows)
        values = [
            (task, hosts[row.host], 2 if row.error else 0, row.url, row.digest, _first(list_id, row))
            for task, row in enumerate(rows, self._task + 1)
        ]
        self._task += len(rows)
        insert(self._db, "INSERT INTO tasks(id, host, state, url, digest, entry)", values)
        ids = {url: task for task, _, _, url, *_ in values}
        self._urls.add(keys, ids, self._task)
        self._new_ready.add([(host, task) for task, host, state, *_ in values if not state], self._task)
        return ids

    def _end_bad(self, rows: list[Row], ids: dict[str, int], now: float) -> None:
        bad = [row for row in rows if row.error]
        self.record([Ended(None, ids[row.url], Reason.BAD_URL, Body(attempts=0, detail=row.error)) for row in bad], now)

    # ------------------------------------------------------------ leases and records

    def lease(self, leases: list[Held], session: str, expires: float) -> None:
        """Keep leases, for the next start."""
        values = [
            (held.token, held.task.id, session, expires, held.host.key, held.origin and held.origin.name)
            for held in leases
        ]
        insert(self._db, "INSERT OR REPLACE INTO leases", values)

    def extend(self, tokens: list[int], expires: float) -> None:
        """Keep a later end of leases."""
        self._db.executemany("UPDATE leases SET expires = ? WHERE token = ?", [(expires, token) for token in tokens])

    def drop_leases(self, tokens: list[int]) -> None:
        """Forget leases whose tasks are as they were."""
        among(self._db, "DELETE FROM leases WHERE token IN ?", tokens)

    def lose(self, task_ids: list[int], tokens: list[int]) -> None:
        """Charge tasks a loss; their leases *tokens* are over."""
        self._db.executemany("UPDATE tasks SET losses = losses + 1 WHERE id = ?", [(task,) for task in task_ids])
        self.drop_leases(tokens)

    def record(self, ended: list[Ended], now: float) -> list[Ended]:
        """Give tasks their record, and return what it says; of an image that has not changed what it said before."""
        ended = [self._completed(end) for end in ended]
        rows = []
        for end in ended:
            self._seq += 1
            body = encode_body(end.body)
            rows.append((self._seq, end.task_id, end.reason, now, body, end.body.attempts, end.token))
            self._count(end)
        insert(self._db, "INSERT INTO recording", rows)
        return ended

    def _leave_backlog(self, ids: list[int]) -> None:
        """Forget that tasks are ready; before they move to another host."""
        sql = "DELETE FROM backlog WHERE (host, task) IN (SELECT host, id FROM tasks WHERE id IN ?)"
        among(self._db, sql, ids)

    def _completed(self, end: Ended) -> Ended:
        """Return *end*; of an image that has not changed with what its last record says."""
        if end.body.http_status != NOT_MODIFIED or end.reason is not None:
            return end
        sql = "SELECT r.body FROM tasks t JOIN records r ON r.seq = t.seq WHERE t.id = ?"
        row = self._db.execute(sql, (end.task_id,)).fetchone()
        if row is None:
            return end
        last = decode_body(row[0])
        new = {"attempts": end.body.attempts, "worker": end.body.worker, "http_status": NOT_MODIFIED}
        return end._replace(body=msgspec.structs.replace(last, **new))

    def _count(self, end: Ended) -> None:
        self._counts["failed" if end.reason else "stored"] += 1
        self._counts["bytes"] += end.body.bytes or 0
        if end.is_kept_duplicate:
            self._counts["near_duplicates"] += 1
        if end.reason:
            self._counts[f"reason:{end.reason}"] += 1

    def delay(self, delayed: list[Delayed]) -> None:
        """Let tasks wait on disk."""
        self._leave_backlog([d.task.id for d in delayed])
        sql = (
            "UPDATE tasks SET state = 1, due = ?, host = ?, attempts = ?, hops = ?, target = ?, token = ? WHERE id = ?"
        )
        values = [(d.due, d.host, d.task.attempts, d.task.hops, d.task.target, d.token, d.task.id) for d in delayed]
        self._db.executemany(sql, values)
        self.drop_leases([d.token for d in delayed])

    def postpone(self, ids: list[int], due: float) -> None:
        """Let tasks that are not leased wait on disk."""
        self._leave_backlog(ids)
        self._db.executemany("UPDATE tasks SET state = 1, due = ? WHERE id = ?", [(due, task) for task in ids])

    def refund(self, attempts: dict[int, int]) -> None:
        """Set the attempts of tasks that wait back to what they were, by id."""
        sql = "UPDATE tasks SET attempts = ? WHERE id = ? AND state = 1"
        self._db.executemany(sql, [(max(0, count), task) for task, count in attempts.items()])

    def revoke(self, recorded: dict[int, str], now: float) -> Counter[str]:
        """Take back the failures recorded last, reason by task: they wait until *now*; return how many by reason."""
        sql = "UPDATE tasks SET state = 1, due = ? WHERE id = ? AND state = 2"
        taken = Counter(reason for task, reason in recorded.items() if self._db.execute(sql, (now, task)).rowcount)
        self._counts["failed"] -= taken.total()
        for reason, n in taken.items():
            self._counts[f"reason:{reason}"] -= n
        return taken

    def ended_by(self, pairs: list[tuple[int, int]]) -> set[int]:
        """Return those tokens of the (token, task) *pairs* that ended the last lease of their task."""
        found = set()
        for token, task in pairs:
            if self._db.execute("SELECT 1 FROM tasks WHERE id = ? AND token = ?", (task, token)).fetchone():
                found.add(token)
        return found

    def take_due(self, now: float, count: int) -> list[tuple[int, Task]]:
        """Return up to *count* delayed tasks whose time has come, each with its host, and mark them as handed out."""
        sql = f"SELECT t.host, {TASK} WHERE t.state = 1 AND t.due IS NOT NULL AND t.due <= ? ORDER BY t.due LIMIT ?"
        rows = self._db.execute(sql, (now, count)).fetchall()
        self._db.executemany("UPDATE tasks SET due = NULL WHERE id = ?", [(row[1],) for row in rows])
        return [(row[0], task_of(row[1:])) for row in rows]

    def _one(self, sql: str) -> int:
        return int(self._db.execute(sql).fetchone()[0])


def _first(list_id: int, row: Row) -> int | None:
    """Return the id of the entry whose columns its task has, None where there are none."""
    return None if row.columns is None else list_id << LINE_BITS | row.line
