"""The manager: typed verbs, who is let in, what cannot stop the service, and a client that rides out its absence."""

from __future__ import annotations

import copy
import logging
import os
import pickle
import socket
import struct
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from multiprocessing import managers
from pathlib import Path
from typing import Any, Protocol

import msgspec
import pytest

from crawler.broker import TaskQueue, handshake, keys, line, server, wire
from crawler.broker.handshake import client_proof, dial
from crawler.broker.manager import QueueClient, QueueManager, QueueServer, Service
from crawler.broker.verbs import verbs
from crawler.broker.wire import Connection
from crawler.errors import CrawlerError, KeyRefused, QueueUnavailable, UnknownSession, UsageError, WireError
from crawler.model import Lease, Task
from tests.conftest import free_port, wait_until

LOOPBACK = ("127.0.0.1", 0)
KEY = keys.Key(b"k" * 32)


class Desk(Protocol):
    """What the tests serve."""

    def double(self, leases: list[Lease], factor: int = 2) -> list[Lease]:
        """Return the leases with other tokens."""

    def hold(self, wait: float) -> str:
        """Answer when the test says so."""

    def know(self, session: str) -> str:
        """Answer those who are known."""

    def fail(self) -> None:
        """Raise what the test says."""

    def wrong(self) -> int:
        """Return something else than declared."""


class Office:
    """The object behind the desk."""

    def __init__(self) -> None:
        self.known: set[str] = set()
        self.error: Exception = CrawlerError("nothing")
        self.calls: Counter[str] = Counter()
        self.held = threading.Event()
        self.free = threading.Event()
        self.secret_calls = 0

    def double(self, leases: list[Lease], factor: int = 2) -> list[Lease]:
        self.calls["double"] += 1
        return [Lease(token=lease.token * factor, task=lease.task) for lease in leases]

    def hold(self, wait: float) -> str:
        self.held.set()
        self.free.wait(20.0)
        return "held"

    def know(self, session: str) -> str:
        self.calls["know"] += 1
        if session not in self.known:
            raise UnknownSession(f"session {session} is not known here")
        return session

    def fail(self) -> None:
        raise self.error

    def wrong(self) -> Any:
        return "text"

    def secret(self) -> None:
        """Stand for what the protocol does not name."""
        self.secret_calls += 1


class Watch:
    """Count what a server says about sessions."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.calls: list[tuple[str, str]] = []

    def attached(self, session: str) -> None:
        with self.lock:
            self.calls.append(("attached", session))

    def detached(self, session: str) -> None:
        with self.lock:
            self.calls.append(("detached", session))

    def count(self, what: str, session: str) -> int:
        """Return how often something was said of a session."""
        with self.lock:
            return self.calls.count((what, session))


class Stand:
    """Servers and clients of one test, closed at its end."""

    def __init__(self, stack: ExitStack) -> None:
        self.office = Office()
        self.watch = Watch()
        self._stack = stack

    def serve(self, address: tuple[str, int] = LOOPBACK, key: keys.Key = KEY) -> QueueServer:
        """Start a server."""
        serving = QueueServer([Service("desk", Desk, self.office)], address, key, self.watch)
        self._stack.callback(serving.close)
        # Runs before that: a verb that is held would hold up closing.
        self._stack.callback(self.office.free.set)
        serving.start()
        return serving

    def client(self, address: tuple[str, int], key: keys.Key = KEY, patience: float = 10.0) -> QueueClient:
        """Return a client."""
        client = QueueClient(address, key, [Service("desk", Desk, None)], patience)
        self._stack.callback(client.close)
        return client

    def plain(self, address: tuple[str, int]) -> socket.socket:
        """Return a plain socket that is connected to *address*."""
        return self._stack.enter_context(socket.create_connection(address, 10.0))

    def proven(self, address: tuple[str, int], session: str = "") -> Connection:
        """Return a connection that may make requests."""
        connection = dial(address, client_proof(KEY))
        self._stack.callback(connection.close)
        connection.until(10.0)
        connection.send([None, "accept_connection", [session], {}])
        assert connection.recv() == ("#RETURN", None)
        return connection


@pytest.fixture
def stand() -> Iterator[Stand]:
    """Return what servers and clients are made with."""
    with ExitStack() as stack:
        yield Stand(stack)


def leases(count: int = 2) -> list[Lease]:
    """Return some leases."""
    return [Lease(token=n << 40, task=Task(id=n, url=f"http://example.org/{n}")) for n in range(1, count + 1)]


def works(client: QueueClient) -> bool:
    """Tell whether a call is answered rightly."""
    answer: list[Lease] = client.proxy("desk").double(leases())
    return [one.token for one in answer] == [2 << 40, 4 << 40]


def lines(caplog: pytest.LogCaptureFixture, level: int = logging.WARNING) -> list[str]:
    """Return what was logged at *level* or above."""
    return [record.getMessage() for record in caplog.records if record.levelno >= level]


def ends(sock: socket.socket) -> bool:
    """Tell whether the other side ends the connection, within the socket's time limit."""
    try:
        while sock.recv(1000):
            pass
    except ConnectionError:
        pass
    except TimeoutError:
        return False
    return True


