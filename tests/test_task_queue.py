"""What every task queue promises: the same suite on the local one and on the one that is served."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec
import pytest

from crawler.broker import TaskQueue, keys, revival
from crawler.broker.ledger import Ledger
from crawler.broker.local import LocalTaskQueue
from crawler.broker.manager import QueueClient, QueueServer, Service
from crawler.broker.terms import Terms
from crawler.broker.verbs import tables
from crawler.errors import StorageFailed, UnknownSession, VersionMismatch, WireError
from crawler.model import (
    PROTOCOL,
    Batch,
    Choice,
    Completion,
    Failure,
    Grant,
    Hello,
    Lease,
    Outcome,
    Progress,
    QueueStatus,
    Record,
    Role,
    Row,
    Welcome,
)
from crawler.reasons import Reason
from crawler.settings import Politeness, RetryPolicy, Settings
from tests.conftest import wait_until

#: Fails for a transient reason again at once, so that no test waits.
QUICK = RetryPolicy(base=0.0)


class Bench(NamedTuple):
    """A queue under test, and what a test needs beside it."""

    queue: TaskQueue
    local: LocalTaskQueue
    ledger: Ledger

    def join(self, role: Role = Role.WORKER, local: bool = False) -> str:
        """Open a session that stays alive, and return its id."""
        found = self.queue.hello(msgspec.structs.replace(hello(role=role), local=local))
        self.local.attached(found.session)
        return found.session

    def fill(self, *urls: str, seal: bool = True) -> str:
        """Put one list of *urls*; return the producer's session."""
        session = self.join(Role.PRODUCER)
        listed = self.queue.open_list(session, "list", False)
        assert self.queue.put(session, listed.id, batch(1, *urls)) == len(urls) + 1
        if seal:
            self.queue.seal(session, listed.id)
        return session

    def records(self) -> list[Record]:
        """Return the current records."""
        return list(self.ledger.view.current())


def hello(
    role: Role = Role.WORKER, protocol: int = PROTOCOL, session: str = "", holds: list[int] | None = None
) -> Hello:
    return Hello(protocol=protocol, version="9.9", machine="m", role=role, session=session, holds=holds or [])


def batch(first: int, *urls: str) -> Batch:
    rows = [Row(line=first + n, url=url, host=urlsplit(url).hostname or "") for n, url in enumerate(urls)]
    return Batch(first_line=first, next_line=first + len(urls), offset=9, digest="d", total_bytes=9, rows=rows)


def lease(queue: TaskQueue, session: str, number: int, count: int = 64, wait: float = 5.0) -> Grant:
    return queue.lease(session, number, count, wait, Progress())


def stored(token: int, task_id: int) -> Completion:
    return Completion(token=token, task_id=task_id, outcome=Outcome.STORED, http_status=200, path="ab/ab.jpg", bytes=7)


def failed(token: int, task_id: int, reason: Reason, **more: object) -> Failure:
    return Failure(token=token, task_id=task_id, reason=reason, **more)  # type: ignore[arg-type]


def terms(settings: Settings, life: float = 60.0, robots: bool = False) -> Terms:
    """Return what a queue is told; robots.txt are none of its business unless *robots* is said."""
    politeness = msgspec.structs.replace(settings.politeness, robots=robots)
    settings = msgspec.structs.replace(settings, politeness=politeness)
    base = Welcome(session="", version="1.0", lease_life=life, store="/store", nonce="", settings=settings)
    return Terms(base, lambda session: None, "images/")


