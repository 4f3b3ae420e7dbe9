"""Ends of leases on their way to the queue, gathered into batches."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from crawler.broker import TaskQueue
from crawler.errors import CrawlerError
from crawler.model import Completion, Failure, Finding

log = logging.getLogger(__name__)

#: How a lease ends.
End = Completion | Failure | Finding
#: Ends sent in one call at most.
BATCH = 256
#: Seconds for which completions are gathered: each call costs a commit, and the time of several threads.
GATHER = 0.025


def unforeseen(error: Exception) -> CrawlerError:
    """Return a defect as what ends a worker."""
    log.debug("unforeseen", exc_info=error)
    return CrawlerError(f"unforeseen in a worker: {type(error).__name__}: {error}")


class Outbox:
    """
    Send completions, failures and what robots.txt say from one thread.

    Args:
        queue: Where they go.
        session: Whose leases they end.
        on_sent: Called with the tokens that were answered, accepted or not: nothing is left to do for them.
        on_error: Called once with what made sending impossible.
    """

    def __init__(
        self,
        queue: TaskQueue,
        session: str,
        on_sent: Callable[[list[int]], None],
        on_error: Callable[[CrawlerError], None],
    ) -> None:
        self._queue = queue
        self._session = session
        self._on_sent = on_sent
        self._on_error = on_error
        self._waiting: list[End] = []
        #: Whether something waits that the queue must know before it hands out more.
        self._hurry = False
        #: What is being sent.
        self._sending: list[End] = []
        self._closing = False
        self._state = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def put(self, end: End) -> None:
        """Take the end of a lease; never blocks."""
        with self._state:
            self._waiting.append(end)
            self._hurry |= not isinstance(end, Completion)
            # Not woken by each that is gathered.
            if self._hurry or len(self._waiting) in (1, BATCH):
                self._state.notify_all()

    def flush(self, wait: float) -> bool:
        """Wait until all was sent; False where *wait* seconds did not suffice."""
        with self._state:
            return self._state.wait_for(lambda: not self._waiting and not self._sending, wait)

    def tell(self, wait: float) -> None:
        """Wait until all was sent that says something about a host, *wait* seconds at most."""

        def is_told() -> bool:
            return all(isinstance(end, Completion) for end in (*self._waiting, *self._sending))

        with self._state:
            self._state.wait_for(lambda: is_told() or self._closing, wait)

    def close(self) -> None:
        """End; what was not sent is dropped."""
        with self._state:
            self._closing = True
            self._state.notify_all()
        self._thread.join(10)

    def _run(self) -> None:
        while batch := self._take():
            try:
                self._send(batch)
            except Exception as error:  # without this thread the worker would wait for ever
                self._on_error(error if isinstance(error, CrawlerError) else unforeseen(error))
                return
            with self._state:
                self._sending = []
                self._state.notify_all()

    def _take(self) -> list[End]:
        with self._state:
            while not self._waiting and not self._closing:
                self._state.wait(60)
            self._state.wait_for(lambda: self._hurry or self._closing or len(self._waiting) >= BATCH, GATHER)
            if self._closing:
                return []
            # Hosts first: the queue must know what they said before it hands out more of them.
            self._waiting.sort(key=lambda end: isinstance(end, Completion))
            batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
            self._hurry = bool(self._waiting)
            self._sending = batch
            return batch

    def _send(self, batch: list[End]) -> None:
        completions = [end for end in batch if isinstance(end, Completion)]
        failures = [end for end in batch if isinstance(end, Failure)]
        findings = [end for end in batch if isinstance(end, Finding)]
        began = time.monotonic()
        accepted: list[int] = []
        if failures:
            accepted += self._queue.retry(self._session, failures)
        if findings:
            accepted += self._queue.learn(self._session, findings)
        if completions:
            accepted += self._queue.complete(self._session, completions)
        if len(accepted) < len(batch):
            log.info("%d ends came too late: their leases were over", len(batch) - len(accepted))
        log.debug("%d ends sent in %.0f ms", len(batch), 1000 * (time.monotonic() - began))
        self._on_sent([end.token for end in batch])