def in_thread(action: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    """Run *action* in a thread; the list gets its result or its error."""
    results: list[object] = []

    def run() -> None:
        try:
            results.append(action())
        except CrawlerError as error:
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, results


# ------------------------------------------------------------------ verbs


def test_round_trip_of_structs(stand: Stand) -> None:
    """Arguments and results arrive as the structs that the protocol declares, defaults and keywords included."""
    desk = stand.client(stand.serve().address).proxy("desk")
    assert desk.double(leases()) == [Lease(token=one.token * 2, task=one.task) for one in leases()]
    assert desk.double(factor=3, leases=leases(1)) == [Lease(token=3 << 40, task=leases(1)[0].task)]


def test_round_trip_over_tls(stand: Stand, tmp_path: Path) -> None:
    """The same over TLS, with the copy of a key that has no private half."""
    keys.generate(tmp_path / "key.d")
    key = keys.load(tmp_path / "key.d")
    keys.copy(key, tmp_path / "copy")
    assert works(stand.client(stand.serve(key=key).address, keys.load(tmp_path / "copy")))


def test_round_trip_over_ipv6(stand: Stand) -> None:
    """A coordinator can listen at an IPv6 address."""
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 loopback here")
    serving = stand.serve(("::1", 0))
    assert serving.address[0] == "::1"
    assert works(stand.client(serving.address))


def test_it_is_a_manager(stand: Stand) -> None:
    """Manager, server and proxies are those of multiprocessing by descent, with the same names on both sides."""
    serving = stand.serve()
    manager = QueueManager([Service("desk", Desk, None)], serving.address, KEY)
    manager.connect()
    asking = manager.line()
    desk: Any = manager.proxy("desk", asking)
    assert isinstance(manager, managers.BaseManager)
    assert isinstance(serving._server, managers.Server)
    assert desk.double([]) == []
    assert isinstance(desk, managers.BaseProxy)
    asking.close()


def test_verbs_are_those_of_the_protocol() -> None:
    """A protocol's public functions are its verbs, and nothing that Protocol or object bring."""
    assert set(verbs(Desk)) == {"double", "hold", "know", "fail", "wrong"}
    expected = {name for name in vars(TaskQueue) if not name.startswith("_")}
    assert set(verbs(TaskQueue)) == expected


def test_error_of_the_tree(stand: Stand) -> None:
    """An error of the tree arrives as itself, and the connection is used on."""
    desk = stand.client(stand.serve().address).proxy("desk")
    stand.office.error = UsageError("use it otherwise")
    with pytest.raises(UsageError, match="use it otherwise"):
        desk.fail()
    assert desk.double([]) == []
    assert len(stand.watch.calls) == 0


def test_unforeseen_error(stand: Stand, caplog: pytest.LogCaptureFixture) -> None:
    """Any other error is logged at the coordinator, and the client learns nothing of it."""
    desk = stand.client(stand.serve().address).proxy("desk")
    stand.office.error = LookupError("secret")
    with pytest.raises(CrawlerError, match="^internal error at the coordinator$"):
        desk.fail()
    assert lines(caplog) == ["fail failed"]
    assert "secret" in caplog.text


def test_wrong_result(stand: Stand) -> None:
    """A result of another type than declared is refused by the client."""
    client = stand.client(stand.serve().address)
    with pytest.raises(WireError, match="wrong types"):
        client.proxy("desk").wrong()
    assert works(client)


@pytest.mark.parametrize(
    "request_",
    [
        ["desk", "double", [[], "2"], {}],
        ["desk", "double", [[["1", [1, "u"]]], 2], {}],
        ["desk", "double", [], {}],
        ["desk", "double", [[], 2, 3], {}],
        ["desk", "double", [[]], {"factor": 2}],
        ["desk", "double", [[], 2], {"more": 2}],
        ["desk", "secret", [], {}],
        ["desk", "__init__", [], {}],
        ["desk", "__class__", [], {}],
        ["desk", "#GETVALUE", [], {}],
        ["desk", "__str__", [], {}],
        ["0", "double", [[], 2], {}],
        [None, "shutdown", [], {}],
        [None, "create", ["desk"], {}],
        [None, "decref", ["desk"], {}],
        [None, "debug_info", [], {}],
        ["desk", "double", [[], 2]],
        "shutdown",
        {},
    ],
)
def test_request_that_is_not_allowed(stand: Stand, request_: object) -> None:
    """What no protocol names, or with other types than it declares, is not called, and ends the connection."""
    serving = stand.serve()
    connection = stand.proven(serving.address)
    connection.send(request_)
    with pytest.raises((EOFError, ConnectionError)):
        kind, error = connection.recv()
        assert (kind, type(error)) == ("#ERROR", WireError)
        connection.recv()
    assert stand.office.calls.total() + stand.office.secret_calls == 0
    assert works(stand.client(serving.address))


@pytest.mark.parametrize("verb", ["shutdown", "create", "incref", "get_methods", "number_of_objects", "serve_client"])
def test_first_request_that_is_not_allowed(stand: Stand, verb: str) -> None:
    """A connection begins in one way: the stock server's other words are refused."""
    serving = stand.serve()
    connection = dial(serving.address, client_proof(KEY))
    connection.until(10.0)
    connection.send([None, verb, [], {}])
    with pytest.raises((EOFError, ConnectionError)):
        connection.recv()
    connection.close()
    assert works(stand.client(serving.address))


OPTIMISED = """
from typing import Protocol
from crawler.broker.handshake import client_proof, dial
from crawler.broker.keys import Key
from crawler.broker.manager import QueueServer, Service
class Desk(Protocol):
    def ask(self) -> int: ...
class Office:
    def ask(self): return 1
    def secret(self): print("called")
key = Key(b"k" * 32)
server = QueueServer([Service("desk", Desk, Office())], ("127.0.0.1", 0), key)
server.start()
def request(connection, *message):
    connection.until(10)
    connection.send(list(message))
    return connection.recv()
connection = dial(server.address, client_proof(key))
request(connection, None, "accept_connection", [""], {})
print(request(connection, "desk", "ask", [], {}))
print(request(connection, "desk", "secret", [], {})[0])
connection.close()
connection = dial(server.address, client_proof(key))
try:
    print(request(connection, None, "shutdown", [], {}))
except (EOFError, OSError):
    print("refused", __debug__)
connection.close()
server.close()
"""


def test_refusal_does_not_need_assert() -> None:
    """Under python -O the same is refused."""
    command = [sys.executable, "-O", "-c", OPTIMISED]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30)
    assert done.stdout.splitlines() == ["('#RETURN', 1)", "#ERROR", "refused False"]


