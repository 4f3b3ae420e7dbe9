"""Sockets are shut when their fetch's time is up, whenever the watchdog comes to know of them."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from crawler.worker.watchdog import Watchdog
from tests.conftest import wait_until

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Return two ends of a connection, on which nothing is said; reading fails after a while."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(20)
        yield ours, theirs


@pytest.fixture
def watchdog() -> Iterator[Watchdog]:
    """Return a watchdog."""
    dog = Watchdog()
    yield dog
    dog.cancel()


def test_deadline(watchdog: Watchdog, pair: Pair) -> None:
    """At the deadline the socket is shut, which looks like an end; the watch says that it was none."""
    # A later deadline first, so that the earlier one must wake the watchdog.
    watchdog.begin(1000)
    watch = watchdog.begin(0.05)
    watchdog.hold(watch, pair[0])
    assert pair[0].recv(1) == b""
    assert watch.fired


def test_socket_after_the_deadline(watchdog: Watchdog, pair: Pair) -> None:
    """A socket that a fetch gets after its deadline is shut at once."""
    watch = watchdog.begin(0)
    wait_until(lambda: watch.fired)
    watchdog.hold(watch, pair[0])
    assert pair[0].recv(1) == b""


def test_socket_after_cancelling(watchdog: Watchdog, pair: Pair) -> None:
    """A socket that a fetch gets after it was cancelled is shut at once, one begun later too."""
    before = watchdog.begin(1000)
    watchdog.cancel()
    for watch, sock in zip((before, watchdog.begin(1000)), pair, strict=True):
        watchdog.hold(watch, sock)
        assert sock.recv(1) == b""
        assert watch.cancelled


def test_hurry(watchdog: Watchdog, pair: Pair) -> None:
    """A socket in a hurry is shut before the deadline, and the fetch goes on."""
    watch = watchdog.begin(1000)
    watchdog.hold(watch, pair[0])
    watchdog.hurry(watch, 0.05)
    assert pair[0].recv(1) == b""
    assert not watch.fired


@pytest.mark.parametrize("lets_go", ["hold", "end"])
def test_socket_let_go(watchdog: Watchdog, pair: Pair, lets_go: str) -> None:
    """A socket that the fetch let go of is left alone at its deadline."""
    watch, other = watchdog.begin(0.05), watchdog.begin(0.1)
    watchdog.hold(watch, pair[0])
    if lets_go == "hold":
        watchdog.hold(watch, None)
    else:
        watchdog.end(watch)
    wait_until(lambda: other.fired)
    pair[1].sendall(b"x")
    assert pair[0].recv(1) == b"x"