@pytest.fixture(params=["local", "served"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    """Make a queue with given settings; a second call on the same folder is a restart."""
    ends: list[Callable[[], None]] = []

    def begin(life: float = 60.0, robots: bool = False, **settings: object) -> Bench:
        while ends:
            ends.pop()()
        ledger = Ledger(tmp_path / "ledger.db", 0, lambda error: None)
        ends.append(ledger.close)
        told = terms(Settings(retry=QUICK, **settings), life, robots)  # type: ignore[arg-type]
        local = LocalTaskQueue(ledger, told)
        ends.append(local.close)
        if request.param == "local":
            return Bench(local, local, ledger)
        key = keys.fresh(tmp_path)
        server = QueueServer([Service("task_queue", TaskQueue, local)], ("127.0.0.1", 0), key, local)
        server.start()
        ends.append(lambda: server.close(2))
        client = QueueClient(server.address, key, [Service("task_queue", TaskQueue, None)], 5)
        ends.append(client.close)
        return Bench(client.proxy("task_queue"), local, ledger)

    yield begin
    while ends:
        ends.pop()()


@pytest.fixture
def bench(make: Callable[..., Bench]) -> Bench:
    """A queue with default settings."""
    return make()


A, B, C = "http://a.test/1", "http://b.test/2", "http://a.test/3"


def test_every_task_ends(bench: Bench) -> None:
    """What was put is leased once, completed once, and then the queue is finished."""
    bench.fill(A, B, C)
    session = bench.join()
    grant = lease(bench.queue, session, 1)
    wait_until(lambda: bench.queue.stats().leased == 3 or grant.leases.extend(lease(bench.queue, session, 2).leases))
    assert sorted(item.task.url for item in grant.leases) == [A, C, B]
    done = bench.queue.complete(session, [stored(item.token, item.task.id) for item in grant.leases])
    assert sorted(done) == sorted(item.token for item in grant.leases)
    assert [record.url for record in bench.records()] == [A, B, C]
    assert bench.records()[0].path == "images/ab/ab.jpg"
    assert lease(bench.queue, session, 9).status is QueueStatus.FINISHED


def test_a_put_for_another_line_changes_nothing(bench: Bench) -> None:
    """A put that comes again, or too early, returns the line that is expected."""
    session = bench.join(Role.PRODUCER)
    listed = bench.queue.open_list(session, "list", False)
    assert bench.queue.put(session, listed.id, batch(1, A, B)) == 3
    assert bench.queue.put(session, listed.id, batch(1, A, B)) == 3
    assert bench.queue.put(session, listed.id, batch(8, C)) == 3
    assert bench.queue.stats().total == 2
    assert bench.queue.stats().entries == 2


def test_a_url_on_many_lines_is_one_task(bench: Bench) -> None:
    """Entries share a task, within a batch and across batches and lists."""
    bench.fill(A, A, B)
    session = bench.join(Role.PRODUCER)
    other = bench.queue.open_list(session, "other", False)
    bench.queue.put(session, other.id, batch(1, B, A))
    assert bench.queue.stats().total == 2
    assert [(row.list_name, row.line, row.url) for row in bench.ledger.view.entries()] == [
        ("list", 1, A), ("list", 2, A), ("list", 3, B), ("other", 1, B), ("other", 2, A)
    ]  # fmt: skip


def test_a_line_that_is_no_url_is_a_failed_task(bench: Bench) -> None:
    """It has its record at once, and says where it stands."""
    session = bench.join(Role.PRODUCER)
    listed = bench.queue.open_list(session, "list", False)
    row = Row(line=1, url="hello", host="", error="list, line 1: it is no http or https URL")
    one = Batch(first_line=1, next_line=2, offset=6, digest="d", total_bytes=6, rows=[row])
    bench.queue.put(session, listed.id, one)
    bench.queue.seal(session, listed.id)
    assert [(item.reason, item.detail) for item in bench.records()] == [(Reason.BAD_URL, row.error)]
    assert bench.queue.stats().status is QueueStatus.FINISHED


def test_a_repeated_lease_request_gets_the_same_leases(bench: Bench) -> None:
    """Its number tells that it is the same request."""
    bench.fill(A, B)
    session = bench.join()
    assert lease(bench.queue, session, 1) == lease(bench.queue, session, 1)


def test_a_repeated_complete_is_accepted_and_a_stale_one_is_not(bench: Bench) -> None:
    """The token that ended a task is kept; one of an earlier lease is refused."""
    bench.fill(A)
    session = bench.join()
    first = lease(bench.queue, session, 1).leases[0]
    bench.queue.release(session, [first.token], False)
    second = lease(bench.queue, session, 2).leases[0]
    assert bench.queue.complete(session, [stored(first.token, 1)]) == []
    assert bench.queue.complete(session, [stored(second.token, 1)]) == [second.token]
    assert bench.queue.complete(session, [stored(second.token, 1)]) == [second.token]
    assert bench.queue.complete(session, [stored(first.token, 1)]) == []
    assert len(bench.ledger.view.records(0, 10)) == 1


def test_a_transient_failure_is_tried_again_until_attempts_are_used_up(bench: Bench) -> None:
    """Three fetches by default, then the record."""
    bench.fill(A)
    session = bench.join()
    for number in (1, 2, 3):
        item = lease(bench.queue, session, number).leases[0]
        assert item.task.attempts == number - 1
        assert bench.queue.retry(session, [failed(item.token, 1, Reason.TIMEOUT, detail="slow")]) == [item.token]
    record = bench.records()[0]
    assert (record.reason, record.attempts, record.detail) == (Reason.TIMEOUT, 3, "slow")


def test_a_permanent_failure_is_recorded_at_once(bench: Bench) -> None:
    """No second fetch for what would not change; a repeated report is accepted."""
    bench.fill(A)
    session = bench.join()
    item = lease(bench.queue, session, 1).leases[0]
    report = [failed(item.token, 1, Reason.HTTP_NOT_FOUND, http_status=404)]
    assert bench.queue.retry(session, report) == bench.queue.retry(session, report) == [item.token]
    assert [(record.reason, record.http_status) for record in bench.records()] == [(Reason.HTTP_NOT_FOUND, 404)]


def test_our_own_fault_charges_no_attempt(bench: Bench) -> None:
    """A full disk is not the task's fault: it is delayed, uncharged."""
    bench.fill(A)
    session = bench.join()
    item = lease(bench.queue, session, 1).leases[0]
    bench.queue.retry(session, [failed(item.token, 1, Reason.DISK_FULL)])
    assert bench.queue.stats().delayed == 1
    assert bench.records() == []


def test_a_moved_task_queues_at_its_new_host(make: Callable[..., Bench]) -> None:
    """A redirect to another host is charged no attempt, and counts at that host's limit."""
    bench = make(politeness=Politeness(per_host=1))
    bench.fill(A)
    session = bench.join()
    item = lease(bench.queue, session, 1).leases[0]
    bench.queue.retry(session, [failed(item.token, 1, Reason.BAD_REDIRECT, moved_to="http://c.test/x", hops=1)])
    again = lease(bench.queue, session, 2).leases[0].task
    assert (again.url, again.target, again.hops, again.attempts) == (A, "http://c.test/x", 1, 0)


def test_no_host_is_above_its_limit_until_a_fetch_has_ended(make: Callable[..., Bench]) -> None:
    """A slot frees at `fetched`, not at the completion."""
    bench = make(politeness=Politeness(per_host=1))
    bench.fill(A, C)
    session = bench.join()
    first = lease(bench.queue, session, 1).leases
    assert len(first) == 1
    assert lease(bench.queue, session, 2, wait=0).leases == []
    bench.queue.extend(session, [], Progress(started=[first[0].token], fetched=[first[0].token]))
    assert len(lease(bench.queue, session, 3).leases) == 1


def test_a_pause_between_starts_is_counted_from_the_start(make: Callable[..., Bench]) -> None:
    """Until a start is reported the next one waits; then for the delay."""
    bench = make(politeness=Politeness(per_host=8, delay=3600))
    bench.fill(A, C)
    session = bench.join()
    first = lease(bench.queue, session, 1).leases
    bench.queue.extend(session, [], Progress(started=[first[0].token], fetched=[first[0].token]))
    assert len(first) == 1
    assert lease(bench.queue, session, 2, wait=0).leases == []
    assert bench.queue.stats().ready == 1


def test_a_released_task_is_ready_again_uncharged(bench: Bench) -> None:
    """Giving back costs nothing."""
    bench.fill(A)
    session = bench.join()
    first = lease(bench.queue, session, 1).leases[0]
    bench.queue.release(session, [first.token], False)
    second = lease(bench.queue, session, 2).leases[0]
    assert second.task == first.task
    assert second.token > first.token


def test_three_losses_poison_a_task(bench: Bench) -> None:
    """The child that worked on it died three times: it is recorded, charged no attempt."""
    bench.fill(A)
    session = bench.join()
    for number in (1, 2, 3):
        item = lease(bench.queue, session, number).leases[0]
        assert item.task.losses == number - 1
        bench.queue.release(session, [item.token], True)
    assert [(record.reason, record.attempts) for record in bench.records()] == [(Reason.POISONED, 0)]


def test_a_lease_that_is_not_extended_runs_out(make: Callable[..., Bench]) -> None:
    """Its task goes to another session, and the first one's completion is refused."""
    bench = make(life=0.5)
    bench.fill(A)
    slow, quick = bench.join(), bench.join()
    first = lease(bench.queue, slow, 1).leases[0]
    second = lease(bench.queue, quick, 1).leases[0]
    assert bench.queue.extend(slow, [first.token], Progress()) == []
    assert bench.queue.complete(slow, [stored(first.token, 1)]) == []
    assert bench.queue.complete(quick, [stored(second.token, 1)]) == [second.token]


def test_leaving_gives_back_leases(bench: Bench) -> None:
    """A session that leaves holds nothing, and is not known any more."""
    bench.fill(A)
    first, second = bench.join(), bench.join()
    assert len(lease(bench.queue, first, 1).leases) == 1
    bench.queue.leave(first)
    assert len(lease(bench.queue, second, 1).leases) == 1
    with pytest.raises(UnknownSession):
        lease(bench.queue, first, 2)


def test_a_session_is_dead_soon_after_its_last_connection(bench: Bench) -> None:
    """Its tasks go to others without waiting for the leases to run out."""
    bench.fill(A)
    first, second = bench.join(), bench.join()
    assert len(lease(bench.queue, first, 1).leases) == 1
    bench.local.detached(first)
    wait_until(lambda: bench.queue.stats().leased == 0)
    assert len(lease(bench.queue, second, 1).leases) == 1


def test_leases_survive_a_restart(make: Callable[..., Bench]) -> None:
    """A session that comes back goes on with what it holds; nobody else gets it meanwhile."""
    bench = make()
    bench.fill(A, B)
    session = bench.join()
    kept = lease(bench.queue, session, 1).leases
    wait_until(lambda: len(kept) == 2 or kept.extend(lease(bench.queue, session, 2).leases))
    bench.ledger.change(lambda changes: None)  # leases are written in the background: wait for that
    again = make()
    other = again.join()
    assert lease(again.queue, other, 1, wait=0).leases == []
    back = again.queue.hello(hello(session=session, holds=[kept[0].token]))
    assert (back.session, back.holds) == (session, [kept[0].token])
    assert [item.task for item in lease(again.queue, other, 2).leases] == [kept[1].task]
    assert again.queue.complete(session, [stored(kept[0].token, kept[0].task.id)]) == [kept[0].token]


def test_a_delayed_task_survives_a_restart(make: Callable[..., Bench]) -> None:
    """It waits on disk, with its attempts."""
    bench = make()
    bench.fill(A)
    session = bench.join()
    item = lease(bench.queue, session, 1).leases[0]
    bench.queue.retry(session, [failed(item.token, 1, Reason.TIMEOUT, retry_after=1.0)])
    again = make()
    assert again.queue.stats().delayed == 1
    assert lease(again.queue, again.join(), 1).leases[0].task.attempts == 1


def test_what_a_child_of_the_last_coordinator_held_is_free_at_once(make: Callable[..., Bench]) -> None:
    """Also a task that was tried before: it had left the delayed ones, and is counted there no more."""
    bench = make()
    bench.fill(A, B)
    session = bench.join(local=True)
    first = lease(bench.queue, session, 1, 1).leases[0]
    bench.queue.retry(session, [failed(first.token, first.task.id, Reason.TIMEOUT)])
    held: list[Lease] = []
    wait_until(lambda: len(held) == 2 or held.extend(lease(bench.queue, session, len(held) + 2, 1).leases))
    bench.ledger.change(lambda changes: None)  # leases are written in the background: wait for that
    again = make()
    stats = again.queue.stats()
    assert (stats.leased, stats.ready + stats.delayed) == (0, 2)
    other, found = again.join(), list[Lease]()
    wait_until(lambda: len(found) == 2 or found.extend(lease(again.queue, other, len(found) + 1, 1).leases))
    assert sorted(item.task.attempts for item in found) == [0, 1]


def test_revived_tasks_are_fetched_again(bench: Bench) -> None:
    """Only those of the reasons named; the record that counts is the last."""
    bench.fill(A, B)
    session = bench.join()
    for number, reason in ((1, Reason.HTTP_NOT_FOUND), (2, Reason.TLS_FAILED)):
        item = lease(bench.queue, session, number, 1).leases[0]
        bench.queue.retry(session, [failed(item.token, item.task.id, reason)])
    assert bench.queue.revive(session, Choice(reasons=("tls_failed",))) == {"tls_failed": 1}
    assert bench.queue.stats().reasons == {"http_not_found": 1}
    item = lease(bench.queue, session, 3).leases[0]
    bench.queue.complete(session, [stored(item.token, item.task.id)])
    assert sorted(record.outcome for record in bench.records()) == [Outcome.FAILED, Outcome.STORED]
    assert [record.seq for record in bench.ledger.view.records(0, 9)] == [1, 2, 3]


def test_many_tasks_are_revived_in_portions(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each recording is looked at once, those at the edges of a portion too; a task that fails again is left alone."""
    monkeypatch.setattr(revival, "PORTION", 2)
    bench.fill(*(f"http://{n}.test/" for n in range(5)))
    session, done = bench.join(), 0
    while done < 5:
        leases = lease(bench.queue, session, done + 1, 5 - done).leases
        bench.queue.retry(session, [failed(one.token, one.task.id, Reason.HTTP_NOT_FOUND) for one in leases])
        done += len(leases)
    assert bench.queue.revive(session, Choice(dry_run=True)) == {"http_not_found": 5}
    assert bench.queue.revive(session, Choice()) == {"http_not_found": 5}
    assert bench.queue.revive(session, Choice()) == {}
    assert bench.queue.stats().failed == 0


def test_draining_hands_out_nothing(bench: Bench) -> None:
    """Workers are told how long they have."""
    bench.fill(A)
    session = bench.join()
    bench.local.drain(30.0)
    grant = lease(bench.queue, session, 1)
    assert (grant.status, grant.leases) == (QueueStatus.DRAINING, [])
    assert grant.grace is not None and 0 < grant.grace <= 30


def test_a_list_is_gone_on_with(bench: Bench) -> None:
    """A second opening says how far it was read; a fresh one begins anew."""
    session = bench.fill(A, B)
    listed = bench.queue.open_list(session, "list", False)
    assert (listed.next_line, listed.offset, listed.digest, listed.sealed) == (3, 9, "d", True)
    assert bench.queue.open_list(session, "list", True).next_line == 1


def test_a_silent_producer_leaves_its_list_incomplete(make: Callable[..., Bench]) -> None:
    """The queue does not wait for ever for somebody who is gone."""
    bench = make(life=0.5)
    session = bench.fill(A, seal=False)
    bench.queue.leave(session)
    wait_until(lambda: bench.queue.stats().incomplete_lists == ["list"])
    assert bench.queue.stats().lists_read


def test_other_versions_are_refused_by_name(bench: Bench) -> None:
    """The message names both."""
    with pytest.raises(VersionMismatch, match=r"crawler 1\.0 .*crawler 9\.9"):
        bench.queue.hello(hello(protocol=PROTOCOL + 1))


def test_a_hello_of_a_later_version_is_understood() -> None:
    """However much more it says, so that it can be refused by its version."""
    said = {**msgspec.to_builtins(hello(protocol=PROTOCOL + 1)), "something": "new"}
    verb = tables([Service("task_queue", TaskQueue, None)])["task_queue"]["hello"]
    assert verb.read_arguments(msgspec.Raw(msgspec.msgpack.encode([said]))) == (hello(protocol=PROTOCOL + 1),)


def test_a_path_out_of_the_store_is_refused(bench: Bench) -> None:
    """Whoever holds the key still cannot point a record anywhere."""
    bench.fill(A)
    session = bench.join()
    item = lease(bench.queue, session, 1).leases[0]
    bad = Completion(token=item.token, task_id=1, outcome=Outcome.STORED, path="../../etc/passwd")
    with pytest.raises(WireError):
        bench.local.complete(session, [bad])
    assert bench.records() == []


def test_counts_add_up(bench: Bench) -> None:
    """Total is the sum of the states, at each step."""
    bench.fill(A, B, C, "http://d.test/", "http://e.test/")
    session = bench.join()
    kept: list[Lease] = []
    wait_until(lambda: len(kept) == 5 or kept.extend(lease(bench.queue, session, len(kept) + 1, 1).leases))
    one, two, three, *_ = kept
    bench.queue.complete(session, [stored(one.token, one.task.id)])
    later = failed(two.token, two.task.id, Reason.TIMEOUT, retry_after=3600.0)
    never = failed(three.token, three.task.id, Reason.EMPTY)
    bench.queue.retry(session, [later, never])
    stats = bench.queue.stats()
    assert (stats.total, stats.ready, stats.leased, stats.delayed, stats.stored, stats.failed) == (5, 0, 2, 1, 1, 1)


def test_a_full_disk_pauses_the_run_and_one_image_stored_ends_the_pause(make: Callable[..., Bench]) -> None:
    """From the eighth local failure in a row on, tasks are handed out one at a time; nobody is charged."""
    bench = make()
    bench.fill(*(f"http://{n}.test/" for n in range(12)))
    session = bench.join()
    held: list[Lease] = []
    wait_until(lambda: len(held) == 10 or held.extend(lease(bench.queue, session, len(held) + 1, 1).leases))
    full = [failed(item.token, item.task.id, Reason.DISK_FULL, detail="full") for item in held[:8]]
    bench.queue.retry(session, full)
    assert lease(bench.queue, session, 90, wait=0).leases == []
    bench.queue.release(session, [held[8].token, held[9].token], False)
    probe = lease(bench.queue, session, 91).leases
    assert len(probe) == 1
    bench.queue.complete(session, [stored(probe[0].token, probe[0].task.id)])
    assert len(lease(bench.queue, session, 92).leases) > 1
    assert bench.queue.stats().failed == 0


def test_a_pause_that_lasts_too_long_ends_the_run(tmp_path: Path) -> None:
    """Whoever runs the queue is told, with what was seen."""
    told: list[StorageFailed] = []
    ledger = Ledger(tmp_path / "ledger.db", 0, told.append)
    queue = LocalTaskQueue(ledger, terms(Settings())._replace(pause_limit=0.0, fail=told.append))
    bench = Bench(queue, queue, ledger)
    try:
        bench.fill(*(f"http://{n}.test/" for n in range(8)))
        session = bench.join()
        held: list[Lease] = []
        wait_until(lambda: len(held) == 8 or held.extend(lease(queue, session, len(held) + 1, 1).leases))
        queue.retry(session, [failed(item.token, item.task.id, Reason.DISK_FULL, detail="no room") for item in held])
        wait_until(lambda: told)
    finally:
        queue.close()
        ledger.close()
    assert "no room" in str(told[0])


# ------------------------------------------------------------------ columns and digests of entries


@pytest.mark.parametrize("asked", [True, False])
def test_a_lease_brings_the_columns_of_the_first_entry_where_they_are_asked_for(
    make: Callable[..., Bench], asked: bool
) -> None:
    """And always the digest that the list says; a repeated request gets the same."""
    bench = make(with_columns=asked)
    producer = bench.join(Role.PRODUCER)
    listed = bench.queue.open_list(producer, "list", False)
    url = "http://a.test/1"
    rows = [
        Row(line=1, url=url, host="a.test", columns=b"first", digest="ab" * 16),
        Row(line=2, url=url, host="a.test", columns=b"second"),
        Row(line=3, url="http://b.test/2", host="b.test"),
    ]
    bench.queue.put(
        producer, listed.id, Batch(first_line=1, next_line=4, offset=9, digest="d", total_bytes=9, rows=rows)
    )
    session = bench.join()
    got: dict[str, Lease] = {}
    for number in (1, 2, 3):
        got |= {one.task.url: one for one in lease(bench.queue, session, number, wait=0.2).leases}
        if number == 1:
            assert lease(bench.queue, session, 1).leases == list(got.values())
    assert [(one.task.columns, one.task.digest) for _, one in sorted(got.items())] == [
        (b"first" if asked else None, "ab" * 16),
        (None, None),
    ]
