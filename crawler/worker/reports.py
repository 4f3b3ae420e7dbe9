"""
What a worker tells the queue of its fetches between leases and ends: that they began, and that they are over.

Reports are gathered, but not while the queue has nothing else to lease: a host's slot that is free is news to it then.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from crawler.model import Progress

#: Seconds for which reports are gathered.
PAUSE = 0.02
#: Seconds after which a request for leases waits for more than its answer: perhaps for the slot that is to be reported.
LONG_ASKED = 0.004


class Reports:
    """What is to be reported. Methods may be called from any thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._started: list[int] = []
        self._fetched: list[int] = []
        #: From when on a request for leases waits for more than its answer, infinity while there is none.
        self._urgent_at = math.inf
        self._is_closed = False

    def add(self, started: Sequence[int], fetched: Sequence[int]) -> None:
        """Report by their tokens that fetches *started*, and that others brought what was wanted."""
        with self._changed:
            was_empty = self._is_empty()
            self._started += started
            self._fetched += fetched
            if was_empty:  # who waits is not woken by each that is gathered
                self._changed.notify_all()

    def take(self) -> Progress:
        """Return what is to be reported, which is taken for reported then."""
        with self._changed:
            progress = Progress(started=self._started, fetched=self._fetched)
            self._started, self._fetched = [], []
            return progress

    @contextmanager
    def asking(self) -> Iterator[Progress]:
        """Know in the block that a request for leases waits for its answer; yield what is reported along with it."""
        with self._changed:
            self._urgent_at = time.monotonic() + LONG_ASKED
            self._changed.notify_all()
        try:
            yield self.take()
        finally:
            with self._changed:
                self._urgent_at = math.inf

    def wait(self, most: float) -> None:
        """Wait until there is something, *most* seconds at most, then for more as long as that keeps nobody."""
        with self._changed:
            if self._changed.wait_for(lambda: not self._is_empty() or self._is_closed, most):
                end = time.monotonic() + PAUSE
                while not self._is_closed and (left := min(end, self._urgent_at) - time.monotonic()) > 0:
                    self._changed.wait(left)

    def close(self) -> None:
        """Let nobody wait any more."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _is_empty(self) -> bool:
        return not (self._started or self._fetched)
