"""
One worker: it leases tasks, feeds its downloaders, keeps the leases alive, and hands downloads to a sink.

It alone talks to the queue. One thread leases, one extends and reports, one completes (`outbox.py`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from crawler.broker import TaskQueue
from crawler.errors import CrawlerError
from crawler.model import Completion, Failure, Finding, Grant, Lease, QueueStatus
from crawler.worker.crew import Downloaders, Heard
from crawler.worker.messages import Events, ended
from crawler.worker.outbox import Outbox, unforeseen
from crawler.worker.reports import Reports
from crawler.worker.sink import Ends, Sink

log = logging.getLogger(__name__)

#: Seconds that one request for leases waits at the queue.
LEASE_WAIT = 1.0
#: Largest request for leases.
MAX_BATCH = 64
#: Seconds to wait for more free threads before asking for few leases.
GATHER = 0.005
#: Seconds to wait for what hosts said to be sent, before more is leased.
TELL_WAIT = 0.5
#: Seconds before the end of the grace at which what is left is given back.
MARGIN = 2.0
#: Seconds for each of the last things that a worker tells, where no grace is left.
LAST_WORD = 0.2


class Plan(NamedTuple):
    """The size and the terms of a worker."""

    #: Fetches at a time.
    threads: int
    #: Seconds that a lease lives.
    lease_life: float
    #: Seconds to end what is in hand when it is stopped.
    grace: float = 25.0
    #: Tasks that the store may hold until they can be recorded.
    holding: int = 0


class Worker:
    """
    Work for one session until the queue is finished or draining, or `stop` is called.

    Args:
        queue: Where tasks come from.
        session: The session that holds the leases.
        downloaders: What fetches.
        plan: Size and terms.
        make_sink: Makes the sink, which tells this worker how tasks ended.
    """

    def __init__(
        self,
        queue: TaskQueue,
        session: str,
        downloaders: Downloaders,
        plan: Plan,
        make_sink: Callable[[Ends], Sink],
    ) -> None:
        self._queue = queue
        self._session = session
        self._downloaders = downloaders
        self._plan = plan
        self._state = threading.Condition()
        #: When each lease runs out by our own clock, by token.
        self._held: dict[int, float] = {}
        #: Tokens that take a thread.
        self._fetching: set[int] = set()
        self._stop_at: float | None = None
        self._failed: CrawlerError | None = None
        #: Called once when the grace is over: ends the calls to a queue that does not answer.
        self.on_overdue: Callable[[], None] | None = None
        self._is_overdue = False
        self._ended = threading.Event()
        self._closed = threading.Event()
        self._reports = Reports()
        self._outbox = Outbox(queue, session, self.forget, self.fail)
        self._sink = make_sink(self)
        self._extender = threading.Thread(target=self._extend_all, name="extend", daemon=True)
        self._watcher = threading.Thread(target=self._watch_clock, name="clock", daemon=True)

    # ------------------------------------------------------------ from outside

    def run(self) -> QueueStatus:
        """
        Work to the end.

        Returns:
            What the queue said last: FINISHED, or DRAINING where it or this worker was stopped before.

        Raises:
            CrawlerError: The queue cannot be reached, or nothing can be fetched.
        """
        self._outbox.start()
        self._sink.start()
        self._downloaders.start(Heard(self._on_events, self._on_lost, self._on_returned, self.fail))
        self._extender.start()
        self._watcher.start()
        try:
            status = self._lease_all()
            self._drain()
        finally:
            self._close()
        if self._failed and not self._is_overdue:
            raise self._failed
        return status

    def stop(self) -> None:
        """Lease no more; end or give back what is in hand within the grace. May be called again."""
        with self._state:
            self._stop_at = self._stop_at or time.monotonic() + self._plan.grace
            self._state.notify_all()

    def holds(self) -> list[int]:
        """Return the tokens of the leases held."""
        with self._state:
            return list(self._held)

    # ------------------------------------------------------------ Ends: what the sink tells

    def ended(self, end: Completion | Failure) -> None:
        """Take the end of a task, for the queue."""
        self._outbox.put(end)

    def forget(self, tokens: list[int]) -> None:
        """Forget leases that are somebody else's now, or over."""
        with self._state:
            for token in tokens:
                self._held.pop(token, None)
                self._fetching.discard(token)
            self._state.notify_all()

    def fail(self, error: CrawlerError) -> None:
        """End the worker: it cannot go on."""
        with self._state:
            self._failed = self._failed or error
            self._state.notify_all()

    # ------------------------------------------------------------ leasing

    def _lease_all(self) -> QueueStatus:
        number = 0
        while (room := self._room()) and not self._failed:
            number += 1
            asked = time.monotonic()
            grant = self._lease(number, room)
            if grant is None:
                break
            self._take(grant.leases, asked)
            if grant.status is not QueueStatus.OPEN:
                if grant.grace is not None:
                    self._stop_by(asked + grant.grace)
                return grant.status
        return QueueStatus.DRAINING

    def _room(self) -> int:
        """Wait until threads are free; return how many leases to ask for, 0 when it is time to end."""
        free = self._wait_for_room()
        if 0 < free < self._plan.threads // 8:
            # A moment later more will be free: fewer requests. Not woken in between by each that becomes so.
            self._ended.wait(GATHER)
            free = self._wait_for_room()
        return min(free, MAX_BATCH)

    def _wait_for_room(self) -> int:
        with self._state:
            while self._stop_at is None and self._failed is None:
                if (free := self._free()) > 0:
                    return free
                self._state.wait(1)
            return 0

    def _free(self) -> int:
        # Where verifying falls behind, what is held but not fetched bounds what is leased.
        plan = self._plan
        in_hand = len(self._held) - plan.holding
        return min(plan.threads - len(self._fetching), 2 * plan.threads + MAX_BATCH - in_hand)

    def _lease(self, number: int, room: int) -> Grant | None:
        self._outbox.tell(TELL_WAIT)
        try:
            with self._reports.asking() as progress:
                return self._queue.lease(self._session, number, room, LEASE_WAIT, progress)
        except CrawlerError as error:
            self.fail(error)
            return None

    def _take(self, leases: list[Lease], asked: float) -> None:
        with self._state:
            for lease in leases:
                self._held[lease.token] = asked + self._plan.lease_life
                self._fetching.add(lease.token)
        if leases:
            self._downloaders.feed(leases)

    # ------------------------------------------------------------ what downloaders tell

    def _on_events(self, events: Events) -> None:
        with self._state:
            fetched = [token for token in ended(events) if token in self._held]
            # The slots of the others are freed by their ends: a host that asks to be left alone must be known to have
            # said so before its slot is handed out again.
            brought = [item.token for item in events.downloads] + [item.token for item in events.unchanged]
            # Before threads are known to be free: the next request for leases brings it along.
            self._reports.add(events.started, [token for token in brought if token in self._held])
            self._fetching.difference_update(fetched)
            self._state.notify_all()
        ours = set(fetched)
        for download in events.downloads:
            if download.token in ours:
                self._sink.take(download)
            else:  # its lease is over
                Path(download.path).unlink(missing_ok=True)
        ends: list[Completion | Failure | Finding] = [*events.unchanged, *events.failures, *events.findings]
        for end in ends:
            if end.token in ours:
                self._outbox.put(end)

    def _on_lost(self, tokens: list[int]) -> None:
        log.warning("a downloader died while it fetched %d tasks; they are tried again alone", len(tokens))
        # Not on the crew's own thread: while the coordinator is away the call waits, and others must be heard.
        threading.Thread(target=self._release, args=(tokens, True), name="lost", daemon=True).start()

    def _on_returned(self, leases: list[Lease]) -> None:
        with self._state:
            ours = [lease for lease in leases if lease.token in self._held]
        self._downloaders.feed(ours)

    def _release(self, tokens: list[int], lost: bool) -> None:
        self.forget(tokens)
        try:
            self._queue.release(self._session, tokens, lost)
        except CrawlerError as error:
            self.fail(error)

    # ------------------------------------------------------------ keeping alive and reporting

    def _extend_all(self) -> None:
        due = time.monotonic() + self._plan.lease_life / 3
        while not self._ended.is_set():
            self._reports.wait(max(0.0, min(due - time.monotonic(), self._plan.lease_life / 3)))
            tokens: list[int] = []
            if time.monotonic() >= due:
                due = time.monotonic() + self._plan.lease_life / 3
                tokens = self.holds()
            try:
                self._extend(tokens)
            except Exception as error:  # without this thread every lease would run out
                self.fail(error if isinstance(error, CrawlerError) else unforeseen(error))
                return

    def _extend(self, tokens: list[int]) -> None:
        progress = self._reports.take()
        if not (tokens or progress.started or progress.fetched):
            return
        asked = time.monotonic()
        kept = set(self._queue.extend(self._session, tokens, progress))
        with self._state:
            for token in kept & self._held.keys():
                self._held[token] = asked + self._plan.lease_life
        self.forget([token for token in tokens if token not in kept])

    def _watch_clock(self) -> None:
        """Look after leases also while the coordinator is away and every call to it waits."""
        while not self._closed.wait(self._left(1.0, 0.0)):
            if not self._ended.is_set():
                self._give_up_expired()
            self._cancel_overdue()

    def _give_up_expired(self) -> None:
        """Leases that ran out by our own clock may be somebody else's by now."""
        with self._state:
            now = time.monotonic()
            over = [token for token, expires in self._held.items() if expires <= now]
        if over:
            log.warning("%d leases ran out; what is being fetched is given up", len(over))
            self.forget(over)
            self._downloaders.drop(over)

    # ------------------------------------------------------------ the end

    def _left(self, most: float, least: float) -> float:
        """Return the seconds that are left of the grace, within limits; *most* where there is no hurry."""
        with self._state:
            if self._stop_at is None or self._is_overdue:
                return most
            return max(least, min(most, self._stop_at - time.monotonic()))

    def _cancel_overdue(self) -> None:
        """Wait no longer for a coordinator that is away: what it was not told of runs out by itself."""
        with self._state:
            if self._is_overdue or self._stop_at is None or time.monotonic() < self._stop_at:
                return
            self._is_overdue = True
        if self.on_overdue is not None:
            self.on_overdue()

    def _stop_by(self, moment: float) -> None:
        with self._state:
            self._stop_at = min(self._stop_at or moment, moment)

    def _drain(self) -> None:
        """Wait for what is in hand; give back what does not end in time."""
        with self._state:
            while self._held and self._failed is None:
                left = None if self._stop_at is None else self._stop_at - MARGIN - time.monotonic()
                if left is not None and left <= 0:
                    break
                self._state.wait(1 if left is None else min(1, left))
            rest = [] if self._failed else list(self._held)
        if rest:
            log.info("giving back %d tasks", len(rest))
            self._release(rest, lost=False)

    def _close(self) -> None:
        self._ended.set()
        self._reports.close()
        self._downloaders.close()
        self._sink.close(self._left(MARGIN, LAST_WORD))
        if self._failed is None:
            self._outbox.flush(self._left(MARGIN, LAST_WORD))
        self._outbox.close()
        self._extender.join(1)
        if self._failed is None:
            # The coordinator may be gone already: it was told of every end, so nobody waits for it here.
            leaving = threading.Thread(target=self._leave, name="leave", daemon=True)
            leaving.start()
            leaving.join(self._left(MARGIN, LAST_WORD))
        self._closed.set()

    def _leave(self) -> None:
        try:
            self._queue.leave(self._session)
        except CrawlerError as error:
            log.debug("leaving: %s", error)
