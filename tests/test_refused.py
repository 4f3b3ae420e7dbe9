"""
No address that is refused is ever connected to: all spellings, directly, by redirect, and by names that change.

A canary listens on every address of this machine, and each attempt to connect is counted where sockets make it.
"""

from __future__ import annotations

import contextlib
import itertools
import select
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crawler.errors import FetchError
from crawler.model import Lease, Task
from crawler.reasons import Reason
from crawler.settings import Limits
from crawler.worker import addresses
from crawler.worker.fetch import Fetcher
from tests.fetching import Names, fetch, fetchers, replace_resolver
from tests.raw import RawServer, Talk, ok

#: Every port, so that it is the address that is judged.
ALL_PORTS = ((1, 65535),)
#: The one address of this machine that is allowed here.
ALLOWED = "127.77.0.1"
#: Lookups of a name whose answers alternate.
LOOKUPS = 1_000
#: As hosts in URLs.
SPELLINGS = """
    127.0.0.1 127.1 127.0.1 127.0.0.2 127.255.255.254 127.000.000.001 0x7f.1 0x7f.0.0.1 0x7f.0x0.0x0.0x1 0x7f000001
    0X7F000001 2130706433 017700000001 0177.0.0.1 0177.1 localhost LOCALHOST 0 00 0x0 0.0.0.0 0.0
    10.0.0.1 10.1 0xa000001 167772161 012.0.0.1 172.16.0.1 172.31.255.254 2886729729 192.168.0.1 192.168.1 0xc0a80001
    3232235521 169.254.169.254 169.254.43518 169.16689662 0xa9fea9fe 2852039166 0251.0376.0251.0376 169.254.170.2
    169.254.170.23 100.64.0.1 100.100.100.200 168.63.129.16 192.0.0.192 192.0.2.1 192.88.99.1 198.18.0.1 198.51.100.1
    203.0.113.1 224.0.0.1 240.0.0.1 255.255.255.255
    [::] [::1] [0:0:0:0:0:0:0:1] [::ffff:127.0.0.1] [::ffff:7f00:1] [0:0:0:0:0:FFFF:7F00:1] [::ffff:10.0.0.1]
    [::ffff:169.254.169.254] [::127.0.0.1] [::ffff:0:127.0.0.1] [64:ff9b::127.0.0.1] [64:ff9b::7f00:1]
    [64:ff9b::a9fe:a9fe] [64:ff9b:1::7f00:1] [2002:7f00:1::] [2002:a9fe:a9fe::1] [2001:0:7f00:1::1]
    [2001:0:101:101:0:0:80ff:fffe] [fe80::1] [fc00::1] [fd00::1] [fd00:ec2::254] [fd20:ce::254] [fec0::1] [ff02::1]
    [2001:db8::1] [3fff::1] [5f00::1] [100::1]
""".split()  # noqa: SIM905  # a list of a hundred lines would show less


class Canary:
    """Listen on every address of this machine, and count who tries to connect to anything."""

    def __init__(self, listeners: list[socket.socket]) -> None:
        self._listeners = listeners
        self.port: int = listeners[0].getsockname()[1]
        #: Addresses that were tried.
        self.tried: list[str] = []

    @property
    def is_reached(self) -> bool:
        """Tell whether anybody has connected."""
        return bool(select.select(self._listeners, [], [], 0)[0])


@pytest.fixture
def canary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Canary]:
    """Set a canary up."""
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(socket.create_server(("0.0.0.0", 0)))]
        port = listeners[0].getsockname()[1]
        with contextlib.suppress(OSError):  # a machine without IPv6
            listeners.append(stack.enter_context(socket.create_server(("::", port), family=socket.AF_INET6)))
        found = Canary(listeners)
        real = socket.socket.connect_ex

        def connect_ex(self: socket.socket, address: Any) -> int:
            found.tried.append(address[0])
            return real(self, address)

        monkeypatch.setattr(socket.socket, "connect_ex", connect_ex)
        yield found


@pytest.fixture
def fetcher(tmp_path: Path) -> Iterator[Fetcher]:
    """Return a fetcher that may connect to the allowed address, and to all ports."""
    with fetchers(tmp_path) as make:
        yield make(allow_net=(f"{ALLOWED}/32",), ports=ALL_PORTS)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    """Return what the system's resolver knows, to be filled; no answer is remembered."""
    monkeypatch.setattr(addresses, "KNOWN_LIFE", 0.0)
    return replace_resolver(monkeypatch)[0]


def test_there_are_enough_spellings() -> None:
    """Sixty at least, each once."""
    assert len(set(SPELLINGS)) == len(SPELLINGS) >= 60


