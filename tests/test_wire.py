"""The transport: addresses, frames, deadlines, and who is let in."""

from __future__ import annotations

import os
import pickle
import socket
import ssl
import struct
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from crawler.broker import handshake, keys, wire
from crawler.broker.address import format_address, parse_address
from crawler.broker.budget import Budget
from crawler.broker.wire import Connection
from crawler.errors import (
    CrawlerError,
    FetchError,
    KeyRefused,
    UnknownSession,
    UsageError,
    VersionMismatch,
    WireError,
)
from crawler.reasons import Reason

Pair = tuple[Connection, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Return a connection with a limit of ten seconds, and the plain socket at its other end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        far = socket.create_connection(listener.getsockname(), 10.0)
        near = Connection(listener.accept()[0], Budget(wire.MAX_FRAME))
    near.until(10.0)
    yield near, far
    near.close()
    far.close()


def frame(content: bytes) -> bytes:
    """Return *content* with its length before it."""
    return struct.pack("!I", len(content)) + content


# ------------------------------------------------------------------ addresses


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:7070", ("127.0.0.1", 7070)),
        ("machine-a.example:1", ("machine-a.example", 1)),
        ("[::1]:65535", ("::1", 65535)),
        ("[fe80::1%eth0]:80", ("fe80::1%eth0", 80)),
        ("localhost:0", ("localhost", 0)),
    ],
)
def test_address(text: str, address: tuple[str, int]) -> None:
    """An address is read, and written the way it was."""
    assert parse_address(text) == address
    assert format_address(address) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "host",
        ":80",
        "host:",
        "host:x",
        "host:-1",
        "host:65536",
        "::1:80",
        "[::1]",
        "[]:80",
        "h:٣",
        "[::1:80",
        "h:" + "9" * 5000,
    ],
)
def test_no_address(text: str) -> None:
    """What is no address is refused, and the message shows how one looks."""
    with pytest.raises(UsageError, match="HOST:PORT"):
        parse_address(text)


# ------------------------------------------------------------------ frames and messages


def test_answer_round_trip(pair: Pair) -> None:
    """An answer arrives as it was sent, in the shape that managers want."""
    near, far = pair
    far.sendall(frame(msgspec.msgpack.encode(["#RETURN", {"a": [1, b"x", None]}])))
    assert near.recv() == ("#RETURN", {"a": [1, b"x", None]})


@pytest.mark.parametrize("answer", [None, [], ["#TRACEBACK", "x"], ["#PROXY", [[], "x"]], ["#ERROR", 5], ["#RETURN"]])
def test_no_answer(pair: Pair, answer: object) -> None:
    """An answer of another shape is refused, those that the stock manager knows among them."""
    near, far = pair
    far.sendall(frame(msgspec.msgpack.encode(answer)))
    with pytest.raises(WireError):
        near.recv()


def test_error_crosses_by_name(pair: Pair) -> None:
    """An error of the tree arrives as itself."""
    near, far = pair
    near.send(("#ERROR", UnknownSession("session 12 is not known here")))
    far_side = Connection(far)
    far_side.until(10.0)
    kind, error = far_side.recv()
    assert (kind, type(error), str(error)) == ("#ERROR", UnknownSession, "session 12 is not known here")


class LooksLikeOne(UnknownSession):
    """An error derived from one of the tree."""


@pytest.mark.parametrize("error", [ValueError("secret"), FetchError(Reason.HTML, "secret"), LooksLikeOne("secret")])
def test_other_error_says_nothing(pair: Pair, error: Exception) -> None:
    """An error that is not on the list arrives without its text."""
    near, far = pair
    near.send(("#ERROR", error))
    far_side = Connection(far)
    far_side.until(10.0)
    _, arrived = far_side.recv()
    assert (type(arrived), str(arrived)) == (CrawlerError, "internal error at the coordinator")


def test_unknown_error_name_makes_no_object(pair: Pair) -> None:
    """A name that is not on the list, a built-in one too, becomes the base of the tree."""
    near, far = pair
    far.sendall(frame(msgspec.msgpack.encode(["#ERROR", {"error": "SystemExit", "message": "x"}])))
    assert type(near.recv()[1]) is CrawlerError


