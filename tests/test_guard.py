"""Where a fetch may connect to, and what it does about names that do not resolve."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from crawler.errors import FetchError
from crawler.model import Lease, Task
from crawler.reasons import Reason
from crawler.settings import Limits
from crawler.worker.fetch import Fetcher
from tests.fetching import LOOPBACK, Names, fetch, fetchers, replace_resolver, serving
from tests.raw import RawServer, Talk, ok


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Fetcher]]:
    """Return what makes a fetcher."""
    with fetchers(tmp_path) as make_one:
        yield make_one


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> tuple[Names, list[str]]:
    """Return what the system's resolver knows, to be filled, and the names it was asked for."""
    return replace_resolver(monkeypatch)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "0x7f000001",
        "2130706433",
        "127.1",
        "0177.0.0.1",
        "[::ffff:127.0.0.1]",
        "localhost",
        "LOCALHOST",
        "0",
    ],
)
def test_loopback_is_refused(make: Callable[..., Fetcher], host: str) -> None:
    """However loopback is written, nothing connects to it."""
    with RawServer(serving) as server:
        assert fetch(make(), f"http://{host}:{server.port}/") is Reason.ADDRESS_REFUSED
        lease = Lease(token=1, task=Task(id=0, url=f"http://{host}:{server.port}/robots.txt"), robots=True)
        with pytest.raises(FetchError) as caught:
            make().fetch_rules(lease)
        assert caught.value.reason is Reason.ADDRESS_REFUSED
        assert server.connections == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "0x7f000001", "127.1", "[::ffff:127.0.0.1]"])
def test_allowed_network_lets_through(make: Callable[..., Fetcher], host: str) -> None:
    """An allowed network is connected to, however the address is written."""
    with RawServer(serving) as server:
        assert fetch(make(allow_net=LOOPBACK), f"http://{host}:{server.port}/") is None
        assert server.connections == 1


def test_redirect_to_refused_address(make: Callable[..., Fetcher]) -> None:
    """A redirect opens no address: it leads to another host, and there the address is judged like any."""

    def script(talk: Talk) -> None:
        talk.request()
        talk.say(b"HTTP/1.1 302 Found\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n" % inner.base.encode())

    with RawServer(serving, address="127.0.0.2") as inner, RawServer(script) as outer:
        fetcher = make(allow_net=("127.0.0.1/32",))
        with pytest.raises(FetchError) as caught:
            fetcher.fetch(Lease(token=1, task=Task(id=1, url=outer.base)))
        assert caught.value.moved_to == f"{inner.base}/"
        assert fetch(fetcher, outer.base, target=caught.value.moved_to) is Reason.ADDRESS_REFUSED
        with pytest.raises(FetchError) as caught:
            fetcher.fetch_rules(Lease(token=1, task=Task(id=0, url=f"{outer.base}/robots.txt"), robots=True))
        assert caught.value.reason is Reason.ROBOTS_UNREACHABLE
        assert inner.connections == 0


def test_repeated_on_a_new_connection(make: Callable[..., Fetcher]) -> None:
    """Where the server closes all kept connections as they are used, the request is repeated on none of them."""
    both = threading.Barrier(2)

    def script(talk: Talk) -> None:
        talk.request()
        if talk.number <= 2:
            both.wait(20)
        talk.say(ok(b"image"))
        talk.request()

    def fetch_one(token: int) -> None:
        fetcher.fetch(Lease(token=token, task=Task(id=1, url=server.base)))

    fetcher = make(allow_net=LOOPBACK)
    with RawServer(script) as server:
        threads = [threading.Thread(target=fetch_one, args=(token,), daemon=True) for token in (2, 3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert server.connections == 2
        assert fetch(fetcher, server.base) is None
        assert server.connections == 3


def test_environment_names_no_proxy(make: Callable[..., Fetcher], monkeypatch: pytest.MonkeyPatch) -> None:
    """Proxies of the environment are not used: they would connect past every check."""
    with RawServer(serving) as server, RawServer(serving) as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.base)
        monkeypatch.delenv("no_proxy", raising=False)
        assert fetch(make(allow_net=LOOPBACK), server.base) is None
        assert (server.connections, proxy.connections) == (1, 0)


def test_only_allowed_addresses_are_tried(make: Callable[..., Fetcher], names: tuple[Names, list[str]]) -> None:
    """Of a name's addresses those that are refused are passed over."""
    with RawServer(serving, address="127.0.0.2") as inner, RawServer(serving, port=inner.port) as server:
        names[0]["both.test"] = ["127.0.0.2", "127.0.0.1"]
        assert fetch(make(allow_net=("127.0.0.1/32",)), f"http://both.test:{server.port}/") is None
        assert (server.connections, inner.connections) == (1, 0)


def test_dead_address_is_passed_over(make: Callable[..., Fetcher], names: tuple[Names, list[str]]) -> None:
    """Where one address does not answer the next one is tried; the name is asked for once."""
    names[0]["two.test"] = ["127.0.0.3", "127.0.0.1"]
    with RawServer(serving) as server:
        assert fetch(make(allow_net=LOOPBACK), f"http://two.test:{server.port}/") is None
    assert names[1] == ["two.test"]


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (socket.gaierror(socket.EAI_NONAME, "none"), Reason.NAME_NOT_FOUND),
        (socket.gaierror(getattr(socket, "EAI_NODATA", socket.EAI_NONAME), "no data"), Reason.NAME_NOT_FOUND),
        (socket.gaierror(socket.EAI_AGAIN, "later"), Reason.RESOLVER_FAILED),
        (socket.gaierror(socket.EAI_FAIL, "never"), Reason.RESOLVER_FAILED),
        (OSError("too many open files"), Reason.RESOLVER_FAILED),
    ],
)
def test_resolver_failures(
    make: Callable[..., Fetcher], names: tuple[Names, list[str]], failure: OSError, reason: Reason
) -> None:
    """A name that does not exist is told from a resolver that does not answer."""
    names[0]["a.test"] = failure
    assert fetch(make(), "http://a.test/") is reason


def test_stuck_resolver(make: Callable[..., Fetcher], monkeypatch: pytest.MonkeyPatch) -> None:
    """A resolver that never answers does not outlast the fetch's deadline."""
    released = threading.Event()

    def getaddrinfo(*_: Any, **__: Any) -> list[Any]:
        released.wait(20)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    reason = fetch(make(limits=Limits(timeout=0.2)), "http://a.test/")
    assert not released.is_set()
    released.set()
    assert reason in (Reason.TIMEOUT, Reason.RESOLVER_FAILED)
