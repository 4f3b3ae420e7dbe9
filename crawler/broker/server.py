"""The serving side of the manager: who may connect, what may be asked, and that nothing stops it."""

from __future__ import annotations

import ipaddress
import logging
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing import managers
from typing import Any, NamedTuple, Protocol

from crawler.broker.address import format_address
from crawler.broker.budget import Budget
from crawler.broker.handshake import Proof, admit, server_proof
from crawler.broker.keys import Key
from crawler.broker.verbs import Verb
from crawler.broker.wire import Connection, unpack
from crawler.errors import CrawlerError, StorageFailed, UsageError, WireError

log = logging.getLogger(__name__)

#: Connections at a time. Those that have not shown the key yet may be half of them.
MAX_CONNECTIONS = 256
#: Seconds that a connection may be silent between two requests.
IDLE_LIMIT = 120.0
#: Seconds for writing one answer.
ANSWER_LIMIT = 30.0
#: Seconds of a pause after an accept that failed: out of descriptors, it would fail again at once.
ACCEPT_PAUSE = 0.05
#: Complaints logged in one window of so many seconds; further ones are counted.
MAX_COMPLAINTS, COMPLAINT_WINDOW = 20, 60.0


class SessionWatch(Protocol):
    """One who wants to know which sessions have connections."""

    def attached(self, session: str) -> None:
        """Take note of a new connection of *session*."""

    def detached(self, session: str) -> None:
        """Take note that a connection of *session* has ended; called once for each that was attached."""


class Served(NamedTuple):
    """What a server serves, to whom."""

    #: Objects by name.
    targets: Mapping[str, object]
    #: By name of the object, then of the verb.
    verbs: Mapping[str, Mapping[str, Verb]]
    key: Key
    watch: SessionWatch | None = None


class Complaints:
    """Log what strangers do wrong, but not without limit: whoever can connect could fill the disk."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._since = time.monotonic()
        self._logged = self._hidden = 0

    def say(self, text: str, *args: object) -> None:
        """Log a line, or count it."""
        with self._lock:
            now, hidden = time.monotonic(), 0
            if now - self._since > COMPLAINT_WINDOW:
                hidden, self._since, self._logged, self._hidden = self._hidden, now, 0, 0
            self._logged += 1
            if self._logged > MAX_COMPLAINTS:
                self._hidden += 1
                return
        if hidden:
            log.warning("%d more connections were dropped", hidden)
        log.warning(text, *args)


class Gate:
    """The connections that are open, each with its thread, and whether there is room for one more."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._threads: dict[Connection, threading.Thread] = {}
        #: Those that have not shown the key, the oldest first.
        self._strangers: dict[Connection, None] = {}
        self._full = False
        self._shut = False

    def enter(self, connection: Connection, thread: threading.Thread) -> bool:
        """
        Take in a stranger; where there is no room, the stranger that has waited longest goes.

        Without that, silent connections would keep out those who have the key.

        Returns:
            False where all places are taken by those who have shown the key, or the gate is shut.
        """
        with self._lock:
            if self._shut:
                return False
            short = len(self._threads) >= MAX_CONNECTIONS or len(self._strangers) >= MAX_CONNECTIONS // 2
            oldest = next(iter(self._strangers), None) if short else None
            refused = short and oldest is None
            if oldest:
                del self._strangers[oldest]
            if not refused:
                self._threads[connection] = thread
                self._strangers[connection] = None
            news, self._full = short and not self._full, self._full or short
        if oldest:
            oldest.cut()
        if news:
            log.warning("too many connections (limit %d): some are dropped", MAX_CONNECTIONS)
        return not refused

    def prove(self, connection: Connection) -> None:
        """Note that *connection* has shown the key."""
        with self._lock:
            self._strangers.pop(connection, None)

    def leave(self, connection: Connection) -> None:
        """Forget a connection that has ended."""
        with self._lock:
            self._strangers.pop(connection, None)
            self._threads.pop(connection, None)
            # Some way below the limit, or a queue of clients at the gate would be one line each.
            room = len(self._threads) <= MAX_CONNECTIONS * 7 // 8 and len(self._strangers) <= MAX_CONNECTIONS * 3 // 8
            news, self._full = self._full and room, self._full and not room
        if news:
            log.info("there is room for connections again")

    def shut(self) -> None:
        """Let nobody in any more."""
        with self._lock:
            self._shut = True

    def threads(self) -> dict[Connection, threading.Thread]:
        """Return the open connections and their threads."""
        with self._lock:
            return dict(self._threads)


