"""The downloaders of a worker: children that share the load, and one in which suspects are fetched alone."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import NamedTuple, Protocol

import msgspec

from crawler.errors import CrawlerError
from crawler.model import Lease
from crawler.processes import Crew
from crawler.worker.messages import Events, Feed, Setup, decode_events, encode, ended

#: Seconds to wait for a child in place of one that died.
REPLACE_PAUSE = 0.2
#: Seconds for a downloader to end by itself.
END_WAIT = 2.0


class Heard(NamedTuple):
    """Whom downloaders tell what happens. Called from their threads, one at a time each."""

    #: What happened to fetches.
    events: Callable[[Events], None]
    #: Tokens that a child had started when it died.
    lost: Callable[[list[int]], None]
    #: Leases that a child had not started when it died.
    returned: Callable[[list[Lease]], None]
    #: Nothing can be fetched any more.
    failed: Callable[[CrawlerError], None]


class Downloaders(Protocol):
    """What a worker feeds."""

    def start(self, heard: Heard) -> None:
        """Begin."""

    def feed(self, leases: list[Lease]) -> None:
        """Fetch these; never blocks."""

    def drop(self, tokens: list[int]) -> None:
        """Give up these, without a word about them."""

    def close(self) -> None:
        """End."""


class DownloaderCrew:
    """
    N downloader processes.

    Args:
        setup: What each is told.
        processes: How many.
    """

    def __init__(self, setup: Setup, processes: int) -> None:
        self._setup = setup
        self._processes = processes
        self._lock = threading.Lock()
        #: What each child holds, by token. Which of them it has started is on its slate.
        self._holds: dict[int, dict[int, Lease]] = {}
        #: Children that were killed for a task that nobody wants any more: the others they held are innocent.
        self._killed: set[int] = set()
        self._suspects: deque[Lease] = deque()
        self._alone: Crew | None = None

    def start(self, heard: Heard) -> None:
        """Begin."""
        self._heard = heard
        self._crew = Crew(
            _MODULE, encode(self._setup), self._processes, self._on_message, self._on_death, self._setup.threads
        )
        self._crew.start()

    def feed(self, leases: list[Lease]) -> None:
        """Fetch these: spread over the children, or alone where a child died over a task before."""
        shares: dict[int, list[Lease]] = {}
        with self._lock:
            children = self._crew.children()
            self._suspects.extend(lease for lease in leases if lease.task.losses)
            others = [lease for lease in leases if not lease.task.losses]
            for lease in others if children else []:
                child = min(children, key=lambda number: len(self._holds.setdefault(number, {})))
                self._holds[child][lease.token] = lease
                shares.setdefault(child, []).append(lease)
        for child, share in shares.items():
            self._crew.send(child, encode(Feed(leases=share)))  # where it is dead, its death returns them
        if others and not children:
            self._feed_later(others)
        self._feed_alone()

    def _feed_later(self, leases: list[Lease]) -> None:
        """Feed *leases* a moment later: a child that died is being replaced."""
        if self._crew.hopeless:
            self._heard.failed(CrawlerError(f"downloaders cannot be started: {self._crew.why}"))
            return
        timer = threading.Timer(REPLACE_PAUSE, self.feed, (leases,))
        timer.daemon = True
        timer.start()

    def drop(self, tokens: list[int]) -> None:
        """Give up *tokens*: the children that fetch them are killed, what else these hold is fetched again."""
        gone = set(tokens)
        with self._lock:
            self._suspects = deque(lease for lease in self._suspects if lease.token not in gone)
            children = [child for child, held in self._holds.items() if gone & held.keys()]
            for child in children:
                for token in gone & self._holds[child].keys():
                    del self._holds[child][token]
            self._killed.update(children)
        for child in children:
            crew, number = (self._alone, child - _ALONE) if child >= _ALONE else (self._crew, child)
            if crew is not None:
                crew.kill(number)

    def close(self) -> None:
        """End all children."""
        for crew in filter(None, (self._crew, self._alone)):
            crew.close(END_WAIT)

    # ------------------------------------------------------------ what children say

    def _on_message(self, child: int, message: bytes) -> None:
        if not message:
            return
        events = decode_events(message)
        with self._lock:
            held = self._holds.get(child, {})
            for token in ended(events):
                held.pop(token, None)
        self._heard.events(events)
        if child >= _ALONE:
            self._feed_alone()

    def _on_death(self, child: int, noted: set[int]) -> None:
        with self._lock:
            held = self._holds.pop(child, {})
            is_innocent = child in self._killed
            self._killed.discard(child)
            lost = [] if is_innocent else [token for token in held if token in noted]
            returned = [lease for token, lease in held.items() if token not in lost]
        if lost:
            self._heard.lost(lost)
        if returned:
            self._heard.returned(returned)
        for crew in filter(None, (self._crew, self._alone)):
            if crew.hopeless:
                self._heard.failed(CrawlerError(f"downloaders cannot be started: {crew.why}"))
        if child >= _ALONE:
            self._feed_alone()

    # ------------------------------------------------------------ suspects

    def _feed_alone(self) -> None:
        """Give the child for suspects its next one, if it has none."""
        with self._lock:
            if not self._suspects:
                return
            if self._alone is None:
                setup = encode(msgspec.structs.replace(self._setup, threads=1))
                self._alone = Crew(
                    _MODULE,
                    setup,
                    1,
                    lambda child, message: self._on_message(child + _ALONE, message),
                    lambda child, noted: self._on_death(child + _ALONE, noted),
                )
                self._alone.start()
            children = self._alone.children()
            if not children:  # it died and is being replaced
                self._feed_later([])
                return
            if self._holds.get(children[0] + _ALONE):
                return
            lease = self._suspects.popleft()
            self._holds[children[0] + _ALONE] = {lease.token: lease}
        self._alone.send(children[0], encode(Feed(leases=[lease])))


_MODULE = "crawler.worker.downloader"
#: Added to the number of the child in which suspects are fetched.
_ALONE = 1 << 32
