"""What may not be held against a host, and what no worker may do to a queue: each was a defect once."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from crawler.broker.frontier import Frontier
from crawler.broker.health import Says
from crawler.broker.hosts import Etiquette, Facts
from crawler.broker.revival import refresh
from crawler.model import Choice, Completion, Finding, Outcome, Task
from crawler.reasons import Reason
from crawler.settings import Politeness
from tests.test_politeness import A, hand, many, quick, robots_of, urls
from tests.test_task_queue import Bench, failed, make

__all__ = ["make", "quick"]


def is_over(bench: Bench) -> bool:
    """Tell whether every task has its record."""
    return bench.queue.stats().status == "finished"


def test_a_robots_file_that_fails_in_an_outage_is_asked_for_again(make: Callable[..., Bench], quick: None) -> None:
    """It costs no attempt, and its host's tasks are not forgotten."""
    bench = make(robots=True)
    bench.fill(*many(7), "http://new.test/1")
    worker, got = hand(bench), []
    while len(got) < 8:
        got += worker.get()
    rules = {item.task.url: item for item in got}
    late = rules.pop("http://new.test/robots.txt")
    worker.queue.learn(worker.session, [Finding(token=item.token, text="") for item in rules.values()])
    images = []
    while len(images) < 14:
        images += worker.get()
    worker.store([item for item in images if item.task.url.endswith("/0")])
    worker.fail([item for item in images if item.task.url.endswith("/1")], Reason.CONNECT_TIMEOUT)
    assert bench.queue.stats().trouble
    worker.fail([late], Reason.CONNECT_TIMEOUT)
    while not is_over(bench):
        leases = worker.ask(64, 0.5).leases
        worker.queue.learn(worker.session, [Finding(token=item.token, text="") for item in leases if item.robots])
        worker.store([item for item in leases if not item.robots])
    stats = bench.queue.stats()
    assert (stats.stored, stats.failed, stats.delayed) == (15, 0, 0)


def test_a_dead_origin_costs_only_its_own_tasks(make: Callable[..., Bench], quick: None) -> None:
    """Where https is refused, http of the same name goes on."""
    bench = make(robots=True, politeness=Politeness(patience=0.3))
    bench.fill(*(f"{scheme}://a.test/{number}" for number in range(60) for scheme in ("https", "http")))
    worker = hand(bench)
    while not is_over(bench):
        for item in worker.ask(8, 0.5).leases:
            if item.task.url.startswith("https"):
                worker.fail([item], Reason.CONNECT_FAILED)
            elif item.robots:
                worker.queue.learn(worker.session, [Finding(token=item.token, text="")])
            else:
                worker.store([item])
    assert (bench.queue.stats().stored, bench.queue.stats().reasons) == (60, {"host_unavailable": 60})


@pytest.mark.parametrize("answer", ["redirect", "completion"])
def test_redirects_and_completions_are_answers(make: Callable[..., Bench], quick: None, answer: str) -> None:
    """So failures between them are not in a row; also where a completion comes before the report of its fetch."""
    bench = make(politeness=Politeness(patience=0.2))
    bench.fill(*urls(A, 300))
    worker, number = hand(bench), 0
    while not is_over(bench):
        for item in worker.ask(8, 0.5).leases:
            number += not item.task.target
            if item.task.target:
                worker.store([item])
            elif number % 10 == 0:
                worker.fail([item], Reason.CONNECT_TIMEOUT)
            elif answer == "redirect":
                worker.fail([item], Reason.INTERNAL, http_status=302, moved_to="http://c.test/x", hops=1)
            else:
                done = Completion(token=item.token, task_id=item.task.id, outcome=Outcome.STORED, path="ab/ab.jpg")
                worker.queue.complete(worker.session, [done])
    assert "host_unavailable" not in bench.queue.stats().reasons


@pytest.mark.parametrize("how", ["retry", "refresh"])
def test_a_task_that_was_redirected_begins_at_its_own_host(make: Callable[..., Bench], quick: None, how: str) -> None:
    """When it goes back to the queue, the limit of that host counts, not that of where it had been led."""
    politeness = Politeness(per_host=2)
    bench = make(politeness=politeness)
    bench.fill(*urls(A, 20))
    worker = hand(bench)
    while not is_over(bench):
        for item in worker.ask(64, 0.5).leases:
            if item.task.target is None:
                moved = f"http://cdn{item.task.id}.test/{item.task.id}"
                worker.fail([item], Reason.INTERNAL, http_status=302, moved_to=moved, hops=1)
            elif how == "retry":
                worker.fail([item], Reason.HTTP_NOT_FOUND, http_status=404)
            else:
                worker.store([item])
    if how == "retry":
        bench.queue.revive(worker.session, Choice())
    else:
        bench.ledger.change(lambda changes: refresh(changes.db))
        bench = make(politeness=politeness)
        worker = hand(bench)
    got = worker.get()
    for _ in range(3):
        got += worker.ask(64, 0.2).leases
    assert [item.task.url.startswith(A) for item in got] == [True, True]


