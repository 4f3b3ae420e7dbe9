"""What a task queue knows in memory, under one lock, and the changes that several verbs share."""

from __future__ import annotations

import heapq
import logging
import threading
import time
from collections import Counter

from crawler.broker.frontier import Frontier, Held
from crawler.broker.hosts import Etiquette
from crawler.broker.ledger import Ledger
from crawler.broker.lists import Lists
from crawler.broker.outage import Outage
from crawler.broker.sessions import LOCAL, Sessions
from crawler.broker.tally import Tally
from crawler.broker.trouble import Trouble
from crawler.model import QueueStatus, Role, Welcome
from crawler.stats import HostState, HostStats, HostWait, WorkerStats

log = logging.getLogger(__name__)

#: Hosts named in statistics.
MAX_SHOWN = 10
#: Session of the coordinator's own consumer.
OWN = "coordinator"


class State:
    """
    Frontier, sessions, lists and counts of one queue. All but `now` are used with `lock` held.

    Args:
        ledger: Open ledger; what it holds is taken up.
        base: What all sessions are told.
        keep_open: Whether to go on waiting for lists when all are read.
    """

    def __init__(self, ledger: Ledger, base: Welcome, keep_open: bool) -> None:
        view = ledger.view
        self._anchor = time.time() - time.monotonic()
        self._ledger = ledger
        self._keep_open = keep_open
        self.lock = threading.Condition()
        self.sessions = Sessions()
        # What the last coordinator and its children held is free: they ended with it.
        epoch = ledger.change(lambda changes: changes.next_epoch((OWN, LOCAL), self.now()))
        #: Whose rules count in a robots.txt.
        self.product = base.settings.access.product
        etiquette = Etiquette(base.settings.politeness, self.product)
        self.frontier = Frontier(etiquette, epoch, base.lease_life, self.now() if epoch > 1 else 0.0)
        self.tally = Tally(view.counters(), view.tasks(), view.delayed())
        self.lists = Lists(view.lists(), self.now())
        #: Session that downloaded what the coordinator's consumer holds now, and its machine, by token.
        self.origin: dict[int, tuple[str, str]] = {}
        #: When workers must have given back everything, None while the queue is not draining.
        self.drain_at: float | None = None
        self.trouble = Trouble()
        #: When tasks were put last.
        self.put_at = 0.0
        #: When to look for delayed tasks.
        self.next_due = 0.0
        self._take_up()

    def _take_up(self) -> None:
        """Hold the leases of an earlier coordinator until they run out."""
        for saved in self._ledger.view.leases():
            # Not longer than a lease lives, should the clock have been set back since.
            expires = min(saved.expires, self.now() + self.frontier.lease_life)
            self.frontier.adopt((saved.token, saved.host, saved.task, saved.session, expires), saved.origin)
        self.frontier.resume(self._ledger.view.paused(self.now()), self.now())

    def now(self) -> float:
        """Return the time: steady within a run, and near enough to the wall's clock to be kept for the next one."""
        return self._anchor + time.monotonic()

    def status(self) -> QueueStatus:
        """Return what workers are told."""
        if self.drain_at is not None:
            return QueueStatus.DRAINING
        finished = self.lists.all_read() and self.tally.done >= self.tally.total and not self._keep_open
        return QueueStatus.FINISHED if finished else QueueStatus.OPEN

    def origin_of(self, token: int, session: str) -> tuple[str, str]:
        """Return (session, machine) that downloaded what *session* completes."""
        return self.origin.get(token) or (session, self.machine_of(session))

    def machine_of(self, session: str) -> str:
        """Return the name of a session's machine, "" where it is not known any more."""
        found = self.sessions.find(session)
        return found.machine if found else ""

    def workers(self) -> list[WorkerStats]:
        """Count by worker."""
        leased = self.frontier.leases.by_session()
        return [
            WorkerStats(machine=item.machine, leased=leased.get(item.id, 0), completed=item.completed)
            for item in self.sessions
            if item.role is Role.WORKER
        ]

    def why_paused(self) -> str | None:
        """Return why nothing is stored or fetched at the moment, None where all is well."""
        if self.trouble.since is not None:
            return self.trouble.detail
        outage = self.outage()
        return None if outage is None else f"no host can be reached: {outage.detail}"

    def host_stats(self) -> HostStats:
        """Count hosts of the window by state, and name those that wait longest."""
        now = self.now()
        hosts = self.frontier.unwell(now)
        counts = Counter(host.state for host in hosts)
        waiting = [
            HostWait(name=host.name, state=host.state, until=host.next_start, detail=host.detail[:200])
            for host in heapq.nlargest(MAX_SHOWN, hosts, key=lambda host: host.next_start)
            if host.next_start > now
        ]
        return HostStats(
            slowed=counts[HostState.SLOWED],
            open=counts[HostState.OPEN],
            unavailable=counts[HostState.UNAVAILABLE],
            waiting=waiting,
        )

    def outage(self) -> Outage | None:
        """Return the network outage that began last, None while any worker reaches its hosts, or none is here."""
        found = [item.outage for item in self.sessions if item.role is Role.WORKER]
        if not found or any(outage.since is None for outage in found):
            return None
        return max(found, key=lambda outage: outage.since or 0.0)

    def answered(self, session: str) -> None:
        """Note that a host answered the machine of *session*: its network works."""
        found = self.sessions.find(session)
        if found is not None and found.outage.worked():
            log.warning("%s reaches hosts again", found.machine)

    def end(self, session: str, tokens: list[int]) -> list[Held]:
        """End those of the leases *tokens* that *session* holds; each must be settled or given back."""
        now = self.now()
        found = [self.frontier.end(session, token, now) for token in tokens]
        return [held for held in found if held is not None]

    def give_back(self, session: str, tokens: list[int]) -> None:
        """Make tasks READY again, uncharged."""
        ended = self.end(session, tokens)
        for held in ended:
            self.frontier.give_back(held, held.task, self.now())
        if ended:
            gone = [held.token for held in ended]
            self._ledger.submit(lambda changes: changes.drop_leases(gone), durable=False)
            self.lock.notify_all()

    def end_session(self, session: str) -> None:
        """Forget a session; what it held is READY again."""
        self.give_back(session, self.frontier.leases.tokens(session))
        self.lists.orphan(session, self.now())
        self.sessions.close(session)
        self.lock.notify_all()
