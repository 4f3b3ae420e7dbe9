"""
What every connection goes through: the address is judged, the deadline kept, certificates loaded once.

All of it sits below `HTTPAdapter.send`, so that a test that mocks this method never meets it. A fetch is known here by
its *watch*, which belongs to the thread that fetches; urllib3 calls back in that thread.
"""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import os
import resource
import socket
import ssl
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any, cast
from urllib.parse import unquote, urlsplit

import requests
import requests.adapters
import requests.utils
import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError, ProtocolError

from crawler.errors import FetchError, UsageError
from crawler.reasons import Reason
from crawler.settings import Access
from crawler.worker.addresses import Address, Network, Resolver, in_turn, judge, read_address
from crawler.worker.answers import CheckedResponse
from crawler.worker.dialing import connect
from crawler.worker.watchdog import Watch, Watchdog

#: Addresses of one host that are tried, so that a name with a thousand of them is not a scan.
MAX_ADDRESSES = 8
#: Hosts whose connections are kept, at most.
MAX_HOSTS = 1000
#: Port of a URL that names none.
PORTS = {"http": 80, "https": 443}


# ------------------------------------------------------------------ connecting


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
        self.descriptors = _count_descriptors() // 2

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


def _count_descriptors() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def _parse_networks(allow_net: Sequence[str]) -> list[Network]:
    try:
        return [ipaddress.ip_network(text, strict=False) for text in allow_net]
    except ValueError as error:
        raise UsageError(f"--allow-net: {error}; write it as 10.0.0.0/8 or fd00::/8") from error


# ------------------------------------------------------------------ connections and pools


class _Guarded(HTTPConnection):
    """A connection whose address is judged and whose socket is watched."""

    response_class = CheckedResponse

    def __init__(self, *args: Any, guard: Guard, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._guard = guard

    def _new_conn(self) -> socket.socket:
        return self._guard.dial(self, self._dns_host, self.port)


class _GuardedTls(_Guarded, HTTPSConnection):
    """The same with TLS, by a context that is shared and never written to after it was made."""

    def connect(self) -> None:
        """Connect, through a proxy's tunnel where there is one, and shake hands within the fetch's deadline."""
        assert self.ssl_context is not None
        self.sock = self._new_conn()
        name = self.host
        if self._tunnel_host is not None:
            self._has_connected_to_proxy = True
            self._tunnel()
            name = self._tunnel_host
        # In two steps: the watchdog must have the socket that takes the raw one's place before the handshake.
        self.sock = sock = self.ssl_context.wrap_socket(
            self.sock, do_handshake_on_connect=False, server_hostname=name.strip("[]")
        )
        self._guard.hold(sock)
        sock.do_handshake()
        self.is_verified = self.ssl_context.verify_mode is ssl.CERT_REQUIRED


class _Pool(urllib3.HTTPConnectionPool):
    """Connections to one host; each is watched from where it is taken out to where it is put back."""

    ConnectionCls = _Guarded

    def _get_conn(self, timeout: float | None = None) -> Any:
        connection = cast("_Guarded", super()._get_conn(timeout))
        guard: Guard = self.conn_kw["guard"]
        if guard.watch.fresh:
            connection.close()
        guard.watch.reused = not connection.is_closed
        guard.hold(connection.sock)
        return connection

    def _put_conn(self, conn: Any) -> None:
        # Before anybody else can take it: this fetch's deadline is not theirs.
        guard: Guard = self.conn_kw["guard"]
        guard.hold(None)
        sock = conn.sock if conn is not None else None
        # Descriptors are handed out lowest first, so a high one says how many are open.
        if sock is not None and sock.fileno() >= guard.descriptors:
            conn.close()
        super()._put_conn(conn)


class _TlsPool(_Pool, urllib3.HTTPSConnectionPool):
    """The same with TLS."""

    ConnectionCls = _GuardedTls

    def _validate_conn(self, conn: Any) -> None:
        # Without urllib3's warning about certificates that are not verified: that was asked for.
        if conn.is_closed:
            conn.connect()


class GuardedAdapter(requests.adapters.HTTPAdapter):
    """
    Send requests through *guard*, by no proxy but its own, following and repeating nothing.

    `send` is not overridden, because it is what tests mock.

    Args:
        guard: What every connection goes through.
        context: The one TLS context of all connections.
        per_host: Connections kept for one host.
    """

    def __init__(self, guard: Guard, context: ssl.SSLContext, per_host: int) -> None:
        # Lists of images name many hosts, and each that is kept keeps a descriptor.
        hosts = max(1, min(MAX_HOSTS, _count_descriptors() // 4))
        super().__init__(pool_connections=hosts, pool_maxsize=per_host, max_retries=0)
        self._guard = guard
        if guard.proxy is not None:
            self.poolmanager = _make_proxy_manager(guard.proxy, hosts, per_host)
        self.poolmanager.pool_classes_by_scheme = {
            "http": cast("type[urllib3.HTTPConnectionPool]", functools.partial(_Pool, guard=guard)),
            "https": cast(
                "type[urllib3.HTTPSConnectionPool]", functools.partial(_TlsPool, guard=guard, ssl_context=context)
            ),
        }

    def get_connection_with_tls_context(
        self, request: requests.PreparedRequest, *_: Any, **__: Any
    ) -> urllib3.HTTPConnectionPool:
        """Return the pool for the request's host; TLS is the same for all, and the environment names no proxy."""
        parts = urlsplit(str(request.url))
        if self._guard.proxy is not None:
            self._guard.admit_unresolved(str(parts.hostname), parts.port or PORTS[parts.scheme])
        pools: urllib3.PoolManager = self.poolmanager
        return pools.connection_from_host(parts.hostname, parts.port, parts.scheme)

    def cert_verify(self, *_: Any, **__: Any) -> None:
        """Leave the pool as it is: it has its context, and requests would look for its own authorities on the disk."""

    def build_response(self, request: requests.PreparedRequest, response: Any) -> requests.Response:
        """Return what a fetch looks at: no cookies are kept, and nobody asks how a text is encoded."""
        built = requests.Response()
        built.request, built.url = request, str(request.url)
        built.status_code, built.headers, built.raw = response.status, response.headers, response
        return built

    def request_url(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> str:
        """Return path and query, or the whole URL where a proxy passes the request on."""
        is_forwarded = self._guard.proxy is not None and str(request.url).startswith("http:")
        return str(request.url) if is_forwarded else request.path_url


def _make_proxy_manager(proxy: str, hosts: int, per_host: int) -> urllib3.ProxyManager:
    login = urllib3.util.parse_url(proxy).auth
    # latin-1 both here and within leaves the bytes as they were written, whatever they spell.
    headers = urllib3.util.make_headers(proxy_basic_auth=unquote(login, "latin-1")) if login else None
    return urllib3.ProxyManager(proxy, num_pools=hosts, maxsize=per_host, proxy_headers=headers)


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
