"""What is answered, written and published once the ledger's log is on the disk, and never of a disk that failed."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from crawler.broker import checkpoints, ledger
from crawler.broker.changes import Changes
from crawler.broker.completions import CompletionLog
from crawler.broker.durability import Durability
from crawler.broker.ledger import Ledger
from crawler.broker.local import LocalTaskQueue
from crawler.broker.syncs import BEHIND, Answer, Syncs
from crawler.broker.views import View
from crawler.consumer.store.shards import ShardStore
from crawler.errors import StorageFailed
from crawler.export import export
from crawler.out import Out
from crawler.publisher import Publisher
from crawler.settings import Settings
from crawler.storage import Format, Storage
from tests.conftest import wait_until
from tests.test_shard_store import Bench as Shelf
from tests.test_shard_store import content
from tests.test_task_queue import Bench, batch, lease, stored, terms

#: Seconds for what a thread does.
WAIT = 20
#: What each change of `Load` writes, and how many it makes in each of its threads.
BLOB, CHANGES, THREADS = b"x" * 3000, 60, 4


class Disk:
    """Stands before `os.fdatasync`, through which the logs of ledgers are synced, and nothing else of a ledger."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        #: Syncs that have begun.
        self.begun = 0
        self.error: OSError | None = None
        self._is_held = False
        self._allowed = threading.Semaphore(0)
        self._real = os.fdatasync
        monkeypatch.setattr(os, "fdatasync", self._sync)

    def _sync(self, descriptor: int) -> None:
        self.begun += 1
        if self._is_held:
            assert self._allowed.acquire(timeout=WAIT)
        if self.error is not None:
            raise self.error
        self._real(descriptor)

    def hold(self) -> None:
        """Let no further sync end."""
        self._is_held = True

    def let(self) -> None:
        """Let one sync end."""
        self._allowed.release()

    def release(self) -> None:
        """Hold none any more."""
        self._is_held = False
        self._allowed.release(100)

    def await_begin(self, number: int) -> None:
        """Wait until so many syncs have begun."""
        wait_until(lambda: self.begun >= number)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


@pytest.fixture
def target(tmp_path: Path, disk: Disk) -> Iterator[Ledger]:
    """Return a ledger whose syncs can be held."""
    opened = Ledger(tmp_path / "ledger.db", 60.0, lambda error: None)
    yield opened
    disk.release()
    opened.close()


def note(name: str, value: object = 1) -> Callable[[Changes], None]:
    return lambda made: made.set_meta(name, value)


def commit(target: Ledger, name: str) -> Future[None]:
    """Make a durable change; it is committed when this returns."""
    future = target.submit(note(name))
    target.submit(note("behind"), durable=False).result(WAIT)
    return future


# ------------------------------------------------------------------ answers


def test_an_answer_comes_after_its_sync(target: Ledger, disk: Disk) -> None:
    """While the disk is at work the change can be read and others are made, those that need no sync to their end."""
    disk.hold()
    future = commit(target, "first")
    disk.await_begin(1)
    assert target.view.meta("first") == 1
    assert not future.done()
    target.submit(note("other"), durable=False).result(WAIT)
    assert not future.done()
    disk.let()
    future.result(WAIT)


def test_what_is_committed_during_a_sync_waits_for_the_next(target: Ledger, disk: Disk) -> None:
    """A sync covers what came before it began; one covers all that came since."""
    disk.hold()
    first = commit(target, "first")
    disk.await_begin(1)
    others = [commit(target, f"n{number}") for number in range(BEHIND - 1)]
    disk.let()
    first.result(WAIT)
    disk.await_begin(2)
    assert not any(future.done() for future in others)
    disk.let()
    for future in others:
        future.result(WAIT)
    assert disk.begun == 2


def test_what_need_not_be_durable_is_not_synced(target: Ledger, disk: Disk) -> None:
    """Nor does it take the place of what is."""
    for number in range(2 * BEHIND):
        target.submit(note(f"n{number}"), durable=False).result(WAIT)
    target.change(note("first"))
    assert disk.begun == 1


