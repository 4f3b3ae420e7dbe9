"""The thread that reads the backlog ahead, takes back delayed tasks, and ends what has run out."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

from crawler.broker.frontier import FOREVER
from crawler.broker.ledger import Ledger
from crawler.broker.registry import save_hosts
from crawler.broker.state import State
from crawler.broker.window import MAX_TASKS
from crawler.errors import StorageFailed

log = logging.getLogger(__name__)

#: Seconds between two looks at what has run out.
TICK = 0.2
#: Seconds without a put after which new tasks go to the backlog in any case.
QUIET = 1.0
#: Delayed tasks taken back at a time.
DUE = 500
#: Seconds of waiting for a host for which a task that is due stays in memory.
SOON = 1.0
#: Hosts looked for at a time.
HOSTS = 64


class Keeper:
    """
    Look after a queue's state.

    Args:
        state: What to look after.
        ledger: Where its backlog is.
        fail: Called with what made going on impossible.
    """

    def __init__(self, state: State, ledger: Ledger, fail: Callable[[StorageFailed], None]) -> None:
        self._fail = fail
        self._also: list[Callable[[], None]] = []
        self._state = state
        self._ledger = ledger
        self._work = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)

    def also(self, look: Callable[[], None]) -> None:
        """Call *look* some times a second; to be said before the start."""
        self._also.append(look)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def wake(self) -> None:
        """Look soon: the frontier is hungry, or a task may be due."""
        self._work.set()

    def stop(self) -> None:
        """End, and wait for the end."""
        self._stopping.set()
        self._work.set()
        self._thread.join()

    def _run(self) -> None:
        looked = 0.0
        try:
            while not self._stopping.is_set():
                self._work.wait(TICK)
                self._work.clear()
                self._sort_in()
                self._refill()
                self._take_due()
                self._make_room()
                if time.monotonic() - looked >= TICK:
                    looked = time.monotonic()
                    self._end_overdue()
                    for look in self._also:
                        look()
        except StorageFailed:
            log.debug("the keeper ends with its ledger")  # whoever runs the queue is told by the ledger itself
        except Exception as error:  # without a keeper the queue would stand still, in silence
            log.debug("the keeper failed", exc_info=True)
            self._fail(StorageFailed(f"the ledger cannot be read: {type(error).__name__}: {error}"))

    def _sort_in(self) -> None:
        """Let some new tasks into the backlog where they are of use: cheaper for all the later the next ones come."""
        state = self._state
        with state.lock:
            is_quiet = state.now() - state.put_at > QUIET
            if not self._ledger.unsorted or not (is_quiet or state.frontier.has_room()):
                return
        hosts = self._ledger.submit(lambda changes: changes.sort_in(), durable=False).result()
        with state.lock:
            state.frontier.added(hosts, state.now())
        if self._ledger.unsorted:
            self._work.set()

    def _refill(self) -> None:
        """Read what the frontier wants, outside the lock, until it wants nothing."""
        state, view = self._state, self._ledger.view
        while not self._stopping.is_set():
            with state.lock:
                if not state.frontier.is_hungry():
                    return
                wants = state.frontier.wants()
            number = max((read.number for read in wants.rows), default=0)  # the same for all
            backlog = view.backlog({read.key: read.after for read in wants.rows}, number)
            facts = view.facts([read.key for read in wants.rows if read.facts], state.product, state.now())
            hosts = [] if wants.hosts_after is None else view.hosts(wants.hosts_after, HOSTS)
            with state.lock:
                now = state.now()
                for read in wants.rows:
                    state.frontier.offer(read, backlog[read.key], facts.get(read.key), now)
                if wants.hosts_after is not None:
                    state.frontier.admit(wants.hosts_after, hosts, len(hosts) == HOSTS, now)
                state.lock.notify_all()

    def _take_due(self) -> None:
        state = self._state
        with state.lock:
            now = state.now()
            if state.next_due > now or state.frontier.queued() > MAX_TASKS:
                return
            state.next_due = FOREVER  # a task delayed from here on puts an earlier time
        # Not durable: should a power cut take this back, they are due again.
        tasks = self._ledger.submit(lambda changes: changes.take_due(now, DUE), durable=False).result()
        following = self._ledger.view.next_due()
        with state.lock:
            ready = []
            for key, task in tasks:
                until = state.frontier.blocked_until(key)
                if until > now + SOON:
                    self._postpone([task.id], until)
                else:
                    ready.append((key, task))
            state.frontier.offer_due(ready, now)
            state.tally.delayed -= len(ready)
            if following is not None:
                state.next_due = min(state.next_due, following)
            if state.frontier.is_hungry():
                self._work.set()
            state.lock.notify_all()

    def _postpone(self, ids: list[int], until: float) -> Future[None]:
        """Let tasks wait on disk for as long as their host must not be asked; called with the lock held."""
        self._state.next_due = min(self._state.next_due, until)
        return self._ledger.submit(lambda changes: changes.postpone(ids, until), durable=False)

    def _make_room(self) -> None:
        """Write back the tasks of hosts that wait for long, and keep what became of hosts."""
        state = self._state
        with state.lock:
            parked = [(host, self._postpone(host.ids, host.until)) for host in state.frontier.take_parked()]
            state.tally.delayed += sum(len(host.ids) for host, _ in parked)
            changed = state.frontier.standing.take_changed()
            if changed:
                self._ledger.submit(lambda changes: save_hosts(changes.db, changed), durable=False)
        for host, written in parked:
            written.result()
            with state.lock:
                state.frontier.parked(host.key)

    def _end_overdue(self) -> None:
        state = self._state
        with state.lock:
            now = state.now()
            for session in state.sessions.dead(now):
                state.end_session(session)
            for session, token in state.frontier.leases.expired(now):
                state.give_back(session, [token])
            closed = state.lists.close_silent(now - state.frontier.lease_life)
        for name in closed:
            log.warning("%s was not read to its end: its producer is gone", name)
