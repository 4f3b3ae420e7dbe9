"""
The frontier against a model: a disk, a clock that is told, and whatever order of events hypothesis finds.

The model knows of every task where it is; what the frontier keeps in memory it does not know. That nothing is lost is
therefore shown at the end of each run, when all that is left must be handed out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from crawler.broker import window as module
from crawler.broker.frontier import FOREVER, Frontier, Held, Read, Wants
from crawler.broker.hosts import Etiquette, Facts
from crawler.model import COUNTER_BITS, Progress, Task
from crawler.settings import Politeness

LIFE = 60.0
SESSIONS = ["a", "b"]
#: Hosts of the model; more than fit into the small window.
HOSTS = range(1, 7)
#: Hosts that one look at the disk finds at most.
PAGE = 2
#: The window's constants, so small that every edge is met.
SMALL = {"MAX_HOSTS": 3, "MAX_TASKS": 12, "CHUNK": 4, "LOW": 1, "ENOUGH_HOSTS": 2, "READS": 2}


#: What a ledger knows of a host at first.
NOTHING = Facts(None, [])


class Look(NamedTuple):
    """What was read from disk for one `wants`, on its way to the frontier."""

    wants: Wants
    rows: list[list[Task]]
    hosts: list[int]

    def bring(self, frontier: Frontier, now: float) -> None:
        """Offer it, as the keeper does."""
        for read, tasks in zip(self.wants.rows, self.rows, strict=True):
            frontier.offer(read, tasks, NOTHING if read.facts else None, now)
        if self.wants.hosts_after is not None:
            frontier.admit(self.wants.hosts_after, self.hosts, len(self.hosts) == PAGE, now)


class Row:
    """A task as the disk has it."""

    def __init__(self, task: Task, host: int) -> None:
        self.task = task
        self.host = host
        #: 0 ready, 1 delayed (due None: handed to the frontier), 2 done.
        self.state = 0
        self.due: float | None = None


class Disk:
    """The part of the ledger that the frontier's owner reads and writes."""

    def __init__(self) -> None:
        self.rows: dict[int, Row] = {}

    def add(self, host: int, count: int) -> None:
        """Commit new tasks."""
        for number in range(len(self.rows) + 1, len(self.rows) + 1 + count):
            self.rows[number] = Row(Task(id=number, url=f"http://{host}.test/{number}"), host)

    def read(self, wants: Wants) -> Look:
        """Read what is wanted."""
        rows = [self._backlog(*row[:3]) for row in wants.rows]
        after = wants.hosts_after
        found = {row.host for row in self.rows.values() if row.state == 0 and after is not None and row.host > after}
        return Look(wants, rows, sorted(found)[:PAGE])

    def _backlog(self, host: int, after: int, count: int) -> list[Task]:
        rows = self.rows.values()
        return [row.task for row in rows if row.state == 0 and row.host == host and row.task.id > after][:count]

    def due(self, now: float) -> list[tuple[int, Task]]:
        """Take the delayed tasks whose time has come."""
        found = [row for row in self.rows.values() if row.state == 1 and row.due is not None and row.due <= now]
        for row in found:
            row.due = None
        return [(row.host, row.task) for row in found]

    def left(self) -> int:
        """Count tasks that are not done."""
        return sum(row.state != 2 for row in self.rows.values())


class Ending(NamedTuple):
    """An ended lease whose end is not yet on disk."""

    held: Held
    commit: Callable[[], None]


