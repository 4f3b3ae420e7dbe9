"""
Which task is handed out next.

Pure: no I/O, no lock, no clock of its own (every method that needs the time is told it). Whoever owns a frontier calls
it under one lock, and does what follows from it (disk, network) after that lock is let go.

    disk ──offer──▶ queued ──lease──▶ held ──end──▶ ending ──settle──▶ (forgotten: its row on disk says the rest)
                      ▲  │              │              ▲
                      │  └─── refuse ───┼──────────────┤
                      └─────────── give_back ──────────┘

The backlog is on disk; what is in memory of it is the business of `window.py`, what a host may be asked that of
`hosts.py`. Before the first image of an origin its robots.txt is handed out, and its tasks wait for what it says.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from crawler.broker.health import Says
from crawler.broker.hosts import Etiquette, Facts, Held, Host
from crawler.broker.leases import Leases
from crawler.broker.origins import Refusal
from crawler.broker.standing import Standing
from crawler.broker.window import Parked, Read, Wants, Window
from crawler.model import COUNTER_BITS, Progress, Task
from crawler.stats import HostState

__all__ = ["FOREVER", "Facts", "Frontier", "Held", "Host", "Read", "Refused", "Wants"]

#: Tasks refused in one call of `lease` at most, so that it stays short.
MAX_REFUSED = 1_000

FOREVER = float("inf")


class Refused(NamedTuple):
    """A task that fails without being fetched. It is *ending* until `settle_refused`."""

    task: Task
    host: Host
    refusal: Refusal


class Frontier:
    """
    The window of hosts and tasks, and the leases.

    Args:
        etiquette: What may be asked of which host.
        epoch: Number of this start of the coordinator, from 1; the high part of every token.
        lease_life: Seconds that a lease lives.
        began: When an earlier coordinator may still have handed out tasks: pauses between starts are kept from then on.
    """

    def __init__(self, etiquette: Etiquette, epoch: int, lease_life: float, began: float = 0.0) -> None:
        self._etiquette = etiquette
        self.lease_life = lease_life
        self._began = began
        self._tokens = itertools.count((epoch << COUNTER_BITS) + 1)
        self._window = Window(etiquette)
        self._turn: deque[Host] = deque()
        self._timers: list[tuple[float, int, Host]] = []
        #: Those that are handed out.
        self.leases = Leases()
        self._refused: list[Refused] = []
        self._parked: list[Parked] = []
        #: How hosts fare.
        self.standing = Standing()

    # ------------------------------------------------------------ reading ahead

    def wants(self) -> Wants:
        """Name what to read now; each host is named once until its offer comes."""
        return self._window.wants(len(self._turn))

    def is_hungry(self) -> bool:
        """Tell whether `wants` would name anything."""
        return self._window.is_hungry(len(self._turn))

    def has_room(self) -> bool:
        """Tell whether hosts that are not here are of use."""
        return self._window.has_room(len(self._turn))

    def offer(self, read: Read, tasks: list[Task], facts: Facts | None, now: float) -> None:
        """Bring what `wants` named: see Window."""
        host = self._window.offer(read, tasks, facts, now)
        if host is not None:
            if self._began and read.facts:
                host.next_start = max(host.next_start, self._began + host.gap)
            self._consider(host, now)

    def admit(self, after: int, hosts: list[int], more: bool, now: float) -> None:
        """Bring hosts with a backlog: see Window."""
        self._window.admit(after, hosts, more, now)

    def added(self, hosts: Iterable[int], now: float) -> None:
        """Note that rows of *hosts* have been committed."""
        self._window.added(hosts, now)

    def resume(self, pauses: Iterable[tuple[int, float]], now: float) -> None:
        """Look for hosts on disk from the first one, but for those that must not be asked yet: at a start."""
        for key, until in pauses:
            if self._window.get(key) is None:
                self._window.remember(key, until, now)
        self._window.rescan()

    def offer_due(self, tasks: list[tuple[int, Task]], now: float) -> None:
        """Bring tasks whose delay is over, each with its host."""
        for key, task in tasks:
            host = self._window.enter(key)
            self._window.introduce(host, task)
            host.tasks.append(task)
            self._consider(host, now)

    def blocked_until(self, key: int) -> float:
        """Return when a host may be asked again, 0 where that may be now."""
        return self._window.blocked_until(key)

    def take_parked(self) -> list[Parked]:
        """Return, once, the hosts that made room; `parked` is to be called when their tasks are on disk."""
        found, self._parked = self._parked, []
        return found

    def parked(self, key: int) -> None:
        """Note that the tasks of a host that made room are on disk."""
        self._window.parked(key)

    def adopt(self, held: tuple[int, int, Task, str, float], origin: str | None = None) -> None:
        """Take over a lease that an earlier coordinator gave: (token, host, task, session, end)."""
        token, key, task, session, expires = held
        host = self._window.enter(key)
        self._window.introduce(host, task)
        found = Held(token, task, host, session, expires)
        if origin is not None:
            found.origin = host.origin(origin)
            found.origin.asked = True
        else:
            self._window.adopted.add(task.id)
        self._hold(found)

    # ------------------------------------------------------------ leases

    def lease(self, session: str, count: int, now: float) -> list[Held]:
        """Hand up to *count* tasks to *session*: hosts in turn, the oldest task of each, none above its limit."""
        self._wake(now)
        out: list[Held] = []
        while self._turn and len(out) < count and len(self._refused) < MAX_REFUSED:
            host = self._turn.popleft()
            host.in_turn = False
            if self._window.get(host.key) is not host:  # it made room meanwhile
                continue
            if host.may_start and host.next_start <= now:
                held = self._next(host, session, now)
                if held is not None:
                    out.append(held)
            self._consider(host, now)
        return out

    def take_refused(self) -> list[Refused]:
        """Return, once, the tasks that fail without being fetched; `settle_refused` is to be called for each."""
        found, self._refused = self._refused, []
        return found

    def report(self, session: str, progress: Progress, now: float) -> None:
        """Take note of fetches that started and ended; tokens that *session* does not hold are passed over."""
        for held in self.leases.of(session, progress.started):
            self._start(held, now)
            self._consider(held.host, now)
        for held in self.leases.of(session, progress.fetched):
            self._free(held, now)
            self.standing.note(held, Says.ANSWERED, "", now)

    def extend(self, session: str, tokens: list[int], now: float) -> list[int]:
        """Let leases live on; return those that *session* holds."""
        kept = self.leases.of(session, tokens)
        for held in kept:
            held.expires = now + self.lease_life
        return [held.token for held in kept]

    def end(self, session: str, token: int, now: float) -> Held | None:
        """End the lease *token*; its task is *ending* until `settle`. None where *session* does not hold it."""
        held = self.leases.get(session, token)
        if held is None:
            return None
        self._free(held, now)
        self.leases.remove(held)
        held.host.held -= 1
        held.host.ending += 1
        return held

    def settle(self, held: Held, now: float) -> None:
        """Forget an ending task: its end is on disk."""
        self._settle(held.host, now)

    def settle_refused(self, refused: Refused, now: float) -> None:
        """Forget a refused task: its end is on disk."""
        self._settle(refused.host, now)

    def give_back(self, held: Held, task: Task, now: float) -> None:
        """Put the *task* of an ending lease at the front of its host's queue; a robots.txt will be asked for again."""
        if held.origin is not None:
            held.origin.asked = False
            held.host.resume()
        else:
            held.host.tasks.appendleft(task)
        self._settle(held.host, now)

    def transfer(self, session: str, token: int, to: str, now: float) -> Held | None:
        """Move a fetched lease to session *to*, where it does not expire. None where *session* does not hold it."""
        held = self.leases.get(session, token)
        if held is None or held.origin is not None:
            return None
        held.session = to
        held.expires = FOREVER
        if held.busy:  # the report of the fetch is on its way
            self._free(held, now)
            self.standing.note(held, Says.ANSWERED, "", now)
        return held

    def queued(self) -> int:
        """Count the tasks in memory that wait."""
        return self._window.queued()

    def next_wake(self) -> float:
        """Return the time at which a host that waits may start again, or infinity."""
        return min(self._timers[0][0] if self._timers else FOREVER, self._window.next_return())

    # ------------------------------------------------------------ how hosts fare

    def forgive(self, keys: Iterable[int], now: float) -> None:
        """Give hosts a new chance."""
        forgiven = self._window.forgive(keys)
        waits = {host.key for host in forgiven}
        self._timers = [timer for timer in self._timers if timer[1] not in waits]
        heapq.heapify(self._timers)
        for host in forgiven:
            host.in_turn = host in self._turn
            self._consider(host, now)

    def has_others(self, keys: set[int]) -> bool:
        """Tell whether tasks of hosts other than *keys* wait in the window."""
        return any(host.queued and host.key not in keys for host in self._window)

    def unwell(self, now: float) -> list[Host]:
        """Return the hosts of the window that are not healthy, or wait for longer than their pause between starts."""
        return [
            host
            for host in self._window
            if host.state is not HostState.HEALTHY or host.next_start > now + max(1.0, host.gap)
        ]

    # ------------------------------------------------------------ inside

    def _next(self, host: Host, session: str, now: float) -> Held | None:
        """Hand out the next thing that may be fetched of *host*: a task, or the robots.txt that it waits for."""
        refusal = host.refusal(now)
        while host.tasks and len(self._refused) < MAX_REFUSED:
            task, no, origin = host.tasks.popleft(), refusal, None
            if no is None and self._etiquette.robots:
                origin = host.origin_of(task)
                if origin.asked:
                    host.waiting.append(task)
                    continue
                if origin.is_known(now):
                    no, origin = origin.judge(task.target or task.url), None
                else:
                    host.tasks.appendleft(task)
                    task = Task(id=0, url=origin.url, losses=origin.losses)
            if no is None:
                return self._hand_out(host, task, origin, (session, now))
            host.ending += 1
            self._refused.append(Refused(task, host, no))
        return None

    def _hand_out(self, host: Host, task: Task, origin: object, to: tuple[str, float]) -> Held:
        session, now = to
        held = Held(next(self._tokens), task, host, session, now + self.lease_life)
        held.began = now
        if origin is not None:
            held.origin = host.origin_of(task)
            held.origin.asked = True
        host.make_probe(held)
        self._hold(held)
        return held

    def _hold(self, held: Held) -> None:
        self.leases.add(held)
        held.host.held += 1
        held.host.busy += 1
        held.host.unstarted += 1

    def _start(self, held: Held, now: float) -> None:
        if not held.started:
            held.started = True
            held.host.unstarted -= 1
            held.host.next_start = max(held.host.next_start, now + held.host.gap)

    def _free(self, held: Held, now: float) -> None:
        if held.busy:
            held.busy = False
            held.host.busy -= 1
            self._start(held, now)  # an end may come before the report of its start; it was not later than now
            self._consider(held.host, now)

    def _settle(self, host: Host, now: float) -> None:
        host.ending -= 1
        self._consider(host, now)

    # ------------------------------------------------------------ turns

    def _consider(self, host: Host, now: float) -> None:
        """Put a host that may start into the turn, or to its time; let a spent one go, and one that waits for long."""
        self._window.hunger(host)
        self._sift(host, now)
        if host.is_spent and not host.in_turn:
            self._window.leave(host, now)
        elif host.tasks and (parked := self._window.park(host, now)) is not None:
            self._parked.append(parked)
        elif host.may_start and not host.in_turn:
            host.in_turn = True
            if host.next_start > now:
                heapq.heappush(self._timers, (host.next_start, host.key, host))
            else:
                self._turn.append(host)

    def _sift(self, host: Host, now: float) -> None:
        """Refuse what is not to be fetched without waiting for its turn: no host is asked for it."""
        no = host.refusal(now)
        if no is None and (host.next_start <= now or not any(origin.refusal for origin in host.origins.values())):
            return
        kept: list[Task] = []
        while host.tasks and len(self._refused) < MAX_REFUSED:
            task = host.tasks.popleft()
            origin = host.origin_of(task) if no is None else None
            refusal = origin.refusal if origin is not None and origin.is_known(now) else no
            if refusal is None:
                kept.append(task)
            else:
                host.ending += 1
                self._refused.append(Refused(task, host, refusal))
        host.tasks.extendleft(reversed(kept))

    def _wake(self, now: float) -> None:
        self._window.wake(now)
        while self._timers and self._timers[0][0] <= now:
            self._turn.append(heapq.heappop(self._timers)[2])
