"""What people are shown while a crawl runs: one line's text, plain lines, and a bar on a terminal."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import struct
import sys
import termios
from collections.abc import Iterator
from typing import Any

import pytest

from crawler import progress
from crawler.model import QueueStatus
from crawler.progress import Bar, line
from crawler.stats import Stats, WorkerStats
from tests.conftest import wait_until


def stats(**more: Any) -> Stats:
    """Return a queue as it stands in the middle of a crawl, but for *more*."""
    facts: dict[str, Any] = {
        "total": 2000,
        "ready": 950,
        "leased": 40,
        "delayed": 10,
        "stored": 900,
        "failed": 100,
        "reasons": {"http_not_found": 100},
        "entries": 2100,
        "bytes": 90_000_000,
        "stored_per_second": 12.345,
        "bytes_per_second": 1_230_000.0,
        "status": QueueStatus.OPEN,
        "lists_read": True,
        "lists_part": 1.0,
        "incomplete_lists": [],
        "workers": [WorkerStats(machine="a", leased=40, completed=1000)],
    }
    return Stats(**{**facts, **more})


BASE = "1,000/2,000 50 % 900 stored, 100 failed, 40 in flight, 12.3 images/s, 1.2 MB/s, 1 machine"


@pytest.mark.parametrize(
    ("changes", "eta", "text"),
    [
        ({}, None, BASE),
        ({}, 83.0, f"{BASE}, ETA 01:23"),
        ({}, 90_061.0, f"{BASE}, ETA 25:01:01"),
        ({"lists_read": False, "lists_part": 0.254}, None, f"{BASE}, lists read 25 %"),
        ({"lists_read": False, "lists_part": None}, None, f"{BASE}, lists read …"),
        ({"status": QueueStatus.DRAINING}, None, f"{BASE}, stopping"),
        ({"workers": []}, None, BASE.replace("1 machine", "0 machines")),
        (
            {"workers": [WorkerStats(machine=name, leased=1, completed=0) for name in "abba"]},
            None,
            BASE.replace("1 machine", "2 machines"),
        ),
        (
            {"total": 0, "stored": 0, "failed": 0, "leased": 0, "lists_read": False, "lists_part": None},
            None,
            "0/0 0 stored, 0 failed, 0 in flight, 12.3 images/s, 1.2 MB/s, 1 machine, lists read …",
        ),
    ],
)
def test_one_line_says_how_it_stands(changes: dict[str, Any], eta: float | None, text: str) -> None:
    """Counts, rates, machines; a part only of what is known; what is going on."""
    assert line(stats(**changes), eta) == text


# ------------------------------------------------------------------ no terminal


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no time pass between plain lines."""
    monkeypatch.setattr(progress, "PLAIN_PAUSE", 0.0)


@pytest.mark.usefixtures("often")
def test_without_a_terminal_there_are_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """For log files: nothing but text; on standard error, since standard output is for results."""
    with Bar(False, str) as bar:
        bar.stats(stats())
        bar.stats(stats(stored=1900, failed=100))
    out, err = capsys.readouterr()
    first, second = err.splitlines()
    assert (out, first) == ("", BASE)
    assert second.startswith("2,000/2,000 100 % 1,900 stored") and second.endswith("ETA 00:00")
    assert "\r" not in err and "\x1b" not in err


def test_plain_lines_are_rare(capsys: pytest.CaptureFixture[str]) -> None:
    """Some looks a second make no line each."""
    with Bar(False, str) as bar:
        for _ in range(50):
            bar.stats(stats())
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("often")
def test_the_time_left_is_told_when_it_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    """Not at once, not while lists are being read, not before this very run has ended a task."""
    with Bar(False, str) as bar:
        bar.stats(stats())
        bar.stats(stats())
        bar.stats(stats(stored=950, lists_read=False, lists_part=0.5))
        bar.stats(stats(stored=950))
    assert ["ETA" in text for text in capsys.readouterr().err.splitlines()] == [False, False, False, True]


@pytest.mark.usefixtures("often")
def test_quiet_is_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    """Not a word, of the address either."""
    with Bar(True, str) as bar:
        bar.serving("127.0.0.1:1")
        bar.stats(stats())
    assert capsys.readouterr() == ("", "")


def test_how_to_join_is_said_when_the_queues_are_served(capsys: pytest.CaptureFixture[str]) -> None:
    """With the address, on standard error."""
    with Bar(False, lambda address: f"join at {address}") as bar:
        bar.serving("127.0.0.1:1")
    assert capsys.readouterr() == ("", "join at 127.0.0.1:1\n")


# ------------------------------------------------------------------ a terminal


@contextlib.contextmanager
def terminal() -> Iterator[int]:
    """Make standard error a terminal 120 columns wide; return the side from which its user reads."""
    reading, writing = os.openpty()
    fcntl.ioctl(writing, termios.TIOCSWINSZ, struct.pack("4H", 24, 120, 0, 0))
    os.set_blocking(reading, False)
    # Not a fixture: pytest puts its own in place of standard error again before it calls the test.
    with open(reading, "rb"), open(writing, "w", encoding="utf-8") as error, contextlib.redirect_stderr(error):
        yield reading


def seen(reading: int) -> str:
    """Return what the terminal was sent since the last look: all that comes before a mark that is sent now."""
    print("<mark>", end="", file=sys.stderr, flush=True)
    told = b""

    def is_whole() -> bool:
        nonlocal told
        with contextlib.suppress(BlockingIOError):
            told += os.read(reading, 1 << 16)
        return told.endswith(b"<mark>")

    wait_until(is_whole, 5)
    return told.decode().removesuffix("<mark>")


def test_on_a_terminal_there_is_a_bar() -> None:
    """Drawn at once and again in its place, within one line, and ended by a line end."""
    with terminal() as screen:
        with Bar(False, str) as bar:
            bar.stats(stats())
            first = seen(screen)
            bar.stats(stats(stored=1900))
            second = seen(screen)
        last = seen(screen)
    assert re.search(r"50%\|.*\| 1000/2000, 900 stored, 100 failed, 40 in flight", first)
    assert re.search(r"100%\|.*\| 2000/2000, 1,900 stored", second)
    assert all(text.startswith("\r") and "\n" not in text for text in (first, second))
    assert max(len(text) for text in re.split(r"[\r\n]", first + second)) <= 120
    assert last.endswith("\r\n")


def test_a_bar_that_grows_shows_its_part() -> None:
    """The total is not known at first: no part above all, no error at none."""
    with terminal() as screen, Bar(False, str) as bar:
        bar.stats(stats(total=0, stored=0, failed=0, lists_read=False, lists_part=None))
        none = seen(screen)
        bar.stats(stats(total=4000, lists_read=False, lists_part=0.5))
        some = seen(screen)
    assert "lists read" in none and "0/0" in none
    assert "25%" in some and "1000/4000" in some


def test_on_a_terminal_quiet_is_quiet_too() -> None:
    """Nothing is drawn, nothing is closed."""
    with terminal() as screen:
        with Bar(True, str) as bar:
            bar.stats(stats())
        assert seen(screen) == ""


def test_a_bar_is_closed_when_a_run_fails() -> None:
    """The message that follows begins on a line of its own."""
    with terminal() as screen:
        with pytest.raises(RuntimeError), Bar(False, str) as bar:
            bar.stats(stats())
            assert "\n" not in seen(screen)
            raise RuntimeError
        assert seen(screen).endswith("\r\n")