class Crawl(RuleBasedStateMachine):
    """All that a queue does with a frontier, in any order that a queue allows."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        for name, value in SMALL.items():
            self.patch.setattr(module, name, value)
        self.now = 1000.0
        self.epoch = 1
        self.disk = Disk()
        self.last_token = 0
        #: Hosts whose new rows are on disk, and the frontier not yet told.
        self.unnoted: set[int] = set()
        self.look: Look | None = None
        self.brought: Look | None = None
        self.endings: list[Ending] = []
        self.settling: list[Held] = []
        self.leased_first: dict[int, int] = {}

    @initialize(per_host=st.integers(1, 3), delay=st.sampled_from([0.0, 2.0]))
    def begin(self, per_host: int, delay: float) -> None:
        self.politeness = Politeness(per_host=per_host, delay=delay, robots=False)
        self.restart()

    def teardown(self) -> None:
        try:
            if hasattr(self, "politeness"):
                self.drain()
        finally:
            self.patch.undo()

    # ------------------------------------------------------------ rows and reading

    @rule(host=st.sampled_from(HOSTS), count=st.integers(1, 9), is_noted=st.booleans())
    def commit_rows(self, host: int, count: int, is_noted: bool) -> None:
        self.disk.add(host, count)
        self.unnoted.add(host)
        if is_noted:
            self.note_rows()

    @rule()
    def note_rows(self) -> None:
        self.frontier.added(self.unnoted, self.now)
        self.unnoted = set()

    @precondition(lambda self: self.look is None)
    @rule()
    def read(self) -> None:
        was_hungry = self.frontier.is_hungry()
        self.look = self.disk.read(self.frontier.wants())
        assert was_hungry == bool(self.look.wants.rows or self.look.wants.hosts_after is not None)
        self.brought = None

    @precondition(lambda self: self.look is not None)
    @rule()
    def bring(self) -> None:
        assert self.look is not None
        self.look.bring(self.frontier, self.now)
        self.look, self.brought = None, self.look

    @precondition(lambda self: self.brought is not None)
    @rule()
    def bring_again(self) -> None:
        assert self.brought is not None
        queued = self.frontier.queued()
        for read, tasks in zip(self.brought.wants.rows, self.brought.rows, strict=True):
            self.frontier.offer(read, tasks, NOTHING, self.now)
        assert self.frontier.queued() == queued

    @rule()
    def refill(self) -> None:
        """Read until the frontier wants no more, as the keeper does; that has an end."""
        if self.look is not None:
            self.bring()
        for _ in range(200):
            if not self.frontier.is_hungry():
                return
            self.read()
            self.bring()
        raise AssertionError("the frontier never has enough")

    @rule()
    def take_due(self) -> None:
        due = self.disk.due(self.now)
        for host, task in due:
            # What is due while its host must not be asked may stay on disk, or come all the same.
            if task.id % 2 and self.frontier.blocked_until(host) > self.now:
                self.disk.rows[task.id].due = self.frontier.blocked_until(host)
        self.frontier.offer_due([(host, task) for host, task in due if self.disk.rows[task.id].due is None], self.now)

    @rule()
    def make_room(self) -> None:
        """Write back the tasks of hosts that made room."""
        for parked in self.frontier.take_parked():
            assert parked.until >= self.now or self.now > parked.until - module.LONG
            for number in parked.ids:
                vars(self.disk.rows[number]).update(state=1, due=parked.until)
            self.frontier.parked(parked.key)

    @rule(seconds=st.sampled_from([0.5, 1.0, 2.0, 50.0, 70.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    # ------------------------------------------------------------ leases

    # Most leases follow a refill: few of all orders of events would hand out anything otherwise.
    @rule(session=st.sampled_from(SESSIONS), count=st.sampled_from([1, 2, 3, 30]), is_filled=st.sampled_from([1, 1, 0]))
    def lease(self, session: str, count: int, is_filled: int) -> None:
        if is_filled:
            self.refill()
        out = self.frontier.lease(session, count, self.now)
        assert len(out) <= count
        for held in out:
            self.take(held, session)
        if len(out) < count:
            self.assert_no_host_is_left_idle()

    def take(self, held: Held, session: str) -> None:
        """Check one lease against all that was promised, and note it."""
        row, host = self.disk.rows[held.task.id], held.host.key
        assert held.token > self.last_token
        assert held.token >> COUNTER_BITS == self.epoch
        assert (held.session, held.expires, held.task, host) == (session, self.now + LIFE, row.task, row.host)
        # It is not held, not ending, not delayed and not done.
        assert row.task.id not in {item.task.id for item in [*self.held.values(), *(e.held for e in self.endings)]}
        assert (row.state, row.due) in {(0, None), (1, None)}
        assert self.busy_of(host) < self.politeness.per_host
        assert self.starts.get(host, 0.0) <= self.now
        assert not (self.politeness.delay and self.unstarted_of(host))
        if row.state == 0 and row.task.id not in self.returned:
            assert row.task.id > self.leased_first.get(host, 0)
            self.leased_first[host] = row.task.id
        self.last_token = held.token
        self.hold(held)

    def hold(self, held: Held) -> None:
        self.held[held.token] = held
        self.expires[held.token] = held.expires
        self.busy[held.token] = self.unstarted[held.token] = held.host.key

    def assert_no_host_is_left_idle(self) -> None:
        """A lease that comes back with too few tasks found no other that may start, and says when the next may."""
        is_reading = self.frontier.is_hungry() or self.look is not None or self.unnoted
        if is_reading or len(self.frontier._window) >= SMALL["MAX_HOSTS"]:
            return
        gone = {item.task.id for item in [*self.held.values(), *(ending.held for ending in self.endings)]}
        gone |= {held.task.id for held in self.settling}
        for row in self.disk.rows.values():
            waits = row.state == 0 or (row.state == 1 and row.due is None)
            if not waits or row.task.id in gone or self.busy_of(row.host) >= self.politeness.per_host:
                continue
            if self.politeness.delay and self.unstarted_of(row.host):
                continue
            assert self.starts.get(row.host, 0.0) > self.now
            assert self.frontier.next_wake() <= self.starts[row.host]

    @precondition(lambda self: self.held)
    @rule(data=st.data(), kind=st.sampled_from(["started", "fetched"]), mine=st.booleans())
    def report(self, data: st.DataObject, kind: str, mine: bool) -> None:
        held = self.pick(data)
        progress = Progress(**{kind: [held.token, 1]})
        self.frontier.report(held.session if mine else "nobody", progress, self.now)
        if mine:
            self.start(held)
        if mine and kind == "fetched":
            self.busy.pop(held.token, None)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), session=st.sampled_from(SESSIONS))
    def extend(self, data: st.DataObject, session: str) -> None:
        tokens = [self.pick(data).token, 1]
        kept = self.frontier.extend(session, tokens, self.now)
        assert kept == [token for token in tokens if token in self.held and self.held[token].session == session]
        self.expires.update(dict.fromkeys(kept, self.now + LIFE))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def transfer(self, data: st.DataObject) -> None:
        held = self.pick(data)
        assert self.frontier.transfer("nobody", held.token, "own", self.now) is None
        assert self.frontier.transfer(held.session, held.token, "own", self.now) is held
        self.busy.pop(held.token, None)
        self.start(held)
        assert held.session == "own"
        self.expires[held.token] = FOREVER

    @precondition(lambda self: self.held)
    @rule(data=st.data(), seconds=st.sampled_from([1.0, 30.0]))
    def pause(self, data: st.DataObject, seconds: float) -> None:
        host = self.pick(data).host
        self.frontier.standing.pause(host, self.now + seconds)
        self.starts[host.key] = max(self.starts.get(host.key, 0.0), self.now + seconds)

    # ------------------------------------------------------------ ends

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def record(self, data: st.DataObject) -> None:
        held = self.end(self.pick(data))
        row = self.disk.rows[held.task.id]
        self.endings.append(Ending(held, lambda: vars(row).update(state=2, due=None)))

    @precondition(lambda self: self.held)
    @rule(data=st.data(), seconds=st.sampled_from([0.0, 1.0, 40.0]), host=st.sampled_from([None, *HOSTS]))
    def delay(self, data: st.DataObject, seconds: float, host: int | None) -> None:
        held = self.end(self.pick(data))
        row, due = self.disk.rows[held.task.id], self.now + seconds
        to = row.host if host is None else host
        self.endings.append(Ending(held, lambda: vars(row).update(state=1, due=due, host=to)))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        held = self.end(self.pick(data))
        self.returned.add(held.task.id)
        self.frontier.give_back(held, held.task, self.now)

    @rule()
    def give_back_expired(self) -> None:
        expired = self.frontier.leases.expired(self.now)
        late = [token for token, expires in self.expires.items() if expires <= self.now]
        assert sorted(expired) == sorted((self.held[token].session, token) for token in late)
        for _, token in expired:
            held = self.end(self.held[token])
            self.returned.add(held.task.id)
            self.frontier.give_back(held, held.task, self.now)

    @precondition(lambda self: self.endings)
    @rule()
    def commit_ends(self) -> None:
        for ending in self.endings:
            ending.commit()
            self.settling.append(ending.held)
        self.endings.clear()

    @precondition(lambda self: self.settling)
    @rule()
    def settle(self) -> None:
        for held in self.settling:
            self.frontier.settle(held, self.now)
        self.settling.clear()

    @rule(number=st.integers(0, 50))
    def revive(self, number: int) -> None:
        row = self.disk.rows.get(number)
        if row is not None and row.state == 2:
            vars(row).update(state=1, due=self.now)

    @rule()
    def restart(self) -> None:
        """Begin anew from what is on disk, as after kill -9: leases are kept, ends that were not committed are not."""
        adopted = list(self.held.values()) if self.epoch > 1 else []
        adopted += [ending.held for ending in self.endings]
        self.epoch += 1
        self.frontier = Frontier(Etiquette(self.politeness), self.epoch, LIFE, self.now)
        self.held: dict[int, Held] = {}
        self.expires: dict[int, float] = {}
        #: Host by token, of leases that take a slot; and of those whose start was not reported.
        self.busy: dict[int, int] = {}
        self.unstarted: dict[int, int] = {}
        #: Time by host before which nothing may start there.
        self.starts: dict[int, float] = dict.fromkeys(HOSTS, self.now + self.politeness.delay)
        #: Tasks that may come before older ones: they were handed out before.
        self.returned = set(self.disk.rows)
        self.unnoted, self.look, self.brought = set(), None, None
        self.endings, self.settling = [], []
        for old in adopted:
            host, expires = self.disk.rows[old.task.id].host, self.now + LIFE
            self.frontier.adopt((old.token, host, old.task, old.session, expires))
            held = self.frontier.leases._held[old.token]
            assert (held.task, held.expires, held.host.key) == (old.task, expires, host)
            self.hold(held)
        taken = {held.task.id for held in self.held.values()}
        for row in self.disk.rows.values():
            if row.state == 1 and row.due is None and row.task.id not in taken:
                row.due = 0.0
        self.frontier.resume([], self.now)

    def end(self, held: Held) -> Held:
        assert self.frontier.end("nobody", held.token, self.now) is None
        assert self.frontier.end(held.session, held.token, self.now) is held
        assert self.frontier.end(held.session, held.token, self.now) is None
        self.start(held)
        del self.held[held.token], self.expires[held.token]
        self.busy.pop(held.token, None)
        return held

    def start(self, held: Held) -> None:
        """The first report of a start, or else the end, is what the pause is counted from."""
        if self.unstarted.pop(held.token, None) is not None:
            host = held.host.key
            self.starts[host] = max(self.starts.get(host, 0.0), self.now + self.politeness.delay)

    def pick(self, data: st.DataObject) -> Held:
        return self.held[data.draw(st.sampled_from(sorted(self.held)))]

    def busy_of(self, host: int) -> int:
        return list(self.busy.values()).count(host)

    def unstarted_of(self, host: int) -> int:
        return list(self.unstarted.values()).count(host)

    # ------------------------------------------------------------ what always holds

    @invariant()
    def leases_are_counted(self) -> None:
        if hasattr(self, "frontier"):
            sessions = [held.session for held in self.held.values()]
            assert self.frontier.leases.count() == len(sessions)
            assert self.frontier.leases.by_session() == {name: sessions.count(name) for name in sessions}
            for name in [*SESSIONS, "own", "nobody"]:
                mine = [token for token, held in self.held.items() if held.session == name]
                assert sorted(self.frontier.leases.tokens(name)) == sorted(mine)

    @invariant()
    def the_window_holds_no_task_twice(self) -> None:
        if hasattr(self, "frontier"):
            queued = [task.id for host in self.frontier._window for task in host.tasks]
            assert len(queued) == len(set(queued)) == self.frontier.queued()
            assert not set(queued) & {held.task.id for held in self.held.values()}

    def drain(self) -> None:
        """Whatever has happened, going on as usual brings every task to its end."""
        for _ in range(20 * len(self.disk.rows) + 20):
            if not (self.disk.left() or self.held or self.endings or self.settling):
                break
            self.note_rows()
            self.take_due()
            self.make_room()
            self.lease("a", 64, 1)
            for held in list(self.held.values()):
                row = self.disk.rows[self.end(held).task.id]
                self.endings.append(Ending(held, lambda row=row: vars(row).update(state=2, due=None)))
            self.commit_ends()
            self.settle()
            self.now += 10.0
        assert [row.task.id for row in self.disk.rows.values() if row.state != 2] == []
        assert (self.frontier.leases.count(), self.frontier.queued()) == (0, 0)
        self.now += 10_000.0
        for _ in range(2):  # hosts whose pause is over come back once more, to find that nothing is left
            self.lease("a", 1, 1)
        assert len(self.frontier._window) == 0


TestCrawl = Crawl.TestCase
TestCrawl.settings = settings(
    max_examples=200,
    stateful_step_count=50,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


# ------------------------------------------------------------------ one promise each


def make(per_host: int = 8, delay: float = 0.0) -> Frontier:
    return Frontier(Etiquette(Politeness(per_host=per_host, delay=delay, robots=False)), 1, LIFE)


def tasks(*ids: int) -> list[Task]:
    return [Task(id=number, url=f"http://h.test/{number}") for number in ids]


def fill(frontier: Frontier, hosts: dict[int, list[Task]], now: float = 0.0) -> None:
    """Bring all tasks of *hosts*."""
    frontier.added(hosts, now)
    for read in frontier.wants().rows:
        frontier.offer(read, hosts[read.key], NOTHING, now)


def ids(held: list[Held]) -> list[int]:
    return [item.task.id for item in held]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, int]]:
    """Make the window small, hosts and tasks in the same proportion as they are."""
    bounds = {"MAX_HOSTS": 100, "MAX_TASKS": 600}
    assert module.MAX_TASKS == 6 * module.MAX_HOSTS
    for name, value in bounds.items():
        monkeypatch.setattr(module, name, value)
    yield bounds


def read_all(frontier: Frontier, disk: Disk, now: float = 0.0) -> None:
    """Read until the frontier wants no more."""
    for _ in range(10_000):
        if not frontier.is_hungry():
            return
        disk.read(frontier.wants()).bring(frontier, now)
    raise AssertionError("it never has enough")


def test_hosts_take_turns() -> None:
    """One host with many tasks does not push others back; each host's oldest task goes first."""
    frontier = make()
    fill(frontier, {1: tasks(1, 2, 3, 4), 2: tasks(5), 3: tasks(6, 7)})
    assert ids(frontier.lease("a", 9, 0.0)) == [1, 5, 6, 2, 7, 3, 4]


