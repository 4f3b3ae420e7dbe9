"""Which verifier has which download, over a clock that stands still."""

from __future__ import annotations

from crawler.consumer.jobs import DEPTH, ENOUGH, Jobs
from crawler.model import Download, Response, Task
from crawler.reasons import Reason

DOWNLOAD = Download(
    token=1,
    task=Task(id=1, url="http://127.0.0.1/"),
    path="/nonexistent",
    size=0,
    sha256="0" * 64,
    response=Response(http_status=200, final_url="http://127.0.0.1/"),
)


class Book:
    """Jobs over a clock that stands still."""

    def __init__(self, verifiers: int) -> None:
        self.now = 100.0
        self.jobs = Jobs(lambda: self.now)
        for verifier in range(1, verifiers + 1):
            self.jobs.add_verifier(verifier)

    def take(self, count: int) -> None:
        """Take downloads."""
        for _ in range(count):
            self.jobs.take(DOWNLOAD)

    def assign_all(self) -> list[tuple[int, list[int]]]:
        """Return (verifier, numbers of jobs), as far as there is room."""
        assigned = []
        while (next_ones := self.jobs.assign()) is not None:
            assigned.append((next_ones[0], [job.number for job in next_ones[1]]))
        return assigned

    def judge(self, verifier: int, *numbers: int) -> None:
        """Have jobs judged, in this order."""
        for number in numbers:
            assert self.jobs.judged(verifier, number) is not None


def test_spread() -> None:
    """Jobs are shared evenly while there are few, and go to the verifier that has fewest."""
    book = Book(2)
    book.take(5)
    assert book.jobs.is_movable()
    assert book.assign_all() == [(1, [1, 2, 3]), (2, [4, 5])]
    assert not book.jobs.is_movable()
    book.take(1)
    assert book.assign_all() == [(2, [6])]


def test_refilled() -> None:
    """A verifier gets as many as it has room for, and none while it has enough."""
    book = Book(1)
    book.take(2 * DEPTH)
    assert book.assign_all() == [(1, list(range(1, DEPTH + 1)))]
    book.judge(1, *range(1, DEPTH - ENOUGH + 1))
    assert not book.jobs.is_movable()
    assert book.assign_all() == []
    book.judge(1, DEPTH - ENOUGH + 1)
    assert book.jobs.is_movable()
    assert book.assign_all() == [(1, list(range(DEPTH + 1, 2 * DEPTH - ENOUGH + 2)))]


def test_lies() -> None:
    """A verdict about any other job than the one being worked on is not accepted."""
    book = Book(2)
    book.take(3)
    book.assign_all()
    assert [book.jobs.judged(verifier, number) for verifier, number in ((1, 2), (1, 3), (1, 9), (7, 1))] == [None] * 4
    assert book.jobs.judged(1, 1) is not None
    assert book.jobs.judged(1, 1) is None


def test_again_in_a_fresh_one() -> None:
    """A job whose verifier died goes to a fresh one only; those behind it go first wherever there is room."""
    book = Book(2)
    book.take(7)
    assert book.assign_all() == [(1, [1, 2, 3, 4]), (2, [5, 6, 7])]
    assert book.jobs.died(1) is None
    assert book.jobs.is_movable()
    assert book.assign_all() == [(2, [2, 3, 4])]
    assert not book.jobs.is_movable()
    book.jobs.add_verifier(3)
    assert book.jobs.is_movable()
    assert book.assign_all() == [(3, [1])]
    book.take(1)
    assert book.assign_all() == [(3, [8])]
    lost = book.jobs.died(3)
    assert lost is not None
    assert (lost[0].number, lost[1]) == (1, Reason.VERIFIER_DIED)


def test_overdue() -> None:
    """The clock of a job runs from when its verifier begins with it."""
    book = Book(1)
    book.take(2)
    book.assign_all()
    book.now += 20
    book.jobs.judged(1, 1)
    book.now += 20
    assert book.jobs.overdue(30) == []
    book.now += 11
    assert book.jobs.overdue(30) == [1]
    lost = book.jobs.died(1)
    assert lost is not None
    assert (lost[0].number, lost[1]) == (2, Reason.VERIFIER_TIMEOUT)


def test_overdue_but_judged() -> None:
    """A verdict that is faster than the kill counts, and the next job is not charged with the death."""
    book = Book(1)
    book.take(2)
    book.assign_all()
    book.now += 31
    assert book.jobs.overdue(30) == [1]
    assert book.jobs.judged(1, 1) is not None
    assert book.jobs.died(1) is None
    book.jobs.add_verifier(2)
    assert book.assign_all() == [(2, [2])]
    assert book.jobs.died(2) is None
    book.jobs.add_verifier(3)
    assert book.assign_all() == [(3, [2])]


def test_withdrawn() -> None:
    """A job that was assigned and never sent is taken back, but not from a verifier that is dead."""
    book = Book(1)
    book.take(3)
    book.assign_all()
    assert book.jobs.withdraw(1, 2) is not None
    assert book.jobs.withdraw(1, 2) is None
    book.judge(1, 1, 3)
    book.take(1)
    book.assign_all()
    book.jobs.died(1)
    assert book.jobs.withdraw(1, 4) is None


def test_worn() -> None:
    """A worn verifier gets no more jobs; those it has go back, uncharged, when it has ended."""
    book = Book(2)
    book.take(4)
    assert book.assign_all() == [(1, [1, 2]), (2, [3, 4])]
    book.judge(1, 1)
    book.jobs.retire(1)
    book.take(1)
    assert book.assign_all() == [(2, [5])]
    assert book.jobs.died(1) is None
    assert book.assign_all() == [(2, [2])]
    book.jobs.add_verifier(3)
    book.judge(2, 3, 4, 5)
    assert book.jobs.died(2) is None
    assert book.assign_all() == [(3, [2])]


def test_worn_and_idle() -> None:
    """A worn verifier without jobs leaves nothing."""
    book = Book(1)
    book.take(1)
    book.assign_all()
    book.judge(1, 1)
    book.jobs.retire(1)
    assert book.jobs.died(1) is None
    assert not book.jobs.is_movable()
