"""
Connections and pools below `HTTPAdapter.send`, which do nothing that the guard does not see.

One context, one guard and one size are the same for all pools of an adapter: a pool is known by scheme, host and port.
"""

from __future__ import annotations

import functools
import operator
import queue
import socket
import ssl
from typing import Any, cast
from urllib.parse import unquote, urlsplit

import requests
import requests.adapters
import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection

from crawler.worker.answers import CheckedResponse
from crawler.worker.guard import Guard, count_descriptors

#: Hosts whose connections are kept, at most.
MAX_HOSTS = 1000
#: Port of a URL that names none.
PORTS = {"http": 80, "https": 443}
#: What tells one pool from another; urllib3 looks at twenty things more, each time.
KEY = operator.itemgetter("scheme", "host", "port")


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


class _Idle(queue.LifoQueue[Any]):
    """
    The idle connections of one pool, the last that was put first.

    Without locks: to append to a list and to take from its end are one step each. urllib3 fills a new one with a None
    for each connection that could be there, which takes longer than all else about a new host; here none is kept.
    """

    def __init__(self, maxsize: int = 0) -> None:
        self._most = maxsize
        self._kept: list[Any] = []

    def get(self, block: bool = False, timeout: float | None = None) -> Any:
        """Take a connection, at once; Empty where there is none."""
        try:
            return self._kept.pop()
        except IndexError:
            raise queue.Empty from None

    def put(self, item: Any, block: bool = False, timeout: float | None = None) -> None:
        """Keep a connection; Full where there is no place for it."""
        if item is None:  # of a fetch that has lost its own
            return
        if len(self._kept) >= self._most:
            raise queue.Full
        self._kept.append(item)

    def qsize(self) -> int:
        """Return how many there are."""
        return len(self._kept)


class _Pool(urllib3.HTTPConnectionPool):
    """Connections to one host; each is watched from where it is taken out to where it is put back."""

    ConnectionCls = _Guarded
    QueueCls = _Idle

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
        hosts = max(1, min(MAX_HOSTS, count_descriptors() // 4))
        super().__init__(pool_connections=hosts, pool_maxsize=per_host, max_retries=0)
        self._guard = guard
        if guard.proxy is not None:
            self.poolmanager = _make_proxy_manager(guard.proxy, hosts, per_host)
        self.poolmanager.key_fn_by_scheme = dict.fromkeys(PORTS, KEY)
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