def test_a_slot_frees_when_the_fetch_has_ended() -> None:
    """Not at its start, and not only at the end of the lease."""
    frontier = make(per_host=1)
    fill(frontier, {1: tasks(1, 2)})
    (first,) = frontier.lease("a", 9, 0.0)
    frontier.report("a", Progress(started=[first.token]), 0.0)
    assert frontier.lease("a", 9, 0.0) == []
    frontier.report("a", Progress(fetched=[first.token]), 0.0)
    assert ids(frontier.lease("a", 9, 0.0)) == [2]
    assert frontier.leases.count() == 2


def test_the_next_start_waits_for_the_report_of_the_last_and_then_for_the_delay() -> None:
    """To the second, and `next_wake` says when that is."""
    frontier = make(delay=5.0)
    fill(frontier, {1: tasks(1, 2)})
    (first,) = frontier.lease("a", 9, 100.0)
    assert frontier.lease("a", 9, 1000.0) == []
    assert frontier.next_wake() == FOREVER
    frontier.report("a", Progress(started=[first.token]), 1001.0)
    assert frontier.next_wake() == 1006.0
    assert frontier.lease("a", 9, 1005.9) == []
    assert ids(frontier.lease("a", 9, 1006.0)) == [2]


def test_a_host_comes_back_into_the_window_with_its_pause() -> None:
    """A spent host is remembered until its pause is over, so that a task that comes meanwhile has to wait too."""
    frontier = make()
    fill(frontier, {1: tasks(1)})
    (held,) = frontier.lease("a", 1, 0.0)
    frontier.standing.pause(held.host, 30.0)
    frontier.settle(frontier.end("a", held.token, 0.0) or held, 0.0)
    frontier.offer_due([(1, *tasks(2))], 10.0)
    fill(frontier, {1: []}, 10.0)
    assert frontier.lease("a", 1, 29.9) == []
    assert ids(frontier.lease("a", 1, 30.0)) == [2]