@pytest.mark.parametrize("host", ["127.0.0.1", "0x7f.1", "[::ffff:127.0.0.1]", "localhost"])
def test_the_canary_sees(canary: Canary, tmp_path: Path, host: str) -> None:
    """What is allowed reaches the canary, by refused spellings too: it would notice."""
    with fetchers(tmp_path) as make:
        fetcher = make(limits=Limits(timeout=30, stall=0.3), allow_net=("127.0.0.0/8", "::1/128"))
        assert fetch(fetcher, f"http://{host}:{canary.port}/") is Reason.TIMEOUT
    assert canary.is_reached
    assert canary.tried


@pytest.mark.parametrize("host", SPELLINGS)
def test_direct(canary: Canary, fetcher: Fetcher, host: str) -> None:
    """However it is written, it is not connected to."""
    assert fetch(fetcher, f"http://{host}:{canary.port}/") is Reason.ADDRESS_REFUSED
    assert fetch(fetcher, f"https://{host}:{canary.port}/") is Reason.ADDRESS_REFUSED
    assert not canary.is_reached
    assert canary.tried == []


def test_redirect(canary: Canary, fetcher: Fetcher) -> None:
    """Nor is it where an allowed host redirects to it."""

    def script(talk: Talk) -> None:
        while path := talk.request():
            host = SPELLINGS[int(path[1:])].encode()
            talk.say(
                b"HTTP/1.1 302 Found\r\nLocation: http://%s:%d/\r\nContent-Length: 0\r\n\r\n" % (host, canary.port)
            )

    with RawServer(script, address=ALLOWED) as server:
        ended = [follow(fetcher, f"{server.base}/{number}") for number in range(len(SPELLINGS))]
    assert ended == [Reason.ADDRESS_REFUSED] * len(SPELLINGS)
    assert not canary.is_reached
    assert set(canary.tried) == {ALLOWED}


def follow(fetcher: Fetcher, url: str) -> Reason:
    """Fetch *url* and where it moves to; return why that failed."""
    with pytest.raises(FetchError) as caught:
        fetcher.fetch(Lease(token=1, task=Task(id=1, url=url)))
    if caught.value.moved_to is None:
        return caught.value.reason
    reason = fetch(fetcher, url, target=caught.value.moved_to)
    assert reason is not None
    return reason


def test_alternating_name(canary: Canary, fetcher: Fetcher, names: Names) -> None:
    """A name that is an allowed address now and a refused one then is never connected to at the refused ones."""
    refused = [host.strip("[]") for host in SPELLINGS if is_canonical(host)]
    answers = [[ALLOWED], *([ip] for ip in refused)]
    turn = itertools.cycle(itertools.chain.from_iterable((answers[0], ip) for ip in answers[1:]))
    with RawServer(answering_once, address=ALLOWED) as server:
        ended = []
        for _ in range(LOOKUPS):
            names["a.test"] = next(turn)
            ended.append(fetch(fetcher, f"http://a.test:{server.port}/"))
        assert server.connections == LOOKUPS // 2
    assert ended == [None, Reason.ADDRESS_REFUSED] * (LOOKUPS // 2)
    assert canary.tried == [ALLOWED] * (LOOKUPS // 2)


def answering_once(talk: Talk) -> None:
    """Answer one request of a connection, so that the next fetch has to connect."""
    talk.request()
    talk.say(ok(b"image", b"Connection: close"))


def is_canonical(host: str) -> bool:
    """Tell whether resolvers give the address like this."""
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    try:
        return socket.inet_ntop(family, socket.inet_pton(family, host.strip("[]"))) == host.strip("[]")
    except OSError:
        return False


def test_name_that_changes_within_a_fetch(canary: Canary, fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is connected to is what was judged: a name is looked up once for both."""
    monkeypatch.setattr(addresses, "KNOWN_LIFE", 0.0)
    turn = itertools.cycle([ALLOWED, "127.0.0.1"])

    def getaddrinfo(*_: Any, **__: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(turn), 0))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with RawServer(redirecting_to_itself, address=ALLOWED) as server:
        # The second hop, on a connection of its own, is judged anew.
        assert fetch(fetcher, f"http://a.test:{server.port}/") is Reason.ADDRESS_REFUSED
    assert canary.tried == [ALLOWED]


def redirecting_to_itself(talk: Talk) -> None:
    """Send the client to another page of the same host."""
    talk.request()
    talk.say(b"HTTP/1.1 302 Found\r\nLocation: /next\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


@pytest.mark.parametrize("port", [1, 22, 25, 110, 6379, 11211])
def test_port_that_is_not_listed(canary: Canary, tmp_path: Path, names: Names, port: int) -> None:
    """A public address is not connected to on a port that is not listed."""
    names["a.test"] = ["1.1.1.1"]
    with fetchers(tmp_path) as make:
        assert fetch(make(), f"http://a.test:{port}/") is Reason.ADDRESS_REFUSED
    assert canary.tried == []
