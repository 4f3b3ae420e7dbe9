"""The thread that brings a ledger's log into its file, so that nobody who waits for a commit waits for that too."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

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
        sync: Whether the file is synced.
        on_failed: Called, once, with the error of a disk that failed.
    """

    def __init__(self, path: Path, sync: bool, on_failed: Callable[[sqlite3.Error], None]) -> None:
        self._wal = Path(f"{path}-wal")
        self._on_failed = on_failed
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.execute(f"PRAGMA synchronous = {'FULL' if sync else 'OFF'}")
        self._closing = threading.Event()
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
        seen = 0
        while not self._closing.wait(TICK):
            size = self._size()
            if size < LITTLE or size == seen < MUCH:
                continue
            try:
                self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                    continue  # whoever writes meets a full disk too, and waits for room
                self._on_failed(error)
                return
            seen, self.is_due = size, size >= MUCH

    def _size(self) -> int:
        try:
            return os.stat(self._wal).st_size
        except FileNotFoundError:
            return 0