@pytest.mark.parametrize(("host", "after", "asked"), [(1, 4, True), (2, 0, True), (1, 1, False)])
def test_a_stale_offer_is_dropped(host: int, after: int, asked: bool) -> None:
    """One from another place in the backlog, one for an unknown host, and one that nobody asked for."""
    frontier = make()
    fill(frontier, {1: tasks(1)})
    if asked:
        frontier.added([1], 0.0)
        assert frontier.wants().rows == [(1, 1, module.CHUNK, False)]
    frontier.offer(Read(host, after, 4, False), tasks(7), None, 0.0)
    assert ids(frontier.lease("a", 9, 0.0)) == [1]


def test_a_task_given_back_comes_first() -> None:
    """It was the oldest of its host."""
    frontier = make()
    fill(frontier, {1: tasks(1, 2, 3)})
    (held,) = frontier.lease("a", 1, 0.0)
    ended = frontier.end("a", held.token, 0.0)
    assert ended is held
    frontier.give_back(held, held.task, 0.0)
    assert ids(frontier.lease("b", 2, 0.0)) == [1, 2]


def test_the_last_task_of_a_host_can_be_given_back() -> None:
    """The host stands in the turn again."""
    frontier = make(per_host=1)
    fill(frontier, {1: tasks(1)})
    (held,) = frontier.lease("a", 1, 0.0)
    frontier.end("a", held.token, 0.0)
    frontier.give_back(held, held.task, 0.0)
    assert ids(frontier.lease("b", 1, 0.0)) == [1]


