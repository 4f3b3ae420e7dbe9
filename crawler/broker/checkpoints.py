"""The thread that brings a ledger's log into its file, so that nobody who waits for a commit waits for that too."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path

from crawler.broker.durability import WINDOW, Durability

log = logging.getLogger(__name__)

#: Seconds between two looks.
TICK = 0.25
#: Bytes of log below which nothing is done.
LITTLE = 4 << 20
#: Bytes of log from which on the writing thread begins it anew, when nearly all of it is in the file.
MUCH = 64 << 20


class Checkpoints:
    """
    Look after the log of one ledger.

    Args:
        path: The ledger.
        durability: When the file is synced, and whether the log has to be synced beside its commits.
        on_failed: Called, once, with the error of a disk that failed.
    """

    def __init__(self, path: Path, durability: Durability, on_failed: Callable[[Exception], None]) -> None:
        self._wal = Path(f"{path}-wal")
        self._on_failed = on_failed
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.execute(f"PRAGMA synchronous = {durability.level(True)}")
        self._tick = min(TICK, WINDOW / 2)
        self._sync_at = 0.0 if durability is Durability.BATCH else float("inf")
        self._closing = threading.Event()
        #: Length of the log at the last checkpoint.
        self._seen = 0
        #: Whether the writing thread should do the rest, so that the log begins anew.
        self.is_due = False
        self._thread = threading.Thread(target=self._run, name="checkpoints", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End, and wait for the end."""
        self._closing.set()
        self._thread.join()
        self._db.close()

    def _run(self) -> None:
        try:
            while not self._closing.wait(self._tick):
                if time.monotonic() >= self._sync_at:
                    self._sync_at = time.monotonic() + WINDOW - self._tick
                    self._sync()
                self._check()
        except (sqlite3.Error, OSError) as error:
            self._on_failed(error)

    def _check(self) -> None:
        size = self._size()
        if size < LITTLE or size == self._seen < MUCH:
            return
        try:
            self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise
            return  # whoever writes meets a full disk too, and waits for room
        self._seen, self.is_due = size, size >= MUCH

    def _sync(self) -> None:
        """Sync the log; SQLite keeps no lock on this file, so closing it lets none go."""
        try:
            descriptor = os.open(self._wal, os.O_RDONLY)
        except FileNotFoundError:
            return
        try:
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)

    def _size(self) -> int:
        try:
            return os.stat(self._wal).st_size
        except FileNotFoundError:
            return 0
