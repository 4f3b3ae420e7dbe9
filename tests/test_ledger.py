"""What the ledger keeps, when it answers, and what it does when the disk does not."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import crawler
from crawler.broker import ledger, syncs
from crawler.broker.changes import Changes, PutResult
from crawler.broker.durability import Durability
from crawler.broker.ended import Body, Ended
from crawler.broker.ledger import GROUP, Ledger
from crawler.broker.rows import ROWS, insert
from crawler.broker.schema import SCHEMA, TABLES
from crawler.broker.views import View
from crawler.errors import CrawlerError, OutUnusable, StorageFailed, VersionMismatch
from crawler.model import Batch, Row
from crawler.reasons import Reason
from tests.conftest import wait_until

Make = Callable[..., Ledger]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Open the ledger of a folder; a second call is a restart."""
    opened: list[Ledger] = []

    def begin(pause_limit: float = 60.0, on_failed: Callable[[StorageFailed], None] = lambda error: None) -> Ledger:
        while opened:
            opened.pop().close()
        opened.append(Ledger(tmp_path / "ledger.db", pause_limit, on_failed))
        return opened[-1]

    yield begin
    while opened:
        opened.pop().close()


class Gate:
    """A change that keeps the writing thread busy until it is let go, so that others have to wait behind it."""

    def __init__(self, target: Ledger) -> None:
        self._begun = threading.Event()
        self._open = threading.Event()
        self._done = target.submit(self._hold)
        assert self._begun.wait(20)

    def _hold(self, _: Changes) -> None:
        self._begun.set()
        assert self._open.wait(20)

    def open(self) -> None:
        """Let it go."""
        self._open.set()
        self._done.result(20)


def batch(first: int, *urls: str) -> Batch:
    """Make a batch of successive lines; a URL that begins with `!` is a line that is none."""
    rows = [
        Row(line=line, url=url, host="" if url[0] == "!" else "h.test", error="no URL" if url[0] == "!" else None)
        for line, url in enumerate(urls, first)
    ]
    last = first + len(urls)
    return Batch(first_line=first, next_line=last, offset=last * 10, digest=f"d{last}", total_bytes=None, rows=rows)


def put(target: Ledger, list_id: int, one: Batch) -> PutResult:
    return target.change(lambda made: made.put(list_id, one, 0.0))


def begin_list(target: Ledger, name: str = "list") -> int:
    return target.change(lambda made: made.open_list(name, False)).id


def entries(target: Ledger) -> list[tuple[str, int, int, str]]:
    return [(row.list_name, row.line, row.task_id, row.url) for row in target.view.entries()]


def note(name: str, value: object) -> Callable[[Changes], None]:
    return lambda made: made.set_meta(name, value)


# ------------------------------------------------------------------ commits


@pytest.mark.parametrize(("count", "commits"), [(GROUP, 1), (GROUP + 1, 2)])
def test_changes_that_wait_share_a_commit(make: Make, count: int, commits: int) -> None:
    """As many as a group holds, so that many callers pay for one fsync."""
    target, statements = make(), []
    gate = Gate(target)
    waiting = [target.submit(note(f"n{number}", number)) for number in range(count)]
    target._db.set_trace_callback(statements.append)
    gate.open()
    for future in waiting:
        future.result(20)
    # The last of them is the one of the change that the gate is.
    assert statements.count("COMMIT") == commits + 1


def test_changes_are_made_in_the_order_in_which_they_came(make: Make) -> None:
    """Over the borders of groups too."""
    target, made = make(), []
    gate = Gate(target)
    waiting = [target.submit(lambda _, n=number: made.append(n)) for number in range(3 * GROUP)]
    gate.open()
    waiting[-1].result(20)
    assert made == list(range(3 * GROUP))


def test_a_future_is_done_after_the_commit(make: Make) -> None:
    """Another connection sees the change before its caller hears of it, and not while it is being made."""
    target, seen = make(), []
    gate = Gate(target)

    def change(made: Changes) -> str:
        made.set_meta("name", "value")
        seen.append(target.view.meta("name"))
        return "result"

    future = target.submit(change)
    future.add_done_callback(lambda done: seen.append(target.view.meta("name")))
    gate.open()
    assert future.result(20) == "result"
    wait_until(lambda: len(seen) == 2)
    assert seen == [None, "value"]


