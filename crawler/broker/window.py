"""
The part of the backlog that is in memory: some hosts, each with the next few of its tasks.

`wants` names what is to be read from disk, `offer` and `admit` bring it. A host leaves when nothing of it is left to
read, queued or held; one that must not be asked for a while makes room where room is scarce, and comes back in time.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from crawler.broker.hosts import Etiquette, Facts, Host
from crawler.model import Task

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
#: Hosts outside the window whose next start is remembered.
MAX_PAUSES = 200_000
#: Seconds of waiting for which a host makes room.
LONG = 5.0
#: Hosts that can be handed out at once below which further hosts are read.
ENOUGH_HOSTS = 1_000
#: Hosts that one `wants` names.
READS = 256

#: Before the first host: keys are 64 bit, signed.
_FIRST = -(1 << 63)


class Read(NamedTuple):
    """Something of one host to be read from disk."""

    key: int
    #: Id of the last task read.
    after: int
    #: Number of tasks.
    number: int
    #: Whether what the ledger knows of the host is wanted too.
    facts: bool


class Wants(NamedTuple):
    """What the frontier would like to have read from disk."""

    rows: list[Read]
    #: Host after which further hosts are looked for, None where there are enough.
    hosts_after: int | None


class Parked(NamedTuple):
    """A host that made room: its tasks wait on disk."""

    key: int
    #: Ids of the tasks that were in memory.
    ids: list[int]
    until: float


class Window:
    """
    Hosts in memory, and what is to be read.

    Args:
        etiquette: What may be asked of which host.
    """

    def __init__(self, etiquette: Etiquette) -> None:
        self._etiquette = etiquette
        self._hosts: dict[int, Host] = {}
        self._hungry: dict[int, Host] = {}
        #: Next start of hosts outside the window, with the order in which they come back.
        self._pauses: dict[int, float] = {}
        self._returns: list[tuple[float, int]] = []
        #: Hosts whose parked tasks are not yet on disk.
        self._parking: set[int] = set()
        #: Tasks that are held since an earlier coordinator, and that the disk shows as ready.
        self.adopted: set[int] = set()
        self._scan_from: int | None = None
        self._scan_found = True

    def __len__(self) -> int:
        return len(self._hosts)

    def __iter__(self) -> Iterator[Host]:
        return iter(self._hosts.values())

    # ------------------------------------------------------------ reading ahead

    def wants(self, ready: int) -> Wants:
        """Name what to read now, each host once until its offer comes; *ready* hosts can be handed out at once."""
        rows = []
        chunk = self._chunk()
        for key in list(itertools.islice(self._hungry, READS)):
            host = self._hungry.pop(key)
            host.reading = True
            rows.append(Read(key, host.cursor, chunk, not host.is_known))
        return Wants(rows, self._scan_from if self.has_room(ready) else None)

    def is_hungry(self, ready: int) -> bool:
        """Tell whether `wants` would name anything."""
        return bool(self._hungry) or (self.has_room(ready) and self._scan_from is not None)

    def offer(self, read: Read, tasks: list[Task], facts: Facts | None, now: float) -> Host | None:
        """
        Bring what was read; dropped where the host's place has changed since.

        Args:
            read: As `wants` named it.
            tasks: In the order of their ids; fewer than asked for means that the disk had no more.
            facts: What the ledger knows of the host, where that was wanted.
            now: The time.

        Returns:
            The host, None where the offer was dropped.
        """
        host = self._hosts.get(read.key)
        if host is None or host.cursor != read.after or not host.reading:
            return None
        host.reading = False
        if tasks:
            host.cursor = tasks[-1].id
            host.introduce(tasks[0], self._etiquette)
        if not host.is_known:
            host.learn(facts, self._etiquette, now)
        host.tasks.extend(task for task in tasks if task.id not in self.adopted)
        host.exhausted = len(tasks) < read.number and not host.grown
        host.grown = False
        return host

    def admit(self, after: int, hosts: list[int], more: bool, now: float) -> None:
        """Bring hosts with a backlog, found after host *after*; *more* tells whether the disk has further ones."""
        if self._scan_from != after:
            return
        new = [key for key in hosts if key not in self._hosts and self._may_enter(key, now)]
        for key in new:
            self.enter(key)
        self._scan_found = self._scan_found or bool(new)
        if more:
            self._scan_from = hosts[-1]
        else:  # the pass is over: another one only if this one found something
            self._scan_from = _FIRST if self._scan_found else None
            self._scan_found = False

    def added(self, hosts: Iterable[int], now: float) -> None:
        """Note that rows of *hosts* have been committed."""
        for key in hosts:
            host = self._hosts.get(key)
            if host is not None:
                host.exhausted = False
                host.grown = host.reading
                self.hunger(host)
            elif not self._may_enter(key, now):
                continue  # it comes back by itself
            elif len(self._hosts) < MAX_HOSTS:
                self.enter(key)
            else:
                self.rescan()

    def rescan(self) -> None:
        """Look for hosts on disk from the first one."""
        self._scan_found = True
        if self._scan_from is None:
            self._scan_from = _FIRST

    def hunger(self, host: Host) -> None:
        """Read more of *host* if it has little."""
        if host.reading:
            return
        if not host.is_known or (not host.exhausted and host.queued <= min(LOW, self._chunk() // 4)):
            self._hungry[host.key] = host

    def queued(self) -> int:
        """Count the tasks in memory that wait."""
        return sum(host.queued for host in self._hosts.values())

    def has_room(self, ready: int) -> bool:
        """Tell whether further hosts are of use, where *ready* can be handed out at once."""
        return ready < ENOUGH_HOSTS and len(self._hosts) < MAX_HOSTS

    def _chunk(self) -> int:
        """Return how many tasks of a host are read at a time: fewer, the more hosts share the window."""
        return max(MIN_CHUNK, min(CHUNK, MAX_TASKS // (len(self._hosts) + 1)))

    # ------------------------------------------------------------ coming and going

    def get(self, key: int) -> Host | None:
        """Return a host, None where it is not here."""
        return self._hosts.get(key)

    def enter(self, key: int) -> Host:
        """Return a host, made where it is not here."""
        host = self._hosts.get(key)
        if host is None:
            host = self._hosts[key] = Host(key, self._etiquette)
            host.next_start = self._pauses.pop(key, 0.0)
            self.hunger(host)
        return host

    def introduce(self, host: Host, task: Task) -> None:
        """Tell *host* who it is by one of its tasks."""
        host.introduce(task, self._etiquette)

    def leave(self, host: Host, now: float) -> None:
        """Make room; only the next start of the host is remembered."""
        self._hosts.pop(host.key, None)
        self._hungry.pop(host.key, None)
        self.remember(host.key, host.next_start, now)

    def remember(self, key: int, until: float, now: float) -> None:
        """Keep a host outside of the window from being asked before *until*."""
        if until > now and len(self._pauses) < MAX_PAUSES:
            self._pauses[key] = until
            heapq.heappush(self._returns, (until, key))
        elif until > now:  # looked for on disk, where its next start is kept too
            self.rescan()

    def park(self, host: Host, now: float) -> Parked | None:
        """Let *host* make room if that is scarce, nothing is under way there, and it has long to wait."""
        is_long = host.next_start - now >= LONG
        if not is_long or not host.is_idle or not host.is_known or len(self._hosts) < MAX_HOSTS // 2:
            return None
        parked = Parked(host.key, [task.id for task in (*host.tasks, *host.waiting)], host.next_start)
        host.tasks.clear()
        host.waiting.clear()
        self._parking.add(host.key)
        self.leave(host, now)
        return parked

    def parked(self, key: int) -> None:
        """Note that the tasks of a host that made room are on disk."""
        self._parking.discard(key)
        if key not in self._pauses and key not in self._hosts:
            self.rescan()

    def blocked_until(self, key: int) -> float:
        """Return when a host may be asked again, 0 where that may be now."""
        host = self._hosts.get(key)
        return host.next_start if host is not None else self._pauses.get(key, 0.0)

    def forgive(self, keys: Iterable[int]) -> list[Host]:
        """Give hosts a new chance; return those that are here."""
        for key in keys:
            if self._pauses.pop(key, None) is not None:
                self.rescan()
        found = [host for key in keys if (host := self._hosts.get(key)) is not None]
        for host in found:
            host.forgive()
        return found

    def wake(self, now: float) -> None:
        """Let hosts come back whose wait is over."""
        while self._returns and self._returns[0][0] <= now:
            until, key = heapq.heappop(self._returns)
            if self._pauses.get(key) != until:
                continue  # it came back before, or waits for longer by now
            del self._pauses[key]
            if len(self._hosts) < MAX_HOSTS and key not in self._parking:
                self.enter(key)
            else:
                self.rescan()

    def next_return(self) -> float:
        """Return the time at which a host comes back, or infinity."""
        return self._returns[0][0] if self._returns else float("inf")

    def _may_enter(self, key: int, now: float) -> bool:
        return self._pauses.get(key, 0.0) <= now and key not in self._parking
