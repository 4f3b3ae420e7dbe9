"""Rows on their way into a sorted table: all arrive, once, whatever happens on the way."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crawler.broker import changes, intake
from crawler.broker.changes import Changes
from crawler.broker.ended import Body, Ended
from crawler.broker.hosts import host_key
from crawler.broker.schema import TABLES
from crawler.model import Batch, Row
from crawler.reasons import Reason


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    """Return an empty ledger in memory."""
    found = sqlite3.connect(":memory:", isolation_level=None)
    found.executescript(TABLES)
    yield found
    found.close()


def put(made: Changes, list_id: int, first: int, urls: list[str]) -> changes.PutResult:
    rows = [Row(line=line, url=url, host=url[0]) for line, url in enumerate(urls, first)]
    last = first + len(urls)
    return made.put(
        list_id, Batch(first_line=first, next_line=last, offset=0, digest="", total_bytes=None, rows=rows), 0.0
    )


def lacking(db: sqlite3.Connection, done: set[int]) -> list[tuple[str, int]]:
    """Return tasks up to a mark that are not in its table, and would be forgotten by the next start."""
    sql = "SELECT id FROM tasks WHERE id <= (SELECT value FROM meta WHERE name = ?) AND id NOT IN (SELECT task FROM {})"
    return [
        (table, task)
        for table, gone in (("urls", set[int]()), ("backlog", done))
        for (task,) in db.execute(sql.format(table), (f"sorted:{table}",))
        if task not in gone
    ]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    st.lists(st.sampled_from(["put", "put", "move", "roll back", "end", "restart"]), min_size=15, max_size=60),
    st.integers(0, 9),
)
def test_every_task_is_in_the_backlog_once(steps: list[str], seed: int) -> None:
    """And each URL has one task, whatever is put, moved, ended, rolled back and restarted in between."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(changes, "WAITING", 5)
        patch.setattr(intake, "SLICE", 3)
        patch.setattr(intake, "BUCKET_BITS", 62)
        db, choose = sqlite3.connect(":memory:", isolation_level=None), random.Random(seed)
        db.executescript(TABLES)
        made = Changes(db)
        list_id, line, done, hosts = made.open_list("list", False).id, 1, set[int](), set[int]()
        made.committed()
        for step in steps:
            db.execute("BEGIN")
            made.begin()
            if step in ("put", "roll back"):
                urls = [f"{choose.choice('abc')}{choose.randrange(40)}" for _ in range(choose.randrange(1, 6))]
                hosts |= put(made, list_id, line, urls).hosts
                line += len(urls) if step == "put" else 0
            if step in ("move", "roll back"):
                hosts |= made.sort_in()
            if step == "end":
                rows = db.execute("SELECT task FROM backlog ORDER BY task").fetchall()
                ended = {row[0] for row in rows if choose.random() < 0.5}
                body = Body(attempts=1)
                made.record([Ended(None, task, Reason.TIMEOUT, body) for task in sorted(ended)], 0.0)
                done |= ended
            if step == "roll back":
                db.execute("ROLLBACK")
                made.begin()
                continue
            db.execute("COMMIT")
            made.committed()
            made = Changes(db) if step == "restart" else made  # what waits is not on disk
            assert lacking(db, done) == []
        while made.unsorted:
            made.sort_in()
        ids = [row[0] for row in db.execute("SELECT id FROM tasks ORDER BY id")]
        assert [row[0] for row in db.execute("SELECT task FROM backlog ORDER BY task")] == [
            task for task in ids if task not in done
        ]
        assert db.execute("SELECT count(*), count(DISTINCT url) FROM tasks").fetchone() == (len(ids), len(ids))
        db.close()


def test_who_adds_moves_as_many(db: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the number that may wait: about there it stays, the end of a round being less than a portion."""
    monkeypatch.setattr(changes, "WAITING", 10)
    made = Changes(db)
    list_id = made.open_list("list", False).id
    for first in range(1, 101, 4):
        put(made, list_id, first, [f"{chr(97 + n % 26)}{n}" for n in range(first, first + 4)])
        made.committed()
    for table in ("urls", "backlog"):
        (moved,) = db.execute(f"SELECT count(*) FROM {table}").fetchone()
        assert moved == 100 - 10


def test_the_hosts_of_what_was_moved_are_named(db: sqlite3.Connection) -> None:
    """Those alone, so that the frontier looks for them."""
    made = Changes(db)
    list_id = made.open_list("list", False).id
    put(made, list_id, 1, ["a1", "a2", "b1"])
    made.committed()
    assert made.sort_in() == {host_key("a"), host_key("b")}
    assert made.sort_in() == set()
    put(made, list_id, 4, ["c1", "a1"])
    made.committed()
    assert made.sort_in() == {host_key("c")}
