"""
A machine whose network is gone: what it reports then says nothing about hosts, and charges nobody.

A host that does not answer is the host's fault as long as others do. When one host after the other falls silent that
had answered before, and none answers in between, it is ours: the machine gets one task at a time to see if it is over,
and what its failures cost since the last answer is given back.
"""

from __future__ import annotations

from crawler.broker.ended import Delayed, Ended
from crawler.broker.frontier import Held
from crawler.model import Failure
from crawler.reasons import Reason

#: How a lost network shows. A host that was connected to shows that there is one, however it goes on.
NETWORK = frozenset(
    {
        Reason.RESOLVER_FAILED,
        Reason.CONNECT_FAILED,
        Reason.CONNECT_TIMEOUT,
    }
)
#: Hosts in a row that must have fallen silent.
ENOUGH = 6
#: Failures remembered at most; more than any machine has in hand.
MAX_CHARGED = 10_000
#: Seconds between two tasks that try the network.
PROBE_PAUSE = 2.0


class Outage:
    """Failures of one session since any host answered it."""

    def __init__(self) -> None:
        #: When the outage began, None while there is none.
        self.since: float | None = None
        #: When the network is tried again.
        self.next_probe = 0.0
        #: What was seen last.
        self.detail = ""
        self._is_new = False
        #: Whether what looks like an outage is none.
        self._is_denied = False
        self._silent: set[int] = set()
        self._charged: list[Ended | Delayed] = []

    def failed(self, held: Held, failure: Failure, now: float) -> bool:
        """Note a failure; tell whether it is the network's: an outage is under way, or begins with it."""
        if failure.reason not in NETWORK or self._is_denied:
            return False
        # Whether a name can be resolved does not depend on its host.
        if held.host.has_answered or failure.reason is Reason.RESOLVER_FAILED:
            self._silent.add(held.host.key)
        self.detail = f"{failure.reason}: {failure.detail}" if failure.detail else str(failure.reason)
        if self.since is None and len(self._silent) < ENOUGH:
            return False
        if self.since is None:
            self.since, self._is_new = now, True
        self.next_probe = now + PROBE_PAUSE
        return True

    def begins(self) -> bool:
        """Tell, once, that an outage has begun."""
        is_new, self._is_new = self._is_new, False
        return is_new

    def charged(self, ends: list[Ended | Delayed]) -> None:
        """Remember what failures came to that may prove to be the network's."""
        self._charged += ends[: MAX_CHARGED - len(self._charged)]

    def deny(self) -> None:
        """Believe the hosts, until one answers: they fell silent, and no other is left to tell."""
        self.since, self._is_denied, self._charged = None, True, []

    @property
    def silent(self) -> set[int]:
        """Return the hosts that have fallen silent."""
        return self._silent

    def take_charged(self) -> tuple[dict[int, int], dict[int, str], set[int]]:
        """
        Return, once, what is to be given back.

        Returns:
            Attempts by task before the first failure that is given back; reason by task of those that were recorded;
            and the hosts that were thought to be silent.
        """
        found, self._charged = self._charged, []
        attempts: dict[int, int] = {}
        recorded: dict[int, str] = {}
        for item in found:
            if isinstance(item, Ended):
                attempts.setdefault(item.task_id, item.body.attempts - 1)
                recorded[item.task_id] = str(item.reason)
            else:
                attempts.setdefault(item.task.id, item.task.attempts - 1)
        return attempts, recorded, set(self._silent)

    def worked(self) -> bool:
        """Note that a host answered; tell whether an outage ends with it."""
        ends = self.since is not None
        self.since, self._is_new, self._is_denied, self._charged = None, False, False, []
        self._silent.clear()
        return ends
