"""Which addresses are public, and how names are resolved."""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from crawler.errors import FetchError
from crawler.reasons import Reason
from crawler.worker import addresses
from crawler.worker.addresses import Address, Resolver, in_turn, judge, read_address
from tests.conftest import wait_until
from tests.fetching import Names, replace_resolver

#: By time.monotonic: no deadline.
NEVER = float("inf")


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> tuple[Names, list[str]]:
    """Return what the system's resolver knows, to be filled, and the names it was asked for."""
    return replace_resolver(monkeypatch)


# ------------------------------------------------------------------ judging


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "2002:101:101::1", "64:ff9b::101:101"]
)
def test_public(address: str) -> None:
    """Public addresses are connected to, and what leads to public ones."""
    assert judge(address, [])


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.255.255.254",
        "0.0.0.0",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "169.254.169.254",
        "192.0.2.1",
        "198.18.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::127.0.0.1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b:1::a00:1",
        "2002:7f00:1::1",
        "2002:a00:1::1",
        "2001:0:7f00:1::1",
        "2001:0:101:101:0:0:80ff:fffe",
        "2001:db8::1",
        "fe80::1",
        "fe80::1%eth0",
        "fd00:ec2::254",
        "fc00::1",
        "fec0::1",
        "ff02::1",
        "100::1",
        "168.63.129.16",
        "192.0.0.192",
        "192.88.99.1",
        "::ffff:0:10.0.0.1",
        "2002:a83f:8110::1",
        "64:ff9b::a83f:8110",
        "2001:2::1",
        "3fff::1",
        "5f00::1",
    ],
)
def test_not_public(address: str) -> None:
    """All others are refused, and what leads to them by mapping, tunnel or translation."""
    assert not judge(address, [])


@pytest.mark.parametrize(
    ("address", "network", "allowed"),
    [
        ("10.1.2.3", "10.0.0.0/8", True),
        ("10.1.2.3", "10.1.2.3/32", True),
        ("11.0.0.1", "10.0.0.0/8", True),
        ("192.168.0.1", "10.0.0.0/8", False),
        ("::ffff:10.1.2.3", "10.0.0.0/8", True),
        ("::1", "127.0.0.0/8", False),
        ("fd00::1", "fd00::/8", True),
        ("10.1.2.3", "fd00::/8", False),
        ("169.254.1.1", "169.254.0.0/16", True),
        ("169.254.169.254", "169.254.0.0/16", False),
        ("169.254.169.254", "0.0.0.0/0", False),
        ("::ffff:169.254.169.254", "169.254.0.0/16", False),
        ("169.254.169.254", "169.254.169.0/24", True),
        ("169.254.169.254", "169.254.169.254/32", True),
        ("fd00:ec2::254", "fd00::/8", False),
        ("fd00:ec2::254", "fd00:ec2::254/128", True),
        ("fd20:ce::254", "fd20::/16", False),
        ("169.254.170.2", "169.254.0.0/16", False),
        ("100.64.0.1", "100.64.0.0/10", True),
        ("100.100.100.200", "100.64.0.0/10", False),
        ("168.63.129.16", "168.63.0.0/16", False),
        ("168.63.129.16", "168.63.129.16/32", True),
    ],
)
def test_allowed_network(address: str, network: str, allowed: bool) -> None:
    """Networks are allowed beside the public ones; where clouds keep credentials, a narrow one is needed."""
    assert judge(address, [ipaddress.ip_network(network)]) is allowed


@pytest.mark.parametrize(
    ("address", "allowed"), [("1.1.1.1", False), ("10.1.2.3", True), ("::ffff:10.1.2.3", True), ("192.168.0.1", False)]
)
def test_unlisted_port(address: str, allowed: bool) -> None:
    """On a port that is not listed, only addresses of allowed networks are connected to."""
    assert judge(address, [ipaddress.ip_network("10.0.0.0/8")], public=False) is allowed


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("1.2.3.4", "1.2.3.4"),
        ("127.1", "127.0.0.1"),
        ("0x7f000001", "127.0.0.1"),
        ("2130706433", "127.0.0.1"),
        ("0177.0.0.1", "127.0.0.1"),
        ("[::1]", "::1"),
        ("::1", "::1"),
        ("a.test", None),
        ("1.2.3.4.test", None),
    ],
)
def test_numeric_host(host: str, address: str | None) -> None:
    """A host that spells an address is told from a name without resolving it."""
    assert read_address(host) == address


