"""What each campaign does: how long its list is, which faults come how often, and what must have come at the end."""

from __future__ import annotations

import random
from typing import NamedTuple

#: Kinds of faults, and how often each comes among the others.
MIXED = {
    "kill downloader": 4,
    "kill verifier": 2,
    "kill worker": 5,
    "kill coordinator": 4,
    "stop worker": 2,
    "terminate worker": 2,
    "terminate coordinator": 1,
    "reset": 3,
    "half close": 2,
    "black hole": 2,
    "trickle": 2,
    "jump": 2,
    "store away": 1,
    "fill disk": 2,
}
KILLS = {"kill downloader": 4, "kill verifier": 2, "kill worker": 3, "kill coordinator": 1}
#: What neither the coordinator nor every worker is ended by, so that they can be watched as they grow old.
GENTLE = {
    kind: weight
    for kind, weight in MIXED.items()
    if kind not in ("kill coordinator", "terminate coordinator", "jump", "store away", "fill disk")
}


class Plan(NamedTuple):
    """One campaign."""

    #: For people.
    meaning: str
    tasks: int
    #: Kind to weight.
    faults: dict[str, int]
    #: Seconds between faults in the mean.
    pause: float
    #: Seconds for which faults come at most.
    seconds: float
    #: Faults after which the run is left in peace, and which must have come; 0 is no such limit.
    count: int = 0
    #: Seconds after which the site answers, so that something is in flight whenever a fault comes.
    answer: float = 0.5
    #: Seconds that a lease lives.
    lease_life: float = 6.0
    #: Fetches at a time from one host.
    per_host: int = 8
    #: Whether fetches beyond those of an undisturbed run may be no more than what was in flight at each fault.
    is_bounded: bool = False
    #: Whether the coordinator and the first worker live through all of it, and are watched.
    is_watched: bool = False


PLANS = {
    "short": Plan("each kind of fault at least once, under two minutes", 3_000, MIXED, 0.7, 45.0),
    "long": Plan("the same for an hour, one seed after the other", 10_000, MIXED, 1.0, 3600.0),
    "kills": Plan("200 kill -9 over 10,000 tasks", 10_000, KILLS, 0.4, 1200.0, count=200, is_bounded=True),
    "coordinator": Plan(
        "100 kill -9 of the coordinator", 10_000, {"kill coordinator": 1}, 1.2, 1200.0, count=100, is_bounded=True
    ),
    "leases": Plan(
        "100 times a worker is stopped for longer than its leases live",
        *(10_000, {"stop worker": 1}, 1.2, 1200.0),
        count=100,
        answer=1.0,
        lease_life=3.0,
    ),
    "soak": Plan(
        "200,000 tasks, a fault every five seconds", 200_000, GENTLE, 5.0, 7200.0, answer=0.1, is_watched=True
    ),
}


class Schedule:
    """
    Which kind of fault is next: all of them once, in some order, then by their weights.

    Args:
        faults: Kind to weight.
        chance: Decides about the order.
    """

    def __init__(self, faults: dict[str, int], chance: random.Random) -> None:
        self._kinds = list(faults)
        # Each kind comes once in a round before any comes too often.
        self._bag = [kind for kind, weight in faults.items() for _ in range(weight - 1)]
        self._chance = chance
        self._next = self._shuffled(self._kinds)

    def take(self) -> str:
        """Return the next kind."""
        if not self._next:
            self._next = self._shuffled(self._kinds + self._chance.sample(self._bag, len(self._bag) // 2))
        return self._next.pop()

    def put_back(self, kind: str) -> None:
        """Let *kind* come again at the end of the round: it met nobody."""
        self._next.insert(0, kind)

    def _shuffled(self, kinds: list[str]) -> list[str]:
        return self._chance.sample(kinds, len(kinds))
