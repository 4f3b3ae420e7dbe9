"""A worker with real downloaders on a real queue: when they die, when it is stopped, when nobody answers."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from crawler.broker import TaskQueue, keys
from crawler.broker.ledger import Ledger
from crawler.broker.local import LocalTaskQueue
from crawler.broker.manager import QueueClient, QueueServer, Service
from crawler.errors import CrawlerError, QueueUnavailable, UnknownSession, WireError
from crawler.model import Completion, Download, Lease, Progress, QueueStatus, Task
from crawler.reasons import Reason
from crawler.settings import Access, Politeness, Settings
from crawler.slate import Slate
from crawler.worker import Plan, Worker
from crawler.worker.crew import DownloaderCrew, Heard
from crawler.worker.messages import Events, Setup
from crawler.worker.outbox import BATCH, Outbox
from crawler.worker.sink import Ends
from crawler.worker.threads import FetchThreads
from tests.conftest import wait_until
from tests.site import Site, most_at_once
from tests.test_task_queue import Bench, failed, stored, terms

#: Tasks where some are enough.
FEW = 6
SETTINGS = Settings(access=Access(allow_net=("127.0.0.0/8",)), politeness=Politeness(per_host=64, robots=False))


class Notes:
    """A sink that takes every download for an image."""

    def __init__(self, ends: Ends) -> None:
        self._ends = ends
        self.taken: list[Download] = []

    def start(self) -> None:
        """Nothing to begin."""

    def take(self, download: Download) -> None:
        """Note it, and report it as stored."""
        self.taken.append(download)
        Path(download.path).unlink()
        self._ends.ended(stored(download.token, download.task.id))

    def close(self, wait: float) -> None:
        """Nothing to end."""


class Rig:
    """One worker of one downloader, on a thread, and its queue."""

    def __init__(self, folder: Path, served: bool = False, per_host: int = 64) -> None:
        self._ends: list[Callable[[], None]] = []
        self._folder = folder
        self.make_sink: Callable[[Ends], Notes] = Notes
        self.ledger = Ledger(folder / "ledger.db", 0, lambda error: None)
        self._ends.append(self.ledger.close)
        politeness = msgspec.structs.replace(SETTINGS.politeness, per_host=per_host)
        self.local = LocalTaskQueue(self.ledger, terms(msgspec.structs.replace(SETTINGS, politeness=politeness)))
        self._ends.append(self.local.close)
        self.queue: Any = self._serve() if served else self.local
        self.bench = Bench(self.queue, self.local, self.ledger)
        self.outcome: list[QueueStatus | CrawlerError] = []

    def _serve(self) -> Any:
        key = keys.fresh(self._folder)
        self.server = QueueServer([Service("task_queue", TaskQueue, self.local)], ("127.0.0.1", 0), key, self.local)
        self.server.start()
        self._ends.append(lambda: self.server.close(2))
        self.client = QueueClient(self.server.address, key, [Service("task_queue", TaskQueue, None)], 60)
        self._ends.append(self.client.close)
        return self.client.proxy("task_queue")

    def start(
        self, threads: int, grace: float = 25.0, lease_life: float = 60.0, ahead: int = 0, processes: int = 1
    ) -> None:
        """Start the worker; *ahead* is how many more leases it takes than a downloader has threads."""
        spool = self._folder / "spool"
        spool.mkdir()
        self.session = self.bench.join()
        self.crew = DownloaderCrew(Setup(settings=SETTINGS, spool=str(spool), threads=threads), processes)
        plan = Plan(threads + ahead, lease_life, grace)
        self.worker = Worker(self.queue, self.session, self.crew, plan, self._make_sink)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        self._ends.append(self._end)

    def _make_sink(self, ends: Ends) -> Notes:
        self.sink = self.make_sink(ends)
        return self.sink

    def _run(self) -> None:
        try:
            self.outcome.append(self.worker.run())
        except CrawlerError as error:
            self.outcome.append(error)

    def _end(self) -> None:
        self.worker.fail(CrawlerError("the test is over"))
        self._thread.join(20)
        assert not self._thread.is_alive()

    def started(self) -> set[int]:
        """Return the tokens of fetches that downloaders have noted to be under way."""
        crews = filter(None, (getattr(self.crew, "_crew", None), self.crew._alone))
        children = [child for crew in crews for child in list(crew._children.values())]
        return {token for child in children for token in noted(child.slate)}

    def result(self) -> QueueStatus | CrawlerError:
        """Wait for the worker's end."""
        wait_until(lambda: self.outcome, 30)
        return self.outcome[0]

    def close(self) -> None:
        """End everything, last first."""
        while self._ends:
            self._ends.pop()()


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Rig]]:
    """Make a rig, on a queue in this process or on one that is served."""
    made: list[Rig] = []

    def begin(served: bool = False, per_host: int = 64) -> Rig:
        made.append(Rig(tmp_path, served, per_host))
        return made[-1]

    yield begin
    for rig in made:
        rig.close()