def test_large_frame_is_refused_before_it_is_read(pair: Pair) -> None:
    """An announced size over the limit ends it, though not one byte of the frame has come."""
    near, far = pair
    far.sendall(struct.pack("!I", wire.MAX_FRAME + 1))
    with pytest.raises(WireError, match=str(wire.MAX_FRAME + 1)):
        near.recv()


def test_large_message_is_not_sent(pair: Pair) -> None:
    """A message over the limit is refused here, and nothing of it is written."""
    near, far = pair
    with pytest.raises(WireError, match="too large"):
        near.send(["x" * wire.MAX_FRAME])
    near.send(["#RETURN", 1])
    assert far.recv(100) == frame(msgspec.msgpack.encode(["#RETURN", 1]))


def test_arguments_stay_packed_until_their_types_are_known(pair: Pair) -> None:
    """A request of empty maps takes no more memory than its bytes, and a verb that wants numbers makes none of them."""
    near, far = pair
    content = msgspec.msgpack.encode(["queue", "put", [[{}] * 500_000], {}])
    sender = threading.Thread(target=far.sendall, args=(frame(content),))
    sender.start()
    tracemalloc.start()
    try:
        _, _, args, _ = near.recv_request(10.0)
        with pytest.raises(WireError, match="wrong types"):
            wire.unpack(args, tuple[list[int]])
        assert tracemalloc.get_traced_memory()[1] < 4 * len(content)
    finally:
        tracemalloc.stop()
        sender.join(10.0)


@pytest.mark.parametrize("cut", [1, 3, 4, 11, 5_000, 1 << 20])
def test_requests_that_come_at_once_are_read_in_turn(pair: Pair, cut: int) -> None:
    """However bytes are cut on their way, each request is read whole, and nothing of the next one is lost."""
    near, far = pair
    requests = [["queue", "put", [number, "x" * size], {}] for number, size in enumerate((1, 10_000, 0, 200_000, 7))]
    content = b"".join(frame(msgspec.msgpack.encode(request)) for request in requests)

    def send() -> None:
        for first in range(0, len(content), cut):
            far.sendall(content[first : first + cut])

    sender = threading.Thread(target=send)
    sender.start()
    for request in requests:
        name, verb, args, kwds = near.recv_request(10.0)
        assert [name, verb, wire.unpack(args, list[int | str]), kwds] == request
    sender.join(10.0)


def test_foreign_object_is_not_sent(pair: Pair) -> None:
    """What has no place on the wire is refused, not pickled."""
    with pytest.raises(WireError, match="cannot be sent"):
        pair[0].send(["#RETURN", object()])


@pytest.mark.parametrize("content", [b"", b"\xc1", b"\x91" * 100_000, b"\xdd\xff\xff\xff\xff", pickle.dumps([1])])
def test_nonsense_in_a_frame(content: bytes) -> None:
    """Bytes that are no msgpack, too deep or cut short are refused in one way."""
    with pytest.raises(WireError):
        wire.decode(content)


def test_end_between_and_within_messages(pair: Pair) -> None:
    """The end of the other side is told from a cut in a message."""
    near, far = pair
    far.sendall(b"\x00\x00")
    far.shutdown(socket.SHUT_WR)
    with pytest.raises(EOFError, match="cut off"):
        near.recv()
    with pytest.raises(EOFError) as caught:
        near.recv()
    assert caught.value.args == ()


def test_drip_does_not_extend_the_deadline(pair: Pair) -> None:
    """Bytes that keep coming do not keep a message alive: its deadline is one."""
    near, far = pair
    over = threading.Event()

    def drip() -> None:
        far.sendall(struct.pack("!I", 60_000))
        while not over.wait(0.01):
            far.sendall(b"x")

    dripping = threading.Thread(target=drip)
    dripping.start()
    try:
        near.until(0.2)
        with pytest.raises(TimeoutError):
            near.recv()
    finally:
        over.set()
        dripping.join(10.0)


def test_write_to_one_who_does_not_read_ends(pair: Pair) -> None:
    """Writing has a deadline too."""
    near, _ = pair
    near.until(0.2)
    with pytest.raises(TimeoutError):
        near.write(b"x" * (64 << 20))