def test_few_transactions_wait_for_a_sync(tmp_path: Path, disk: Disk) -> None:
    """Whoever commits one more waits until the next sync begins, and its answer for the one after that."""
    (tmp_path / "ledger.db-wal").touch()
    target = Syncs(tmp_path / "ledger.db", Durability.FULL, lambda error: None)
    target.start()
    futures = [Future[None]() for _ in range(BEHIND + 2)]
    disk.hold()
    target.answer([Answer(futures[0], None)])
    disk.await_begin(1)
    for future in futures[1:-1]:
        target.answer([Answer(future, None)])
    one_more = threading.Thread(target=target.answer, args=([Answer(futures[-1], None)],))
    one_more.start()
    wait_until(lambda: target._wake._waiters or not one_more.is_alive())  # type: ignore[attr-defined]
    for number, done in ((1, 1), (2, BEHIND + 1), (3, BEHIND + 2)):
        disk.await_begin(number)
        disk.let()
        for future in futures[:done]:
            future.result(WAIT)
    one_more.join(WAIT)
    target.close()
    assert disk.begun == 3


def test_closing_syncs_what_waits(tmp_path: Path, disk: Disk) -> None:
    """No answer is left out; later ones are refused."""
    target = Ledger(tmp_path / "ledger.db", 60.0, lambda error: None)
    disk.hold()
    first = commit(target, "first")
    disk.await_begin(1)
    waiting = [commit(target, f"n{number}") for number in range(BEHIND)]
    closing = threading.Thread(target=target.close)
    closing.start()
    wait_until(lambda: target._syncs._closing)
    assert not any(future.done() for future in (first, *waiting))
    disk.release()
    closing.join(WAIT)
    assert [future.exception(0) for future in (first, *waiting)] == [None] * (1 + BEHIND)
    with pytest.raises(StorageFailed, match="closed"):
        target.await_sync()


def test_the_name_of_a_log_is_synced_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run without syncs may have left a log whose name a power cut takes away, and with it what is synced in it."""
    calls: list[tuple[str, str]] = []

    def noted(name: str) -> Callable[[int], None]:
        real = getattr(os, name)

        def call(descriptor: int) -> None:
            calls.append((name, os.readlink(f"/proc/self/fd/{descriptor}")))
            real(descriptor)

        return call

    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, noted(name))
    target = Ledger(tmp_path / "ledger.db", 0, lambda error: None)
    target.change(note("first"))
    target.close()
    assert calls == [("fsync", str(tmp_path)), ("fdatasync", str(tmp_path / "ledger.db-wal"))]


# ------------------------------------------------------------------ a disk that fails


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_a_sync_that_fails_is_told_to_all_and_never_tried_again(tmp_path: Path, disk: Disk, number: int) -> None:
    """Those it was for, those that came meanwhile, and all who come later; 74 for whoever runs the ledger, once."""
    told: list[StorageFailed] = []
    target = Ledger(tmp_path / "ledger.db", 60.0, told.append)
    disk.hold()
    futures = [commit(target, "first")]
    disk.await_begin(1)
    futures += [commit(target, f"n{number}") for number in range(BEHIND)]
    disk.error = OSError(number, os.strerror(number))
    disk.let()
    errors = [future.exception(WAIT) for future in futures]
    wait_until(lambda: told)
    assert errors == told * len(futures)
    assert (len(told), told[0].exit_status, told[0].__cause__) == (1, 74, disk.error)
    assert target.submit(note("later")).exception(0) is told[0]
    with pytest.raises(StorageFailed):
        target.await_sync()
    disk.release()
    target.close()
    assert (disk.begun, len(told)) == (1, 1)


def test_a_disk_that_fails_at_once_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the ledger is open as much as later."""
    told: list[StorageFailed] = []

    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    target = Ledger(tmp_path / "ledger.db", 60.0, told.append)
    with pytest.raises(StorageFailed, match="cannot be written"):
        target.change(note("first"))
    target.close()
    assert len(told) == 1


def test_a_writer_that_waits_behind_a_failed_sync_goes_on(target: Ledger, disk: Disk) -> None:
    """What it has committed, and what waits for it, fails too."""
    disk.hold()
    futures = [commit(target, "first")]
    disk.await_begin(1)
    futures += [commit(target, f"n{number}") for number in range(BEHIND)]
    futures.append(target.submit(note("too many")))
    wait_until(lambda: target._syncs._wake._waiters)  # type: ignore[attr-defined]
    futures.append(target.submit(note("behind it")))
    disk.error = OSError(errno.EIO, "input/output error")
    disk.let()
    assert all(isinstance(future.exception(WAIT), StorageFailed) for future in futures)


