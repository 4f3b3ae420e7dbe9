"""
What is on the disk after a crash or a cut of power at each point: in the write-ahead log, and while an image is stored.

kill -9 alone does not show that what must be synced is: the kernel still writes what it holds. So the log is cut at
every offset here, and a disk is played that forgets what it was not told to keep. CRAWLER_LONG=1 tries every byte.
"""

from __future__ import annotations

import hashlib
import os
import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from crawler.broker.ledger import Ledger
from crawler.broker.local import LocalTaskQueue
from crawler.consumer.store.files import FileStore
from crawler.reasons import Reason
from crawler.settings import Settings
from tests.test_task_queue import Bench, batch, failed, hello, lease, stored, terms

LONG = os.environ.get("CRAWLER_LONG") == "1"
URLS = tuple(f"http://h{n}.test/{n}" for n in range(6))
#: Bytes of the log's header and of one frame: 24 of its own and a page. Source: the SQLite file format, section 4.1.
HEADER, FRAME = 32, 24 + 4096
SESSION = "0123456789abcdef0123456789abcdef"
CONTENT = b"an image's bytes"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
NAME = f"{SHA256[:2]}/{SHA256}.jpg"
#: Calls that change the disk while an image is stored in a new folder.
STEPS = 5


# ------------------------------------------------------------------ the write-ahead log


class Told(NamedTuple):
    """What callers had been told when the log was so long."""

    length: int
    tasks: int
    #: Tasks that have their record.
    done: frozenset[int]


class Played(NamedTuple):
    """A life of a ledger as it lies on the disk, and what was acknowledged meanwhile."""

    db: bytes
    wal: bytes
    told: list[Told]

    def at(self, offset: int) -> Told:
        """Return what had been acknowledged when the log was no longer than *offset*."""
        return [told for told in self.told if told.length <= offset][-1]


@contextmanager
def opened(path: Path) -> Iterator[Bench]:
    """Open the queue of a ledger, and close both."""
    ledger = Ledger(path, 0, lambda error: None)
    try:
        local = LocalTaskQueue(ledger, terms(Settings()))
        yield Bench(local, local, ledger)
        local.close()
    finally:
        ledger.close()


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    """Put, lease and end tasks, noting the length of the log after each answer."""
    path = tmp_path_factory.mktemp("life") / "ledger.db"
    wal = path.with_name("ledger.db-wal")
    told, done = [Told(0, 0, frozenset())], set[int]()

    def note(tasks: int) -> None:
        told.append(Told(wal.stat().st_size, tasks, frozenset(done)))

    with opened(path) as bench:
        producer = bench.fill(*URLS[:4], seal=False)
        note(4)
        listed = bench.queue.open_list(producer, "list", False)
        bench.queue.put(producer, listed.id, batch(5, *URLS[4:]))
        note(6)
        worker = bench.join()
        for number in range(1, 6):
            item = lease(bench.queue, worker, number, 1).leases[0]
            if number % 2:
                assert bench.queue.complete(worker, [stored(item.token, item.task.id)])
            else:
                failure = failed(item.token, item.task.id, Reason.HTTP_NOT_FOUND, http_status=404)
                assert bench.queue.retry(worker, [failure])
            done.add(item.task.id)
            note(6)
        return Played(path.read_bytes(), wal.read_bytes(), told)


def offsets(played: Played) -> list[int]:
    """Return where to cut: everywhere, or around each end of a frame and of an answer, and here and there."""
    end = len(played.wal)
    if LONG:
        return list(range(end + 1))
    edges = [*range(HEADER, end + 1, FRAME), *(told.length for told in played.told)]
    chosen = {edge + by for edge in edges for by in (-1, 0)}
    chosen.update(random.Random(7).sample(range(end), 25))
    return sorted(offset for offset in chosen if 0 <= offset <= end)


def lay(folder: Path, played: Played, wal: bytes) -> Path:
    """Lay a ledger with this log into *folder*, in place of one that was there."""
    path = folder / "ledger.db"
    path.with_name("ledger.db-shm").unlink(missing_ok=True)
    path.write_bytes(played.db)
    path.with_name("ledger.db-wal").write_bytes(wal)
    return path


def look(path: Path) -> tuple[int, list[tuple[int, int]], str]:
    """Return the number of tasks, (task, records) of those that are done, and what SQLite says about the file."""
    with closing(sqlite3.connect(path)) as db:
        sound: str = db.execute("PRAGMA integrity_check").fetchone()[0]
        if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'tasks'").fetchone():
            return 0, [], sound
        tasks: int = db.execute("SELECT count(*) FROM tasks").fetchone()[0]
        query = "SELECT tasks.id, (SELECT count(*) FROM records WHERE task = tasks.id) FROM tasks WHERE state = 2"
        return tasks, db.execute(query).fetchall(), sound


@pytest.mark.timeout(0 if LONG else 240)
@pytest.mark.parametrize("tail", ["gone", "zeros"])
def test_what_was_acknowledged_is_in_the_log_before_the_answer(played: Played, tmp_path: Path, tail: str) -> None:
    """Cut anywhere, with the rest missing or never written: all that was told is there, once, and the file is sound."""
    for offset in offsets(played):
        rest = bytes(len(played.wal) - offset) if tail == "zeros" else b""
        tasks, done, sound = look(lay(tmp_path, played, played.wal[:offset] + rest))
        told = played.at(offset)
        assert sound == "ok", offset
        assert tasks >= told.tasks, offset
        assert told.done <= {task for task, _ in done}, offset
        assert all(records == 1 for _, records in done), offset


