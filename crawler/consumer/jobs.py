"""
Which verifier has which download: the consumer's bookkeeping. Pure; every method holds the lock for a moment only.

A verifier has some jobs, so that it never waits for the next and gets several at a time; it works on them in order, so
the first is the one that a death or an overrun is about. The others are innocent and go back, uncharged.

    take ─▶ waiting ─▶ at a verifier ─ verdict ─▶ judged ─▶ done
               ▲            │ death, not first in line
               └────────────┤
    again  ◀── death, once ─┤
      └──▶ at a fresh one   └ death twice, or too slow ─▶ judged
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable

from crawler.model import Download
from crawler.reasons import Reason

#: Jobs that a verifier has at a time, at most.
DEPTH = 8
#: Jobs with which it gets no more yet: each message to it costs as much as some of its work.
ENOUGH = 5


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
        #: Whether it judges no more, and is to be replaced.
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

    def is_movable(self) -> bool:
        """Tell whether `assign` would return something."""
        with self._lock:
            is_any_fresh = any(desk.is_fresh for desk in self._desks.values())
            return bool((self._waiting and self._idle()) or (self._again and is_any_fresh))

    def add_verifier(self, verifier: int) -> None:
        """Let a verifier that is ready have jobs; once more changes nothing."""
        with self._lock:
            self._desks.setdefault(verifier, _Desk())

    def assign(self) -> tuple[int, list[Job]] | None:
        """
        Give the next jobs to a verifier.

        Returns:
            (verifier, jobs), to be sent in this order; None while there is no job or no room.
        """
        with self._lock:
            # A fresh verifier belongs to the job for which its forerunner died.
            fresh = next((number for number, desk in self._desks.items() if desk.is_fresh), None)
            if self._again and fresh is not None:
                return fresh, [self._put(fresh, self._again.popleft())]
            idle = self._idle()
            if not self._waiting or not idle:
                return None
            shortest = min(idle, key=idle.__getitem__)
            # So many that all idle ones have the same in the end, but no more than there is room for.
            share = min(DEPTH, math.ceil((len(self._waiting) + sum(idle.values())) / len(idle))) - idle[shortest]
            share = min(share, len(self._waiting))
            return shortest, [self._put(shortest, self._waiting.popleft()) for _ in range(share)]

    def _idle(self) -> dict[int, int]:
        """Return the verifiers that have too little, and how many jobs each has."""
        lengths = ((number, len(desk.jobs)) for number, desk in self._desks.items() if not desk.is_worn)
        return {number: length for number, length in lengths if length < ENOUGH}

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
        """Take back a job that was assigned and not sent; None where the verifier's death was faster."""
        with self._lock:
            desk = self._desks.get(verifier)
            job = next((job for job in desk.jobs if job.number == number), None) if desk else None
            if desk and job:
                desk.jobs.remove(job)
            return job

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
            if desk.is_worn:
                self._waiting.extendleft(reversed(desk.jobs))
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
        """Give a verifier no more jobs: it is worn, and judges none of those it has. Its death charges nobody."""
        with self._lock:
            if verifier in self._desks:
                self._desks[verifier].is_worn = True

    def overdue(self, limit: float) -> list[int]:
        """Return the verifiers that have worked on one job for more than *limit* seconds; they are to be killed."""
        latest = self._clock() - limit
        with self._lock:
            late = [(number, desk) for number, desk in self._desks.items() if desk.jobs and desk.began < latest]
            for _, desk in late:
                desk.overrun = desk.jobs[0].number
            return [number for number, _ in late]