def test_an_ending_task_is_not_read_again() -> None:
    """Until its end is on disk its row says ready: its host stays in the window, and so does its place there."""
    frontier, disk = make(), Disk()
    disk.add(1, 1)
    frontier.added([1], 0.0)
    read_all(frontier, disk)
    (held,) = frontier.lease("a", 1, 0.0)
    frontier.end("a", held.token, 0.0)
    for count in (0, 1):  # the first look finds nothing left, which must not make it forget the host
        disk.add(1, count)
        frontier.added([1], 0.0)
        read_all(frontier, disk)
    assert ids(frontier.lease("a", 9, 0.0)) == [2]


def test_a_pause_bars_a_host_that_stands_in_the_turn() -> None:
    """Also one that could have started a moment ago."""
    frontier = make()
    fill(frontier, {1: tasks(1, 2)})
    (held,) = frontier.lease("a", 1, 0.0)
    frontier.standing.pause(held.host, 30.0)
    assert frontier.lease("a", 1, 29.9) == []
    assert ids(frontier.lease("a", 1, 30.0)) == [2]


def test_the_delay_is_counted_from_the_first_report() -> None:
    """Neither a repeated report of the start nor the end of the fetch makes it longer."""
    frontier = make(delay=5.0)
    fill(frontier, {1: tasks(1, 2)})
    (held,) = frontier.lease("a", 1, 0.0)
    for time, progress in [(1.0, Progress(started=[held.token])), (3.0, Progress(started=[held.token]))]:
        frontier.report("a", progress, time)
    frontier.report("a", Progress(fetched=[held.token]), 4.0)
    assert ids(frontier.lease("a", 1, 6.0)) == [2]


