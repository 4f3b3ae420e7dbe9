"""Room on the disks of a run: waited for before anything is begun, and watched while it goes on."""

from __future__ import annotations

import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from crawler.errors import FULL, Stopped, StorageFailed

log = logging.getLogger(__name__)

#: Bytes that a run writes before it can wait by itself: the ledger and its log, address and key.
BEGINNING = 1_000_000
#: Seconds between two looks.
TICK = 1.0


def await_room(folders: Sequence[Path], limit: float, stopped: Callable[[float], bool]) -> None:
    """
    Wait until a run can begin in *folders*.

    What a quota or reserved blocks leave is known only by trying, so something is written and removed again.

    Args:
        folders: Where it will write; they need not exist.
        limit: Seconds to wait.
        stopped: Waits for so many seconds; tells whether the run shall not begin at all.

    Raises:
        StorageFailed: There was no room within the limit.
        Stopped: It was stopped before.
    """
    give_up = time.monotonic() + limit
    told = ""
    while full := _full(folders):
        if not told:
            log.warning("%s: waiting up to %.0f s", full, limit)
            told = full
        if time.monotonic() > give_up:
            raise StorageFailed(f"{full} for {limit:.0f} s: make room and start the same command again")
        if stopped(min(TICK, limit)):
            raise Stopped(f"stopped before it began: {full}")
    if told:
        log.warning("there is room again")


def is_full(folder: Path) -> bool:
    """Tell whether nothing can be written in *folder* for want of room; of other errors, who uses it tells."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(BEGINNING))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error.errno in FULL
    return False


def _full(folders: Sequence[Path]) -> str:
    """Say in which of *folders* nothing can be written for want of room, "" without one."""
    for folder in folders:
        there = next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
        if is_full(there):
            return f"no room in {there}"
    return ""


class RoomWatch:
    """
    Look once a second whether enough is free, from `start` to `close`.

    Args:
        folders: On whose file systems; they exist.
        least: Bytes that must be free for this user on each. 0 watches nothing.
        tell: Called, from a thread, with what is wrong whenever that begins, and with None when it is over.
    """

    def __init__(self, folders: Sequence[Path], least: int, tell: Callable[[str | None], None]) -> None:
        self._folders = folders
        self._least = least
        self._tell = tell
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="room", daemon=True)

    def start(self) -> None:
        """Begin; the first look is over when this returns."""
        if self._least:
            self._is_short = self._look(False)
            self._thread.start()

    def close(self) -> None:
        """End."""
        self._ending.set()

    def _run(self) -> None:
        is_short = self._is_short
        while not self._ending.wait(TICK):
            is_short = self._look(is_short)

    def _look(self, was_short: bool) -> bool:
        short = self._short()
        if (short is not None) != was_short:
            self._tell(short)
        return short is not None

    def _short(self) -> str | None:
        for folder in self._folders:
            try:
                found = os.statvfs(folder)
            except OSError as error:  # it may be away for a while; who writes there will tell
                log.debug("%s: %s", folder, error)
                continue
            if found.f_bavail * found.f_frsize < self._least:
                return f"less than {self._least / 1e6:,.0f} MB free in {folder} (--min-free)"
        return None
