"""
Which verifier has which download: the consumer's bookkeeping. Pure; every method holds the lock for a moment only.

A verifier has up to two jobs, so that it never waits for the next; it works on them in order, so the first is the one
that a death or an overrun is about. The second is innocent and goes back, uncharged.

    take ─▶ waiting ─▶ at a verifier ─ verdict ─▶ judged ─▶ done
               ▲            │ death, second in line
               └────────────┤
    again  ◀── death, once ─┤
      └──▶ at a fresh one   └ death twice, or too slow ─▶ judged
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from crawler.model import Download
from crawler.reasons import Reason

#: Jobs that a verifier has at a time: one that it works on, one so that it never waits.
DEPTH = 2


class Job:
    """One download on its way through the verifiers."""

    def __init__(self, number: int, download: Download) -> None:
        #: Counts the downloads taken, from 1.
        self.number = number
        self.download = download
        #: Verifiers that died while working on it.
        self.deaths = 0


class _Desk:
    """What one verifier has."""

    def __init__(self) -> None:
        self.jobs: deque[Job] = deque()
        #: Whether no job has come here yet.
        self.is_fresh = True
        #: When it began with its first job, monotonic.
        self.began = 0.0
        #: Number of the job that took too long, 0 while none did.
        self.overrun = 0
        #: Whether it gets no more jobs, and is to be replaced when it has judged those it has.
        self.is_worn = False


class Jobs:
    """
    All jobs between `take` and their verdict.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._taken = 0
        self._waiting: deque[Job] = deque()
        #: Jobs whose verifier died; they wait for a fresh one.
        self._again: deque[Job] = deque()
        self._desks: dict[int, _Desk] = {}

    def take(self, download: Download) -> None:
        """Add a download."""
        with self._lock:
            self._taken += 1
            self._waiting.append(Job(self._taken, download))

    def add_verifier(self, verifier: int) -> None:
        """Let a verifier that is ready have jobs; once more changes nothing."""
        with self._lock:
            self._desks.setdefault(verifier, _Desk())

    def assign(self) -> tuple[int, Job] | None:
        """
        Give the next job to a verifier.

        Returns:
            (verifier, job), to be sent in this order; None while there is no job or no room.
        """
        with self._lock:
            # A fresh verifier belongs to the job for which its forerunner died.
            fresh = next((number for number, desk in self._desks.items() if desk.is_fresh), None)
            if self._again and fresh is not None:
                return fresh, self._put(fresh, self._again.popleft())
            lengths = {number: len(desk.jobs) for number, desk in self._desks.items() if not desk.is_worn}
            idle = min(lengths, key=lengths.__getitem__, default=None)
            if not self._waiting or idle is None or lengths[idle] >= DEPTH:
                return None
            return idle, self._put(idle, self._waiting.popleft())

    def _put(self, verifier: int, job: Job) -> Job:
        desk = self._desks[verifier]
        desk.is_fresh = False
        desk.jobs.append(job)
        if len(desk.jobs) == 1:
            desk.began = self._clock()
        return job

    def judged(self, verifier: int, number: int) -> Job | None:
        """
        Take the job that a verifier has judged away from it.

        Returns:
            None where it is not the one that this verifier works on: then the verifier is not to be trusted.
        """
        with self._lock:
            desk = self._desks.get(verifier)
            if desk is None or not desk.jobs or desk.jobs[0].number != number:
                return None
            desk.began = self._clock()
            return desk.jobs.popleft()

    def withdraw(self, verifier: int, number: int) -> Job | None:
        """Take back the job that was assigned last and was not sent; None where the verifier's death was faster."""
        with self._lock:
            desk = self._desks.get(verifier)
            if desk is None or not desk.jobs or desk.jobs[-1].number != number:
                return None
            return desk.jobs.pop()

    def died(self, verifier: int) -> tuple[Job, Reason] | None:
        """
        Take all jobs away from a verifier that is dead.

        Returns:
            The job that is not tried again, with the reason; None where there is none.
        """
        with self._lock:
            desk = self._desks.pop(verifier, None)
            if desk is None or not desk.jobs:
                return None
            if not desk.overrun:
                return self._charge(desk)
            # It was killed for a job. That may have been judged in between, and then the others are all innocent.
            late = desk.jobs.popleft() if desk.jobs[0].number == desk.overrun else None
            self._waiting.extendleft(reversed(desk.jobs))
            return (late, Reason.VERIFIER_TIMEOUT) if late else None

    def _charge(self, desk: _Desk) -> tuple[Job, Reason] | None:
        """Charge a death to the job that was being worked on."""
        suspect = desk.jobs.popleft()
        self._waiting.extendleft(reversed(desk.jobs))
        suspect.deaths += 1
        if suspect.deaths > 1:
            return suspect, Reason.VERIFIER_DIED
        self._again.append(suspect)
        return None

    def retire(self, verifier: int) -> None:
        """Give a verifier no more jobs; when it has judged those it has, `retired` names it."""
        with self._lock:
            if verifier in self._desks:
                self._desks[verifier].is_worn = True

    def retired(self) -> list[int]:
        """Return, once, the verifiers that got no more jobs and have none left; they are to be replaced."""
        with self._lock:
            idle = [number for number, desk in self._desks.items() if desk.is_worn and not desk.jobs]
            for number in idle:
                del self._desks[number]
            return idle

    def overdue(self, limit: float) -> list[int]:
        """Return the verifiers that have worked on one job for more than *limit* seconds; they are to be killed."""
        latest = self._clock() - limit
        with self._lock:
            late = [(number, desk) for number, desk in self._desks.items() if desk.jobs and desk.began < latest]
            for _, desk in late:
                desk.overrun = desk.jobs[0].number
            return [number for number, _ in late]