def test_unknown_verb_here(stand: Stand) -> None:
    """A verb that the protocol does not have is refused before anything is sent."""
    desk = stand.client(("127.0.0.1", free_port())).proxy("desk")
    with pytest.raises(AttributeError, match="secret"):
        desk._callmethod("secret")


# ------------------------------------------------------------------ nothing is unpickled


class Canary:
    """Make a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.file),))


@pytest.mark.parametrize("proven", [False, True])
def test_pickle_is_never_loaded(stand: Stand, tmp_path: Path, proven: bool) -> None:
    """A pickle that comes over a socket is bytes, from strangers and from those who have the key."""
    serving = stand.serve()
    payload = pickle.dumps(("desk", "double", (Canary(tmp_path / "canary"),), {}))
    if proven:
        connection = stand.proven(serving.address)
        connection.send_bytes(payload)
        with pytest.raises((EOFError, ConnectionError)):
            connection.recv()
    else:
        sock = stand.plain(serving.address)
        sock.sendall(struct.pack("!i", len(payload)) + payload)
        assert ends(sock)
    assert works(stand.client(serving.address))
    assert not (tmp_path / "canary").exists()
    # The canary does sing where somebody unpickles.
    pickle.loads(payload)
    assert (tmp_path / "canary").exists()


def test_pickled_answer_is_never_loaded(stand: Stand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A coordinator cannot make its clients unpickle either."""
    payload = pickle.dumps(("#RETURN", Canary(tmp_path / "canary")))
    monkeypatch.setattr(server.Server, "_answer", lambda self, conn, answer: conn.send_bytes(payload))
    with pytest.raises(WireError):
        stand.client(stand.serve().address).proxy("desk").double([])
    assert not (tmp_path / "canary").exists()


