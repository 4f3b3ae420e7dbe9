"""How one of several addresses is connected to."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator

import pytest

from crawler.worker.addresses import Address
from crawler.worker.dialing import connect
from crawler.worker.watchdog import Watch
from tests.conftest import free_port

#: Seconds that no test here gets near while addresses are tried side by side.
LONG = 20.0


def at(ip: str) -> Address:
    """Return *ip* as the resolver would give it."""
    return Address(int(socket.AF_INET6 if ":" in ip else socket.AF_INET), ip)


def watch(seconds: float = LONG) -> Watch:
    """Return the watch of a fetch that may take *seconds*."""
    return Watch(time.monotonic() + seconds)


@pytest.fixture
def server() -> Iterator[socket.socket]:
    """Listen on 127.0.0.1."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


@contextlib.contextmanager
def silent(ip: str, port: int = 0) -> Iterator[int]:
    """Yield a port of *ip* where connecting is answered with nothing: the queue of its listener is full."""
    with contextlib.ExitStack() as held:
        listener = held.enter_context(socket.create_server((ip, port), backlog=0))
        for _ in range(8):
            client = held.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def test_dead_address_is_not_waited_for(server: socket.socket) -> None:
    """Where the first addresses never answer, the next is connected to long before they are given up."""
    port = server.getsockname()[1]
    with silent("127.0.0.2", port), silent("127.0.0.3", port):
        addresses = [at("127.0.0.2"), at("127.0.0.3"), at("127.0.0.1")]
        # Waiting them out would take more than the fetch has.
        with connect(addresses, port, 2 * LONG, watch()) as sock:
            assert sock.getpeername() == ("127.0.0.1", port)


@pytest.mark.parametrize("first", ["127.0.0.2", "::1"])
def test_refused_address_is_passed_over(server: socket.socket, first: str) -> None:
    """Where the first address refuses, or its family is not to be had, the next is connected to."""
    port = server.getsockname()[1]
    with connect([at(first), at("127.0.0.1")], port, LONG, watch()) as sock:
        assert sock.getpeername() == ("127.0.0.1", port)


def test_first_address_is_preferred(server: socket.socket) -> None:
    """An address that answers at once is used, and the others are left alone."""
    port = server.getsockname()[1]
    with socket.create_server(("127.0.0.2", port)) as other:
        other.setblocking(False)
        with connect([at("127.0.0.1"), at("127.0.0.2")], port, LONG, watch()) as sock:
            assert sock.getpeername() == ("127.0.0.1", port)
        with pytest.raises(BlockingIOError):
            other.accept()


def test_all_refuse() -> None:
    """Where every address refuses, that is the error."""
    with pytest.raises(ConnectionRefusedError):
        connect([at("127.0.0.1"), at("127.0.0.2")], free_port(), LONG, watch())


def test_none_answers() -> None:
    """An address that never answers is given up after its own time."""
    with silent("127.0.0.1") as port, pytest.raises(TimeoutError, match="no answer in 0.1 s"):
        connect([at("127.0.0.1")], port, 0.1, watch())


def test_deadline_holds() -> None:
    """The fetch's deadline ends connecting."""
    with silent("127.0.0.1") as port, pytest.raises(TimeoutError, match="no time left"):
        connect([at("127.0.0.1")], port, LONG, watch(0.1))


def test_cancelled_fetch_does_not_connect(server: socket.socket) -> None:
    """A cancelled fetch connects to nothing."""
    cancelled = watch()
    cancelled.cancelled = True
    server.setblocking(False)
    with pytest.raises(TimeoutError):
        connect([at("127.0.0.1")], server.getsockname()[1], LONG, cancelled)
    with pytest.raises(BlockingIOError):
        server.accept()
