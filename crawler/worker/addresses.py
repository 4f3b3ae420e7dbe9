"""
Which address a name has, and whether it may be connected to.

The string in a URL is never judged: `0x7f000001`, `2130706433` and `127.1` are all 127.0.0.1. A name is resolved once,
and what is judged is what is connected to, because a second answer can differ from the first.
"""

from __future__ import annotations

import ipaddress
import itertools
import queue
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from crawler.errors import FetchError
from crawler.reasons import Reason

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

#: Seconds that one caller waits for one name.
LOOKUP_WAIT = 10.0
#: Seconds for which an answer is used again.
KNOWN_LIFE = 60.0
#: Seconds for which a failure is used again.
FAILED_LIFE = 10.0
#: Names remembered.
MAX_NAMES = 10_000

#: The part of IPv6 that is handed out for global unicast; newer special blocks outside of it need no table of ours.
#: Source: RFC 4291, 2.4; IANA IPv6 address space registry.
GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
#: Addresses whose last 32 bits are an IPv4 address that a translator connects to. Source: RFC 6052, 2.1.
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
#: Blocks that some versions of `ipaddress` call global: protocol assignments (among them where a cloud keeps
#: credentials), relays of 6to4, documentation. Source: IANA special-purpose address registries; RFC 7526, RFC 9637.
SPECIAL: tuple[Network, ...] = (
    ipaddress.IPv4Network("192.0.0.0/24"),
    ipaddress.IPv4Network("192.88.99.0/24"),
    ipaddress.IPv6Network("2001::/23"),
    ipaddress.IPv6Network("3fff::/20"),
)
#: Where clouds hand a machine its credentials. Some of them lie in networks that people allow, one is public.
METADATA: frozenset[IPAddress] = frozenset(
    ipaddress.ip_address(text)
    for text in (
        "169.254.169.254",  # most clouds
        "169.254.170.2",  # containers, and below it their identities
        "169.254.170.23",
        "fd00:ec2::254",
        "fd00:ec2::23",
        "fd20:ce::254",
        "100.100.100.200",  # in the block of carriers' translators, which private networks are built on
        "168.63.129.16",  # a public address that leads to the host of a virtual machine
        "192.0.0.192",
    )
)
#: Shortest prefix of an allowed network that opens one of METADATA, by version of IP.
METADATA_PREFIXES = {4: 24, 6: 120}
#: Families that are connected to.
FAMILIES = frozenset({int(socket.AF_INET), int(socket.AF_INET6)})


class Address(NamedTuple):
    """One address of a name, without a port."""

    family: int
    #: The numeric address.
    ip: str
    #: What follows address and port for its family: nothing, or flow and scope.
    rest: tuple[int, ...] = ()


# ------------------------------------------------------------------ judging


def judge(address: str, allowed_networks: Sequence[Network], public: bool = True) -> bool:
    """
    Tell whether *address* may be connected to: it is public, or in one of *allowed_networks*.

    Args:
        address: Numeric address as the resolver gave it, with or without a zone.
        allowed_networks: Networks to allow beside the public ones. The addresses at which clouds hand out credentials
            need a network of /24 (IPv4) or /120 (IPv6) or narrower, so that a wide one does not open them by chance.
        public: Whether public addresses may be connected to at all: not on a port that is not listed.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    return all(_is_allowed(inner, allowed_networks) or (public and _is_public(inner)) for inner in _unwrap(ip))


def read_address(host: str) -> str | None:
    """Return the numeric address that *host* spells in any way a resolver takes, None where it is a name."""
    host = host.strip("[]")
    if ":" in host:
        return host
    try:
        return socket.inet_ntoa(socket.inet_aton(host))
    except (OSError, ValueError):
        return None


def _parse(name: str) -> Address | None:
    """Return the address that *name* is in its usual spelling, None where a resolver must say what it means."""
    for family, rest in ((socket.AF_INET, ()), (socket.AF_INET6, (0, 0))):
        try:
            return Address(family, socket.inet_ntop(family, socket.inet_pton(family, name)), rest)
        except (OSError, ValueError):
            continue
    return None


def _unwrap(ip: IPAddress) -> list[IPAddress]:
    """Return the IPv4 addresses that a packet to *ip* ends at, *ip* itself where it carries none."""
    if isinstance(ip, ipaddress.IPv4Address):
        return [ip]
    if ip.teredo is not None:
        return list(ip.teredo)
    if ip in NAT64:
        return [ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)]
    return [ip.ipv4_mapped or ip.sixtofour or ip]


def _is_public(ip: IPAddress) -> bool:
    # `not is_private` would let 100.64.0.0/10 through.
    if isinstance(ip, ipaddress.IPv6Address) and ip not in GLOBAL_UNICAST:
        return False
    if ip in METADATA or any(ip in network for network in SPECIAL):
        return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


def _is_allowed(ip: IPAddress, networks: Iterable[Network]) -> bool:
    shortest = METADATA_PREFIXES[ip.version] if ip in METADATA else 0
    return any(ip in network and network.prefixlen >= shortest for network in networks)


def in_turn(addresses: Sequence[Address]) -> list[Address]:
    """Order *addresses* so that families alternate, beginning with the first's, and each family keeps its order."""
    same = [address for address in addresses if address.family == addresses[0].family]
    others = [address for address in addresses if address.family != addresses[0].family]
    pairs = itertools.zip_longest(same, others)
    return [address for pair in pairs for address in pair if address is not None]