def test_rows_added_to_a_host_that_was_read_to_its_end_are_read() -> None:
    """It is in the window, because a task of it is held, and has to be read on from its place."""
    frontier = make()
    fill(frontier, {1: tasks(1)})
    frontier.lease("a", 1, 0.0)
    frontier.added([1], 0.0)
    assert frontier.wants().rows == [(1, 1, module.CHUNK, False)]


def test_rows_added_while_their_host_is_read_are_read_too() -> None:
    """The read under way may have missed them, so its news that there is no more does not count."""
    frontier = make()
    frontier.added([1], 0.0)
    frontier.wants()
    frontier.added([1], 0.0)
    assert frontier.wants().rows == []
    frontier.offer(Read(1, 0, 4, True), tasks(1), NOTHING, 0.0)
    assert frontier.wants().rows == [(1, 1, module.CHUNK, False)]
    frontier.offer(Read(1, 1, 4, False), [], None, 0.0)
    assert frontier.wants().rows == []


def test_stale_hosts_are_dropped() -> None:
    """Hosts found from another place than the search has come to are not taken in."""
    frontier = make()
    frontier.resume([], 0.0)
    after = frontier.wants().hosts_after
    assert after is not None
    frontier.admit(after, [1, 2], True, 0.0)
    frontier.admit(after, [3], True, 0.0)
    assert sorted(row[0] for row in frontier.wants().rows) == [1, 2]


