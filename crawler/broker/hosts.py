"""One host of the window, the tasks that are held there, and what is different for it."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import urlsplit

from crawler.broker.hashes import hashes
from crawler.broker.health import Health, SavedHealth
from crawler.broker.origins import Origin, Refusal, SavedOrigin, origin_of
from crawler.model import Task
from crawler.reasons import Reason
from crawler.settings import HostRule, Politeness
from crawler.stats import HostState

_SKIPPED = Refusal(Reason.HOST_SKIPPED, "skip in the file of --hosts")


@functools.lru_cache(maxsize=1 << 15)
def host_key(name: str) -> int:
    """Return the 64-bit key, signed, under which a host's tasks are kept; a dot at the end makes no other host."""
    return hashes([name.rstrip(".")])[0]


def host_keys(names: Iterable[str]) -> dict[str, int]:
    """Return the key of each of many hosts, by name."""
    some = dict.fromkeys(names)
    return dict(zip(some, hashes([name.rstrip(".") for name in some]), strict=True))


class SavedHost(NamedTuple):
    """What a ledger keeps of a host."""

    key: int
    name: str
    state: HostState
    #: When it may be asked again; its tasks fail until then where it is unavailable.
    until: float
    health: SavedHealth


class Facts(NamedTuple):
    """What a ledger knows of a host that enters the window."""

    saved: SavedHost | None
    origins: list[SavedOrigin]


class Held:
    """A task, or a robots.txt, that some session holds."""

    __slots__ = ("began", "busy", "expires", "host", "is_probe", "origin", "session", "started", "task", "token")

    def __init__(self, token: int, task: Task, host: Host, session: str, expires: float) -> None:
        self.token = token
        self.task = task
        self.host = host
        self.session = session
        self.expires = expires
        #: Whose robots.txt it is, None for an image.
        self.origin: Origin | None = None
        #: Whether it takes one of the host's slots: from the lease until its fetch has ended.
        self.busy = True
        #: Whether its fetch has been reported as started.
        self.started = False
        #: When it was handed out.
        self.began = 0.0
        #: Whether it tries a host that is left alone otherwise.
        self.is_probe = False


class Terms(NamedTuple):
    """What may be asked of one host."""

    per_host: int
    delay: float
    skip: bool


class Etiquette:
    """
    What may be asked of which host.

    Args:
        politeness: What holds for all, and what is different for some.
        product: Whose rules count in a robots.txt.
    """

    def __init__(self, politeness: Politeness, product: str = "crawler") -> None:
        self._politeness = politeness
        self._base = Terms(politeness.per_host, politeness.delay, False)
        self.robots = politeness.robots
        self.patience = politeness.patience
        self.product = product

    def terms(self, name: str) -> Terms:
        """Return what holds for the host *name*."""
        rules = [rule for rule in self._politeness.hosts if rule.fits(name)]
        if not rules:
            return self._base
        return Terms(
            next((rule.per_host for rule in rules if rule.per_host is not None), self._base.per_host),
            next((rule.delay for rule in rules if rule.delay is not None), self._base.delay),
            _skips(rules),
        )


def _skips(rules: Iterable[HostRule]) -> bool:
    return any(rule.skip for rule in rules)