def test_who_is_at_fault_alone_hears_of_it_alone(target: Ledger, disk: Disk) -> None:
    """And at once, while those that shared its transaction wait for their sync."""
    disk.hold()
    commit(target, "first")
    disk.await_begin(1)
    begun, go = threading.Event(), threading.Event()
    target.submit(lambda made: (begun.set(), go.wait(WAIT)), durable=False)
    assert begun.wait(WAIT)
    before, faulty, after = (target.submit(note(name, 1 << big)) for name, big in (("a", 0), ("b", 64), ("c", 0)))
    go.set()
    assert isinstance(faulty.exception(WAIT), OverflowError)
    assert not before.done() and not after.done()
    disk.release()
    assert (before.result(WAIT), after.result(WAIT)) == (None, None)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="SQLite cannot be told so by this Python")
def test_a_log_that_could_not_be_synced_is_not_brought_into_the_file(tmp_path: Path, disk: Disk) -> None:
    """What the system shows of it may not be on the disk; the next start replays what is."""
    target = Ledger(tmp_path / "ledger.db", 60.0, lambda error: None)
    disk.error = OSError(errno.EIO, "input/output error")
    assert isinstance(target.submit(note("lost")).exception(WAIT), StorageFailed)
    target.close()
    assert b"lost" in (tmp_path / "ledger.db-wal").read_bytes()
    assert b"lost" not in (tmp_path / "ledger.db").read_bytes()


# ------------------------------------------------------------------ who acts on what is read


@pytest.fixture
def bench(target: Ledger) -> Iterator[Bench]:
    """Return a queue on the ledger."""
    local = LocalTaskQueue(target, terms(Settings()))
    yield Bench(local, local, target)
    local.close()


def aside(call: Callable[..., object], *arguments: Any) -> Future[None]:
    """Call it in a thread of its own; return what is done when it has returned."""
    done = Future[None]()

    def run() -> None:
        try:
            call(*arguments)
            done.set_result(None)
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return done


def test_a_completion_is_told_after_its_sync(bench: Bench, disk: Disk, tmp_path: Path) -> None:
    """Neither the worker nor `completions.jsonl` hears of a record that a power cut may take back."""
    bench.fill("http://a.test/1")
    worker = bench.join()
    item = lease(bench.queue, worker, 1).leases[0]
    path = tmp_path / "completions.jsonl"
    lines = CompletionLog(path, bench.ledger)
    lines.start()
    disk.hold()
    before = disk.begun
    done = aside(bench.queue.complete, worker, [stored(item.token, 1)])
    disk.await_begin(before + 1)
    wait_until(lambda: bench.ledger._syncs._waiting)  # it has read the record, and waits
    assert [record.id for record in bench.ledger.view.records(0, 9)] == [1]
    assert (path.read_bytes(), done.done(), bench.queue.stats().stored) == (b"", False, 0)
    disk.release()
    done.result(WAIT)
    wait_until(lambda: path.read_bytes().count(b"\n") == 1)
    lines.close()


def test_completions_end_with_a_ledger_that_failed(bench: Bench, disk: Disk, tmp_path: Path) -> None:
    """Without a line of what could not be synced."""
    bench.fill("http://a.test/1")
    worker = bench.join()
    item = lease(bench.queue, worker, 1).leases[0]
    path = tmp_path / "completions.jsonl"
    lines = CompletionLog(path, bench.ledger)
    disk.error = OSError(errno.EIO, "input/output error")
    with pytest.raises(StorageFailed):
        bench.queue.complete(worker, [stored(item.token, 1)])
    lines.start()
    lines.close()
    assert path.read_bytes() == b""


def test_a_shard_is_published_when_what_was_read_is_synced(bench: Bench, disk: Disk, tmp_path: Path) -> None:
    """An image is left out of it because of a record: that must be there after a power cut, too."""
    shelf = Shelf(tmp_path / "images", Storage(format=Format.WEBDATASET, shard_count=5))
    bench.fill("http://a.test/1")
    worker = bench.join()
    number = bench.queue.open_shard(worker)
    item = lease(bench.queue, worker, 1).leases[0]
    [path] = shelf.keep(1)
    shelf.store.close()
    assert bench.queue.complete(worker, [_in_shard(stored(item.token, 1), path)])
    bench.queue.leave(worker)
    assert isinstance(shelf.store, ShardStore)
    publisher = Publisher(shelf.store, bench.local, bench.ledger, "images/")
    disk.hold()
    before = disk.begun
    done = aside(publisher.close, False)
    disk.await_begin(before + 1)  # of what says that it is closed
    disk.let()
    disk.await_begin(before + 2)  # of what was read
    assert bench.local.shards.owner(number) is None
    assert shelf.store.published() == []
    disk.release()
    done.result(WAIT)
    assert shelf.store.published() == ["00000.tar"]
    assert shelf.walked() == {path: len(content(1))}