def test_the_search_for_hosts_ends_with_a_pass_that_finds_none() -> None:
    """So a queue whose hosts are all in the window does not read for ever."""
    frontier, disk = make(), Disk()
    for host in HOSTS:
        disk.add(host, 1)
    frontier.resume([], 0.0)
    read_all(frontier, disk)
    assert frontier.wants() == ([], None)
    assert sorted(ids(frontier.lease("a", 9, 0.0))) == sorted(disk.rows)


def test_a_host_behind_the_search_is_found_by_another_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of a host that does not fit in are not lost, though this pass has gone by and found nothing new."""
    monkeypatch.setattr(module, "MAX_HOSTS", 3)
    frontier = make()
    frontier.resume([], 0.0)
    first = frontier.wants().hosts_after
    assert first is not None
    frontier.added([5, 6], 0.0)
    frontier.admit(first, [], False, 0.0)
    frontier.admit(first, [5, 6], True, 0.0)
    frontier.added([9], 0.0)
    frontier.added([2], 0.0)
    for read in frontier.wants().rows:
        frontier.offer(read, [], NOTHING, 0.0)
    assert frontier.wants() == ([], 6)
    frontier.admit(6, [], False, 0.0)
    read = frontier.wants()
    frontier.admit(first, [2], False, 0.0)
    assert read.hosts_after == first
    assert 2 in [row[0] for row in frontier.wants().rows]


def test_a_transferred_lease_does_not_expire() -> None:
    """The coordinator's own consumer holds it, and needs not extend it."""
    frontier = make()
    fill(frontier, {1: tasks(1, 2)})
    first, second = frontier.lease("a", 2, 0.0)
    assert frontier.transfer("a", first.token, "own", 0.0) is first
    assert frontier.leases.expired(LIFE) == [("a", second.token)]
    assert frontier.leases.tokens("own") == [first.token]