@pytest.mark.parametrize(("durability", "level"), [(Durability.FULL, 1), (Durability.BATCH, 1), (Durability.NONE, 0)])
def test_a_commit_waits_for_no_disk(tmp_path: Path, durability: Durability, level: int) -> None:
    """PRAGMA synchronous: NORMAL keeps the order of changes, OFF keeps nothing; whoever needs more waits for a sync."""
    target = Ledger(tmp_path / "ledger.db", 0, lambda error: None, durability)
    found = target.change(lambda made: made.db.execute("PRAGMA synchronous").fetchone()[0])
    target.close()
    assert found == level


@pytest.mark.parametrize("durability", [Durability.BATCH, Durability.NONE])
def test_the_log_is_synced_beside_the_commits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durability: Durability
) -> None:
    """Again and again with `batch`, after each change that was made; not with `none`, which wants no sync."""
    monkeypatch.setattr(syncs, "WINDOW", 0.02)
    synced: list[str] = []
    real = os.fdatasync

    def sync(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        real(descriptor)

    monkeypatch.setattr(os, "fdatasync", sync)
    target = Ledger(tmp_path / "ledger.db", 0, lambda error: None, durability)
    for number in range(2):
        target.change(note("name", number))
        before = len(synced)
        if durability is Durability.BATCH:
            wait_until(lambda before=before: len(synced) >= before + 2)  # type: ignore[misc]
    target.close()
    assert set(synced) == ({str(tmp_path / "ledger.db-wal")} if durability is Durability.BATCH else set())


def test_a_log_that_cannot_be_synced_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, and every later change fails: what the system lost it does not find again."""
    monkeypatch.setattr(syncs, "WINDOW", 0.02)
    told: list[StorageFailed] = []

    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(os, "fdatasync", fail)
    target = Ledger(tmp_path / "ledger.db", 0, told.append, Durability.BATCH)
    wait_until(lambda: len(told) == 1)
    with pytest.raises(StorageFailed, match="cannot be written"):
        target.change(note("name", 1))
    target.close()
    assert len(told) == 1


def test_a_change_that_cannot_be_made_fails_alone(make: Make) -> None:
    """Those that shared its transaction are made without it, and the ledger goes on as if it had not come."""
    told: list[StorageFailed] = []
    target = make(on_failed=told.append)
    list_id = begin_list(target)
    gate = Gate(target)
    before = target.submit(lambda made: made.put(list_id, batch(1, "a"), 0.0))
    faulty = target.submit(lambda made: (made.put(list_id, batch(2, "b", "!c"), 0.0), made.set_meta("n", 1 << 64)))
    after = target.submit(lambda made: made.put(list_id, batch(2, "d"), 0.0))
    gate.open()
    assert isinstance(faulty.exception(20), OverflowError)
    assert [before.result(20).next_line, after.result(20).next_line] == [2, 3]
    assert entries(target) == [("list", 1, 1, "a"), ("list", 2, 2, "d")]
    assert (target.view.counters(), target.view.records(0, 9)) == ({"entries": 2}, [])
    assert told == []


def test_closing_commits_what_waits(make: Make) -> None:
    """And refuses what comes later."""
    target = make()
    gate = Gate(target)
    waiting = [target.submit(note(f"n{number}", number)) for number in range(GROUP * 2)]
    closing = threading.Thread(target=target.close)
    closing.start()
    wait_until(lambda: target._closing)
    late = target.submit(note("late", 1))
    gate.open()
    closing.join(20)
    assert all(future.done() and future.exception() is None for future in waiting)
    with pytest.raises(StorageFailed, match="closed"):
        late.result(0)
    again = make()
    assert [again.view.meta(f"n{number}") for number in range(GROUP * 2)] == list(range(GROUP * 2))
    assert again.view.meta("late") is None


# ------------------------------------------------------------------ lists and duplicates


def test_a_put_of_another_line_changes_nothing(make: Make) -> None:
    """One that comes again, too early, or for a list that is not there is told which line is expected."""
    target = make()
    list_id = begin_list(target)
    assert put(target, list_id, batch(1, "a", "b")).next_line == 3
    before = entries(target), target.view.lists(), target.view.counters(), target.view.tasks()
    for one in (batch(1, "a", "b"), batch(2, "c"), batch(4, "d")):
        assert put(target, list_id, one) == PutResult(3, 0, 0, 0, set())
    assert put(target, list_id + 1, batch(1, "e")) == PutResult(0, 0, 0, 0, set())
    assert (entries(target), target.view.lists(), target.view.counters(), target.view.tasks()) == before


def test_a_put_and_its_list_move_on_together(make: Make) -> None:
    """Rows, next line, offset and digest are of one transaction."""
    target = make()
    list_id = begin_list(target)
    put(target, list_id, batch(1, "a", "b"))
    state = target.change(lambda made: made.open_list("list", False))
    assert (state.id, state.next_line, state.offset, state.digest, state.sealed) == (list_id, 3, 30, "d3", False)


def test_a_url_has_one_task_within_and_across_batches_and_lists(make: Make) -> None:
    """Each line has its entry; ids of tasks are dense, in the order in which their URLs first came."""
    target = make()
    first, other = begin_list(target, "first"), begin_list(target, "other")
    assert put(target, first, batch(1, "a", "b", "a"))[1:3] == (2, 3)
    assert put(target, first, batch(4, "b", "c"))[1:3] == (1, 2)
    assert put(target, other, batch(1, "c", "d", "d"))[1:3] == (1, 3)
    assert entries(target) == [
        ("first", 1, 1, "a"), ("first", 2, 2, "b"), ("first", 3, 1, "a"), ("first", 4, 2, "b"), ("first", 5, 3, "c"),
        ("other", 1, 3, "c"), ("other", 2, 4, "d"), ("other", 3, 4, "d"),
    ]  # fmt: skip
    assert target.view.counters() == {"entries": 8}


def test_a_line_that_is_no_url_has_its_record_once(make: Make) -> None:
    """However often its text comes."""
    target = make()
    list_id = begin_list(target)
    result = put(target, list_id, batch(1, "!x", "a", "!x"))
    assert (result.tasks, result.entries, result.bad, result.hosts) == (2, 3, 1, set())
    assert put(target, list_id, batch(4, "!x")).bad == 0
    assert [(record.id, record.reason, record.attempts) for record in target.view.records(0, 9)] == [
        (1, Reason.BAD_URL, 0)
    ]
    assert target.view.counters() == {"entries": 4, "failed": 1, "reason:bad_url": 1}


def test_urls_whose_hashes_clash_are_different_tasks(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """New ones of one batch, and those of a later batch: each is found again under the key it got."""
    monkeypatch.setattr("crawler.broker.urls.hashes", lambda urls, salt: [salt] * len(urls))
    target = make()
    list_id = begin_list(target)
    assert put(target, list_id, batch(1, "a", "b", "c")).tasks == 3
    assert put(target, list_id, batch(4, "d")).tasks == 1
    for line, url in enumerate("dcba", 5):
        assert put(target, list_id, batch(line, url)).tasks == 0
    assert [row[2:] for row in entries(target)] == [
        (1, "a"), (2, "b"), (3, "c"), (4, "d"), (4, "d"), (3, "c"), (2, "b"), (1, "a")
    ]  # fmt: skip


def test_an_end_leaves_its_record_and_nothing_to_do() -> None:
    """Of each of many tasks: who ended it and after how many attempts is kept, its lease and its place are gone."""
    db = sqlite3.connect(":memory:", isolation_level=None)
    db.executescript(TABLES)
    made = Changes(db)
    count = ROWS + 5
    made.put(made.open_list("list", False).id, batch(1, *(f"u{number}" for number in range(count + 1))), 0.0)
    made.committed()
    made.sort_in()
    made.postpone([1], 9.0)
    leases = [(100 + task, task, "s", 1.0, 0, None) for task in range(1, count + 2)]
    insert(db, "INSERT INTO leases", leases)
    made.record([Ended(100 + task, task, None, Body(attempts=task)) for task in range(1, count + 1)], 5.0)
    sql = "SELECT id, state, due, attempts, token, seq FROM tasks WHERE id <= ?"
    assert db.execute(sql, (count,)).fetchall() == [
        (task, 2, None, task, 100 + task, task) for task in range(1, count + 1)
    ]
    assert db.execute("SELECT seq, task, reason, finished FROM records").fetchall() == [
        (task, task, None, 5.0) for task in range(1, count + 1)
    ]
    assert db.execute("SELECT task FROM backlog").fetchall() == [(count + 1,)]
    assert db.execute("SELECT token FROM leases").fetchall() == [(100 + count + 1,)]
    db.close()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.lists(st.sampled_from("abcdefghij"), min_size=1, max_size=8), min_size=1, max_size=6))
def test_urls_whose_hashes_clash_have_one_task_each(batches: list[list[str]]) -> None:
    """With three hashes for ten URLs, whatever clashes within a batch and across batches."""
    with pytest.MonkeyPatch.context() as patch:
        # Each salt has hashes of its own, as with 64 bits: a second clash of a pair is as unlikely as the first.
        patch.setattr(
            "crawler.broker.urls.hashes", lambda urls, salt: [3 * salt + zlib.crc32(url.encode()) % 3 for url in urls]
        )
        db = sqlite3.connect(":memory:", isolation_level=None)
        db.executescript(TABLES)
        made = Changes(db)
        list_id, line, known = made.open_list("list", False).id, 1, {}
        for urls in batches:
            new = len(dict.fromkeys(url for url in urls if url not in known))
            assert made.put(list_id, batch(line, *urls), 0.0)[:3] == (line + len(urls), new, len(urls))
            line += len(urls)
            for url in urls:
                known.setdefault(url, len(known) + 1)
        sql = "SELECT t.url, e.task FROM entries e JOIN tasks t ON t.id = e.task ORDER BY e.id"
        expected = [(url, known[url]) for urls in batches for url in urls]
        assert db.execute(sql).fetchall() == expected
        db.close()


# ------------------------------------------------------------------ reopening


def test_a_reopened_ledger_goes_on(make: Make) -> None:
    """Ids, seq, lines, counters and duplicates continue where they were."""
    target = make()
    list_id = begin_list(target)
    put(target, list_id, batch(1, "a", "!x"))
    again = make()
    assert begin_list(again) == list_id
    assert put(again, list_id, batch(1, "a", "!x")).next_line == 3
    assert put(again, list_id, batch(3, "a", "c", "!y"))[1:4] == (2, 3, 1)
    ended = Ended(7, 1, None, Body(attempts=1, path="ab/ab.jpg", bytes=5))
    again.change(lambda made: made.record([ended], 0.0))
    assert [(row[1], row[2], row[3]) for row in entries(again)] == [
        (1, 1, "a"), (2, 2, "!x"), (3, 1, "a"), (4, 3, "c"), (5, 4, "!y")
    ]  # fmt: skip
    assert [(record.seq, record.id) for record in again.view.records(0, 9)] == [(1, 2), (2, 4), (3, 1)]
    assert again.view.counters()["entries"] == 5
    assert again.view.counters()["stored"] == 1


def test_each_start_has_its_epoch(make: Make) -> None:
    """From 1; tokens are built on it."""
    assert [make().change(lambda changes: changes.next_epoch((), 1.0)) for _ in range(3)] == [1, 2, 3]


#: Puts batches of seven lines for ever, and says after each how many are acknowledged.
WRITER = """
import sys
from pathlib import Path
from crawler.broker.ledger import Ledger
from crawler.model import Batch, Row

ledger = Ledger(Path(sys.argv[1]), 0, lambda error: None)
line = 1
list_id = ledger.change(lambda changes: changes.open_list("list", False)).id
while True:
    rows = [Row(line=n, url=f"http://h.test/{n // 2}", host="h.test") for n in range(line, line + 7)]
    batch = Batch(first_line=line, next_line=line + 7, offset=line, digest="", total_bytes=None, rows=rows)
    line = ledger.change(lambda changes: changes.put(list_id, batch, 0.0)).next_line
    print(line, flush=True)
"""


def test_what_was_acknowledged_survives_a_kill(make: Make, tmp_path: Path) -> None:
    """All of it, and of what came after either a whole batch or nothing."""
    root = str(Path(crawler.__file__).parents[1])
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), root]))
    command = [sys.executable, "-c", WRITER, str(tmp_path / "ledger.db")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path}) as process:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(20)]
        process.send_signal(signal.SIGKILL)
        # A line cut in the middle was not heard by anybody.
        said += [line for line in process.stdout.read().splitlines(keepends=True) if line.endswith(b"\n")]
        acknowledged = int(said[-1])
    target = make()
    (state,) = target.view.lists()
    assert acknowledged <= state.next_line <= acknowledged + 7
    assert state.next_line % 7 == 1
    assert [(row[1], row[3]) for row in entries(target)] == [
        (line, f"http://h.test/{line // 2}") for line in range(1, state.next_line)
    ]
    assert target.view.tasks() == (state.next_line - 1) // 2 + 1


# ------------------------------------------------------------------ full and failed disks


def fill_up(target: Ledger) -> None:
    """Let the file grow no more."""
    pages = target._db.execute("PRAGMA page_count").fetchone()[0]
    assert target._db.execute(f"PRAGMA max_page_count = {pages}").fetchone()[0] == pages


def make_room(target: Ledger) -> None:
    target._db.execute("PRAGMA max_page_count = 1000000")


def test_a_full_disk_is_waited_for(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The change is made as soon as there is room, exactly once, and nobody is told of a failure."""
    monkeypatch.setattr(ledger, "FULL_PAUSE", 0.01)
    told: list[StorageFailed] = []
    target = make(on_failed=told.append)
    list_id = begin_list(target)
    put(target, list_id, batch(1, "!a"))
    fill_up(target)
    urls = [f"!{number:0100}" for number in range(500)]
    future = target.submit(lambda made: made.put(list_id, batch(2, *urls), 0.0))
    wait_until(lambda: target.paused)
    assert "no room" in (target.paused or "")
    assert not future.done()
    assert len(entries(target)) == 1
    make_room(target)
    assert future.result(20)[:4] == (502, 500, 500, 500)
    wait_until(lambda: target.paused is None)
    assert [row[2] for row in entries(target)] == list(range(1, 502))
    assert [record.seq for record in target.view.records(0, 999)] == list(range(1, 502))
    assert target.view.counters()["reason:bad_url"] == 501
    assert told == []


def test_a_disk_that_stays_full_is_given_up(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the limit, with what to do; what was there before is there still."""
    monkeypatch.setattr(ledger, "FULL_PAUSE", 0.01)
    told: list[StorageFailed] = []
    target = make(0.05, told.append)
    target.change(note("before", 1))
    fill_up(target)
    with pytest.raises(StorageFailed, match="make room and start the same command again"):
        target.change(note("large", "x" * 100_000))
    assert [str(error) for error in told] == [str(target.submit(note("later", 1)).exception(0))]
    assert make().view.meta("before") == 1


@pytest.fixture
def failing() -> Iterator[Callable[[], None]]:
    """Let writes past 1 MB fail in this process, as on a broken disk; returns what begins that."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_failed_disk_is_told_to_everybody_and_once(make: Make, failing: Callable[[], None]) -> None:
    """Every change that waits fails, and every later one; whoever runs the ledger is called once."""
    told: list[StorageFailed] = []
    target = make(on_failed=told.append)
    target.change(note("before", 1))
    gate = Gate(target)
    waiting: list[Future[None]] = [target.submit(note("large", b"x" * 2_000_000))]
    waiting += [target.submit(note(f"n{number}", 1)) for number in range(2 * GROUP)]
    failing()
    gate.open()
    errors = [future.exception(20) for future in waiting]
    assert len(told) == 1
    assert errors == told * len(waiting)
    assert isinstance(told[0].__cause__, sqlite3.OperationalError)
    assert target.submit(note("later", 1)).exception(0) is told[0]
    assert len(told) == 1


def test_a_failed_ledger_can_be_closed_and_opened_again(make: Make, failing: Callable[[], None]) -> None:
    """Nothing of the failed transaction is there."""
    target = make()
    target.change(note("before", 1))
    gate = Gate(target)
    beside = target.submit(note("beside", 1))
    large = target.submit(note("large", b"x" * 2_000_000))
    failing()
    gate.open()
    assert isinstance(beside.exception(20), StorageFailed)
    assert isinstance(large.exception(20), StorageFailed)
    again = make()
    assert [again.view.meta(name) for name in ("before", "beside", "large")] == [1, None, None]
    again.change(note("after", 1))
    assert again.view.meta("after") == 1


# ------------------------------------------------------------------ columns


def with_columns(first: int, *columns: bytes | None) -> Batch:
    """Make a batch of lines of one URL."""
    rows = [Row(line=n, url="http://h.test/1", host="h.test", columns=one) for n, one in enumerate(columns, first)]
    last = first + len(columns)
    return Batch(first_line=first, next_line=last, offset=last, digest="d", total_bytes=None, rows=rows)


def test_each_entry_keeps_its_columns_and_a_task_has_those_of_its_first(make: Make) -> None:
    """However often its URL occurs."""
    target = make()
    put(target, begin_list(target), with_columns(1, b"one", b"two", None))
    put(target, begin_list(target, "other"), with_columns(1, b"three"))
    assert [row.columns for row in target.view.entries()] == [b"one", b"two", None, b"three"]
    assert target.view.columns_of([1, 2]) == {1: b"one"}


# ------------------------------------------------------------------ files that are no ledger of ours


@pytest.fixture(params=["newer", "text", "folder"])
def foreign(request: pytest.FixtureRequest, make: Make, tmp_path: Path) -> tuple[Path, type[CrawlerError], str]:
    """Make what is no ledger of this program; return it, and how it must be refused."""
    path = tmp_path / "ledger.db"
    if request.param == "folder":
        path.mkdir()
        return path, OutUnusable, "cannot be used as a ledger"
    if request.param == "text":
        path.write_text("a file of somebody else, not to be touched " * 3)
        return path, OutUnusable, "cannot be used as a ledger"
    make().close()
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA user_version = {SCHEMA + 1}")
    return path, VersionMismatch, f"schema {SCHEMA + 1}.*up to {SCHEMA}"


def begin(path: Path) -> Ledger:
    """Open a ledger."""
    return Ledger(path, 0, lambda error: None)


def refuse(path: Path, error: type[CrawlerError], message: str, opening: Callable[[Path], object] = begin) -> list[str]:
    """Open what must be refused; return which of its files are still open while the error is handled."""
    with pytest.raises(error, match=message) as caught:
        opening(path)
    links = [Path(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")]
    held = [os.readlink(link) for link in links if link.is_symlink()]
    del caught
    gc.collect()
    return [name for name in held if name.startswith(str(path))]


# What the next test is about would otherwise also end these.
def test_what_is_no_ledger_of_ours_is_refused(foreign: tuple[Path, type[CrawlerError], str]) -> None:
    """With the reason, both versions where it is a newer one; and left as it is."""
    path = foreign[0]
    before = path.is_dir() or path.read_bytes()
    refuse(*foreign)
    assert (path.is_dir() or path.read_bytes()) == before


@pytest.mark.parametrize("foreign", ["newer", "text"], indirect=True)
def test_what_is_refused_is_closed(foreign: tuple[Path, type[CrawlerError], str]) -> None:
    """At once, not when the garbage collector comes to it."""
    assert refuse(*foreign) == []
    path, error, _ = foreign
    assert refuse(path, error, "crawler", View) == []


def test_the_file_is_its_owner_s_alone(make: Make) -> None:
    """URLs can hold secrets."""
    assert make().path.stat().st_mode & 0o777 == 0o600
