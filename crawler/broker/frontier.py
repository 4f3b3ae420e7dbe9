"""
Which task is handed out next.

Pure: no I/O, no lock, no clock of its own (every method that needs the time is told it). Whoever owns a frontier calls
it under one lock, and does what follows from it (disk, network) after that lock is let go.

The backlog is on disk. In memory is a *window* of hosts, each with the next few of its tasks; `wants` names what is
to be read, `offer` and `admit` bring it. A host leaves the window when nothing of it is left to read, queued or held.

    disk ──offer──▶ queued ──lease──▶ held ──end──▶ ending ──settle──▶ (forgotten: its row on disk says the rest)
                      ▲                 │
                      └──── give_back ──┘
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from crawler.model import COUNTER_BITS, Progress, Task
from crawler.settings import Politeness

#: Hosts in the window.
MAX_HOSTS = 10_000
#: Tasks in the window; hosts share them.
MAX_TASKS = 60_000
#: Tasks read for one host at a time, at most.
CHUNK = 64
#: Tasks read for one host at a time, at least.
MIN_CHUNK = 4
#: Tasks of a host up to which more are read, at most.
LOW = 16
#: Pauses remembered before those that are over are forgotten.
MAX_PAUSES = 50_000
#: Hosts that can be handed out at once below which further hosts are read.
ENOUGH_HOSTS = 1_000
#: Hosts that one `wants` names.
READS = 256

FOREVER = float("inf")


class Wants(NamedTuple):
    """What the frontier would like to have read from disk."""

    #: (host, id of the last task read, number of tasks) each.
    rows: list[tuple[int, int, int]]
    #: Host after which further hosts are looked for, None where there are enough.
    hosts_after: int | None


class Held:
    """A task that some session holds."""

    __slots__ = ("busy", "expires", "host", "session", "started", "task", "token")

    def __init__(self, token: int, task: Task, host: Host, session: str, expires: float) -> None:
        self.token = token
        self.task = task
        self.host = host
        self.session = session
        self.expires = expires
        #: Whether it takes one of the host's slots: from the lease until its fetch has ended.
        self.busy = True
        #: Whether its fetch has been reported as started.
        self.started = False


class Host:
    """One host of the window."""

    __slots__ = (
        "busy",
        "cursor",
        "ending",
        "exhausted",
        "grown",
        "held",
        "in_turn",
        "key",
        "next_start",
        "reading",
        "tasks",
        "unstarted",
    )

    def __init__(self, key: int) -> None:
        self.key = key
        self.tasks: deque[Task] = deque()
        #: Slots taken.
        self.busy = 0
        #: Of these, fetches not yet reported as started.
        self.unstarted = 0
        #: Leases held, fetched ones included.
        self.held = 0
        #: Tasks whose end is not yet on disk.
        self.ending = 0
        #: Id of the last task read from disk.
        self.cursor = 0
        #: Whether disk has no more.
        self.exhausted = False
        #: Whether a read is under way.
        self.reading = False
        #: Whether rows were added while a read was under way.
        self.grown = False
        #: Whether it stands in the turn, or waits for its next start.
        self.in_turn = False
        #: Time before which no fetch may start.
        self.next_start = 0.0

    @property
    def is_spent(self) -> bool:
        """Tell whether nothing is left to do for this host."""
        return self.exhausted and not (self.tasks or self.held or self.ending or self.reading)


class Frontier:
    """
    The window of hosts and tasks, and the leases.

    Args:
        politeness: Limits for one host.
        epoch: Number of this start of the coordinator, from 1; the high part of every token.
        lease_life: Seconds that a lease lives.
    """

    def __init__(self, politeness: Politeness, epoch: int, lease_life: float) -> None:
        self._politeness = politeness
        self.lease_life = lease_life
        self._tokens = itertools.count((epoch << COUNTER_BITS) + 1)
        self._hosts: dict[int, Host] = {}
        self._turn: deque[Host] = deque()
        self._timers: list[tuple[float, int, Host]] = []
        self._hungry: dict[int, Host] = {}
        #: Ends of the pauses of hosts that have left the window.
        self._pauses: dict[int, float] = {}
        self._held: dict[int, Held] = {}
        self._adopted: set[int] = set()
        self._scan_from: int | None = None
        self._scan_found = True

    # ------------------------------------------------------------ reading ahead

    def wants(self) -> Wants:
        """Name what to read now; each host is named once until its offer comes."""
        rows = []
        chunk = self._chunk()
        for key in list(itertools.islice(self._hungry, READS)):
            host = self._hungry.pop(key)
            host.reading = True
            rows.append((key, host.cursor, chunk))
        few = len(self._turn) < ENOUGH_HOSTS and len(self._hosts) < MAX_HOSTS
        return Wants(rows, self._scan_from if few else None)

    def offer(self, key: int, after: int, tasks: list[Task], exhausted: bool, now: float) -> None:
        """
        Bring tasks of a host, read from disk after id *after*; dropped where the host's place has changed since.

        Args:
            key: The host.
            after: Id given in `wants`.
            tasks: In the order of their ids.
            exhausted: Whether the disk had no more at the time of reading.
            now: The time.
        """
        host = self._hosts.get(key)
        if host is None or host.cursor != after or not host.reading:
            return
        host.reading = False
        if tasks:
            host.cursor = tasks[-1].id
        host.tasks.extend(task for task in tasks if task.id not in self._adopted)
        host.exhausted = exhausted and not host.grown
        host.grown = False
        self._consider(host, now)

    def admit(self, after: int, hosts: list[int], more: bool) -> None:
        """Bring hosts with a backlog, found after host *after*; *more* tells whether the disk has further ones."""
        if self._scan_from != after:
            return
        new = [key for key in hosts if key not in self._hosts]
        for key in new:
            self._enter(key)
        self._scan_found = self._scan_found or bool(new)
        if more:
            self._scan_from = hosts[-1]
        else:  # the pass is over: another one only if this one found something
            self._scan_from = _FIRST if self._scan_found else None
            self._scan_found = False

    def added(self, hosts: Iterable[int]) -> None:
        """Note that rows of *hosts* have been committed."""
        for key in hosts:
            host = self._hosts.get(key)
            if host is not None:
                host.exhausted = False
                host.grown = host.reading
                self._hunger(host)
            elif len(self._hosts) < MAX_HOSTS:
                self._enter(key)
            else:
                self._rescan()

    def resume(self) -> None:
        """Look for hosts on disk from the first one: at a start."""
        self._rescan()

    def offer_due(self, tasks: list[tuple[int, Task]], now: float) -> None:
        """Bring tasks whose delay is over, each with its host."""
        for key, task in tasks:
            host = self._hosts.get(key) or self._enter(key)
            host.tasks.append(task)
            self._consider(host, now)

    def adopt(self, token: int, key: int, task: Task, session: str, expires: float) -> None:
        """Take over a lease that an earlier coordinator gave."""
        host = self._hosts.get(key) or self._enter(key)
        self._adopted.add(task.id)
        self._hold(Held(token, task, host, session, expires))

    def _enter(self, key: int) -> Host:
        host = self._hosts[key] = Host(key)
        host.next_start = self._pauses.pop(key, 0.0)
        self._hunger(host)
        return host

    def _hunger(self, host: Host) -> None:
        if not host.exhausted and not host.reading and len(host.tasks) <= min(LOW, self._chunk() // 4):
            self._hungry[host.key] = host

    def _chunk(self) -> int:
        """Return how many tasks of a host are read at a time: fewer, the more hosts share the window."""
        return max(MIN_CHUNK, min(CHUNK, MAX_TASKS // (len(self._hosts) + 1)))

    def _rescan(self) -> None:
        self._scan_found = True
        if self._scan_from is None:
            self._scan_from = _FIRST

    # ------------------------------------------------------------ leases

    def lease(self, session: str, count: int, now: float) -> list[Held]:
        """Hand up to *count* tasks to *session*: hosts in turn, the oldest task of each, none above its limit."""
        self._wake(now)
        out: list[Held] = []
        while self._turn and len(out) < count:
            host = self._turn.popleft()
            host.in_turn = False
            if self._may_start(host) and host.next_start <= now:
                held = Held(next(self._tokens), host.tasks.popleft(), host, session, now + self.lease_life)
                self._hold(held)
                out.append(held)
            self._consider(host, now)
        return out

    def report(self, session: str, progress: Progress, now: float) -> None:
        """Take note of fetches that started and ended; tokens that *session* does not hold are passed over."""
        for held in self._of(session, progress.started):
            self._start(held, now)
            self._consider(held.host, now)
        for held in self._of(session, progress.fetched):
            self._free(held, now)

    def extend(self, session: str, tokens: list[int], now: float) -> list[int]:
        """Let leases live on; return those that *session* holds."""
        kept = self._of(session, tokens)
        for held in kept:
            held.expires = now + self.lease_life
        return [held.token for held in kept]

    def end(self, session: str, token: int, now: float) -> Held | None:
        """End the lease *token*; its task is *ending* until `settle`. None where *session* does not hold it."""
        held = self._held.get(token)
        if held is None or held.session != session:
            return None
        self._free(held, now)
        self._drop(held)
        held.host.ending += 1
        return held

    def settle(self, held: Held, now: float) -> None:
        """Forget an ending task: its end is on disk."""
        held.host.ending -= 1
        self._consider(held.host, now)

    def give_back(self, held: Held, task: Task, now: float) -> None:
        """Put the *task* of an ending lease at the front of its host's queue."""
        held.host.ending -= 1
        held.host.tasks.appendleft(task)
        self._consider(held.host, now)

    def transfer(self, session: str, token: int, to: str) -> Held | None:
        """Move a lease to session *to*, where it does not expire. None where *session* does not hold it."""
        held = self._held.get(token)
        if held is None or held.session != session:
            return None
        held.session = to
        held.expires = FOREVER
        return held

    def pause(self, host: Host, until: float) -> None:
        """Let no fetch of *host* start before *until*."""
        host.next_start = max(host.next_start, until)

    def expired(self, now: float) -> list[tuple[str, int]]:
        """Return (session, token) of the leases that have run out."""
        return [(held.session, held.token) for held in self._held.values() if held.expires <= now]

    def holds(self, session: str, token: int) -> bool:
        """Tell whether *session* holds the lease *token*."""
        held = self._held.get(token)
        return held is not None and held.session == session

    def tokens(self, session: str) -> list[int]:
        """Return the tokens that *session* holds."""
        return [held.token for held in self._held.values() if held.session == session]

    def queued(self) -> int:
        """Count the tasks in memory that wait."""
        return sum(len(host.tasks) for host in self._hosts.values())

    def leased(self) -> int:
        """Count leases."""
        return len(self._held)

    def by_session(self) -> dict[str, int]:
        """Count leases by session."""
        counts: dict[str, int] = {}
        for held in self._held.values():
            counts[held.session] = counts.get(held.session, 0) + 1
        return counts

    def is_hungry(self) -> bool:
        """Tell whether `wants` would name anything."""
        few = len(self._turn) < ENOUGH_HOSTS and len(self._hosts) < MAX_HOSTS
        return bool(self._hungry) or (few and self._scan_from is not None)

    def next_wake(self) -> float:
        """Return the time at which a host that waits may start again, or infinity."""
        return self._timers[0][0] if self._timers else FOREVER

    def _of(self, session: str, tokens: list[int]) -> list[Held]:
        found = (self._held.get(token) for token in tokens)
        return [held for held in found if held is not None and held.session == session]

    def _hold(self, held: Held) -> None:
        self._held[held.token] = held
        held.host.held += 1
        held.host.busy += 1
        held.host.unstarted += 1

    def _start(self, held: Held, now: float) -> None:
        if not held.started:
            held.started = True
            held.host.unstarted -= 1
            self.pause(held.host, now + self._politeness.delay)

    def _drop(self, held: Held) -> None:
        del self._held[held.token]
        held.host.held -= 1

    def _free(self, held: Held, now: float) -> None:
        if held.busy:
            held.busy = False
            held.host.busy -= 1
            self._start(held, now)  # an end may come before the report of its start; it was not later than now
            self._consider(held.host, now)

    # ------------------------------------------------------------ turns

    def _may_start(self, host: Host) -> bool:
        # With a pause between starts, one whose start has not been reported yet bars the next.
        barred = self._politeness.delay > 0 and host.unstarted > 0
        return bool(host.tasks) and host.busy < self._politeness.per_host and not barred

    def _consider(self, host: Host, now: float) -> None:
        """Put a host that may start into the turn, or to its time; let a spent one go."""
        self._hunger(host)
        if host.in_turn or not (self._may_start(host) or host.is_spent):
            return
        if host.is_spent:
            self._leave(host, now)
            return
        host.in_turn = True
        if host.next_start > now:
            heapq.heappush(self._timers, (host.next_start, host.key, host))
        else:
            self._turn.append(host)

    def _leave(self, host: Host, now: float) -> None:
        """Make room in the window; only the pause of a host is remembered."""
        self._hosts.pop(host.key, None)
        if host.next_start > now:
            self._pauses[host.key] = host.next_start
        if len(self._pauses) > MAX_PAUSES:
            self._pauses = {key: until for key, until in self._pauses.items() if until > now}

    def _wake(self, now: float) -> None:
        while self._timers and self._timers[0][0] <= now:
            self._turn.append(heapq.heappop(self._timers)[2])


#: Before the first host: keys are 64 bit, signed.
_FIRST = -(1 << 63)
