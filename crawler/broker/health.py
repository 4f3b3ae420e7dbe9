"""
How a host fares, and what that lets us ask of it.

    healthy ──3 failures in a row, or asked to wait──▶ slowed ──10 in a row──▶ open ──patience is over──▶ unavailable
       ▲                                                │  ▲                    │ │                          │
       └────────────── enough successes ────────────────┘  └──── a success ─────┘ └─ one task at a time,     │
                                                           └───────────────────────── growing pauses ◀───────┘
                                                                                       (an hour later)

Failures are those that say the host is not there or overburdened: no connection, no answer in time, 429 and 503. Any
other answer, 404 too, is a success here.
Source: M. Nygard, Release It!, 2007 (circuit breaker); additive increase and multiplicative decrease as in TCP.
"""

from __future__ import annotations

import enum
import random

import msgspec

from crawler.stats import HostState

#: Failures in a row after which a host is slowed down, and further after each as many more.
SLOW_AFTER = 3
#: Failures in a row after which it is left alone but for probes.
OPEN_AFTER = 10
#: Seconds before the first probe; doubled with each that fails.
FIRST_PAUSE = 2.0
MAX_PAUSE = 300.0
#: Seconds between two starts once a host is slowed; doubled each time it is slowed again.
FIRST_GAP = 0.25
MAX_GAP = 30.0
#: Seconds for which a host stays unavailable before it is tried again.
UNAVAILABLE_FOR = 3600.0
#: Successes in a row after which one fetch more at a time is tried.
RECOVER_AFTER = 10
#: Part of the gap that is left after these.
RECOVERY = 0.7
#: Gaps below this one are none.
LEAST_GAP = 0.1


class Says(enum.Enum):
    """What the end of a fetch says about its host."""

    #: It answered, whatever it said.
    ANSWERED = enum.auto()
    #: It gave no answer.
    FAILED = enum.auto()
    #: It asked to be left alone for a while.
    ASKED = enum.auto()
    #: Nothing.
    NOTHING = enum.auto()


class SavedHealth(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a ledger keeps of a host's health beside its state."""

    detail: str = ""
    limit: int = 1
    gap: float = 0.0
    failures: int = 0
    probes: int = 0
    opened: float = 0.0


class Health:
    """
    The state of one host that is, or lately was, not healthy.

    Args:
        per_host: Fetches at a time while it is healthy.
        patience: Seconds from opening to giving up.
    """

    __slots__ = (
        "_changed",
        "_full",
        "_good",
        "_opened",
        "_patience",
        "_probes",
        "detail",
        "failures",
        "gap",
        "limit",
        "state",
        "until",
    )

    def __init__(self, per_host: int, patience: float) -> None:
        self._full = per_host
        self._patience = patience
        self.state = HostState.HEALTHY
        #: Fetches at a time.
        self.limit = per_host
        #: Seconds from one start to the next.
        self.gap = 0.0
        #: When it may be asked again.
        self.until = 0.0
        #: Failures in a row.
        self.failures = 0
        #: What was seen last.
        self.detail = ""
        self._probes = 0
        self._opened = 0.0
        #: Successes in a row.
        self._good = 0
        #: When it was slowed last: what had begun before says nothing about the new pace.
        self._changed = 0.0

    @property
    def is_healthy(self) -> bool:
        """Tell whether there is nothing to remember."""
        return self.state is HostState.HEALTHY and self.failures == 0

    def refuses(self, now: float) -> bool:
        """Tell whether the host's tasks are to fail without being fetched."""
        return self.state is HostState.UNAVAILABLE and now < self.until

    def succeeded(self) -> bool:
        """Note an answer; tell whether the state changed."""
        self.failures = 0
        if self.state is HostState.HEALTHY:
            return False
        if self.state is not HostState.SLOWED:
            self.state, self.until, self._good = HostState.SLOWED, 0.0, 0
            self.limit, self.gap = 1, max(self.gap, FIRST_GAP)
            return True
        self._good += 1
        if self._good < RECOVER_AFTER:
            return False
        self._good = 0
        self.limit = min(self._full, self.limit + 1)
        self.gap = self.gap * RECOVERY if self.gap * RECOVERY >= LEAST_GAP else 0.0
        if self.limit == self._full and self.gap == 0.0:
            self.state = HostState.HEALTHY
        return True

    def failed(self, detail: str, began: float, is_probe: bool, now: float) -> bool:
        """
        Note a failure; tell whether the state changed.

        Args:
            detail: What was seen.
            began: When the fetch began.
            is_probe: Whether it was sent to try a host that was open or unavailable.
            now: The time.
        """
        self.failures += 1
        self.detail, self._good = detail, 0
        if self.state in (HostState.OPEN, HostState.UNAVAILABLE):
            return is_probe and self._probed(now)
        if self.failures >= OPEN_AFTER:
            return self.open(detail, now)
        if self.failures % SLOW_AFTER == 0 and began >= self._changed:
            self._slow(max(1, self.limit // 2), now)
            return True
        return False

    def asked_to_wait(self, began: float, now: float) -> None:
        """Note that the host found our pace too high: from now on one fetch at a time."""
        if self.state in (HostState.HEALTHY, HostState.SLOWED) and (began >= self._changed or self.limit > 1):
            self._slow(1, now)

    def open(self, detail: str, now: float) -> bool:
        """Leave the host alone but for probes."""
        if self.state in (HostState.OPEN, HostState.UNAVAILABLE):
            return self._probed(now)
        self.state, self.detail = HostState.OPEN, detail
        self._opened, self._probes = now, 0
        self.until = now + self._pause()
        return True

    def _probed(self, now: float) -> bool:
        self._probes += 1
        if self.state is HostState.UNAVAILABLE or now - self._opened >= self._patience:
            self.state, self.until = HostState.UNAVAILABLE, now + UNAVAILABLE_FOR
        else:
            self.until = now + self._pause()
        return True

    def _slow(self, limit: int, now: float) -> None:
        self.state, self._changed = HostState.SLOWED, now
        self.limit = limit
        self.gap = min(MAX_GAP, max(FIRST_GAP, 2 * self.gap))

    def _pause(self) -> float:
        # A little at random, so that hosts that failed together are not tried together.
        return min(MAX_PAUSE, FIRST_PAUSE * 2.0**self._probes) * random.uniform(0.8, 1.2)

    # ------------------------------------------------------------ kept on disk

    def save(self) -> SavedHealth:
        """Return what is to be kept beside `state` and `until`."""
        return SavedHealth(
            detail=self.detail,
            limit=self.limit,
            gap=self.gap,
            failures=self.failures,
            probes=self._probes,
            opened=self._opened,
        )

    def restore(self, state: HostState, until: float, saved: SavedHealth) -> None:
        """Take up what was kept."""
        self.state, self.until = state, until
        self.detail, self.gap, self.failures = saved.detail, saved.gap, saved.failures
        self.limit = max(1, min(self._full, saved.limit))
        self._probes, self._opened = saved.probes, saved.opened
