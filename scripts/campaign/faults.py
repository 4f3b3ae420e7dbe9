"""The faults of a campaign, each done to a fleet and undone again."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import struct
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from scripts.campaign import disk
from scripts.campaign.fleet import Fleet, Member
from scripts.campaign.plans import Plan, Schedule
from scripts.campaign.proxy import Mode, Proxy

#: Seconds that a full disk or a store that is away lasts; a black hole or a trickle twice that.
SHORT = (1.0, 4.0)
#: Seconds beyond the life of a lease for which a worker is stopped.
BEYOND = 2.0
#: Seconds by which the wall clock jumps, forward or back.
JUMP = 7200.0
#: Seconds between two looks at whether the run has ended.
LOOK = 0.05
#: Seconds within which something is in hand.
BEGINNING = 20.0
#: Workers that are stopped at a time, so that others go on.
MOST_STOPPED = 2


class Fault(NamedTuple):
    """One that was done."""

    text: str
    #: Tasks that its victims held.
    in_hand: int = 0


class Undoing(NamedTuple):
    """What ends a fault that lasts."""

    #: time.monotonic().
    at: float
    undo: Callable[[], None]


class Injector:
    """
    Do the faults of a plan to a fleet, chosen by a seed.

    Args:
        fleet: To whom.
        plan: Which, and how often.
        seed: The same seed gives the same faults to the same victims after the same pauses.
        disk: File system of its own that may be filled, None where there is none.
    """

    def __init__(self, fleet: Fleet, plan: Plan, seed: int, disk: Path | None) -> None:
        self._fleet = fleet
        self._plan = plan
        self._chance = random.Random(seed)
        self._disk = disk
        #: Kinds that can be done here.
        self.kinds = {kind: weight for kind, weight in plan.faults.items() if disk is not None or kind != "fill disk"}
        self._schedule = Schedule(self.kinds, self._chance)
        self._lasting: list[Undoing] = []
        self._stopped: set[str] = set()
        self.done: Counter[str] = Counter()
        #: What was done and when, in seconds from the start.
        self.log: list[str] = []
        #: Tasks that the victims held, added up: what may have been fetched twice.
        self.in_hand = 0
        self._began = time.monotonic()

    def run(self) -> None:
        """Do faults until the run has ended, or the plan has no more of them; undo what lasts."""
        begin_by = time.monotonic() + BEGINNING
        while not self._fleet.in_hand() and time.monotonic() < begin_by:
            self._rest(LOOK)
        try:
            while self._goes_on():
                self._rest(self._chance.uniform(0.3, 1.7) * self._plan.pause)
                if self._goes_on():
                    self._do(self._schedule.take())
        finally:
            for lasting in self._lasting:
                lasting.undo()

    def missing(self) -> list[str]:
        """Return what the plan promised and the run did not live to see, a line each."""
        wrong = [f"no {kind} came: the run was too short" for kind in self.kinds if not self.done[kind]]
        if self.done.total() < self._plan.count:
            wrong.append(f"{self.done.total()} faults came, not {self._plan.count}: the run was too short")
        return wrong

    def _goes_on(self) -> bool:
        is_enough = 0 < self._plan.count <= self.done.total()
        is_late = time.monotonic() > self._began + self._plan.seconds
        return not (is_enough or is_late or self._fleet.is_finished())

    def _do(self, kind: str) -> None:
        at = time.monotonic() - self._began
        fault: Fault | None = getattr(self, f"_{kind.replace(' ', '_')}")()
        if fault is None:
            self._schedule.put_back(kind)
            return
        self.done[kind] += 1
        self.in_hand += fault.in_hand
        self.log.append(f"{at:8.2f} s  {fault.text}; {fault.in_hand} tasks in hand")

    def _rest(self, seconds: float) -> None:
        """Wait, undo what has lasted long enough."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self._fleet.is_finished():
            time.sleep(LOOK)
            over = [lasting for lasting in self._lasting if lasting.at <= time.monotonic()]
            for lasting in over:
                self._lasting.remove(lasting)
                lasting.undo()

    def _later(self, seconds: float, undo: Callable[[], None]) -> None:
        self._lasting.append(Undoing(time.monotonic() + seconds, undo))

    def _length(self) -> float:
        return self._chance.uniform(*SHORT)

    def _victim(self, may_be_watched: bool = True) -> Member:
        first = 1 if self._plan.is_watched and not may_be_watched else 0
        return self._chance.choice(self._fleet.workers[first:])

    # ------------------------------------------------------------ processes

    def _kill_child(self, role: str, in_hand: Callable[[Member], int]) -> Fault | None:
        worker = self._victim()
        children, place = worker.children(role), self._chance.random()
        held = in_hand(worker)
        with contextlib.suppress(ProcessLookupError):
            if children:
                os.kill(children[int(place * len(children))], signal.SIGKILL)
                return Fault(f"kill -9 of a {role} of {worker.name}", held)
        return None

    def _kill_downloader(self) -> Fault | None:
        return self._kill_child("downloader", self._fleet.in_hand)

    def _kill_verifier(self) -> Fault | None:
        return self._kill_child("verifier", lambda worker: 0)  # what it had is not fetched again

    def _send(self, member: Member, number: signal.Signals, in_hand: int) -> Fault | None:
        is_sent = member.send(number)
        name = "kill -9" if number is signal.SIGKILL else number.name
        return Fault(f"{name} of {member.name}", in_hand) if is_sent else None

    def _kill_worker(self) -> Fault | None:
        worker = self._victim(may_be_watched=False)
        return self._send(worker, signal.SIGKILL, self._fleet.in_hand(worker))

    def _kill_coordinator(self) -> Fault | None:
        return self._send(self._fleet.coordinator, signal.SIGKILL, self._fleet.in_hand())

    def _terminate_worker(self) -> Fault | None:
        worker = self._victim(may_be_watched=False)
        return self._send(worker, signal.SIGTERM, self._fleet.in_hand(worker))

    def _terminate_coordinator(self) -> Fault | None:
        return self._send(self._fleet.coordinator, signal.SIGTERM, self._fleet.in_hand())

    def _stop_worker(self) -> Fault | None:
        worker, length = self._victim(), self._fleet.shape.lease_life + BEYOND
        if worker.name in self._stopped or len(self._stopped) >= MOST_STOPPED:
            return None
        in_hand = self._fleet.in_hand(worker)
        group = worker.stop()
        if group is None:
            return None
        self._stopped.add(worker.name)

        def wake() -> None:
            self._stopped.discard(worker.name)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGCONT)

        self._later(length, wake)
        return Fault(f"{worker.name} stopped for {length:.1f} s, longer than a lease", in_hand)

    # ------------------------------------------------------------ network

    def _pick(self) -> tuple[Member, Proxy]:
        number = self._chance.randrange(len(self._fleet.proxies))
        return self._fleet.workers[number], self._fleet.proxies[number]

    def _reset(self) -> Fault | None:
        worker, proxy = self._pick()
        in_hand, count = self._fleet.in_hand(worker), proxy.reset(0.7)
        return Fault(f"{count} connections of {worker.name} reset", in_hand) if count else None

    def _half_close(self) -> Fault | None:
        worker, proxy = self._pick()
        in_hand, count = self._fleet.in_hand(worker), proxy.half_close(0.7)
        return Fault(f"{count} connections of {worker.name} closed on one side", in_hand) if count else None

    def _bad_network(self, mode: Mode) -> Fault:
        (worker, proxy), length = self._pick(), self._length() + self._length()
        in_hand = self._fleet.in_hand(worker)
        proxy.set(mode)
        self._later(length, lambda: proxy.set(Mode.PASS))
        return Fault(f"{mode.value} before {worker.name} for {length:.1f} s", in_hand)

    def _black_hole(self) -> Fault:
        return self._bad_network(Mode.BLACK_HOLE)

    def _trickle(self) -> Fault:
        return self._bad_network(Mode.TRICKLE)

    # ------------------------------------------------------------ clock and disk

    def _jump(self) -> Fault | None:
        seconds = self._chance.choice([-JUMP, JUMP])
        with self._fleet.clock.open("r+b") as file:  # in place: the file is mapped
            file.write(struct.pack("d", seconds))
        # It is read when a coordinator starts: afterwards only its monotonic clock counts.
        killed = self._kill_coordinator()
        return killed and Fault(f"wall clock of the coordinator off by {seconds:+.0f} s", killed.in_hand)

    def _store_away(self) -> Fault | None:
        length, store = self._length(), self._fleet.out / "images"
        away = store.with_name("images.away")
        with self._fleet.hold:  # nobody is started, and nobody is starting, who would make an empty one
            if not self._fleet.is_served():
                return None
            in_hand = self._fleet.in_hand()
            store.rename(away)
            try:
                self._rest(length)
            finally:
                away.rename(store)
        return Fault(f"the store was away for {length:.1f} s", in_hand)

    def _fill_disk(self) -> Fault:
        assert self._disk is not None
        length, filler, in_hand = self._length(), self._disk / "filler", self._fleet.in_hand()
        disk.fill(filler)
        self._later(length, lambda: filler.unlink(missing_ok=True))
        return Fault(f"no room on the disk for {length:.1f} s", in_hand)