@pytest.fixture
def rig(make: Callable[..., Rig]) -> Rig:
    return make()


def downloaders() -> set[int]:
    """Return the process ids of the downloaders that this process has."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and b"crawler.worker.downloader" in (folder / "cmdline").read_bytes():
                found.add(int(folder.name))
        except OSError:  # gone in between
            continue
    return found


def kill_downloaders() -> None:
    """Kill all downloaders."""
    for process in downloaders():
        os.kill(process, signal.SIGKILL)


# ------------------------------------------------------------------ downloaders that die


def test_what_a_killed_downloader_had_started_is_fetched_alone(rig: Rig, site: Site) -> None:
    """Those come back with a loss each, one at a time; none is lost, and none is recorded twice."""
    urls = [site.url(f"/slow/1/photo/{n}.jpg") for n in range(3)] + [site.url(f"/photo/{n}.jpg") for n in range(20)]
    rig.bench.fill(*urls)
    rig.start(threads=3)
    wait_until(lambda: len(rig.started()) == 3)
    kill_downloaders()
    assert rig.result() is QueueStatus.FINISHED
    assert sorted(record.url for record in rig.bench.records()) == sorted(urls)
    assert len(rig.ledger.view.records(0, 99)) == len(urls)
    lost = {download.task.url: download.task.losses for download in rig.sink.taken if download.task.losses}
    assert lost and set(lost.values()) == {1} and set(lost) <= set(urls)
    # Of each the last request: the site may still be busy with those of the one that was killed.
    again = {request.path: request for request in sorted(site.requests, key=lambda request: request.start)}
    assert most_at_once([request for path, request in again.items() if site.base + path in lost]) == 1


def test_what_a_killed_downloader_had_not_started_costs_nothing(rig: Rig, site: Site) -> None:
    """The next one gets it under the same lease; attempts and losses stay what they were."""
    slow = [site.url(f"/slow/1/photo/{n}.jpg") for n in range(2)]
    rig.bench.fill(*slow, *(site.url(f"/photo/{n}.jpg") for n in range(4)))
    rig.start(threads=2, ahead=4)
    wait_until(lambda: len(rig.started()) == 2 and len(rig.worker.holds()) == 6)
    held = set(rig.worker.holds()) - rig.started()
    kill_downloaders()
    assert rig.result() is QueueStatus.FINISHED
    assert {download.task.url: download.task.losses for download in rig.sink.taken if download.task.losses} == (
        dict.fromkeys(slow, 1)
    )
    assert {download.token for download in rig.sink.taken if not download.task.losses} == held
    assert {record.attempts for record in rig.bench.records()} == {1}


def test_a_task_over_which_three_died_is_poisoned(rig: Rig, site: Site) -> None:
    """It is recorded, and the worker goes on with others."""
    bad, good = site.url("/slow/30/photo/1.jpg"), site.url("/photo/2.jpg")
    rig.bench.fill(bad, good)
    rig.start(threads=2, processes=2)
    seen: set[int] = set()

    def began() -> bool:
        """Tell whether a fetch of it has begun that was not yet seen."""
        new = {lease.token for lease in _held(rig) if lease.task.url == bad} - seen
        seen.update(new)
        return bool(new)

    for _ in range(3):
        wait_until(began)
        kill_downloaders()
    assert rig.result() is QueueStatus.FINISHED
    records = {record.url: record for record in rig.bench.records()}
    assert (records[bad].reason, records[bad].attempts) == (Reason.POISONED, 0)
    assert records[good].path is not None


def noted(slate: Slate) -> set[int]:
    """Return what is on a slate, nothing where its child has ended meanwhile."""
    try:
        return slate.read()
    except ValueError:
        return set()


def test_what_a_downloader_held_beside_a_task_that_is_given_up_costs_nothing(tmp_path: Path, site: Site) -> None:
    """It is killed for the one; the other comes back as if it had not been started."""
    lost: list[list[int]] = []
    returned: list[Lease] = []
    crew = DownloaderCrew(Setup(settings=SETTINGS, spool=str(tmp_path), threads=2), 1)
    crew.start(Heard(lambda events: None, lost.append, returned.extend, lambda error: None))
    try:
        crew.feed([Lease(token=n, task=Task(id=n, url=site.url(f"/slow/30/photo/{n}.jpg"))) for n in (1, 2)])
        wait_until(lambda: any(noted(child.slate) == {1, 2} for child in list(crew._crew._children.values())))
        crew.drop([1])
        wait_until(lambda: returned)
        assert ([lease.token for lease in returned], lost) == ([2], [])
    finally:
        crew.close()


def test_a_thread_takes_its_note_back(tmp_path: Path) -> None:
    """What has ended is not charged to a task when its downloader dies later."""
    notes: list[tuple[int, int]] = []
    events: list[Events] = []
    pool = FetchThreads(Settings(), tmp_path, 1, events.append, lambda thread, token: notes.append((thread, token)))
    pool.start()
    pool.feed([Lease(token=7, task=Task(id=1, url="http://127.0.0.1:9/refused.jpg"))])
    wait_until(lambda: any(item.failures for item in events))
    pool.close(5)
    assert notes == [(0, 7), (0, 0)]


class Late(Notes):
    """A sink that is slow: it reports nothing as stored before it has everything."""

    def take(self, download: Download) -> None:
        """Note it, and report all when it is the last."""
        self.taken.append(download)
        Path(download.path).unlink()
        for one in self.taken if len(self.taken) == FEW else ():
            self._ends.ended(stored(one.token, one.task.id))


def test_a_slot_is_told_of_at_once_where_nothing_else_can_be_leased(
    make: Callable[..., Rig], site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host that may be asked for one thing at a time is not kept waiting by reports that are gathered."""
    monkeypatch.setattr("crawler.worker.reports.PAUSE", 3600.0)
    monkeypatch.setattr("crawler.worker.LEASE_WAIT", 3600.0)
    rig = make(per_host=1)
    monkeypatch.setattr(rig, "make_sink", Late)
    rig.bench.fill(*(site.url(f"/photo/{number}.jpg") for number in range(FEW)))
    rig.start(threads=8)
    assert rig.result() is QueueStatus.FINISHED
    assert len(site.requests) == FEW
    assert most_at_once(site.requests) == 1


