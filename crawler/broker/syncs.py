"""
The thread that syncs a ledger's log behind its commits, so that the next transaction is made while the disk is at work.

What holds:

1. A commit is in the log, though not on the disk, before anybody can read it. So a sync covers all that was committed,
   and all that was read, before it began; whoever was waiting then may be answered when it ends.
2. A log that SQLite begins anew is in the file already, and the file synced: a checkpoint syncs the log before and the
   file after, and only then is the front of the log written again, with its header synced before any frame.
   Source: walCheckpoint() and sqlite3WalFrames() in SQLite's wal.c, with PRAGMA synchronous = NORMAL.
3. A sync that fails is never tried again: whoever waits hears of it, and everybody who comes later.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from crawler.broker.durability import WINDOW, Durability
from crawler.errors import StorageFailed

#: Transactions that wait for a sync at most; who commits another one waits too, while more changes come together.
BEHIND = 8


class Answer(NamedTuple):
    """What a caller is told when it is durable."""

    future: Future[Any]
    result: Any

    def give(self) -> None:
        """Tell it."""
        self.future.set_result(self.result)


class Syncs:
    """
    Sync the log of one ledger: for whoever waits with `full`, once in `WINDOW` with `batch`, never with `none`.

    Args:
        path: The ledger; its log is there.
        durability: Whether answers wait.
        on_failed: Called, once, with the error of a disk that failed; whoever waits is told by `fail`.
    """

    def __init__(self, path: Path, durability: Durability, on_failed: Callable[[Exception], None]) -> None:
        self._path = path
        self._durability = durability
        self._on_failed = on_failed
        self._wake = threading.Condition()
        #: Answers of transactions that came since a sync began, and those for which it began.
        self._waiting: list[list[Answer]] = []
        self._syncing: list[list[Answer]] = []
        self._over: StorageFailed | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="syncs", daemon=True)

    def start(self) -> None:
        """Begin."""
        if self._durability is not Durability.NONE:
            self._thread.start()

    def answer(self, answers: list[Answer]) -> None:
        """Give the *answers* of a transaction that is committed, when they may be given; waits while many do."""
        if self._durability is Durability.FULL and answers:
            with self._wake:
                while len(self._waiting) >= BEHIND and self._over is None:
                    self._wake.wait(60)
            self._add(answers)
        else:
            for one in answers:
                one.give()

    def wait(self) -> None:
        """
        Wait until all that could be read before this call survives what answers survive.

        Raises:
            StorageFailed: The disk failed, or the ledger is closed.
        """
        if self._durability is Durability.FULL:
            synced: Future[None] = Future()
            self._add([Answer(synced, None)])
            synced.result()

    def fail(self, error: StorageFailed) -> None:
        """Tell all who wait, and all who come, of *error*."""
        with self._wake:
            self._over = self._over or error
            left, self._syncing, self._waiting = self._syncing + self._waiting, [], []
            self._wake.notify_all()
        for answers in left:
            for one in answers:
                one.future.set_exception(error)

    def close(self) -> None:
        """Sync for those who wait, and end."""
        with self._wake:
            self._closing = True
            self._wake.notify_all()
        if self._thread.ident is not None:
            self._thread.join()
        self.fail(StorageFailed("the ledger is closed"))

    def _add(self, answers: list[Answer]) -> None:
        with self._wake:
            over = self._over
            if over is None:
                self._waiting.append(answers)
                self._wake.notify_all()
                return
        for one in answers:
            one.future.set_exception(over)

    def _run(self) -> None:
        try:
            with _opened(self._path.parent) as folder:
                os.fsync(folder)  # a run that synced nothing may have left a log whose name is not on the disk
            # Kept open, so that no error can pass between two syncs. SQLite keeps its locks on other files: closing
            # this one lets none of them go.
            with _opened(log_of(self._path)) as log:
                while self._begin():
                    os.fdatasync(log)
                    self._end()
        except Exception as error:  # nothing may leave a caller waiting
            self._on_failed(error)

    def _begin(self) -> bool:
        """Wait for the next sync, and tell whether there is one."""
        with self._wake:
            if self._durability is Durability.BATCH:
                return not self._wake.wait_for(lambda: self._closing or self._over, WINDOW)
            while not (self._waiting or self._closing or self._over):
                self._wake.wait(60)
            self._syncing, self._waiting = self._waiting, []
            self._wake.notify_all()
            return bool(self._syncing)

    def _end(self) -> None:
        with self._wake:
            synced, self._syncing = self._syncing, []
        for answers in synced:
            for one in answers:
                one.give()


def sync_log(path: Path) -> None:
    """
    Sync the log of a ledger that another process may write, so that what was read of it before this call is kept.

    Raises:
        StorageFailed: The disk failed.
    """
    try:
        with suppress(FileNotFoundError), _opened(log_of(path)) as log:  # without a log, all is in the file
            os.fdatasync(log)
    except OSError as error:
        raise StorageFailed(f"{path} may not be on the disk as it was read: {error.strerror or error}") from error


def log_of(path: Path) -> Path:
    """Return where SQLite keeps the log of a ledger."""
    return Path(f"{path}-wal")


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