class Host:
    """One host of the window."""

    __slots__ = (
        "_health",
        "_patience",
        "_product",
        "_terms",
        "asked_until",
        "busy",
        "cursor",
        "delay",
        "ending",
        "exhausted",
        "grown",
        "has_answered",
        "held",
        "in_turn",
        "is_known",
        "key",
        "name",
        "next_start",
        "origins",
        "reading",
        "tasks",
        "unstarted",
        "waiting",
    )

    def __init__(self, key: int, etiquette: Etiquette) -> None:
        self.key = key
        self.name = ""
        self._terms = etiquette.terms("")
        self._patience = etiquette.patience
        self._product = etiquette.product
        #: None while there is nothing to remember.
        self._health: Health | None = None
        self.origins: dict[str, Origin] = {}
        self.tasks: deque[Task] = deque()
        #: Tasks that wait for a robots.txt.
        self.waiting: deque[Task] = deque()
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
        #: Whether what the ledger knows of it has come.
        self.is_known = False
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
        #: The same, where the host itself asked for it.
        self.asked_until = 0.0
        #: Seconds from one start to the next.
        self.delay = self._terms.delay
        #: Whether it has answered in this run.
        self.has_answered = False

    @property
    def is_spent(self) -> bool:
        """Tell whether nothing is left to do for this host."""
        return self.exhausted and self.is_idle and not (self.tasks or self.waiting)

    @property
    def is_idle(self) -> bool:
        """Tell whether nothing is under way here."""
        return not (self.held or self.ending or self.reading)

    @property
    def queued(self) -> int:
        """Return the number of tasks in memory that wait."""
        return len(self.tasks) + len(self.waiting)

    @property
    def state(self) -> HostState:
        """Return how it fares."""
        return self._health.state if self._health is not None else HostState.HEALTHY

    @property
    def detail(self) -> str:
        """Return what was seen last where it failed."""
        return self._health.detail if self._health is not None else ""

    @property
    def may_start(self) -> bool:
        """Tell whether a fetch may start here as soon as `next_start` has come."""
        health = self._health
        limit = self._terms.per_host if health is None else _limit(health, self._terms.per_host)
        # With a pause between starts, one whose start has not been reported yet bars the next.
        barred = self.unstarted > 0 and self.gap > 0
        return bool(self.tasks) and self.is_known and self.busy < limit and not barred

    @property
    def gap(self) -> float:
        """Return the seconds from one start to the next."""
        return self.delay if self._health is None else max(self.delay, self._health.gap)

    # ------------------------------------------------------------ who it is

    def learn(self, facts: Facts | None, etiquette: Etiquette, now: float) -> None:
        """Take what the ledger knows of it."""
        self.is_known = True
        if facts is None:
            return
        if facts.saved is not None and facts.saved.state is not HostState.HEALTHY:
            self._make_health().restore(facts.saved.state, facts.saved.until, facts.saved.health)
        if facts.saved is not None and facts.saved.state is not HostState.UNAVAILABLE:
            self.next_start = max(self.next_start, facts.saved.until)
        if not etiquette.robots:
            return
        for saved in facts.origins:
            origin = self.origin(saved.origin)
            if saved.refusal is not None:
                origin.refuse(saved.refusal, saved.expires)
            elif saved.expires > now and saved.rules is not None:
                origin.learn(saved.rules, saved.expires)
        self.settle_delay()

    def introduce(self, task: Task, etiquette: Etiquette) -> None:
        """Take the name, and what is different for it, from one of its tasks."""
        if not self.name:
            self.name = (urlsplit(task.target or task.url).hostname or "").rstrip(".")
            self._terms = etiquette.terms(self.name)
            self.settle_delay()

    def origin(self, name: str) -> Origin:
        """Return one of its origins."""
        found = self.origins.get(name)
        if found is None:
            found = self.origins[name] = Origin(name, self._product)
        return found

    def origin_of(self, task: Task) -> Origin:
        """Return the origin that *task* is fetched from."""
        return self.origin(origin_of(task.target or task.url))

    def settle_delay(self) -> None:
        """Find the pause between starts: what we were told, or what the host asks for if that is longer."""
        self.delay = max([self._terms.delay, *(origin.crawl_delay for origin in self.origins.values())])

    def resume(self) -> None:
        """Let the tasks that wait for a robots.txt be looked at again."""
        self.tasks.extendleft(reversed(self.waiting))
        self.waiting.clear()

    # ------------------------------------------------------------ how it fares

    def refusal(self, now: float) -> Refusal | None:
        """Return why none of its tasks is fetched, None where they are."""
        if self._terms.skip:
            return _SKIPPED
        if self._health is not None and self._health.refuses(now):
            return Refusal(Reason.HOST_UNAVAILABLE, self._health.detail)
        return None

    def make_probe(self, held: Held) -> None:
        """Note that *held* tries this host, where it is left alone otherwise."""
        held.is_probe = self.state in (HostState.OPEN, HostState.UNAVAILABLE)

    def answered(self) -> bool:
        """Note an answer; tell whether the state changed."""
        self.has_answered = True
        if self._health is None:
            return False
        changed = self._health.succeeded()
        if self._health.is_healthy:
            self._health = None
        return changed

    def failed(self, held: Held, detail: str, now: float) -> bool:
        """Note that a fetch got no answer; tell whether the state changed."""
        health = self._make_health()
        # Without rules nothing else can be asked: that one fetch is what a probe would be.
        if held.origin is not None:
            changed = health.open(detail, now)
        else:
            changed = health.failed(detail, held.began, held.is_probe, now)
        if health.state is HostState.OPEN:
            self.next_start = max(self.next_start, health.until)
        return changed

    def asked_to_wait(self, held: Held, now: float) -> None:
        """Note that the host found our pace too high."""
        self._make_health().asked_to_wait(held.began, now)

    def forgive(self) -> None:
        """Forget what went wrong: it gets a new chance. What it asked for is kept to."""
        if self.state in (HostState.OPEN, HostState.UNAVAILABLE):
            self.next_start = self.asked_until
        self._health = None
        for origin in self.origins.values():
            if origin.refusal is not None:
                origin.forget()

    def save(self) -> SavedHost:
        """Return what is to be kept."""
        health = self._health
        if health is None:
            return SavedHost(self.key, self.name, HostState.HEALTHY, self.next_start, SavedHealth())
        until = health.until if health.state is HostState.UNAVAILABLE else self.next_start
        return SavedHost(self.key, self.name, health.state, until, health.save())

    def _make_health(self) -> Health:
        if self._health is None:
            self._health = Health(self._terms.per_host, self._patience)
        return self._health


def _limit(health: Health, per_host: int) -> int:
    return 1 if health.state in (HostState.OPEN, HostState.UNAVAILABLE) else min(health.limit, per_host)
