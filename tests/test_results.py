"""The result queue at the coordinator: pieces become downloads, whatever order, size or digest they come with."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from crawler.broker import results
from crawler.broker.ledger import Ledger
from crawler.broker.local import LocalTaskQueue
from crawler.broker.results import MAX_PIECE, LocalResultQueue
from crawler.broker.state import OWN
from crawler.errors import WireError
from crawler.model import Completion, Download, Lease, Outcome, Part, Progress, Response, Role
from crawler.reasons import Reason
from crawler.settings import Settings
from tests.conftest import wait_until
from tests.test_task_queue import Bench, failed, hello, lease, terms

DATA = bytes(range(256)) * 40
URLS = tuple(f"http://h{n}.test/x" for n in range(6))


class Desk:
    """A result queue under test, and what came out of it."""

    def __init__(self, folder: Path, limit: int = 1 << 30) -> None:
        self.ledger = Ledger(folder / "ledger.db", 0, lambda error: None)
        self.tasks = LocalTaskQueue(self.ledger, terms(Settings()))
        self.spool = folder / "spool"
        self.spool.mkdir()
        self.taken: list[Download] = []
        self.queue = LocalResultQueue(self.tasks, lambda: self.spool, self.taken.append, limit)
        bench = Bench(self.tasks, self.tasks, self.ledger)
        bench.fill(*URLS)
        self.session = bench.join()
        self.leases: list[Lease] = []
        wait_until(self._lease)

    def _lease(self) -> bool:
        self.leases += lease(self.tasks, self.session, len(self.leases) + 1, 1).leases
        return len(self.leases) == len(URLS)

    def download(self, number: int = 0, data: bytes = DATA, sha256: str | None = None) -> Download:
        """Return the download that lease *number* brought."""
        item = self.leases[number]
        return Download(
            token=item.token,
            task=item.task,
            path="/over/there",
            size=len(data),
            sha256=sha256 or hashlib.sha256(data).hexdigest(),
            response=Response(http_status=200, final_url=item.task.url),
        )

    def put(self, download: Download, offset: int, data: bytes) -> bool:
        """Put a piece."""
        return self.queue.put(self.session, Part(download=download, offset=offset, data=data))

    def left(self) -> list[str]:
        """Return the files in the spool that no download names."""
        return sorted({str(path) for path in self.spool.iterdir()} - {item.path for item in self.taken})

    def close(self) -> None:
        for incoming in self.queue._incoming.values():
            incoming.file.close()
        self.tasks.close()
        self.ledger.close()


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Desk]]:
    """Make a result queue with a given limit."""
    made: list[Desk] = []

    def begin(limit: int = 1 << 30) -> Desk:
        made.append(Desk(tmp_path, limit))
        return made[-1]

    yield begin
    for desk in made:
        desk.close()


@pytest.fixture
def desk(make: Callable[..., Desk]) -> Desk:
    return make()


def test_pieces_in_order_become_the_download(desk: Desk) -> None:
    """Byte for byte, at a path of this side; the lease is the coordinator's from then on, with the same token."""
    download = desk.download()
    for offset in range(0, len(DATA), 3000):
        assert desk.taken == []
        assert desk.put(download, offset, DATA[offset : offset + 3000])
    assert [(item.token, item.task, item.sha256) for item in desk.taken] == [
        (download.token, download.task, download.sha256)
    ]
    assert Path(desk.taken[0].path).read_bytes() == DATA
    assert desk.left() == []
    assert download.token not in desk.tasks.extend(desk.session, [download.token], Progress())
    assert desk.tasks.alive() >= {desk.session, OWN}


def test_the_record_names_the_machine_that_fetched_it(desk: Desk) -> None:
    """The coordinator's consumer completes it under its own session."""
    download = desk.download()
    assert desk.put(download, 0, DATA)
    end = Completion(token=download.token, task_id=download.task.id, outcome=Outcome.STORED, path="ab/ab.jpg", bytes=7)
    assert desk.tasks.complete(OWN, [end]) == [download.token]
    assert [record.worker for record in desk.ledger.view.current()] == ["m"]


def test_a_piece_that_comes_again_changes_nothing(desk: Desk) -> None:
    """A client that did not hear the answer asks again."""
    download = desk.download()
    for offset in (0, 5000, 5000):
        assert desk.put(download, offset, DATA[offset : offset + 5000])
    assert desk.put(download, 10_000, DATA[10_000:])
    assert [Path(item.path).read_bytes() for item in desk.taken] == [DATA]


@pytest.mark.parametrize("size", [len(DATA), 4000], ids=["one piece", "several"])
def test_a_last_piece_that_comes_again_leaves_the_download_alone(desk: Desk, size: int) -> None:
    """The consumer may be at it: its file is neither written nor removed, and its room stays taken."""
    download = desk.download()
    for offset in range(0, len(DATA), size):
        assert desk.put(download, offset, DATA[offset : offset + size])
    last = (len(DATA) - 1) // size * size
    assert desk.put(download, last, DATA[last:])
    assert [Path(item.path).read_bytes() for item in desk.taken] == [DATA]
    assert desk.queue._reserved == {download.token: len(DATA)}