def _held(rig: Rig) -> list[Any]:
    """Return the leases whose fetch is under way."""
    started = rig.started()
    return [lease for held in list(rig.crew._holds.values()) for token, lease in held.items() if token in started]


# ------------------------------------------------------------------ stopping


def test_a_worker_that_is_stopped_ends_what_is_in_hand(rig: Rig, site: Site) -> None:
    """Within the grace; it leases no more, and leaves."""
    rig.bench.fill(*(site.url(f"/slow/0.5/photo/{n}.jpg") for n in range(6)))
    rig.start(threads=2)
    wait_until(lambda: len(rig.started()) == 2)
    rig.worker.stop()
    assert rig.result() is QueueStatus.DRAINING
    stats = rig.local.stats()
    assert (stats.stored, stats.ready, stats.leased, stats.workers) == (len(rig.sink.taken), 6 - stats.stored, 0, [])
    assert stats.stored >= 2
    assert len(site.requests) == stats.stored


def test_a_worker_that_is_stopped_gives_back_what_takes_too_long(rig: Rig, site: Site) -> None:
    """READY again, charged nothing, and its downloaders are gone."""
    rig.bench.fill(*(site.url(f"/slow/30/photo/{n}.jpg") for n in range(3)))
    rig.start(threads=3, grace=2.1)
    wait_until(lambda: len(rig.started()) == 3)
    rig.worker.stop()
    rig.worker.stop()
    assert rig.result() is QueueStatus.DRAINING
    stats = rig.local.stats()
    assert (stats.ready, stats.leased, stats.failed) == (3, 0, 0)
    assert downloaders() == set()
    with pytest.raises(UnknownSession):
        rig.local.extend(rig.session, [], Progress())


