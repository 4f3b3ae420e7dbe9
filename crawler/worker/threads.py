"""A pool of threads that fetch: inside a downloader's process, or inside the user's own."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path

from crawler.errors import FetchError
from crawler.model import Completion, Download, Failure, Finding, Lease
from crawler.reasons import Reason
from crawler.settings import Settings
from crawler.worker.fetch import Fetcher
from crawler.worker.messages import Events

log = logging.getLogger(__name__)

#: Events gathered into one message at most.
GATHER = 256
#: Seconds from one message to the next at least: each wakes some threads of the worker.
PAUSE = 0.01


class FetchThreads:
    """
    Fetch leases on threads.

    Args:
        settings: What the run was told.
        spool: Folder for bodies.
        threads: Number of threads.
        report: Called with what happened, from one thread, in order.
        note: Called by each thread with its number and the token of what it begins with, or 0 for nothing.
    """

    def __init__(
        self,
        settings: Settings,
        spool: Path,
        threads: int,
        report: Callable[[Events], None],
        note: Callable[[int, int], None] = lambda thread, token: None,
    ) -> None:
        self._fetcher = Fetcher(settings, spool, threads)
        self._report = report
        self._note = note
        self._todo: queue.SimpleQueue[Lease | None] = queue.SimpleQueue()
        self._happened: queue.SimpleQueue[int | Download | Completion | Failure | Finding | None] = queue.SimpleQueue()
        self._fetching = [threading.Thread(target=self._fetch_all, args=(n,), daemon=True) for n in range(threads)]
        self._reporting = threading.Thread(target=self._report_all, name="report", daemon=True)

    def start(self) -> None:
        """Begin."""
        for thread in [*self._fetching, self._reporting]:
            thread.start()

    def feed(self, leases: list[Lease]) -> None:
        """Take leases; never blocks."""
        for lease in leases:
            self._todo.put(lease)

    def close(self, wait: float) -> None:
        """Cut what is in progress, and end within *wait* seconds or leave the threads to the process's end."""
        for _ in self._fetching:
            self._todo.put(None)
        self._fetcher.cancel()
        for thread in self._fetching:
            thread.join(wait)
        self._happened.put(None)
        self._reporting.join(wait)
        self._fetcher.close()

    def _fetch_all(self, number: int) -> None:
        while (lease := self._todo.get()) is not None:
            self._note(number, lease.token)
            self._happened.put(lease.token)
            self._happened.put(self._fetch(lease))
            self._note(number, 0)

    def _fetch(self, lease: Lease) -> Download | Completion | Failure | Finding:
        try:
            return self._fetcher.fetch_rules(lease) if lease.robots else self._fetcher.fetch(lease)
        except FetchError as error:
            return failure(lease, error)
        except Exception as error:  # nothing that a server does may end a thread
            log.exception("unforeseen while fetching task %d", lease.task.id)
            return failure(lease, FetchError(Reason.INTERNAL, f"{type(error).__name__}: {error}"))

    def _report_all(self) -> None:
        ended, next_at = False, 0.0
        while not ended:
            gathered = [self._happened.get()]
            time.sleep(max(0.0, next_at - time.monotonic()))
            next_at = time.monotonic() + PAUSE
            while len(gathered) < GATHER and not self._happened.empty():
                gathered.append(self._happened.get())
            ended = None in gathered
            self._report(
                Events(
                    started=[item for item in gathered if isinstance(item, int)],
                    downloads=[item for item in gathered if isinstance(item, Download)],
                    failures=[item for item in gathered if isinstance(item, Failure)],
                    unchanged=[item for item in gathered if isinstance(item, Completion)],
                    findings=[item for item in gathered if isinstance(item, Finding)],
                )
            )


def failure(lease: Lease, error: FetchError) -> Failure:
    """Return *error* as what the queue is told about *lease*."""
    return Failure(
        token=lease.token,
        task_id=lease.task.id,
        reason=error.reason,
        detail=error.detail[:500],
        http_status=error.http_status,
        retry_after=error.retry_after,
        moved_to=error.moved_to,
        hops=error.hops,
    )