# ------------------------------------------------------------------ resolving


class _Lookup:
    """One name's answer, or the wait for it."""

    __slots__ = ("addresses", "done", "expires", "failure", "name", "wanted")

    def __init__(self, name: str) -> None:
        self.name = name
        self.done = threading.Event()
        self.addresses: tuple[Address, ...] = ()
        self.failure: tuple[Reason, str] | None = None
        #: Until when the answer is used; without end while there is none.
        self.expires = float("inf")
        #: Until when somebody waits for it.
        self.wanted = 0.0

    def end(self, failure: tuple[Reason, str] | None, addresses: tuple[Address, ...] = ()) -> None:
        # In this order, because a lookup that was ended by closing may be ended once more by its thread.
        self.addresses, self.failure = addresses, failure
        self.expires = time.monotonic() + (KNOWN_LIFE if failure is None else FAILED_LIFE)
        self.done.set()


class Resolver:
    """
    Resolve names in a bounded number of daemon threads, each name once at a time, and remember the answers.

    The system's resolver cannot be interrupted and may take minutes. So the caller waits with a limit, and a thread
    that is stuck neither holds up the caller nor the end of the process.

    Args:
        threads: Names that are resolved at a time, at least 1.
    """

    def __init__(self, threads: int) -> None:
        self._most = threads
        self._started = 0
        self._closed = False
        self._lock = threading.Lock()
        self._lookups: OrderedDict[str, _Lookup] = OrderedDict()
        self._work: queue.SimpleQueue[_Lookup | None] = queue.SimpleQueue()

    def resolve(self, name: str, deadline: float) -> tuple[Address, ...]:
        """
        Return the addresses of *name*, at least one, in the order of preference.

        Args:
            name: ASCII name or numeric address of a host.
            deadline: When to give up, by `time.monotonic`; after `LOOKUP_WAIT` in any case.

        Raises:
            FetchError: NAME_NOT_FOUND, or RESOLVER_FAILED where there was no answer.
        """
        if (numeric := _parse(name)) is not None:
            return (numeric,)
        until = min(deadline, time.monotonic() + LOOKUP_WAIT)
        lookup = self._find(name.lower(), until)
        if not lookup.done.wait(max(0.0, until - time.monotonic())):
            raise FetchError(Reason.RESOLVER_FAILED, f"no answer in time for {name}")
        if lookup.failure is not None:
            raise FetchError(*lookup.failure)
        return lookup.addresses

    def close(self) -> None:
        """End the idle threads and all waiting; a later `resolve` fails. May be called again."""
        with self._lock:
            self._closed = True
            waiting = [lookup for lookup in self._lookups.values() if not lookup.done.is_set()]
            started, self._started = self._started, 0
        for lookup in waiting:
            lookup.end((Reason.RESOLVER_FAILED, "the resolver was closed"))
        for _ in range(started):
            self._work.put(None)

    def _find(self, name: str, until: float) -> _Lookup:
        with self._lock:
            if self._closed:
                raise FetchError(Reason.RESOLVER_FAILED, "the resolver was closed")
            lookup = self._lookups.get(name)
            is_new = lookup is None or lookup.expires <= time.monotonic()
            if lookup is None or is_new:
                lookup = self._remember(name)
            lookup.wanted = max(lookup.wanted, until)
            starts_thread = is_new and self._started < self._most
            self._started += starts_thread
        if starts_thread:
            threading.Thread(target=self._run, name="resolver", daemon=True).start()
        if is_new:
            self._work.put(lookup)
        return lookup

    def _remember(self, name: str) -> _Lookup:
        lookup = self._lookups[name] = _Lookup(name)
        self._lookups.move_to_end(name)
        if len(self._lookups) > MAX_NAMES:
            self._lookups.popitem(last=False)
        return lookup

    def _run(self) -> None:
        while (lookup := self._work.get()) is not None:
            if lookup.wanted < time.monotonic():
                # Queued for longer than anybody waited: asking now would only hold up those behind it.
                lookup.end((Reason.RESOLVER_FAILED, f"too many names to resolve, {lookup.name} among them"))
            else:
                _look_up(lookup)


def _look_up(lookup: _Lookup) -> None:
    try:
        # As bytes, because str goes through a codec for international names that refuses what resolvers accept.
        found = socket.getaddrinfo(lookup.name.encode("ascii"), None, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        lookup.end((_reason(error), f"{lookup.name}: {error.strerror}"))
    except Exception as error:  # whatever it is, those who wait must be told
        lookup.end((Reason.RESOLVER_FAILED, f"{lookup.name}: {error}"))
    else:
        addresses = tuple(
            Address(family, str(where[0]), tuple(int(n) for n in where[2:]))
            for family, _, _, _, where in found
            if family in FAMILIES
        )
        lookup.end(None if addresses else (Reason.NAME_NOT_FOUND, f"{lookup.name} has no address"), addresses)


def _reason(error: socket.gaierror) -> Reason:
    # Some systems have no EAI_NODATA: there EAI_NONAME says both.
    absent = (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME))
    return Reason.NAME_NOT_FOUND if error.errno in absent else Reason.RESOLVER_FAILED
