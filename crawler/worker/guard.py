"""
What every connection goes through: the address is judged, the deadline kept, certificates loaded once.

All of it sits below `HTTPAdapter.send`, so that a test that mocks this method never meets it. A fetch is known here by
its *watch*, which belongs to the thread that fetches; urllib3 calls back in that thread.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import resource
import socket
import ssl
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import cast
from urllib.parse import urlsplit

import requests
import requests.utils
from urllib3.connection import HTTPConnection
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError, ProtocolError

from crawler.errors import FetchError, UsageError
from crawler.reasons import Reason
from crawler.settings import Access
from crawler.worker.addresses import Address, Network, Resolver, in_turn, judge, read_address
from crawler.worker.dialing import connect
from crawler.worker.watchdog import Watch, Watchdog

#: Addresses of one host that are tried, so that a name with a thousand of them is not a scan.
MAX_ADDRESSES = 8


class Guard:
    """
    Resolve, judge, connect and watch, for all threads of one fetcher.

    Args:
        access: Networks to allow beside the public ones, ports, and the proxy.
        connect_timeout: Seconds for connecting to one address.
        threads: Threads that fetch at a time.

    Raises:
        UsageError: One of the networks is none, or the proxy is of a kind that is not spoken.
    """

    def __init__(self, access: Access, connect_timeout: float, threads: int) -> None:
        self._networks = _parse_networks(access.allow_net)
        self._ports = access.ports
        #: URL of the proxy, None where hosts are connected to.
        self.proxy = access.proxy
        if self.proxy is not None and urlsplit(self.proxy).scheme != "http":
            raise UsageError("--proxy: only proxies that are spoken to in http are known, as http://HOST:PORT")
        self._connect_timeout = connect_timeout
        self._resolver = Resolver(max(4, min(threads, 64)))
        self._watchdog = Watchdog()
        self._current = threading.local()
        #: Descriptors from this number on are not kept by idle connections: the rest is for those at work.
        self.descriptors = count_descriptors() // 2

    @property
    def watch(self) -> Watch:
        """Return the watch of the fetch that this thread is at."""
        return cast("Watch", self._current.watch)

    @contextlib.contextmanager
    def watching(self, timeout: float) -> Iterator[Watch]:
        """Watch what this thread does in the block, which may take *timeout* seconds."""
        watch = self._current.watch = self._watchdog.begin(timeout)
        try:
            yield watch
        finally:
            self._watchdog.end(watch)

    def hold(self, sock: socket.socket | None) -> None:
        """Have *sock* shut at this thread's deadline in place of the last one; None lets go of that."""
        self._watchdog.hold(self.watch, sock)

    def hurry(self, wait: float) -> None:
        """Have the socket that is held shut in *wait* seconds: what it still brings is not worth more."""
        self._watchdog.hurry(self.watch, wait)

    def dial(self, connection: HTTPConnection, name: str, port: int) -> socket.socket:
        """
        Connect to *name*, its addresses one after the other until one answers.

        Raises:
            FetchError: The name has no address, or none that is allowed.
            NewConnectionError: Nothing can be reached there.
            ProtocolError: The host cut the connection as soon as it was made.
            ConnectTimeoutError: Nothing answered in time.
        """
        addresses = self._resolver.resolve(name.strip("[]"), self.watch.deadline)
        # A proxy was named by the user himself, and mostly stands in a network that is not public.
        allowed = addresses if self.proxy else self._admit(name, port, addresses)
        try:
            sock = connect(in_turn(allowed)[:MAX_ADDRESSES], port, self._connect_timeout, self.watch)
        except ConnectionResetError as error:
            # The host answered, and cut the connection before it was looked at: a refusal has a code of its own. Not
            # raised as it is, because urllib3 takes a reset for one that came after a request, and reads on.
            raise ProtocolError(f"{name} port {port} cut the connection", error) from error
        except OSError as error:
            kind = ConnectTimeoutError if isinstance(error, TimeoutError) else NewConnectionError
            raise kind(connection, f"cannot connect to {name} port {port}: {error}") from error
        sock.settimeout(self.watch.left)
        self.hold(sock)
        return sock

    def admit_unresolved(self, host: str, port: int) -> None:
        """
        Return if a proxy may be asked for *host*: all that can be judged without resolving it is a numeric address.

        Raises:
            FetchError: The address or the port is refused.
        """
        numeric = read_address(host)
        if numeric is not None:
            self._admit(host, port, [Address(0, numeric)])
        elif not self._is_listed(port):
            raise _refuse_port(host, port)

    def _admit(self, name: str, port: int, addresses: Sequence[Address]) -> list[Address]:
        listed = self._is_listed(port)
        allowed = [address for address in addresses if judge(address.ip, self._networks, public=listed)]
        if allowed:
            return allowed
        if not listed and any(judge(address.ip, self._networks) for address in addresses):
            raise _refuse_port(name, port)
        found = ", ".join(sorted(address.ip for address in addresses)[:3])
        raise FetchError(Reason.ADDRESS_REFUSED, f"{name} is {found}, which is not public; see --allow-net")

    def _is_listed(self, port: int) -> bool:
        return any(first <= port <= last for first, last in self._ports)

    def cancel(self) -> None:
        """End all fetches, now and from now on. May be called again."""
        self._watchdog.cancel()
        self._resolver.close()


def _refuse_port(name: str, port: int) -> FetchError:
    return FetchError(Reason.ADDRESS_REFUSED, f"port {port} of {name} is not among those of --ports")


def count_descriptors() -> int:
    """Return how many files this process may have open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def _parse_networks(allow_net: Sequence[str]) -> list[Network]:
    try:
        return [ipaddress.ip_network(text, strict=False) for text in allow_net]
    except ValueError as error:
        raise UsageError(f"--allow-net: {error}; write it as 10.0.0.0/8 or fd00::/8") from error


def make_context(tls_verify: bool, ca_bundle: str | None) -> ssl.SSLContext:
    """
    Make the TLS context that all connections share: reading the authorities takes some 30 ms.

    Args:
        tls_verify: Whether certificates are verified.
        ca_bundle: PEM text of the authorities to trust, None for the system's or those of SSL_CERT_FILE.

    Raises:
        UsageError: The authorities cannot be read.
    """
    # Not create_default_context, which is stricter from 3.13 on: what is accepted must not depend on the Python.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["http/1.1"])
    if not tls_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    context.hostname_checks_common_name = False
    try:
        _load_authorities(context, ca_bundle)
    except (OSError, ValueError) as error:
        raise UsageError(f"the certificate authorities cannot be read (--ca-bundle, SSL_CERT_FILE): {error}") from error
    return context


def _load_authorities(context: ssl.SSLContext, ca_bundle: str | None) -> None:
    named = os.environ.get("SSL_CERT_FILE")
    # 1. those of this run, 2. those the environment names, 3. the system's, 4. those that came with requests
    if ca_bundle is not None:
        context.load_verify_locations(cadata=ca_bundle)
    elif named:
        context.load_verify_locations(cafile=named)
    else:
        context.load_default_certs()
        if not context.cert_store_stats()["x509_ca"] and "SSL_CERT_DIR" not in os.environ:
            context.load_verify_locations(cafile=requests.utils.DEFAULT_CA_BUNDLE_PATH)