def _in_shard(item: Any, path: str) -> Any:
    return type(item)(**{name: getattr(item, name) for name in item.__struct_fields__} | {"path": path})


def test_an_export_is_there_when_what_was_read_is_synced(target: Ledger, disk: Disk, tmp_path: Path) -> None:
    """Of a crawl that runs: the command is another process, and syncs the log itself."""
    listed = target.change(lambda made: made.open_list("list", False))
    target.change(lambda made: made.put(listed.id, batch(1, "http://a.test/1"), 0.0))
    disk.hold()
    before = disk.begun
    done = aside(export, Out(tmp_path), tmp_path / "rows.csv")
    disk.await_begin(before + 1)
    assert not (tmp_path / "rows.csv").exists()
    disk.release()
    done.result(WAIT)
    assert (tmp_path / "rows.csv").read_text().count("http://a.test/1") == 1


# ------------------------------------------------------------------ a power cut at each acknowledgement


class Copies:
    """
    What is on the disk for certain after each sync of the log: what was there when it began.

    SQLite's own syncs, at checkpoints, are not counted: a disk that has more than this is no worse.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        #: Held by whoever writes to the ledger, so that a copy is of one moment.
        self._still = threading.Lock()
        self._real = os.fdatasync
        self._begun = 0
        #: The newest copy that is on the disk.
        self.synced = 0
        monkeypatch.setattr(os, "fdatasync", self._sync)
        for owner, name in ((Ledger, "_transact"), (Ledger, "_begin_log_anew"), (checkpoints.Checkpoints, "_check")):
            monkeypatch.setattr(owner, name, self._stilled(getattr(owner, name)))

    def _stilled(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            with self._still:
                return real(*arguments)

        return call

    def _sync(self, descriptor: int) -> None:
        number = self._begun + 1
        with self._still:
            for name in ("ledger.db", "ledger.db-wal"):
                shutil.copy(self._folder / name, self._folder / f"{number}-{name}")
        self._begun = number
        self._real(descriptor)
        self.synced = number

    def lay(self, number: int, folder: Path) -> Path:
        """Lay a copy into *folder*."""
        folder.mkdir()
        for name in ("ledger.db", "ledger.db-wal"):
            (self._folder / f"{number}-{name}").rename(folder / name)
        return folder / "ledger.db"

    def salt(self, number: int) -> bytes:
        """Return what is another one in each log that is begun anew."""
        with (self._folder / f"{number}-ledger.db-wal").open("rb") as log:
            return log.read(24)[16:]


def test_what_was_acknowledged_outlives_a_power_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whenever it comes, also while the log begins anew again and again."""
    monkeypatch.setattr(checkpoints, "TICK", 0.002)
    monkeypatch.setattr(checkpoints, "LITTLE", 1)
    monkeypatch.setattr(checkpoints, "MUCH", 100_000)
    monkeypatch.setattr(ledger, "MUCH", 100_000)
    copies = Copies(tmp_path, monkeypatch)
    target = Ledger(tmp_path / "ledger.db", 60.0, lambda error: None)
    told: list[tuple[int, str]] = []

    def work(thread: int) -> None:
        for number in range(CHANGES):
            name = f"{thread}/{number}"
            target.change(note(name, BLOB))
            told.append((copies.synced, name))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(told) == CHANGES * THREADS
    assert len({copies.salt(number) for number in range(1, copies.synced + 1)}) > 2
    target.close()
    for number in range(1, copies.synced + 1):
        path = copies.lay(number, tmp_path / str(number))
        expected = {name for copy, name in told if copy <= number}
        with contextlib.closing(View(path)) as view:
            found = {name for name, value in view.metas("").items() if value == BLOB}
        assert expected <= found, number
        with contextlib.closing(sqlite3.connect(path)) as db:
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
