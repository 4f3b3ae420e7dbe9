"""Fetching on threads of this process, so that a test can mock HTTP."""

from __future__ import annotations

from pathlib import Path

from crawler.model import Lease
from crawler.settings import Settings
from crawler.worker.crew import Heard
from crawler.worker.threads import FetchThreads

#: Seconds for the threads to end.
END_WAIT = 2.0


class InlineDownloaders:
    """
    The same as `DownloaderCrew`, without processes.

    Args:
        settings: What the run was told.
        spool: Folder for bodies.
        threads: Number of threads.
    """

    def __init__(self, settings: Settings, spool: Path, threads: int) -> None:
        self._made = (settings, spool, threads)

    def start(self, heard: Heard) -> None:
        """Begin."""
        self._pool = FetchThreads(*self._made, heard.events)
        self._pool.start()

    def feed(self, leases: list[Lease]) -> None:
        """Fetch these; never blocks."""
        self._pool.feed(leases)

    def drop(self, tokens: list[int]) -> None:
        """Let what is being fetched end by itself: its leases are over, so nobody takes it."""

    def close(self) -> None:
        """End."""
        self._pool.close(END_WAIT)
