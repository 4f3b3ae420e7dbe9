"""How many tasks are in which state, and how fast they end."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping

from crawler.broker.ended import Ended
from crawler.model import Outcome

#: Seconds over which rates are taken.
SPAN = 10.0


class Tally:
    """
    Counts, kept beside the ledger's own so that asking for them costs nothing.

    Args:
        counters: The ledger's counters.
        total: Tasks in the ledger.
        delayed: Delayed tasks in the ledger.
    """

    def __init__(self, counters: dict[str, int], total: int, delayed: int) -> None:
        self.total = total
        self.delayed = delayed
        self.entries = counters.get("entries", 0)
        self.stored = counters.get("stored", 0)
        self.failed = counters.get("failed", 0)
        self.bytes = counters.get("bytes", 0)
        #: Of the stored ones those that are nearly the same as another.
        self.near_duplicates = counters.get("near_duplicates", 0)
        self.reasons: Counter[str] = Counter()
        for name, n in counters.items():
            if name.startswith("reason:"):
                self.reasons[name.removeprefix("reason:")] = n
        #: (time, images stored, bytes stored)
        self._recent: deque[tuple[float, int, int]] = deque()

    @property
    def done(self) -> int:
        """Return the number of tasks that have their record."""
        return self.stored + self.failed

    def put(self, tasks: int, entries: int, bad: int) -> None:
        """Count new tasks, *bad* of them failed at once."""
        self.total += tasks
        self.entries += entries
        self.failed += bad
        if bad:
            self.reasons["bad_url"] += bad

    def ended(self, ended: Iterable[Ended], now: float) -> None:
        """Count tasks that got their record."""
        images = size = 0
        for end in ended:
            if end.reason:
                self.failed += 1
                self.reasons[end.reason] += 1
            else:
                images += 1
                size += end.body.bytes or 0
                self.near_duplicates += end.is_kept_duplicate
        self.stored += images
        self.bytes += size
        self._recent.append((now, images, size))
        self._forget(now)

    def revived(self, counts: Mapping[str, int], size: int = 0, near_duplicates: int = 0) -> None:
        """Count tasks that wait again: by the reason for which they failed, or as stored, with the *size* of these."""
        self.near_duplicates -= near_duplicates
        failed = {reason: n for reason, n in counts.items() if reason != Outcome.STORED}
        self.reasons.subtract(failed)
        self.failed -= sum(failed.values())
        self.stored -= counts.get(Outcome.STORED, 0)
        self.bytes -= size
        self.delayed += sum(counts.values())

    def rates(self, now: float) -> tuple[float, float]:
        """Return (images, bytes) stored per second."""
        self._forget(now)
        if not self._recent:
            return 0.0, 0.0
        span = max(1.0, now - self._recent[0][0])
        return sum(item[1] for item in self._recent) / span, sum(item[2] for item in self._recent) / span

    def _forget(self, now: float) -> None:
        while self._recent and self._recent[0][0] < now - SPAN:
            self._recent.popleft()
