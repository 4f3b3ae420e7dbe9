"""
Every entry, task and record on disk: the truth from which all else can be rebuilt.

One thread writes. It takes all changes that are waiting, makes them in one transaction and commits once; another one
syncs what was committed (`syncs.py`), so that many callers share a sync, and the next transaction is made meanwhile.
Each caller has a future, that of a durable change is done after the sync. What may be asked is in `views.py`, what may
be changed in `changes.py`.

Whoever reads may see what is not synced yet. That is right for who puts it back into the ledger, where it stands behind
what was read. Who acts on it elsewhere, in another file or towards people who keep it, calls `await_sync` in between.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from crawler.broker.changes import Changes
from crawler.broker.checkpoints import MUCH, Checkpoints
from crawler.broker.durability import Durability
from crawler.broker.schema import prepare
from crawler.broker.syncs import Answer, Syncs
from crawler.broker.views import View
from crawler.errors import FULL, OutUnusable, StorageFailed
from crawler.room import is_full

log = logging.getLogger(__name__)
T = TypeVar("T")

#: Changes made in one transaction at most, so that nobody waits long for the commit.
GROUP = 64
#: Seconds between tries while the disk is full.
FULL_PAUSE = 1.0


class _Change(NamedTuple):
    make: Callable[[Changes], Any]
    #: Whether it must survive a power cut before its caller hears of it.
    durable: bool
    future: Future[Any]


class Ledger:
    """
    The ledger file of one run.

    Args:
        path: The file; made where it does not exist.
        pause_limit: Seconds to wait for room on a full disk before giving up.
        on_failed: Called once, from a thread of the ledger, when the disk failed; every later change fails.

        durability: What of it survives which accident.

    Raises:
        OutUnusable: The file cannot be made or is no ledger.
        VersionMismatch: A newer program made it.
    """

    def __init__(
        self,
        path: Path,
        pause_limit: float,
        on_failed: Callable[[StorageFailed], None],
        durability: Durability = Durability.FULL,
    ) -> None:
        self.path = path
        self._db = _open(path)
        self._db.execute(f"PRAGMA synchronous = {durability.level}")
        self._pause_limit = pause_limit
        self._on_failed = on_failed
        self._waiting: list[_Change] = []
        self._wake = threading.Condition()
        self._closing = False
        self._failed: StorageFailed | None = None
        #: Why nothing can be written at the moment, None where all is well.
        self.paused: str | None = None
        self.view = View(path)
        self._changes = Changes(self._db)
        self._hurried = False
        self._syncs = Syncs(path, durability, lambda error: self._fail(error, []))
        self._checkpoints = Checkpoints(path, durability, lambda error: self._fail(error, []))
        self._syncs.start()
        # A daemon: what was not committed was not promised, and must not keep a failing program alive.
        self._thread = threading.Thread(target=self._write, name="ledger", daemon=True)
        self._thread.start()

    def submit(self, make: Callable[[Changes], T], durable: bool = True) -> Future[T]:
        """
        Queue a change; changes are made in the order of these calls.

        Args:
            make: Makes the change; it may be called again after a full disk, so it must have no other effect.
            durable: Whether the commit is on disk, not only in the system's hands, when the future is done; where the
                ledger syncs its log later, it is not.

        Returns:
            A future with what *make* returned, done after the commit, or after its sync. It raises StorageFailed where
            the disk failed. It may be done before that of an earlier change that is durable.
        """
        future: Future[T] = Future()
        with self._wake:
            if self._failed or self._closing:
                future.set_exception(self._failed or StorageFailed("the ledger is closed"))
            else:
                self._waiting.append(_Change(make, durable, future))
                self._wake.notify()
        return future

    @property
    def unsorted(self) -> int:
        """Return the number of new tasks that are not in the backlog yet."""
        return self._changes.unsorted

    def change(self, make: Callable[[Changes], T]) -> T:
        """Make one durable change and wait until it is."""
        return self.submit(make).result()

    def await_sync(self) -> None:
        """
        Wait until all that could be read before this call is as durable as what was acknowledged.

        Raises:
            StorageFailed: The disk failed, or the ledger is closed.
        """
        self._syncs.wait()

    def hurry(self) -> None:
        """Wait no longer for room on a full disk: the run ends."""
        with self._wake:
            self._hurried = True
            self._wake.notify()

    def close(self) -> None:
        """Commit what is queued, and close the file."""
        self.hurry()
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()
        self._syncs.close()
        self._checkpoints.close()
        self.view.close()
        if self._failed is not None:
            _keep_log(self._db)
        self._db.close()

    # ------------------------------------------------------------ the writing thread

    def _write(self) -> None:
        while group := self._take():
            try:
                self._make(group)
                self._begin_log_anew()
            except Exception as error:  # nothing may leave a caller waiting
                self._fail(error, group)

    def _make(self, group: list[_Change]) -> None:
        """
        Make the changes together; where one of them is at fault, each by itself, so that only its caller hears.

        Those that are dealt with are taken out of *group*.
        """
        try:
            results = self._commit(group)
        except (sqlite3.OperationalError, OSError, StorageFailed):
            raise
        except Exception as error:
            self._roll_back()
            if type(error) is sqlite3.DatabaseError:  # the file is damaged
                raise
            if len(group) == 1:
                group.pop().future.set_exception(error)
            while group:
                self._make(group[:1])
                del group[0]
            return
        made = [(change.durable, Answer(change.future, result)) for change, result in zip(group, results, strict=True)]
        group.clear()
        for is_durable, answer in made:
            if not is_durable:
                answer.give()
        self._syncs.answer([answer for is_durable, answer in made if is_durable])

    def _begin_log_anew(self) -> None:
        if self._checkpoints.is_due and self._failed is None:
            self._checkpoints.is_due = False
            # What came since the checkpoint of the other thread; with nothing left the next commit begins at the front.
            self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def _take(self) -> list[_Change]:
        with self._wake:
            while not self._waiting and not self._closing and self._failed is None:
                self._wake.wait(60)
            group, self._waiting = self._waiting[:GROUP], self._waiting[GROUP:]
            return group

    def _commit(self, group: list[_Change]) -> list[Any]:
        give_up: float | None = None
        while True:
            try:
                results = self._transact(group)
            except (sqlite3.OperationalError, OSError) as error:
                self._roll_back()
                if not self._is_full(error):
                    raise
                give_up = give_up or time.monotonic() + self._pause_limit
                self._pause(give_up)
            else:
                self._resume()
                return results

    def _is_full(self, error: sqlite3.OperationalError | OSError) -> bool:
        """Tell whether *error* says: no room now. Of a quota SQLite says only that it could not write."""
        if isinstance(error, OSError):  # of what lies beside the ledger
            return error.errno in FULL
        is_unwritten = error.sqlite_errorcode == sqlite3.SQLITE_IOERR_WRITE
        return error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_FULL or (is_unwritten and is_full(self.path.parent))

    def _transact(self, group: list[_Change]) -> list[Any]:
        self._db.execute("BEGIN IMMEDIATE")
        self._changes.begin()
        results = [change.make(self._changes) for change in group]
        self._changes.finish()
        self._db.execute("COMMIT")
        self._changes.committed()
        return results

    def _roll_back(self) -> None:
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")
        self._changes.begin()

    def _pause(self, give_up: float) -> None:
        if self.paused is None:
            self.paused = f"no room for {self.path}"
            log.warning("%s: waiting up to %.0f s", self.paused, self._pause_limit)
        if time.monotonic() > give_up or self._hurried:
            raise StorageFailed(
                f"{self.paused} for {self._pause_limit:.0f} s: make room and start the same command again"
            )
        with self._wake:
            self._wake.wait_for(lambda: self._hurried, FULL_PAUSE)

    def _resume(self) -> None:
        if self.paused is not None:
            log.warning("there is room for %s again", self.path)
            self.paused = None

    def _fail(self, error: Exception, group: list[_Change]) -> None:
        failed = error if isinstance(error, StorageFailed) else StorageFailed(f"{self.path} cannot be written: {error}")
        failed.__cause__ = error if failed is not error else None
        with self._wake:
            is_first, self._failed = self._failed is None, self._failed or failed
            group, self._waiting = group + self._waiting, []
            self._wake.notify_all()
        if is_first:
            log.debug("the ledger failed", exc_info=error)
            self._checkpoints.stop()
            self._syncs.fail(failed)
        for change in group:
            change.future.set_exception(self._failed)
        if is_first:
            self._on_failed(failed)


def _open(path: Path) -> sqlite3.Connection:
    try:
        if not path.exists():
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
        with ExitStack() as undo:
            db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            undo.callback(db.close)
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            db.execute("PRAGMA cache_size = -65536")
            db.execute("PRAGMA temp_store = MEMORY")
            db.execute("PRAGMA wal_autocheckpoint = 0")  # see checkpoints.py
            db.execute(f"PRAGMA journal_size_limit = {MUCH}")
            prepare(db, path)
            undo.pop_all()
    except (sqlite3.Error, OSError) as error:
        raise OutUnusable(f"{path} cannot be used as a ledger: {error}") from error
    return db


def _keep_log(db: sqlite3.Connection) -> None:
    """Let the close of *db* bring nothing into the file: what the system shows of a log may not be on a failed disk."""
    if sys.version_info >= (3, 12):  # before, the sync that SQLite begins with meets the same error, and it stops there
        db.setconfig(sqlite3.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE)