def test_retry_keeps_to_what_a_host_asked_for(make: Callable[..., Bench]) -> None:
    """A breaker is forgiven, a Retry-After is not; after a restart neither."""
    bench = make()
    bench.fill(*urls(A, 20))
    worker = hand(bench)
    leases = worker.get()
    worker.fail(leases[:1], Reason.HTTP_NOT_FOUND, http_status=404)
    worker.fail(leases[1:2], Reason.HTTP_TOO_MANY, http_status=429, retry_after=1000.0)
    worker.store(leases[2:])
    assert bench.queue.revive(worker.session, Choice()) == {"http_not_found": 1}
    assert [worker.ask(64, 0.2).leases for _ in range(3)] == [[], [], []]
    bench = make()
    worker = hand(bench)
    assert [worker.ask(64, 0.2).leases for _ in range(3)] == [[], [], []]


def test_a_refusal_does_not_wait_for_a_turn() -> None:
    """A host that asks to be left for an hour each time is given up, and its tasks fail without an end of hours."""
    frontier, now, fetches, refused = Frontier(Etiquette(Politeness(robots=False)), 1, 60.0), 1000.0, 0, 0
    frontier.added([1], now)
    while not refused:
        for read in frontier.wants().rows:
            ids = range(read.after + 1, min(300, read.after + read.number) + 1)
            frontier.offer(read, [Task(id=number, url=f"{A}/{number}") for number in ids], Facts(None, []), now)
        leases = frontier.lease("s", 64, now)
        refused += len(frontier.take_refused())
        for lease in leases:
            fetches += 1
            ended = frontier.end("s", lease.token, now)
            assert ended is not None
            frontier.standing.note(ended, Says.ASKED, "503", now)
            frontier.standing.pause(ended.host, now + 3600.0, is_asked=True)
            frontier.settle(ended, now)
        now = now if leases else max(now + 1.0, min(frontier.next_wake(), now + 3600.0))
    assert fetches < 30


@pytest.mark.parametrize(
    "what",
    [{"moved_to": "http://[x/"}, {"moved_to": "http://c.test/1", "hops": 1 << 62}, {"retry_after": float("nan")}],
)
def test_what_no_worker_of_ours_says_holds_nothing_up(make: Callable[..., Bench], what: dict[str, object]) -> None:
    """The task ends, or is handed out again."""
    bench = make()
    bench.fill(f"{A}/1")
    worker = hand(bench)
    worker.fail(worker.get(), Reason.INTERNAL, **what)
    while not is_over(bench):
        worker.fail(worker.ask(64, 0.5).leases, Reason.HTTP_NOT_FOUND, http_status=404)
    assert bench.queue.stats().failed == 1


def test_only_what_is_held_counts(make: Callable[..., Bench]) -> None:
    """Faults of leases that nobody gave pause nothing; an image's lease is not ended by rules."""
    bench = make()
    bench.fill(*urls(A, 2))
    worker = hand(bench)
    made_up = [failed(5 + number, 1, Reason.DISK_FULL, detail="x") for number in range(9)]
    assert worker.queue.retry(worker.session, made_up) == []
    assert bench.queue.stats().trouble is None
    leases = worker.get()
    assert robots_of(leases) == []
    assert worker.queue.learn(worker.session, [Finding(token=leases[0].token, text="")]) == []
    worker.store(leases)
    assert bench.queue.stats().stored == 2


def test_a_refused_completion_leaves_no_lease_behind(make: Callable[..., Bench]) -> None:
    """After a restart the task, done since, is not leased again."""
    bench = make()
    bench.fill(*urls(A, 2))
    worker = hand(bench)
    (first, second) = sorted(worker.get(), key=lambda item: item.task.id)
    bare = Completion(token=first.token, task_id=first.task.id, outcome=Outcome.STORED, http_status=304)
    assert worker.queue.complete(worker.session, [bare]) == []
    worker.store(worker.get())
    worker.queue.release(worker.session, [second.token], False)
    bench = make()
    assert bench.queue.stats().leased == 0
    worker = hand(bench)
    (left,) = worker.get()
    assert left.task.id == second.task.id
    worker.store([left])
    assert (bench.queue.stats().stored, is_over(bench)) == (2, True)