def test_a_gap_means_begin_again(desk: Desk) -> None:
    """A piece that does not continue what is there is not taken; one that does is, afterwards."""
    download = desk.download()
    assert not desk.put(download, 4000, DATA[4000:8000])
    assert desk.put(download, 0, DATA[:4000])
    assert not desk.put(download, 8000, DATA[8000:])
    assert desk.taken == []
    assert desk.put(download, 4000, DATA[4000:])
    assert Path(desk.taken[0].path).read_bytes() == DATA


def test_an_upload_may_begin_again(desk: Desk) -> None:
    """From offset 0: what had come before is forgotten, with its digest."""
    download = desk.download()
    assert desk.put(download, 0, b"other bytes, of an upload that broke off")
    assert desk.put(download, 0, DATA[:6000])
    assert desk.put(download, 6000, DATA[6000:])
    assert Path(desk.taken[0].path).read_bytes() == DATA


def test_a_damaged_download_is_fetched_again(desk: Desk) -> None:
    """Its digest tells; the task is READY, uncharged, and nothing is left of the bytes."""
    download = desk.download(sha256="0" * 64)
    assert desk.put(download, 0, DATA)
    assert (desk.taken, desk.left()) == ([], [])
    again = lease(desk.tasks, desk.session, 99).leases
    assert [(item.task.id, item.task.attempts, item.task.losses) for item in again] == [(download.task.id, 0, 0)]


def test_a_download_whose_lease_is_over_is_dropped(desk: Desk) -> None:
    """True, so that its worker lets go of it too; its room is free again."""
    download = desk.download()
    desk.tasks.release(desk.session, [download.token], False)
    assert desk.put(download, 0, DATA)
    assert (desk.taken, desk.left()) == ([], [])
    assert desk.queue._reserved == {}


def test_the_lease_of_another_session_is_not_taken(desk: Desk) -> None:
    """Nobody can put a download in another one's place."""
    download = desk.download()
    other = desk.tasks.hello(hello(Role.WORKER)).session
    assert desk.queue.put(other, Part(download=download, offset=0, data=DATA))
    assert desk.taken == []
    assert desk.put(download, 0, DATA)
    assert len(desk.taken) == 1


def test_an_empty_download_is_one(desk: Desk) -> None:
    """One piece of nothing is all of it."""
    assert desk.put(desk.download(data=b""), 0, b"")
    assert [item.size for item in desk.taken] == [0]


@pytest.mark.parametrize(
    ("offset", "size"), [(0, len(DATA) + 1), (1, len(DATA)), (len(DATA), 1), (-1, 1), (0, MAX_PIECE + 1)]
)
def test_a_piece_that_does_not_fit_is_refused(desk: Desk, offset: int, size: int) -> None:
    """Before anything is written: it is not what was agreed."""
    with pytest.raises(WireError, match=f"piece of {size} bytes"):
        desk.put(desk.download(), offset, bytes(size))
    assert list(desk.spool.iterdir()) == []


def test_without_room_a_download_waits(make: Callable[..., Desk]) -> None:
    """False until the consumer has dealt with one of those that came before."""
    desk = make(limit=2 * len(DATA))
    first, second, third = (desk.download(number) for number in range(3))
    assert desk.put(first, 0, DATA) and desk.put(second, 0, DATA[:10])
    assert not desk.put(third, 0, DATA)
    assert not desk.put(third, 0, DATA[:10])
    desk.queue.done(first.token)
    assert desk.put(third, 0, DATA)
    assert [item.token for item in desk.taken] == [first.token, third.token]


def test_one_download_always_fits(make: Callable[..., Desk]) -> None:
    """However small the limit: otherwise it would wait for ever."""
    desk = make(limit=1)
    assert desk.put(desk.download(0), 0, DATA)
    assert not desk.put(desk.download(1), 0, DATA)
    desk.queue.done(desk.leases[0].token)
    assert desk.put(desk.download(1), 0, DATA)


def test_room_is_reserved_once(make: Callable[..., Desk]) -> None:
    """An upload that begins again, and one that is done, take no more room than their size."""
    desk = make(limit=2 * len(DATA))
    first = desk.download(0)
    for _ in range(5):
        assert desk.put(first, 0, DATA[:100])
    assert desk.put(desk.download(1), 0, DATA[:100])
    assert desk.put(first, 0, DATA)
    desk.queue.done(first.token)
    assert desk.put(desk.download(2), 0, DATA)


def test_an_upload_that_fell_silent_gives_its_room_back(
    make: Callable[..., Desk], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its worker is gone: the next download drops it, file and all."""
    desk = make(limit=len(DATA))
    assert desk.put(desk.download(0), 0, DATA[:100])
    assert not desk.put(desk.download(1), 0, DATA)
    monkeypatch.setattr(results, "SILENCE", -1.0)
    assert desk.put(desk.download(1), 0, DATA)
    assert (len(desk.taken), desk.left()) == (1, [])
    assert not desk.put(desk.download(0), 100, DATA[100:])


def test_a_failure_of_the_worker_after_the_hand_over_is_stale(desk: Desk) -> None:
    """The lease is not its own any more."""
    download = desk.download()
    assert desk.put(download, 0, DATA)
    assert desk.tasks.retry(desk.session, [failed(download.token, download.task.id, Reason.TIMEOUT)]) == []
