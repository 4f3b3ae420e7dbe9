"""What a worker reports between leases and ends: gathered, but nobody is kept waiting for it."""

from __future__ import annotations

import threading

import pytest

from crawler.worker.reports import Reports

#: Seconds that nothing here takes.
LONG = 3600.0


def start(reports: Reports, most: float = LONG) -> threading.Thread:
    """Have somebody wait for reports."""
    thread = threading.Thread(target=reports.wait, args=(most,), daemon=True)
    thread.start()
    return thread


def ends(thread: threading.Thread, within: float = 20.0) -> bool:
    """Tell whether who waits has enough within some seconds."""
    thread.join(within)
    return not thread.is_alive()


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports are gathered for longer than anybody waits."""
    monkeypatch.setattr("crawler.worker.reports.PAUSE", LONG)


def test_what_was_added_is_taken_once() -> None:
    """In the order in which it came."""
    reports = Reports()
    reports.add([1, 2], [])
    reports.add([3], [1])
    progress = reports.take()
    assert (progress.started, progress.fetched) == ([1, 2, 3], [1])
    progress = reports.take()
    assert (progress.started, progress.fetched) == ([], [])


def test_a_request_takes_along_what_there_is() -> None:
    """So that nothing is told a second time."""
    reports = Reports()
    reports.add([1], [])
    with reports.asking() as progress:
        assert progress.started == [1]
    assert reports.take().started == []


@pytest.mark.usefixtures("slow")
def test_a_request_that_waits_ends_the_gathering() -> None:
    """Whether it came before the report or after it."""
    reports = Reports()
    before = start(reports)
    reports.add([], [1])
    with reports.asking():
        reports.add([], [2])
        assert ends(before)
        assert ends(start(reports))
    assert reports.take().fetched == [2]


@pytest.mark.usefixtures("slow")
def test_a_request_that_is_answered_at_once_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was not for want of the reports that it waited."""
    monkeypatch.setattr("crawler.worker.reports.LONG_ASKED", 0.2)
    reports = Reports()
    waiting = start(reports)
    with reports.asking():
        pass
    reports.add([], [1])
    assert not ends(waiting, within=0.5)
    reports.close()
    assert ends(waiting)


def test_nobody_waits_for_what_does_not_come() -> None:
    """The leases that are held are to be extended all the same."""
    assert ends(start(Reports(), most=0.01))


def test_nobody_waits_when_it_is_closed() -> None:
    """Neither who began before, nor who comes later."""
    reports = Reports()
    before = start(reports)
    reports.close()
    assert ends(before)
    assert ends(start(reports))