def test_families_alternate() -> None:
    """Addresses are tried in the resolver's order, families in turn."""
    four, six = int(socket.AF_INET), int(socket.AF_INET6)
    found = [Address(six, "a"), Address(six, "b"), Address(six, "c"), Address(four, "d")]
    assert [address.ip for address in in_turn(found)] == ["a", "d", "b", "c"]


# ------------------------------------------------------------------ resolving


@pytest.mark.parametrize("known", [True, False])
def test_answers_are_remembered(names: tuple[Names, list[str]], monkeypatch: pytest.MonkeyPatch, known: bool) -> None:
    """An answer and a failure are used again for their time, and then asked for again."""
    names[0]["a.test"] = ["1.1.1.1"] if known else socket.gaierror(socket.EAI_NONAME, "none")
    resolver = Resolver(2)
    assert [resolved(resolver, name) for name in ("a.test", "A.test")] == [known, known]
    assert names[1] == ["a.test"]
    monkeypatch.setattr(addresses, "KNOWN_LIFE" if known else "FAILED_LIFE", 0.0)
    names[0]["b.test"] = names[0]["a.test"]
    assert [resolved(resolver, "b.test") for _ in range(2)] == [known, known]
    assert names[1] == ["a.test", "b.test", "b.test"]
    resolver.close()


def resolved(resolver: Resolver, name: str) -> bool:
    """Tell whether *name* was found."""
    try:
        resolver.resolve(name, NEVER)
    except FetchError:
        return False
    return True


def test_memory_is_bounded(names: tuple[Names, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest answers are forgotten."""
    monkeypatch.setattr(addresses, "MAX_NAMES", 2)
    resolver = Resolver(1)
    for name in ("a", "b", "c", "c", "a"):
        names[0][name] = ["1.1.1.1"]
        resolver.resolve(name, NEVER)
    assert names[1] == ["a", "b", "c", "a"]
    resolver.close()


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Have the system's resolver answer nothing till the test's end; return the names it was asked for."""
    asked: list[str] = []
    released = threading.Event()

    def getaddrinfo(name: bytes, *_: Any, **__: Any) -> list[Any]:
        asked.append(name.decode())
        released.wait(20)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    yield asked
    released.set()


def test_lookups_are_bounded(stuck: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """No more names are asked for at a time than there are threads, each name once; waiting has a limit of its own."""
    monkeypatch.setattr(addresses, "LOOKUP_WAIT", 0.2)
    resolver = Resolver(2)
    failures: list[Reason] = []

    def resolve(name: str) -> None:
        with pytest.raises(FetchError) as caught:
            resolver.resolve(name, NEVER)
        failures.append(caught.value.reason)

    threads = [threading.Thread(target=resolve, args=(name,), daemon=True) for name in "aabbcc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert failures == [Reason.RESOLVER_FAILED] * 6
    assert len(stuck) == len(set(stuck)) == 2
    resolver.close()


def test_unwanted_name_is_not_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that nobody waits for any more by the time its turn comes is passed over."""
    asked: list[str] = []
    released = threading.Event()

    def getaddrinfo(name: bytes, *_: Any, **__: Any) -> list[Any]:
        asked.append(name.decode())
        released.wait(20)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("1.1.1.1", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    resolver = Resolver(1)
    for name in ("a.test", "b.test"):
        with pytest.raises(FetchError):
            resolver.resolve(name, time.monotonic() + 0.05)
    released.set()
    assert resolved(resolver, "c.test")
    assert asked == ["a.test", "c.test"]
    resolver.close()


def test_closing_ends_the_wait(stuck: list[str]) -> None:
    """Who waits for a name when the resolver is closed is told at once."""
    resolver = Resolver(1)
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(resolved(resolver, "a.test")), daemon=True)
    thread.start()
    wait_until(lambda: stuck)
    resolver.close()
    thread.join(5)
    assert found == [False]