def test_the_window_has_a_bound_of_hosts(small: dict[str, int]) -> None:
    """Beyond it only what one look brings is taken in; the others wait on disk."""
    frontier, disk = make(), Disk()
    for host in range(small["MAX_HOSTS"] * 3):
        disk.add(host, 1)
    frontier.added(range(small["MAX_HOSTS"] * 3), 0.0)
    read_all(frontier, disk)
    assert small["MAX_HOSTS"] <= frontier.queued() < small["MAX_HOSTS"] + PAGE


def test_a_host_is_read_ahead_by_chunks() -> None:
    """However long its backlog is, so that one large site does not fill the memory."""
    frontier, disk = make(), Disk()
    disk.add(1, 1000)
    frontier.added([1], 0.0)
    read_all(frontier, disk)
    assert frontier.queued() == module.CHUNK


def test_the_window_has_a_bound_of_tasks(small: dict[str, int]) -> None:
    """Hosts share it: the more there are, the less of each is in memory."""
    frontier, disk = make(), Disk()
    for host in range(small["MAX_HOSTS"]):
        disk.add(host, 50)
    frontier.added(range(small["MAX_HOSTS"]), 0.0)
    read_all(frontier, disk)
    assert frontier.queued() <= small["MAX_TASKS"]


def test_hosts_that_wait_make_room(small: dict[str, int]) -> None:
    """A window full of hosts that must not be asked holds up no other; they come back, each task once."""
    frontier, disk, count = make(per_host=1), Disk(), small["MAX_HOSTS"]
    for host in range(count):
        disk.add(host, 3)
    frontier.added(range(count), 0.0)
    read_all(frontier, disk)
    waiting = frontier.lease("a", count, 0.0)
    assert len(waiting) == count
    disk.add(count, 2)
    frontier.added([count], 0.0)
    for held in waiting:
        frontier.standing.pause(held.host, 100.0)
        frontier.settle(frontier.end("a", held.token, 0.0) or held, 0.0)
        vars(disk.rows[held.task.id]).update(state=2)
    parked = frontier.take_parked()
    assert len(parked) >= count // 2
    for one in parked:
        for number in one.ids:
            vars(disk.rows[number]).update(state=1, due=one.until)
        frontier.parked(one.key)
    read_all(frontier, disk)
    assert [held.host.key for held in frontier.lease("a", 9, 1.0)] == [count]
    left = set()
    for now in (100.0, 101.0, 102.0, 103.0):
        frontier.offer_due(disk.due(now), now)
        read_all(frontier, disk, now)
        for held in frontier.lease("a", 10 * count, now):
            assert held.task.id not in left
            left.add(held.task.id)
            frontier.settle(frontier.end("a", held.token, now) or held, now)
            vars(disk.rows[held.task.id]).update(state=2)
    assert len(left) == 2 * count


def test_an_adopted_lease_is_not_read_again() -> None:
    """Its row is still in the backlog; whoever holds it goes on, and its end is the end of it."""
    frontier, disk = make(), Disk()
    disk.add(1, 3)
    frontier.adopt((7, 1, disk.rows[2].task, "a", 50.0))
    frontier.resume([], 0.0)
    read_all(frontier, disk)
    assert ids(frontier.lease("b", 9, 0.0)) == [1, 3]
    assert frontier.leases.tokens("a") == [7]
    assert frontier.leases.expired(49.9) == []
    assert frontier.leases.expired(50.0) == [("a", 7)]


def test_tokens_of_a_later_start_are_greater() -> None:
    """However many leases the earlier one gave."""
    for_epoch = []
    for epoch in (1, 2):
        frontier = Frontier(Etiquette(Politeness(robots=False)), epoch, LIFE)
        fill(frontier, {1: tasks(1, 2, 3)})
        for_epoch.append([held.token for held in frontier.lease("a", 3, 0.0)])
    assert for_epoch[0] == [(1 << COUNTER_BITS) + n for n in (1, 2, 3)]
    assert for_epoch[1] == [(2 << COUNTER_BITS) + n for n in (1, 2, 3)]