def test_budget_is_waited_for_and_given_back(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large frame waits for memory no longer than its deadline, and is read once there is some."""
    near, far = pair
    budget = Budget(100_000)
    monkeypatch.setattr(near, "_budget", budget)
    content = msgspec.msgpack.encode(["#RETURN", "x" * 80_000])
    far.sendall(frame(content))
    budget.take(50_000, 0.0)
    near.until(0.1)
    with pytest.raises(TimeoutError, match="memory"):
        near.recv()
    budget.give(50_000)
    near.until(10.0)
    far.sendall(frame(content))
    # The first frame's length was consumed, so its body is what comes next.
    assert near.read(len(content)) == content
    assert near.recv() == ("#RETURN", "x" * 80_000)
    with pytest.raises(TimeoutError):
        budget.take(50_000, 0.0)
    near.release()
    budget.take(100_000, 0.0)


# ------------------------------------------------------------------ handshake


@pytest.fixture
def key(tmp_path: Path) -> keys.Key:
    """Return a key with a certificate."""
    keys.generate(tmp_path / "key.d")
    return keys.load(tmp_path / "key.d")


Meet = Callable[[handshake.Proof, handshake.Proof], tuple[object, object]]


@pytest.fixture
def meet() -> Iterator[Meet]:
    """Return a function that lets a server and a client meet; it returns what each got: a connection, or an error."""
    opened: list[Connection] = []

    def run(server: handshake.Proof, client: handshake.Proof) -> tuple[object, object]:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            results: list[object] = []

            def serve() -> None:
                connection = Connection(listener.accept()[0])
                opened.append(connection)
                try:
                    handshake.admit(connection, server)
                    results.append(connection)
                except (CrawlerError, OSError, EOFError) as error:
                    connection.close()
                    results.append(error)

            serving = threading.Thread(target=serve)
            serving.start()
            try:
                reached: object = handshake.dial(listener.getsockname(), client)
                assert isinstance(reached, Connection)
                opened.append(reached)
            except (CrawlerError, OSError, EOFError) as error:
                reached = error
            serving.join(10.0)
        return results[0], reached

    yield run
    for connection in opened:
        connection.close()


def test_tls_is_1_3(key: keys.Key, meet: Meet) -> None:
    """With a certificate the connection is TLS 1.3, and messages pass both ways."""
    near, far = meet(handshake.server_proof(key), handshake.client_proof(key))
    assert isinstance(near, Connection)
    assert isinstance(far, Connection)
    assert near._sock.version() == far._sock.version() == "TLSv1.3"  # type: ignore[attr-defined]
    near.send(("#RETURN", "x" * 100_000))
    assert far.recv() == ("#RETURN", "x" * 100_000)


def test_older_tls_is_refused(key: keys.Key, meet: Meet) -> None:
    """A client that knows TLS 1.2 only does not get in."""
    client = handshake.client_proof(key)
    assert client.context is not None
    client.context.minimum_version = client.context.maximum_version = ssl.TLSVersion.TLSv1_2
    near, far = meet(handshake.server_proof(key), client)
    assert isinstance(near, OSError)
    assert isinstance(far, WireError | OSError)


def test_wrong_secret(key: keys.Key, meet: Meet) -> None:
    """The right certificate with another secret is refused on both sides, and the client is told why."""
    other = keys.Key(b"o" * 32, key.certificate)
    near, far = meet(handshake.server_proof(key), handshake.client_proof(other))
    assert isinstance(near, KeyRefused)
    assert isinstance(far, KeyRefused)
    assert "another key" in str(far)


def test_wrong_certificate(key: keys.Key, meet: Meet, tmp_path: Path) -> None:
    """The right secret with another certificate is refused before the secret is used."""
    keys.generate(tmp_path / "other")
    other = keys.Key(key.secret, keys.load(tmp_path / "other").certificate)
    near, far = meet(handshake.server_proof(key), handshake.client_proof(other))
    assert isinstance(near, OSError)
    assert isinstance(far, KeyRefused)
    assert "certificate" in str(far)


def test_key_without_certificate_at_a_server_with_one(key: keys.Key, meet: Meet) -> None:
    """A client with the secret alone is told that TLS is spoken there."""
    near, far = meet(handshake.server_proof(key), handshake.client_proof(keys.Key(key.secret)))
    assert isinstance(near, OSError)
    assert isinstance(far, KeyRefused)
    assert "cert.pem" in str(far)


def test_key_with_certificate_at_a_server_without(key: keys.Key, meet: Meet) -> None:
    """A client that wants TLS is not talked down to a connection without."""
    near, far = meet(handshake.server_proof(keys.Key(key.secret)), handshake.client_proof(key))
    assert isinstance(near, WireError)
    assert isinstance(far, WireError)


def test_proof_is_bound_to_the_certificate(meet: Meet) -> None:
    """The same secret over another certificate's connection proves nothing: relaying is useless."""
    secret = os.urandom(32)
    near, far = meet(handshake.Proof(secret, b"a" * 32, None), handshake.Proof(secret, b"b" * 32, None))
    assert isinstance(near, KeyRefused)
    assert isinstance(far, KeyRefused)


def test_versions_differ(meet: Meet, monkeypatch: pytest.MonkeyPatch) -> None:
    """A coordinator of another version is told from all else, and the message names both."""
    proof = handshake.Proof(b"s" * 32, b"", None)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            sock = listener.accept()[0]
            with sock:
                sock.sendall(handshake.MAGIC + struct.pack("!H", 77) + b"whatever that version says")
                sock.recv(1000)

        serving = threading.Thread(target=serve)
        serving.start()
        with pytest.raises(VersionMismatch, match=f"version 77, this one {handshake.WIRE}"):
            handshake.dial(listener.getsockname(), proof)
        serving.join(10.0)


def test_client_of_another_version_hears_ours() -> None:
    """A server tells its version also to one that speaks another."""
    proof = handshake.Proof(b"s" * 32, b"", None)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname(), 10.0)
        connection = Connection(listener.accept()[0])
    client.sendall(handshake.MAGIC + struct.pack("!H", 77) + b"x" * 1000)
    client.shutdown(socket.SHUT_WR)
    with pytest.raises(VersionMismatch, match="77"):
        handshake.admit(connection, proof)
    connection.close()
    heard = b""
    with client:
        while piece := client.recv(1000):
            heard += piece
    assert heard.startswith(handshake.MAGIC + struct.pack("!H", handshake.WIRE))