class Server(managers.Server):
    """
    Serve fixed objects to those who have the key.

    Of the server of multiprocessing remain its shape and its words; nothing is created, counted or shut down by
    clients, and only the verbs of the protocols can be called.

    Args:
        served: What, and to whom.
        address: Where to listen; port 0 takes a free one.
        serializer: Name of the transport.

    Raises:
        UsageError: It cannot listen there, or may not without a certificate.
    """

    public = ["accept_connection", "dummy"]
    fallback_mapping: dict[str, Any] = {}
    listener: Any

    def __init__(self, served: Served, address: tuple[str, int], serializer: str) -> None:
        self._proof: Proof = server_proof(served.key)
        super().__init__({}, resolve(address, served.key), served.key.secret, serializer)
        self._served = served
        self._budget = Budget()
        self._gate = Gate()
        self._complaints = Complaints()
        self.stop_event = threading.Event()

    def serve_forever(self) -> None:
        """Accept connections until `stop`, in this thread; unlike the base's, this returns."""
        failing = False
        while not self.stop_event.is_set():
            try:
                sock = self.listener.accept()
            except TimeoutError:
                continue
            except Exception as error:  # whatever it is, it must not end the service
                if not failing and not self.stop_event.is_set():
                    log.warning("no connection can be accepted: %s", getattr(error, "strerror", None) or repr(error))
                failing = True
                self.stop_event.wait(ACCEPT_PAUSE)
                continue
            if failing:
                log.info("connections are accepted again")
                failing = False
            self._take(sock)

    def stop(self, timeout: float) -> None:
        """Accept no more, let answers that are being made go out, and wait up to *timeout* for all threads."""
        deadline = time.monotonic() + timeout
        self.stop_event.set()
        self.listener.close()
        self._gate.shut()
        for connection in self._gate.threads():
            # Who waits for a request finds the end; who makes an answer can still write it.
            connection.cut(socket.SHUT_RD)
        self._join(deadline)
        for connection in self._gate.threads():
            connection.cut()

    def handle_request(self, conn: Connection) -> None:  # type: ignore[override]
        """Serve one connection from its first byte to its end."""
        proven = False
        try:
            admit(conn, self._proof)
            proven = True
            self._gate.prove(conn)
            self._open(conn)
            self.serve_client(conn)
        except (EOFError, ConnectionError, ssl.SSLEOFError) as error:
            log.debug("%s is gone: %s", conn.peer, error)
        except (CrawlerError, OSError) as error:
            if proven and isinstance(error, TimeoutError):
                # Nothing wrong: a client that has nothing to ask comes back when it has.
                log.debug("%s was silent for too long", conn.peer)
            else:
                self._complaints.say("connection from %s dropped: %s", conn.peer, error)
        except Exception:
            log.exception("connection from %s dropped", conn.peer)
        finally:
            conn.close()
            self._gate.leave(conn)

    def serve_client(self, conn: Connection) -> None:  # type: ignore[override]
        """Answer requests until the client ends, the server stops, or something comes that was not agreed."""
        session, watch = conn.session, self._served.watch
        if watch and session:
            watch.attached(session)
        try:
            conn.send(("#RETURN", None))
            while not self.stop_event.is_set():
                self._serve_one(conn)
        finally:
            if watch and session:
                watch.detached(session)

    def _take(self, sock: socket.socket) -> None:
        """Give a new connection a thread of its own, if there is room."""
        thread: threading.Thread | None = None
        connection: Connection | None = None
        try:
            connection = Connection(sock, self._budget)
            thread = threading.Thread(target=self.handle_request, args=(connection,), daemon=True)
            if self._gate.enter(connection, thread):
                thread.start()
                return
        except OSError as error:
            log.debug("one who connected is gone already: %s", error)
        except (RuntimeError, MemoryError) as error:
            log.error("a connection gets no thread: %s", error)
            self.stop_event.wait(ACCEPT_PAUSE)
        if connection:
            self._gate.leave(connection)
        sock.close()

    def _open(self, conn: Connection) -> None:
        """Read the request that comes first, and which session it is for."""
        conn.until(ANSWER_LIMIT)
        name, verb, args, _ = conn.recv_request(ANSWER_LIMIT)
        if name is not None or verb not in self.public:
            raise WireError("a client did not begin as agreed")
        if verb == "accept_connection":
            (conn.session,) = unpack(args, tuple[str])
        conn.release()
        conn.until(ANSWER_LIMIT)

    def _serve_one(self, conn: Connection) -> None:
        name, method, args, kwds = conn.recv_request(IDLE_LIMIT)
        try:
            verb = self._served.verbs.get(name or "", {}).get(method)
            if verb is None or kwds:
                raise WireError(f"{str(name)[:40]!a} has no verb {method[:40]!a}")
            arguments = verb.read_arguments(args)
        except WireError as error:
            self._answer(conn, ("#ERROR", error))
            raise
        self._answer(conn, self._call(verb, self._served.targets[str(name)], arguments))
        conn.release()

    def _call(self, verb: Verb, target: object, arguments: tuple[Any, ...]) -> tuple[str, Any]:
        try:
            return "#RETURN", getattr(target, verb.name)(*arguments)
        except StorageFailed:
            # The coordinator is about to end, and can be started again: without an answer the client waits for that.
            raise
        except CrawlerError as error:
            return "#ERROR", error
        except Exception as error:
            log.exception("%s failed", verb.name)
            return "#ERROR", error

    def _answer(self, conn: Connection, answer: tuple[str, Any]) -> None:
        conn.until(ANSWER_LIMIT)
        try:
            conn.send(answer)
        except WireError as error:
            # Nothing was written yet, so the client can be told.
            log.error("an answer cannot be sent: %s", error)
            conn.send(("#ERROR", CrawlerError("the answer cannot be sent")))

    def _join(self, deadline: float) -> None:
        for thread in self._gate.threads().values():
            with suppress(RuntimeError):  # entered, and not started yet
                thread.join(max(0.0, deadline - time.monotonic()))


def resolve(address: tuple[str, int], key: Key) -> tuple[str, int]:
    """
    Return the literal address to listen at.

    Raises:
        UsageError: There is none, or it is beyond loopback and the key has no certificate.
    """
    try:
        found = socket.getaddrinfo(address[0] or None, address[1], type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise UsageError(f"cannot listen at {format_address(address)}: {error.strerror}") from error
    host = str(found[0][4][0])
    if not (key.certificate or ipaddress.ip_address(host.partition("%")[0]).is_loopback):
        raise UsageError(
            f"{format_address(address)} can be reached from other machines, and that needs a key with a certificate: "
            "make one with `crawler keygen DIR`, and name it with `--key DIR`"
        )
    return host, address[1]