def test_a_run_goes_on_after_a_cut_at_each_answer(played: Played, tmp_path: Path) -> None:
    """The lists are read again from where they were, and every task ends with one record."""
    for told in played.told:
        path = lay(tmp_path, played, played.wal[: told.length])
        with opened(path) as bench:
            producer = bench.join()
            listed = bench.queue.open_list(producer, "list", False)
            first = listed.next_line
            if first <= len(URLS):
                bench.queue.put(producer, listed.id, batch(first, *URLS[first - 1 :]))
            bench.queue.seal(producer, listed.id)
            before = {record.id for record in bench.records()}
            assert told.done <= before
            _end_all(bench, len(URLS) - len(before), told.done)
            records = bench.records()
            assert sorted(record.url for record in records) == sorted(URLS)
        assert all(count == 1 for _, count in look(path)[1])


def _end_all(bench: Bench, left: int, done: frozenset[int]) -> None:
    """End *left* tasks; none that is *done* may be handed out. Leases of before are given back by their session."""
    with closing(sqlite3.connect(bench.ledger.path)) as db:
        held = db.execute("SELECT session, token, task FROM leases").fetchall()
    for session, token, task in held:
        bench.queue.hello(hello(session=session, holds=[token]))
        assert bench.queue.complete(session, [stored(token, task)]) == [token]
    worker = bench.join()
    for number in range(1, left - len(held) + 1):
        item = lease(bench.queue, worker, number, 1).leases[0]
        assert item.task.id not in done
        assert bench.queue.complete(worker, [stored(item.token, item.task.id)])


# ------------------------------------------------------------------ from the temporary file to the ledger


class PowerCut(BaseException):
    """The machine stops here."""


class Disk:
    """
    Count the calls that change a disk, stop at one of them, and forget what was not synced by then.

    Args:
        stop: Number of the call, from 1, before which the power is cut; 0 is never.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, stop: int) -> None:
        self._stop = stop
        self.calls = 0
        #: Inodes whose bytes, and folders (by path) whose names, are on the disk.
        self._kept: set[int] = set()
        #: Names that were given or taken away and are not on the disk yet: path to (what happened, other path).
        self._open: dict[str, str | None] = {}
        for name in ("fsync", "replace", "mkdir", "unlink"):
            monkeypatch.setattr(os, name, self._counted(getattr(self, f"_{name}"), getattr(os, name)))

    def _counted(self, note: Callable[..., None], real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            self.calls += 1
            if self.calls == self._stop:
                raise PowerCut
            result = real(*arguments, **options)
            note(*arguments)
            return result

        return call

    def _fsync(self, descriptor: int) -> None:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        if os.path.isdir(path):
            self._open = {name: was for name, was in self._open.items() if os.path.dirname(name) != path}
        else:
            self._kept.add(os.fstat(descriptor).st_ino)

    def _replace(self, source: Any, target: Any) -> None:
        self._open[str(target)] = str(source)

    def _mkdir(self, path: Any, *_: Any) -> None:
        self._open[str(path)] = None

    def _unlink(self, path: Any, *_: Any) -> None:
        """Forgetting that a name was taken away does no harm: a spool is swept."""

    def lose(self, root: Path) -> None:
        """Leave what a disk may hold in the worst case: names that were not synced are gone, so are such bytes."""
        for name, source in reversed(list(self._open.items())):
            if source is not None and os.path.exists(name):
                os.rename(name, source)
        for name, source in reversed(list(self._open.items())):
            if source is None and os.path.isdir(name):
                for left in Path(name).iterdir():
                    left.unlink()
                os.rmdir(name)
        for file in root.rglob("*"):
            if file.is_file() and file.stat().st_ino not in self._kept:
                os.truncate(file, 0)


def spooled(store: FileStore) -> Path:
    """Put a download into the spool."""
    path = store.spool(SESSION) / "1"
    path.write_bytes(CONTENT)
    return path


def test_the_points_are_all_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Storing takes so many calls: sync the file, make the folder, sync the root, rename, sync the folder."""
    store = FileStore(tmp_path / "images")
    store.create()
    path = spooled(store)
    with monkeypatch.context() as patch:
        disk = Disk(patch, 0)
        store.keep(path, SHA256, "JPEG")
    assert disk.calls == STEPS


@pytest.mark.parametrize("loses", [False, True], ids=["killed", "power cut"])
@pytest.mark.parametrize("stop", range(1, STEPS + 2))
def test_recorded_means_kept_at_every_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int, loses: bool
) -> None:
    """Killed or cut off before each call, and after the last: a record only with its image; then the same again."""
    store = FileStore(tmp_path / "images")
    store.create()
    with opened(tmp_path / "ledger.db") as bench:
        bench.fill(URLS[0])
        worker = bench.join()
        item = lease(bench.queue, worker, 1).leases[0]
        path = spooled(store)
        with monkeypatch.context() as patch:
            disk = Disk(patch, stop)
            try:
                store.keep(path, SHA256, "JPEG")
                bench.queue.complete(worker, [stored(item.token, item.task.id)])
            except PowerCut:
                pass
        recorded = bool(bench.records())
    if loses:
        disk.lose(tmp_path / "images")
    image = tmp_path / "images" / NAME
    assert recorded == (stop > STEPS)
    assert image.exists() or not recorded
    # Under its final name there is never a part of an image.
    assert not image.exists() or image.read_bytes() == CONTENT
    again = FileStore(tmp_path / "images")
    assert again.keep(spooled(again), SHA256, "JPEG") == NAME
    assert image.read_bytes() == CONTENT
