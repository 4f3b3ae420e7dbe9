"""The thread that brings a ledger's log into its file, so that nobody who waits for a commit waits for that too."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

from crawler.broker.durability import Durability
from crawler.broker.syncs import log_of

log = logging.getLogger(__name__)

#: Seconds between two looks.
TICK = 0.25
#: Bytes of log below which nothing is done.
LITTLE = 4 << 20
#: Bytes of log from which on the writing thread begins it anew, when nearly all of it is in the file.
MUCH = 64 << 20
#: Times that a log of that length is gone through again before: each time what came meanwhile is less.
AGAIN = 2


class Checkpoints:
    """
    Look after the log of one ledger.

    Args:
        path: The ledger.
        durability: Whether log and file are synced, one before and the other after what is brought.
        on_failed: Called, once, with the error of a disk that failed.
    """

    def __init__(self, path: Path, durability: Durability, on_failed: Callable[[Exception], None]) -> None:
        self._wal = log_of(path)
        self._on_failed = on_failed
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.execute(f"PRAGMA synchronous = {durability.level}")
        self._closing = threading.Event()
        #: Length of the log at the last checkpoint.
        self._seen = 0
        #: Whether the writing thread should do the rest, so that the log begins anew.
        self.is_due = False
        self._thread = threading.Thread(target=self._run, name="checkpoints", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Begin nothing more."""
        self._closing.set()

    def close(self) -> None:
        """End, and wait for the end."""
        self.stop()
        self._thread.join()
        self._db.close()

    def _run(self) -> None:
        try:
            while not self._closing.wait(TICK):
                self._check()
        except (sqlite3.Error, OSError) as error:
            self._on_failed(error)

    def _check(self) -> None:
        size = self._size()
        if size < LITTLE or size == self._seen < MUCH:
            return
        # What came meanwhile is left to the writing thread, and who waits for a commit waits for that too: let it be
        # little.
        passes = 1 + AGAIN if size >= MUCH else 1
        if all(self._bring() for _ in range(passes)):
            self._seen, self.is_due = size, size >= MUCH

    def _bring(self) -> bool:
        """Bring what is in the log into the file, as far as no reader needs it; False where that is not possible."""
        try:
            self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise
            return False  # whoever writes meets a full disk too, and waits for room
        return True

    def _size(self) -> int:
        try:
            return os.stat(self._wal).st_size
        except FileNotFoundError:
            return 0
