"""How a queue treats hosts that fail, hosts that ask to wait, and a network that is gone; with both kinds of queue."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from crawler.broker import ends, health
from crawler.broker import outage as outages
from crawler.model import Finding, Grant, Lease, Progress
from crawler.reasons import Reason
from crawler.settings import HostRule, Politeness
from crawler.stats import HostState
from tests.conftest import wait_until
from tests.test_task_queue import Bench, failed, hello, lease, make, stored

__all__ = ["make"]

A, B = "http://a.test", "http://b.test"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let pauses be short, so that whole lives of hosts are seen."""
    monkeypatch.setattr(health, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(health, "MAX_PAUSE", 0.02)
    monkeypatch.setattr(health, "FIRST_GAP", 0.001)
    monkeypatch.setattr(health, "MAX_GAP", 0.002)
    monkeypatch.setattr(outages, "PROBE_PAUSE", 0.01)
    monkeypatch.setattr(ends, "LOCAL_PAUSE", 0.01)
    yield


class Hand:
    """A worker session that does what a test says."""

    def __init__(self, bench: Bench, session: str) -> None:
        self.queue = bench.queue
        self.session = session
        self.number = 0

    def ask(self, count: int = 64, wait: float = 0.0) -> Grant:
        """Ask for leases once."""
        self.number += 1
        return lease(self.queue, self.session, self.number, count, wait)

    def get(self, count: int = 64) -> list[Lease]:
        """Ask until there are leases."""
        while not (grant := self.ask(count, 5.0)).leases:
            assert grant.status == "open"
        return grant.leases

    def fail(self, leases: list[Lease], reason: Reason, **more: object) -> None:
        """Report that fetches failed."""
        self.queue.retry(self.session, [failed(item.token, item.task.id, reason, **more) for item in leases])

    def store(self, leases: list[Lease]) -> None:
        """Report that images were fetched and stored."""
        tokens = [item.token for item in leases]
        self.queue.extend(self.session, [], Progress(started=tokens, fetched=tokens))
        self.queue.complete(self.session, [stored(item.token, item.task.id) for item in leases])


def hand(bench: Bench) -> Hand:
    return Hand(bench, bench.queue.hello(hello()).session)


def urls(host: str, count: int) -> list[str]:
    return [f"{host}/{number}" for number in range(count)]


def waits_of(bench: Bench) -> dict[str, HostState]:
    return {item.name: item.state for item in bench.queue.stats().hosts.waiting}


def test_a_dead_host_costs_a_few_fetches(make: Callable[..., Bench], quick: None) -> None:
    """Its other tasks fail as unavailable, with what was seen, and without a fetch; other hosts are not touched."""
    bench = make(politeness=Politeness(patience=0.1))
    bench.fill(*urls(A, 500), *urls(B, 20))
    worker, fetched = hand(bench), 0
    while bench.queue.stats().total > bench.queue.stats().stored + bench.queue.stats().failed:
        leases = worker.ask(16, 0.5).leases
        dead = [item for item in leases if item.task.url.startswith(A)]
        worker.fail(dead, Reason.CONNECT_TIMEOUT, detail="no answer in 10 s")
        worker.store([item for item in leases if item not in dead])
        fetched += len(dead)
    stats = bench.queue.stats()
    assert (stats.stored, stats.failed) == (20, 500)
    assert fetched <= 40
    assert stats.reasons["host_unavailable"] >= 500 - fetched
    records = [record for record in bench.records() if record.reason is Reason.HOST_UNAVAILABLE]
    assert {record.detail for record in records} == {"connect_timeout: no answer in 10 s"}


def test_an_open_host_is_tried_by_one_task_at_a_time(make: Callable[..., Bench], quick: None) -> None:
    """And is fetched from again when one of them gets an answer, whatever that says."""
    bench = make(politeness=Politeness(per_host=12))
    bench.fill(*urls(A, 60))
    worker = hand(bench)
    worker.fail(worker.get(), Reason.CONNECT_FAILED)
    assert bench.queue.stats().hosts.open == 1
    for _ in range(3):
        (probe,) = worker.get()
        assert worker.ask().leases == []
        worker.fail([probe], Reason.CONNECT_FAILED)
    (probe,) = worker.get()
    worker.fail([probe], Reason.HTTP_NOT_FOUND, http_status=404)
    stats = bench.queue.stats()
    assert (stats.hosts.open, stats.hosts.slowed) == (0, 1)
    left = stats.total - stats.failed
    while bench.queue.stats().stored < left:
        worker.store(worker.ask(8, 0.5).leases)
    assert bench.queue.stats().reasons == {"http_not_found": 1}


def test_failures_in_a_row_slow_a_host_down(make: Callable[..., Bench], quick: None) -> None:
    """Fewer at a time; successes bring it back."""
    bench = make(politeness=Politeness(per_host=8))
    bench.fill(*urls(A, 200))
    worker = hand(bench)
    worker.fail(worker.get(3), Reason.CONNECT_FAILED)
    assert bench.queue.stats().hosts.slowed == 1
    first = worker.get()
    assert len(first) == 1  # the next one waits for the report of its start
    worker.store(first)
    while bench.queue.stats().hosts.slowed:
        worker.store(worker.get())
    assert len(worker.get()) == 8


def test_a_host_that_asks_to_wait_is_left_alone(make: Callable[..., Bench]) -> None:
    """All of it, by all, for as long as it said; what was refused is tried more often than other failures."""
    bench = make()
    bench.fill(*urls(A, 20), *urls(B, 3))
    worker, other = hand(bench), hand(bench)
    mine = [item for item in worker.get() if item.task.url.startswith(A)]
    worker.fail(mine[:1], Reason.HTTP_TOO_MANY, http_status=429, retry_after=1000.0)
    worker.store(mine[1:])
    assert other.ask(64, 0.2).leases == []
    assert waits_of(bench) == {"a.test": HostState.SLOWED}
    bench = make()  # a restart
    after = hand(bench)
    assert after.ask(64, 0.3).leases == [] or all(item.task.url.startswith(B) for item in after.ask().leases)
    assert bench.queue.stats().delayed >= 1


def test_a_429_is_charged_but_ten_are_allowed(make: Callable[..., Bench], quick: None) -> None:
    """The host's pace was wrong, which is not this task's fault; but no task is asked for without end."""
    bench = make()
    bench.fill(f"{A}/1", *urls(B, 1))
    worker, asked = hand(bench), 0
    while not bench.queue.stats().failed:
        for item in worker.ask(64, 0.5).leases:
            if item.task.url.startswith(B):
                worker.store([item])
            else:
                asked += 1
                worker.fail([item], Reason.HTTP_TOO_MANY, http_status=429)
    assert asked == 10
    assert bench.queue.stats().reasons == {"http_too_many": 1}


def test_a_rule_for_a_host_counts(make: Callable[..., Bench]) -> None:
    """Fetches at a time by name; a host to skip fails at once."""
    rules = (HostRule(pattern="a.test", per_host=2), HostRule(pattern="*.b.test", skip=True))
    bench = make(politeness=Politeness(hosts=rules))
    bench.fill(*urls(A, 9), "http://x.b.test/1", "http://a.test./1", *urls(B, 9))
    worker = hand(bench)
    wait_until(lambda: worker.ask().leases == [] and bench.queue.stats().failed == 1 and bench.queue.stats().leased)
    names = [record.url for record in bench.records() if record.reason is Reason.HOST_SKIPPED]
    assert names == ["http://x.b.test/1"]
    assert bench.queue.stats().leased == 2 + 8


# ------------------------------------------------------------------ robots.txt


def robots_of(leases: list[Lease]) -> list[str]:
    return [item.task.url for item in leases if item.robots]


def test_robots_come_first_and_once(make: Callable[..., Bench]) -> None:
    """Before an origin's first image, by one worker; what it disallows is never handed out, also after a restart."""
    bench = make(robots=True)
    bench.fill(f"{A}/open/1", f"{A}/closed/2", f"{A}/open/3", f"{A}:8080/closed/4")
    worker, other = hand(bench), hand(bench)
    (rules,) = worker.get(1)
    assert (robots_of([rules]), rules.task.id) == ([f"{A}/robots.txt"], 0)
    (more,) = other.get()
    assert robots_of([more]) == [f"{A}:8080/robots.txt"]
    assert worker.ask().leases == []
    assert bench.queue.stats().leased == 0  # no task is
    text = "User-agent: *\nDisallow: /closed/\n"
    assert worker.queue.learn(worker.session, [Finding(token=rules.token, text=text)]) == [rules.token]
    assert worker.queue.learn(worker.session, [Finding(token=rules.token, text=text)]) == []
    assert other.queue.learn(other.session, [Finding(token=more.token, text="")]) == [more.token]
    (one,) = worker.get(1)
    assert bench.queue.stats().leased == 1
    worker.store([one])
    bench = make(robots=True)
    worker = hand(bench)
    seen = [one.task.url]
    while len(seen) < 3:
        leases = worker.get()
        assert robots_of(leases) == []
        seen += [item.task.url for item in leases]
        worker.store(leases)
    assert sorted(seen) == [f"{A}/open/1", f"{A}/open/3", f"{A}:8080/closed/4"]
    wait_until(lambda: bench.queue.stats().reasons == {"robots_disallowed": 1})


def test_robots_that_break_are_tried_and_then_disallow(make: Callable[..., Bench], quick: None) -> None:
    """A server error defers, and disallows all when attempts are used up."""
    bench = make(robots=True)
    bench.fill(*urls(A, 5))
    worker = hand(bench)
    for _ in range(3):
        (rules,) = worker.get()
        assert rules.robots
        worker.fail([rules], Reason.ROBOTS_UNREACHABLE, http_status=500)
    wait_until(lambda: not worker.ask().leases and bench.queue.stats().failed == 5)
    assert bench.queue.stats().reasons == {"robots_unreachable": 5}


def test_robots_of_a_name_that_does_not_exist(make: Callable[..., Bench]) -> None:
    """All tasks fail for that reason, after one look."""
    bench = make(robots=True)
    bench.fill(*urls(A, 5))
    worker = hand(bench)
    worker.fail(worker.get(), Reason.NAME_NOT_FOUND, detail="a.test")
    wait_until(lambda: not worker.ask().leases and bench.queue.stats().failed == 5)
    assert bench.queue.stats().reasons == {"name_not_found": 5}


def test_robots_of_a_dead_host(make: Callable[..., Bench], quick: None) -> None:
    """Tried until patience is over; no image is ever asked for."""
    bench = make(robots=True, politeness=Politeness(patience=0.1))
    bench.fill(*urls(A, 50))
    worker = hand(bench)
    while bench.queue.stats().failed < 50:
        leases = worker.ask(64, 0.2).leases
        assert len(leases) == len(robots_of(leases))
        worker.fail(leases, Reason.CONNECT_TIMEOUT)
    assert bench.queue.stats().reasons == {"host_unavailable": 50}


def test_robots_given_back_are_asked_for_again(make: Callable[..., Bench]) -> None:
    """Whoever held the lease may leave, or die with it; three deaths, and all is disallowed."""
    bench = make(robots=True)
    bench.fill(*urls(A, 2))
    worker = hand(bench)
    (rules,) = worker.get()
    worker.queue.release(worker.session, [rules.token], False)
    for losses in range(3):
        (rules,) = worker.get()
        assert (rules.robots, rules.task.losses) == (True, losses)
        worker.queue.release(worker.session, [rules.token], True)
    wait_until(lambda: not worker.ask().leases and bench.queue.stats().failed == 2)
    assert bench.queue.stats().reasons == {"robots_unreachable": 2}


def test_robots_cannot_be_completed(make: Callable[..., Bench]) -> None:
    """A worker that says so is not believed, and the rules are asked for again."""
    bench = make(robots=True)
    bench.fill(*urls(A, 2))
    worker = hand(bench)
    (rules,) = worker.get()
    assert worker.queue.complete(worker.session, [stored(rules.token, 0)]) == []
    assert robots_of(worker.get()) == [f"{A}/robots.txt"]
    assert bench.records() == []


def test_a_crawl_delay_is_kept(make: Callable[..., Bench]) -> None:
    """From the rules of the host, where it is longer than what we were told."""
    bench = make(robots=True)
    bench.fill(*urls(A, 3))
    worker = hand(bench)
    (rules,) = worker.get()
    text = "User-agent: *\nCrawl-delay: 250\n"
    worker.queue.learn(worker.session, [Finding(token=rules.token, text=text)])
    (one,) = worker.get()
    worker.store([one])
    assert worker.ask(64, 0.2).leases == []
    (waiting,) = bench.queue.stats().hosts.waiting or [None]
    assert waiting is None or waiting.name == "a.test"


# ------------------------------------------------------------------ our own network


def many(count: int) -> list[str]:
    return [f"http://h{number}.test/{path}" for path in range(2) for number in range(count)]


def test_a_lost_network_charges_nobody(make: Callable[..., Bench], quick: None) -> None:
    """One host after the other falls silent that had answered: probes only, and what it cost is given back."""
    bench = make()
    bench.fill(*many(12))
    worker = hand(bench)
    worker.store(worker.get(12))
    worker.fail(worker.get(12), Reason.CONNECT_TIMEOUT)
    stats = bench.queue.stats()
    assert stats.trouble is not None and "connect_timeout" in stats.trouble
    (probe,) = worker.get()
    worker.fail([probe], Reason.CONNECT_FAILED)
    assert (bench.queue.stats().failed, bench.queue.stats().hosts.slowed) == (0, 0)
    while bench.queue.stats().stored < 24:
        leases = worker.ask(64, 1.0).leases
        assert all(item.task.attempts == 0 for item in leases)
        worker.store(leases)
    assert bench.queue.stats().trouble is None


def test_failures_recorded_in_an_outage_are_taken_back(make: Callable[..., Bench], quick: None) -> None:
    """Also of tasks whose last attempt it was."""
    bench = make()
    bench.fill(*many(12))
    worker = hand(bench)
    worker.store(worker.get(12))
    for _ in range(2):
        for item in sorted(worker.get(12), key=lambda item: item.task.id):
            worker.fail([item], Reason.HTTP_SERVER_ERROR, http_status=500)
        wait_until(lambda: bench.queue.stats().delayed == 0)
    leases = worker.get(12)
    worker.fail(leases, Reason.RESOLVER_FAILED)
    assert bench.queue.stats().failed == 0
    while bench.queue.stats().stored < 24:
        worker.store(worker.ask(64, 1.0).leases)
    assert bench.queue.stats().reasons == {}


def test_hosts_that_only_answer_robots_are_no_outage(make: Callable[..., Bench], quick: None) -> None:
    """They are connected to, so there is a network; the end of a list of such hosts is an end."""
    bench = make(robots=True, politeness=Politeness(patience=0.1))
    bench.fill(*many(12))
    worker = hand(bench)
    while bench.queue.stats().failed < 24:
        leases = worker.ask(64, 1.0).leases
        rules = [item for item in leases if item.robots]
        worker.queue.learn(worker.session, [Finding(token=item.token, text="") for item in rules])
        worker.fail([item for item in leases if not item.robots], Reason.TIMEOUT)
    assert bench.queue.stats().trouble is None


def test_an_outage_at_the_end_is_not_believed_for_ever(make: Callable[..., Bench], quick: None) -> None:
    """Hosts that had answered, and do not let us in any more: with none left to tell, it is them."""
    bench = make(politeness=Politeness(patience=0.1))
    bench.fill(*many(12))
    worker = hand(bench)
    worker.store(worker.get(12))
    while bench.queue.stats().failed < 12:
        worker.fail(worker.ask(64, 1.0).leases, Reason.CONNECT_TIMEOUT)
    assert bench.queue.stats().stored == 12


def test_a_clock_that_is_set_back_holds_nothing_up(make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits is due after the same time as before, not when the old hour comes again."""
    bench = make()
    bench.fill(f"{A}/1", f"{B}/2")
    worker = hand(bench)
    for item in worker.get():
        if item.task.url.startswith(A):
            worker.fail([item], Reason.HTTP_SERVER_ERROR, http_status=500)
        else:
            worker.store([item])
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() - 7200)
    bench = make()
    assert [item.task.url for item in hand(bench).get()] == [f"{A}/1"]


def test_hosts_that_never_answered_are_no_outage(make: Callable[..., Bench], quick: None) -> None:
    """The end of a list, where only dead hosts are left, is not our network's fault."""
    bench = make(politeness=Politeness(patience=0.1))
    bench.fill(*many(12))
    worker = hand(bench)
    while bench.queue.stats().failed < 24:
        worker.fail(worker.ask(64, 1.0).leases, Reason.CONNECT_TIMEOUT)
        assert bench.queue.stats().trouble is None
