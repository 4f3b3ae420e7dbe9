"""A ledger that an older program made is brought up to date, whole or not at all."""

from __future__ import annotations

import contextlib
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from crawler.broker.ledger import Ledger
from crawler.broker.local import LocalTaskQueue
from crawler.broker.schema import SCHEMA, TABLES
from crawler.broker.views import View
from crawler.errors import VersionMismatch
from crawler.model import Outcome, Role
from crawler.settings import Politeness, RetryPolicy, Settings
from tests.conftest import wait_until
from tests.test_task_queue import Bench, batch, hello, lease, stored, terms

OLD = Path(__file__).with_name("ledger-schema-1.sql")
#: Session whose leases are in it.
HOLDER = "765bd2a4d72aaf8ed7154607a3e110e4"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """Lay down a ledger of schema 1 that a killed coordinator left, just now."""
    path = tmp_path / "ledger.db"
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.executescript(OLD.read_text())
        db.execute("UPDATE leases SET expires = ?", (time.time() + 60,))
    return path


def shape(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """Return the columns of each table, and what its indexes are on, in no order."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        tables = [row[0] for row in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        found = {table: [row[1:] for row in db.execute(f"PRAGMA table_info({table})")] for table in tables}
        found["indexes"] = sorted(db.execute("SELECT name, tbl_name, sql FROM sqlite_schema WHERE sql LIKE '%INDEX%'"))
        return found


def test_it_becomes_what_a_new_one_is(old: Path, tmp_path: Path) -> None:
    """Column for column and index for index, in whatever order."""
    Ledger(old, 0, lambda error: None).close()
    new = tmp_path / "new.db"
    with contextlib.closing(sqlite3.connect(new)) as db:
        db.executescript(TABLES)
    assert shape(old) == shape(new)


def test_a_half_done_run_goes_on(old: Path) -> None:
    """Leased, delayed, given back, failed and stored tasks, duplicates and the list: all is as it was left."""
    ledger = Ledger(old, 0, lambda error: None)
    queue = LocalTaskQueue(ledger, terms(Settings(politeness=Politeness(), retry=RetryPolicy(base=0.0))))
    bench = Bench(queue, queue, ledger)
    with contextlib.ExitStack() as stack:
        stack.callback(ledger.close)
        stack.callback(queue.close)
        stats = queue.stats()
        assert (stats.total, stats.leased, stats.delayed, stats.stored, stats.failed) == (7, 2, 1, 1, 2)
        assert [(row.line, row.task_id) for row in ledger.view.entries()] == [
            (1, 1), (2, 2), (3, 3), (4, 1), (5, 4), (6, 5), (7, 6), (8, 7)
        ]  # fmt: skip
        producer = bench.join(Role.PRODUCER)
        listed = queue.open_list(producer, "urls.txt", False)
        assert listed.next_line == 9
        assert queue.put(producer, listed.id, batch(9, "http://a.example/2", "http://e.example/new")) == 11
        queue.seal(producer, listed.id)
        assert queue.stats().total == 8
        holder = queue.hello(hello(session=HOLDER, holds=[1099511627781, 1099511627782])).session
        assert holder == HOLDER
        assert queue.complete(holder, [stored(1099511627781, 5), stored(1099511627782, 2)]) == [
            1099511627781,
            1099511627782,
        ]
        worker, urls = bench.join(), set()
        for number in (1, 2):
            leases = lease(queue, worker, number, 1).leases
            urls |= {one.task.url for one in leases}
            queue.complete(worker, [stored(one.token, one.task.id) for one in leases])
        assert urls == {"http://d.example/1", "http://e.example/new"}
        kept = {record.url for record in bench.records() if record.outcome is Outcome.STORED}
        assert kept == urls | {"http://a.example/1", "http://a.example/2", "http://b.example/2"}


#: Brings a ledger up to date, and kills itself before the statement of a number.
VICTIM = """
import os, signal, sqlite3, sys
from pathlib import Path
from crawler.broker import schema

left = [int(sys.argv[2])]

def count(statement):
    left[0] -= 1
    if left[0] < 0:
        os.kill(os.getpid(), signal.SIGKILL)

db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.set_trace_callback(count)
schema.prepare(db, Path(sys.argv[1]))
"""


def content(path: Path) -> list[str]:
    with contextlib.closing(sqlite3.connect(path)) as db:
        return [*db.iterdump(), str(db.execute("PRAGMA user_version").fetchall())]


def test_a_kill_in_the_middle_leaves_the_old_one(old: Path) -> None:
    """Before each of its statements; after the last it is the new one."""
    before = content(old)
    for number in range(1000):
        done = subprocess.run([sys.executable, "-P", "-c", VICTIM, str(old), str(number)], check=False)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL
        assert content(old) == before
    assert number > 8  # or nothing was killed in the middle
    with contextlib.closing(sqlite3.connect(old)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (SCHEMA,)
        assert db.execute("SELECT count(*) FROM backlog").fetchone() == (3,)


def test_it_can_be_read_as_it_is(old: Path) -> None:
    """Commands that only look leave it what it is: its own program may be running."""
    before = content(old)
    with contextlib.closing(View(old)) as view:
        assert [(row.line, row.task_id, row.columns) for row in view.entries()][:4] == [
            (1, 1, None), (2, 2, None), (3, 3, None), (4, 1, None)
        ]  # fmt: skip
        assert [record.seq for record in view.records(0, 9)] == [1, 2, 3]
    assert content(old) == before


def test_a_later_one_is_refused(old: Path) -> None:
    """By commands that only look, too; with what to do."""
    with contextlib.closing(sqlite3.connect(old)) as db:
        db.execute(f"PRAGMA user_version = {SCHEMA + 1}")
    before = content(old)
    with pytest.raises(VersionMismatch, match="use a newer crawler"):
        View(old)
    assert content(old) == before


def test_what_waits_to_be_sorted_in_is_taken_up(tmp_path: Path) -> None:
    """A kill before new tasks are in the backlog and among the known URLs loses neither."""
    first = Ledger(tmp_path / "ledger.db", 0, lambda error: None)
    list_id = first.change(lambda made: made.open_list("list", False)).id
    first.change(lambda made: made.put(list_id, batch(1, "http://a/1", "http://b/1"), 0.0))
    assert (first.unsorted, first.view.hosts(-(1 << 63), 9)) == (2, [])
    first.close()
    again = Ledger(tmp_path / "ledger.db", 0, lambda error: None)
    assert again.unsorted == 2
    assert again.change(lambda made: made.put(list_id, batch(3, "http://b/1", "http://c/1"), 0.0)).tasks == 1
    hosts = again.change(lambda made: made.sort_in())
    wait_until(lambda: again.unsorted == 0)
    assert sorted(hosts) == again.view.hosts(-(1 << 63), 9)
    ready = sorted(task.url for tasks in again.view.backlog(dict.fromkeys(hosts, 0), 9).values() for task in tasks)
    assert ready == ["http://a/1", "http://b/1", "http://c/1"]
    again.close()