def test_proxies_cannot_be_pickled_or_copied(stand: Stand) -> None:
    """A proxy stays in its process."""
    desk = stand.client(("127.0.0.1", free_port())).proxy("desk")
    with pytest.raises(TypeError, match="pickled"):
        pickle.dumps(desk)
    with pytest.raises(TypeError, match="copied"):
        copy.deepcopy(desk)


# ------------------------------------------------------------------ who is let in


def test_wrong_key(stand: Stand, caplog: pytest.LogCaptureFixture) -> None:
    """Another key is refused at once, not tried again; the coordinator logs one line and serves on."""
    serving = stand.serve()
    with pytest.raises(KeyRefused, match="another key"):
        stand.client(serving.address, keys.Key(b"o" * 32)).proxy("desk").double([])
    wait_until(lambda: lines(caplog))
    assert len(lines(caplog)) == 1
    assert "it has another key" in lines(caplog)[0]
    assert works(stand.client(serving.address))


def test_other_certificate(stand: Stand, tmp_path: Path) -> None:
    """Another certificate is a refused key, not an outage."""
    for name in ("a", "b"):
        keys.generate(tmp_path / name)
    serving = stand.serve(key=keys.load(tmp_path / "a"))
    with pytest.raises(KeyRefused, match="certificate"):
        stand.client(serving.address, keys.load(tmp_path / "b")).proxy("desk").double([])


@pytest.mark.parametrize("host", ["0.0.0.0", "", "::"])
def test_beyond_loopback_without_certificate(host: str) -> None:
    """Listening for other machines needs a certificate, and the message says how to get one."""
    with pytest.raises(UsageError, match=r"crawler keygen DIR.*--key DIR"):
        QueueServer([], (host, 0), KEY)


def test_serving_with_a_copied_key(tmp_path: Path) -> None:
    """A key without its private half cannot serve."""
    keys.generate(tmp_path / "key.d")
    keys.copy(keys.load(tmp_path / "key.d"), tmp_path / "copy")
    with pytest.raises(UsageError, match="cert-key.pem"):
        QueueServer([], LOOPBACK, keys.load(tmp_path / "copy"))


def test_port_in_use(stand: Stand) -> None:
    """A port that is taken is named."""
    address = stand.serve().address
    with pytest.raises(UsageError, match=f"cannot listen at 127.0.0.1:{address[1]}"):
        stand.serve(address)


