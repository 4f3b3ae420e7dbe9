"""
Serve the queues to other processes and machines, and connect to them: a manager of multiprocessing, hardened.

Both sides register the same names. What the stock manager unpickles, waits for without limit or lets clients do to
the server is replaced: the transport is in `wire`, its opening in `handshake`, the serving side in `server`, the
asking side in `proxy` and `line`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from multiprocessing import managers
from typing import Any

from crawler.broker.handshake import Proof, client_proof, dial
from crawler.broker.keys import Key
from crawler.broker.line import Line
from crawler.broker.listener import Listener
from crawler.broker.proxy import QueueProxy, proxy_type
from crawler.broker.server import Served, Server, SessionWatch
from crawler.broker.verbs import Service, tables
from crawler.broker.wire import Connection

__all__ = ["QueueClient", "QueueManager", "QueueServer", "Service", "SessionWatch"]

#: Name of the transport among those of multiprocessing.
TRANSPORT = "crawler"
#: Seconds without the coordinator after which calls fail.
PATIENCE = 120.0


def _connect(address: tuple[str, int], authkey: bytes) -> Connection:
    """Connect in the way that multiprocessing asks for it: with a secret alone."""
    return dial(address, Proof(authkey, b"", None))


managers.listener_client[TRANSPORT] = (Listener, _connect)  # type: ignore[attr-defined]


class QueueManager(managers.BaseManager):
    """
    The manager of both sides.

    Args:
        services: The objects by their names; those of the asking side have no target.
        address: Where to listen, or where the coordinator is.
        key: What both sides show each other.
        watch: Is told of the connections of sessions.
    """

    _Server = Server

    def __init__(
        self, services: Sequence[Service], address: tuple[str, int], key: Key, watch: SessionWatch | None = None
    ) -> None:
        super().__init__(address, key.secret, TRANSPORT)
        self._queue_address = address
        self._verbs = tables(services)
        targets = {service.name: service.target for service in services if service.target is not None}
        self._served = Served(targets, {name: self._verbs[name] for name in targets}, key, watch)
        # For this instance, where `register` would change the class: other managers may serve other objects.
        self._registry = {
            service.name: (None, tuple(verbs), None, proxy_type(service.protocol, verbs))
            for service, verbs in zip(services, self._verbs.values(), strict=True)
        }

    def get_server(self) -> Server:
        """
        Return a server that listens already; `serve_forever` accepts.

        Raises:
            UsageError: It cannot listen there, or may not without a certificate.
        """
        return self._Server(self._served, self._queue_address, TRANSPORT)

    def line(self, patience: float = PATIENCE) -> Line:
        """
        Return a line to the coordinator; nothing is sent yet.

        Raises:
            UsageError: The key's certificate cannot be used.
        """
        return Line(self._queue_address, client_proof(self._served.key), patience)

    def proxy(self, name: str, line: Line) -> QueueProxy:
        """Return an object that has the verbs of the service called *name*."""
        proxy: type[QueueProxy] = self._registry[name][-1]
        return proxy(managers.Token(name, self._queue_address, name), TRANSPORT, line, self._verbs[name])

    def start(self, *args: Any, **kwds: Any) -> None:
        """Refuse: the stock manager would pickle its registry into a child."""
        raise NotImplementedError("the queues are served where they are: use QueueServer")

    def connect(self) -> None:
        """
        Show that the coordinator is there and has the key.

        Raises:
            CrawlerError: It is another one, or speaks another version.
            OSError, EOFError: It cannot be reached.
        """
        connection = dial(self._queue_address, client_proof(self._served.key))
        try:
            managers.dispatch(connection, None, "dummy")  # type: ignore[attr-defined]
        finally:
            connection.close()


class QueueServer:
    """
    Serve objects in a thread of its own.

    Args:
        services: The objects, their names and protocols.
        address: Where to listen; port 0 takes a free one.
        key: What clients have to show. Beyond loopback it needs certificate and private key.
        watch: Is told of the connections of sessions.

    Raises:
        UsageError: It cannot listen there, or may not without a certificate.
    """

    def __init__(
        self, services: Sequence[Service], address: tuple[str, int], key: Key, watch: SessionWatch | None = None
    ) -> None:
        self._server = QueueManager(services, address, key, watch).get_server()
        # A daemon: a program that dies of an error must not be kept alive by its server.
        self._thread = threading.Thread(target=self._server.serve_forever, name="queue-server", daemon=True)
        #: Host and port it listens at. Connections are kept waiting until `start`.
        self.address: tuple[str, int] = self._server.listener.address

    def start(self) -> None:
        """Begin to accept connections."""
        self._thread.start()

    def close(self, timeout: float = 5.0) -> None:
        """
        Accept no more, let answers that are being made go out, close all connections and end the threads.

        Args:
            timeout: Seconds for all of that. A verb that takes longer ends without being heard.
        """
        self._server.stop(timeout)
        if self._thread.is_alive():
            self._thread.join(timeout)


class QueueClient:
    """
    Ask a coordinator. Nothing is sent before the first call; may be used by many threads at once.

    A call rides out a coordinator that is away: it is repeated until it is answered or patience has run out.

    Args:
        address: Host and port of the coordinator.
        key: What is shown to it; with a certificate, the connection is TLS and that one certificate is good.
        services: The names and protocols.
        patience: Seconds without the coordinator after which calls raise QueueUnavailable.

    Raises:
        UsageError: The key's certificate cannot be used.
    """

    def __init__(
        self, address: tuple[str, int], key: Key, services: Sequence[Service], patience: float = PATIENCE
    ) -> None:
        self._manager = QueueManager(services, address, key)
        self._line = self._manager.line(patience)

    @property
    def session(self) -> str:
        """Session that connections are opened for, "" for none; those opened for another one are replaced."""
        return self._line.session

    @session.setter
    def session(self, session: str) -> None:
        self._line.session = session

    @property
    def renew(self) -> Callable[[], object] | None:
        """Called, once for all threads, when the coordinator does not know the session; then calls are repeated."""
        return self._line.renew

    @renew.setter
    def renew(self, renew: Callable[[], object] | None) -> None:
        self._line.renew = renew

    def proxy(self, name: str) -> Any:
        """Return an object that has the verbs of the service called *name*."""
        return self._manager.proxy(name, self._line)

    def cancel(self) -> None:
        """End calls that wait, now: they raise QueueUnavailable, and so do all that follow. May be called anywhere."""
        self._line.cancel()

    def close(self) -> None:
        """Cancel, and close all connections. May be called again."""
        self._line.close()