def test_no_crawler_there() -> None:
    """A client that reaches some other service says so."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with listener.accept()[0] as sock:
                sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                sock.recv(1000)

        serving = threading.Thread(target=serve)
        serving.start()
        with pytest.raises(WireError, match="no crawler"):
            handshake.dial(listener.getsockname(), handshake.Proof(b"s" * 32, b"", None))
        serving.join(10.0)


def test_reflected_proof(meet: Meet) -> None:
    """A client that only sends back what the server says is not let in."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname(), 10.0)
        connection = Connection(listener.accept()[0])

    def reflect() -> None:
        with client:
            while piece := client.recv(1000):
                client.sendall(piece)

    reflecting = threading.Thread(target=reflect)
    reflecting.start()
    with pytest.raises(WireError, match="same role"):
        handshake.admit(connection, handshake.Proof(b"s" * 32, b"", None))
    connection.close()
    reflecting.join(10.0)


def test_server_that_does_not_have_the_key(meet: Meet) -> None:
    """A server that lets anyone in is not taken for the coordinator."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with listener.accept()[0] as sock:
                sock.sendall(handshake.MAGIC + struct.pack("!H", handshake.WIRE) + b"S" + b"n" * 32)
                sock.sendall(frame(b"+" + b"t" * 32))
                while sock.recv(1000):
                    pass

        serving = threading.Thread(target=serve)
        serving.start()
        with pytest.raises(KeyRefused, match="did not show"):
            handshake.dial(listener.getsockname(), handshake.Proof(b"s" * 32, b"", None))
        serving.join(10.0)


def test_large_frame_of_a_stranger(meet: Meet) -> None:
    """Before the key is shown a frame has 256 bytes at most."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname(), 10.0)
        connection = Connection(listener.accept()[0])
    with client:
        opening = handshake.MAGIC + struct.pack("!H", handshake.WIRE) + b"C" + b"n" * 32
        client.sendall(opening + struct.pack("!I", 257))
        with pytest.raises(WireError, match="257"):
            handshake.admit(connection, handshake.Proof(b"s" * 32, b"", None))
    connection.close()


def test_certificate_that_is_none(tmp_path: Path) -> None:
    """A damaged certificate is named."""
    (tmp_path / "cert.pem").write_text("nothing")
    with pytest.raises(UsageError, match="cert.pem"):
        handshake.client_proof(keys.Key(b"s" * 32, tmp_path / "cert.pem"))