# ------------------------------------------------------------------ what cannot stop the service


@pytest.mark.parametrize(
    "nonsense",
    [b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n", b"\x16\x03\x01\x02\x00\x01" * 20, b"\xff" * 100_000, b"hi"],
)
def test_nonsense(stand: Stand, caplog: pytest.LogCaptureFixture, nonsense: bytes) -> None:
    """A plain socket that talks nonsense is dropped with one line."""
    serving = stand.serve()
    sock = stand.plain(serving.address)
    # It may have been dropped before all of that is said.
    with suppress(OSError):
        sock.sendall(nonsense)
        sock.shutdown(socket.SHUT_WR)
    assert ends(sock)
    wait_until(lambda: lines(caplog))
    assert works(stand.client(serving.address))
    assert len(lines(caplog)) == 1


def test_nonsense_over_tls(stand: Stand, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    """The same where TLS is expected."""
    keys.generate(tmp_path / "key.d")
    key = keys.load(tmp_path / "key.d")
    serving = stand.serve(key=key)
    sock = stand.plain(serving.address)
    sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
    assert ends(sock)
    wait_until(lambda: lines(caplog))
    assert works(stand.client(serving.address, key))
    assert len(lines(caplog)) == 1


def test_half_open(stand: Stand, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that never says anything is dropped with one line when the handshake's time is over."""
    monkeypatch.setattr(handshake, "HANDSHAKE_LIMIT", 0.2)
    serving = stand.serve()
    assert ends(stand.plain(serving.address))
    wait_until(lambda: lines(caplog))
    monkeypatch.setattr(handshake, "HANDSHAKE_LIMIT", 5.0)
    assert works(stand.client(serving.address))
    assert len(lines(caplog)) == 1


def test_knock(stand: Stand, caplog: pytest.LogCaptureFixture) -> None:
    """One who only looks whether the port is open is not worth a line."""
    serving = stand.serve()
    stand.plain(serving.address).close()
    wait_until(lambda: not serving._server._gate.threads())
    assert works(stand.client(serving.address))
    assert lines(caplog) == []


def test_drip_within_a_request(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that has begun must end in time, however its bytes drip."""
    monkeypatch.setattr(wire, "REQUEST_LIMIT", 0.3)
    serving = stand.serve()
    connection = stand.proven(serving.address)
    over = threading.Event()

    def drip() -> None:
        connection.write(struct.pack("!I", 100_000))
        while not over.wait(0.02):
            try:
                connection.write(b"x")
            except OSError:
                return

    connection.until(20.0)
    dripping = threading.Thread(target=drip)
    dripping.start()
    try:
        wait_until(lambda: not serving._server._gate.threads())
    finally:
        over.set()
        dripping.join(10.0)
    assert works(stand.client(serving.address))


def test_idle_connection_is_dropped_quietly(
    stand: Stand, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that asks nothing for long is dropped; at its next call it connects again, without a word."""
    caplog.set_level(logging.INFO)
    serving = stand.serve()
    monkeypatch.setattr(server, "IDLE_LIMIT", 0.1)
    client = stand.client(serving.address)
    assert works(client)
    wait_until(lambda: not serving._server._gate.threads())
    assert works(client)
    assert lines(caplog, logging.INFO) == []


def test_oversized_frame_of_a_client(stand: Stand, caplog: pytest.LogCaptureFixture) -> None:
    """A frame over the limit ends the connection before it is read."""
    serving = stand.serve()
    connection = stand.proven(serving.address)
    connection.write(struct.pack("!I", wire.MAX_FRAME + 1))
    with pytest.raises((EOFError, ConnectionError)):
        connection.recv()
    assert works(stand.client(serving.address))
    assert len(lines(caplog)) == 1


def test_complaints_have_a_limit(
    stand: Stand, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Strangers cannot fill the log."""
    monkeypatch.setattr(server, "MAX_COMPLAINTS", 3)
    serving = stand.serve()
    for _ in range(10):
        sock = stand.plain(serving.address)
        sock.sendall(b"nonsense")
        sock.shutdown(socket.SHUT_WR)
        assert ends(sock)
    wait_until(lambda: not serving._server._gate.threads())
    assert len(lines(caplog)) == 3


def test_cap_on_connections(stand: Stand, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the cap a connection is ended at once; one line when that begins, one when there is room again."""
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 8)
    serving = stand.serve()
    taken = [stand.proven(serving.address) for _ in range(8)]
    for _ in range(3):
        assert ends(stand.plain(serving.address))
    assert len(lines(caplog)) == 1
    for connection in taken:
        connection.close()
    wait_until(lambda: len(lines(caplog, logging.INFO)) == 2)
    assert works(stand.client(serving.address))


def test_half_open_flood_does_not_lock_out(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    """Silent connections get half of the places and make room, the oldest first, for one who has the key."""
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 8)
    # Longer than this test listens: what ends them is not their time.
    monkeypatch.setattr(handshake, "HANDSHAKE_LIMIT", 60.0)
    serving = stand.serve()
    silent = [stand.plain(serving.address) for _ in range(20)]
    assert works(stand.client(serving.address))
    assert all(ends(sock) for sock in silent[:16])


def test_accept_that_fails(stand: Stand, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of descriptors, accepting goes on when there are some again: one line at the start, one at the end."""
    caplog.set_level(logging.INFO)
    serving = stand.serve()
    listener = serving._server.listener
    accept, failures = listener.accept, iter([OSError(24, "Too many open files")] * 5)

    def fail_first() -> Any:
        for failure in failures:
            raise failure
        return accept()

    monkeypatch.setattr(listener, "accept", fail_first)
    # The accept that waits already is one of the unpatched.
    for _ in range(2):
        assert works(stand.client(serving.address))
    assert lines(caplog, logging.INFO) == [
        "no connection can be accepted: Too many open files",
        "connections are accepted again",
    ]


# ------------------------------------------------------------------ sessions


def test_sessions_are_watched(stand: Stand) -> None:
    """Each connection of a session is counted once when it comes and once when it goes; one without is not."""
    serving = stand.serve()
    client = stand.client(serving.address)
    assert works(client)
    client.session = "s1"
    assert works(client)
    assert stand.watch.count("attached", "s1") == 1
    thread, results = in_thread(lambda: works(client))
    thread.join(10.0)
    assert results == [True]
    assert stand.watch.count("attached", "s1") == 2
    client.close()
    wait_until(lambda: stand.watch.count("detached", "s1") == 2)
    assert {session for _, session in stand.watch.calls} == {"s1"}


def test_other_session_replaces_connections(stand: Stand) -> None:
    """After the session has changed, a connection opened for the old one is closed."""
    client = stand.client(stand.serve().address)
    client.session = "s1"
    assert works(client)
    client.session = "s2"
    assert works(client)
    wait_until(lambda: stand.watch.count("detached", "s1") == 1)
    assert (stand.watch.count("attached", "s2"), stand.watch.count("detached", "s2")) == (1, 0)


@pytest.mark.parametrize("how", ["nonsense", "reset", "wrong types"])
def test_session_is_detached_whatever_happens(stand: Stand, how: str) -> None:
    """However a connection ends, its session hears of it once."""
    serving = stand.serve()
    connection = stand.proven(serving.address, "s1")
    assert stand.watch.count("attached", "s1") == 1
    if how == "reset":
        connection._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
    elif how == "nonsense":
        connection.send_bytes(b"\xc1")
    else:
        connection.send(["desk", "double", ["x"], {}])
    wait_until(lambda: not serving._server._gate.threads())
    assert stand.watch.count("detached", "s1") == 1


def test_unknown_session_is_renewed_once(stand: Stand) -> None:
    """Many threads meet a coordinator that does not know their session: one says hello, all are answered."""
    client = stand.client(stand.serve().address)
    client.session = "old"
    renewed = []
    together = threading.Barrier(8)

    def renew() -> None:
        renewed.append(threading.current_thread())
        assert client.proxy("desk").double([]) == []
        stand.office.known.add("new")
        client.session = "new"

    client.renew = renew

    def ask() -> object:
        desk = client.proxy("desk")
        desk.double([])
        together.wait(10.0)
        while True:
            session = client.session
            try:
                return desk.know("new")
            except UnknownSession:
                assert session == "old"

    threads = [in_thread(ask) for _ in range(8)]
    for thread, _ in threads:
        thread.join(20.0)
    assert [results for _, results in threads] == [["new"]] * 8
    assert len(renewed) == 1


def test_renewal_that_does_not_help_ends(stand: Stand) -> None:
    """A session that stays unknown is an error in the end, not a loop."""
    client = stand.client(stand.serve().address)
    renewed = []
    client.renew = lambda: renewed.append(1)
    with pytest.raises(UnknownSession):
        client.proxy("desk").know("nobody")
    assert len(renewed) == line.MAX_RENEWALS


def test_renewal_that_meets_the_same_error(stand: Stand) -> None:
    """What the renewal itself raises arrives at the caller, and the renewal is not begun within itself."""
    client = stand.client(stand.serve().address)
    renewed = []

    def renew() -> None:
        renewed.append(1)
        client.proxy("desk").know("nobody")

    client.renew = renew
    with pytest.raises(UnknownSession):
        client.proxy("desk").know("nobody")
    assert len(renewed) == 1


# ------------------------------------------------------------------ a coordinator that is away


def test_restart_is_ridden_out(stand: Stand, caplog: pytest.LogCaptureFixture) -> None:
    """Calls wait for a coordinator that comes back at the same port; one line when it goes, one when it is back."""
    caplog.set_level(logging.INFO)
    first = stand.serve()
    client = stand.client(first.address, patience=20.0)
    assert works(client)
    first.close()
    calls = [in_thread(lambda: works(client)) for _ in range(4)]
    wait_until(lambda: lines(caplog))
    stand.serve(first.address)
    for thread, _ in calls:
        thread.join(20.0)
    assert [results for _, results in calls] == [[True]] * 4
    where = f"coordinator 127.0.0.1:{first.address[1]}"
    away, back = lines(caplog, logging.INFO)
    assert away.startswith(f"{where} is away (")
    assert away.endswith("; trying for 20 s")
    assert back.startswith(f"{where} is back after ")


def test_patience_runs_out(stand: Stand, caplog: pytest.LogCaptureFixture) -> None:
    """A coordinator that stays away is an error that names it and how long it was tried."""
    port = free_port()
    client = stand.client(("127.0.0.1", port), patience=0.3)
    with pytest.raises(QueueUnavailable, match=rf"127\.0\.0\.1:{port} could not be reached for 0\.3 s \(.*refused\)"):
        client.proxy("desk").double([])
    assert len(lines(caplog)) == 1


def test_call_that_died_with_its_connection_is_repeated(stand: Stand) -> None:
    """A connection cut while the answer was awaited leads to the same call again, not to another call's answer."""
    serving = stand.serve()
    client = stand.client(serving.address)
    thread, results = in_thread(lambda: client.proxy("desk").hold(1.0))
    assert stand.office.held.wait(10.0)
    for connection in serving._server._gate.threads():
        connection.cut()
    stand.office.free.set()
    thread.join(20.0)
    assert results == ["held"]
    assert works(client)


def test_silent_server(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that accepts and says nothing is as good as away."""
    monkeypatch.setattr(handshake, "HANDSHAKE_LIMIT", 0.1)
    with socket.create_server(LOOPBACK) as listener:
        client = stand.client(listener.getsockname(), patience=0.2)
        with pytest.raises(QueueUnavailable, match="no answer in time"):
            client.proxy("desk").double([])


def test_answer_that_does_not_come(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call has a deadline, and a verb's own wait comes on top of it."""
    client = stand.client(stand.serve().address, patience=0.2)
    assert works(client)
    asked: list[float] = []
    until = Connection.until
    monkeypatch.setattr(line, "CALL_LIMIT", 0.1)

    def note(self: Connection, seconds: float) -> None:
        asked.append(seconds)
        until(self, seconds)

    monkeypatch.setattr(Connection, "until", note)
    with pytest.raises(QueueUnavailable, match="no answer in time"):
        client.proxy("desk").hold(0.05)
    assert pytest.approx(0.15) in asked


def test_cancel_ends_calls(stand: Stand) -> None:
    """Calls that wait for an answer, and those that wait for the coordinator, end when they are cancelled."""
    client = stand.client(stand.serve().address)
    away = stand.client(("127.0.0.1", free_port()), patience=1000.0)
    calls = [in_thread(lambda: client.proxy("desk").hold(1.0)), in_thread(lambda: away.proxy("desk").double([]))]
    assert stand.office.held.wait(10.0)
    client.cancel()
    away.cancel()
    for thread, results in calls:
        thread.join(10.0)
        assert [type(result) for result in results] == [QueueUnavailable]


def test_cancel_ends_a_handshake(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    """A coordinator that accepts and says nothing does not hold up a cancelled call."""
    monkeypatch.setattr(handshake, "HANDSHAKE_LIMIT", 1000.0)
    with socket.create_server(LOOPBACK) as listener:
        client = stand.client(listener.getsockname())
        thread, results = in_thread(lambda: client.proxy("desk").double([]))
        with listener.accept()[0] as sock:
            # The greeting has come: the client waits for ours.
            assert sock.recv(7) == handshake.MAGIC
            client.cancel()
            thread.join(10.0)
    assert [type(result) for result in results] == [QueueUnavailable]


def test_closed_client(stand: Stand) -> None:
    """After close, calls are refused and the coordinator holds no connection."""
    serving = stand.serve()
    client = stand.client(serving.address)
    assert works(client)
    client.close()
    client.close()
    with pytest.raises(QueueUnavailable):
        works(client)
    wait_until(lambda: not serving._server._gate.threads())


def test_finished_threads_leave_no_connections(stand: Stand) -> None:
    """Connections of threads that have ended are closed when others are opened."""
    serving = stand.serve()
    client = stand.client(serving.address)
    for _ in range(10):
        thread, results = in_thread(lambda: works(client))
        thread.join(10.0)
        assert results == [True]
    wait_until(lambda: len(serving._server._gate.threads()) <= 1)


def test_close_lets_an_answer_out(stand: Stand) -> None:
    """A server that closes sends the answer that is being made, and ends its threads."""
    serving = stand.serve()
    connection = stand.proven(serving.address)
    connection.send(["desk", "hold", [1.0], {}])
    assert stand.office.held.wait(10.0)
    closing = threading.Thread(target=serving.close)
    closing.start()
    wait_until(serving._server.stop_event.is_set)
    stand.office.free.set()
    assert connection.recv() == ("#RETURN", "held")
    closing.join(10.0)
    assert not serving._thread.is_alive()
    assert not serving._server._gate.threads()


def test_close_does_not_wait_for_ever(stand: Stand) -> None:
    """A verb that does not end does not keep the server from closing."""
    serving = stand.serve()
    connection = stand.proven(serving.address)
    connection.send(["desk", "hold", [1.0], {}])
    assert stand.office.held.wait(10.0)
    serving.close(0.1)
    with pytest.raises((EOFError, ConnectionError)):
        connection.recv()


def test_big_messages(stand: Stand) -> None:
    """Messages over 64 KiB pass, many at a time, and give back the memory they took."""
    serving = stand.serve()
    client = stand.client(serving.address)
    many = [Lease(token=1, task=Task(id=1, url="http://example.org/" + "x" * 1000))] * 1000
    calls = [in_thread(lambda: len(client.proxy("desk").double(many))) for _ in range(4)]
    for thread, results in calls:
        thread.join(30.0)
        assert results == [1000]
    assert len(msgspec.msgpack.encode(many)) > wire.SMALL_FRAME
    serving._server._budget.take(64 << 20, 10.0)