def test_a_queue_that_drains_ends_a_worker(rig: Rig, site: Site) -> None:
    """With what it holds done, in the time that the queue names."""
    rig.bench.fill(*(site.url(f"/slow/0.5/photo/{n}.jpg") for n in range(9)))
    rig.start(threads=2)
    wait_until(lambda: len(rig.started()) == 2)
    rig.local.drain(25.0)
    assert rig.result() is QueueStatus.DRAINING
    stats = rig.local.stats()
    assert stats.stored >= 2 and (stats.stored + stats.ready, stats.leased) == (9, 0)


# ------------------------------------------------------------------ nobody answers


def test_leases_that_ran_out_are_given_up(make: Callable[..., Rig], site: Site) -> None:
    """By the worker's own clock: what it fetches may be somebody else's by then, so its downloader is replaced."""
    rig = make(served=True)
    rig.bench.fill(site.url("/slow/30/photo/1.jpg"))
    rig.start(threads=1, lease_life=1.0)
    wait_until(lambda: len(rig.started()) == 1)
    before = downloaders()
    rig.server.close(0)
    wait_until(lambda: not rig.worker.holds())
    wait_until(lambda: not before & downloaders())
    assert (rig.outcome, rig.sink.taken) == ([], [])
    rig.client.close()
    assert isinstance(rig.result(), QueueUnavailable)


# ------------------------------------------------------------------ the outbox


@pytest.fixture
def outbox(rig: Rig) -> Iterator[tuple[Outbox, list[list[int]], list[CrawlerError]]]:
    """An outbox that is not started yet, what it told as sent, and its errors."""
    sent: list[list[int]] = []
    errors: list[CrawlerError] = []
    box = Outbox(rig.local, rig.bench.join(), sent.append, errors.append)
    yield box, sent, errors
    box.close()


Box = tuple[Outbox, list[list[int]], list[CrawlerError]]


def test_ends_are_sent_in_batches(outbox: Box) -> None:
    """All that is waiting, up to a limit, failures first; stale ones are answered too: nobody waits for them."""
    box, sent, errors = outbox
    for token in range(BATCH + 44):
        box.put(stored(token, 1) if token % 2 else failed(token, 1, Reason.TIMEOUT))
    assert not box.flush(0)
    box.start()
    assert box.flush(20)
    in_order = [*range(0, BATCH + 44, 2), *range(1, BATCH + 44, 2)]
    assert sent == [in_order[:BATCH], in_order[BATCH:]]
    assert errors == []


def test_an_end_that_comes_alone_is_sent_at_once(outbox: Box) -> None:
    """A batch is what gathers in a moment, not what is waited for."""
    box, sent, _ = outbox
    box.start()
    for token in (1, 2):
        box.put(stored(token, 1))
        assert box.flush(20)
    assert sent == [[1], [2]]


def test_what_says_something_about_a_host_is_not_gathered(outbox: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """The queue must know of it before it hands out more of the host; what has gathered goes with it."""
    monkeypatch.setattr("crawler.worker.outbox.GATHER", 3600.0)
    box, sent, _ = outbox
    box.start()
    box.put(stored(1, 1))
    assert not box.flush(0.05)
    box.put(failed(2, 1, Reason.TIMEOUT))
    assert box.flush(20)
    assert sent == [[2, 1]]


def test_what_makes_sending_impossible_is_told_once(outbox: Box) -> None:
    """Nothing is told as sent, and nobody who flushes waits for ever."""
    box, sent, errors = outbox
    bad = Completion(token=1, task_id=1, outcome=stored(1, 1).outcome, path="../../x")
    box.put(bad)
    box.put(stored(2, 1))
    box.start()
    wait_until(lambda: errors)
    assert not box.flush(0.05)
    assert [type(error) for error in errors] == [WireError]
    assert sent == []
