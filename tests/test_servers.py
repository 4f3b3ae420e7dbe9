"""What becomes of a fetch when the server is slow, hostile, broken or gone: real sockets, byte for byte."""

from __future__ import annotations

import gzip
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from crawler.errors import FetchError
from crawler.model import Lease, Task
from crawler.reasons import Reason
from crawler.settings import Limits
from crawler.worker.fetch import Fetcher
from tests.conftest import free_port, wait_until
from tests.fetching import LOOPBACK, fetchers, serving
from tests.raw import RawServer, Talk, ok

#: Seconds for a fetch that is to be cut.
SHORT = 0.4
HEAD = b"HTTP/1.1 200 OK\r\n"
LONG = HEAD + b"Content-Length: 100000\r\n\r\n"


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Fetcher]]:
    """Return what makes a fetcher that may connect to loopback and has its spool in `tmp_path`."""
    with fetchers(tmp_path) as make_any:

        def make_one(timeout: float = 20.0, connect_timeout: float = 10.0) -> Fetcher:
            limits = Limits(timeout=timeout, connect_timeout=connect_timeout, max_bytes=1_000_000)
            return make_any(limits, allow_net=LOOPBACK)

        yield make_one


def lease(url: str, token: int = 1) -> Lease:
    """Return a lease of *url*."""
    return Lease(token=token, task=Task(id=1, url=url))


def refusal(fetcher: Fetcher, url: str) -> FetchError:
    """Return the error that fetching *url* ends in."""
    with pytest.raises(FetchError) as caught:
        fetcher.fetch(lease(url))
    return caught.value


def answering(*pieces: bytes) -> Callable[[Talk], None]:
    """Return a script that answers one request with *pieces* and closes."""

    def script(talk: Talk) -> None:
        talk.request()
        talk.say(*pieces)

    return script


def dripping(start: bytes, piece: bytes) -> Callable[[Talk], None]:
    """Return a script that answers one request with *start*, then *piece* again and again."""

    def script(talk: Talk) -> None:
        talk.request()
        talk.say(start)
        talk.drip(piece)

    return script


# ------------------------------------------------------------------ never ending


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (b"", b"H"),
        (HEAD, b"X: y\r\n"),
        (HEAD + b"X: ", b"y"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (LONG, b"x"),
        (HEAD + b"\r\n", b"x"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n5;", b"x"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n"),
    ],
)
def test_drip(make: Callable[..., Fetcher], tmp_path: Path, start: bytes, piece: bytes) -> None:
    """A server that never stops sending, however slowly, meets the deadline; what was cut is no download."""
    with RawServer(dripping(start, piece)) as server:
        assert refusal(make(SHORT), server.base).reason is Reason.TIMEOUT
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("start", [b"", LONG, HEAD + b"\r\nimage"])
def test_silence(make: Callable[..., Fetcher], tmp_path: Path, start: bytes) -> None:
    """A server that falls silent, at once or later, meets the deadline."""

    def script(talk: Talk) -> None:
        talk.say(start)
        talk.wait()

    with RawServer(script) as server:
        assert refusal(make(SHORT), server.base).reason is Reason.TIMEOUT
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("head", [LONG[:17] + b"\r\n", HEAD + b"Transfer-Encoding: chunked\r\n\r\n"])
def test_endless_body(make: Callable[..., Fetcher], tmp_path: Path, head: bytes) -> None:
    """A body without end is refused at the limit and leaves no file."""

    def script(talk: Talk) -> None:
        talk.request()
        talk.say(head)
        while True:
            talk.say(b"1000\r\n", b"x" * 0x1000, b"\r\n")

    with RawServer(script) as server:
        assert refusal(make(), server.base).reason is Reason.TOO_LARGE
    assert list(tmp_path.iterdir()) == []


def test_redirects_share_the_deadline(make: Callable[..., Fetcher]) -> None:
    """A chain whose last part is silent ends by the deadline of the whole."""

    def script(talk: Talk) -> None:
        while talk.request() == "/":
            talk.say(b"HTTP/1.1 302 Found\r\nLocation: /end\r\nContent-Length: 0\r\n\r\n")
        talk.wait()

    with RawServer(script) as server:
        assert refusal(make(SHORT), server.base + "/").reason is Reason.TIMEOUT


def test_robots_have_a_deadline(make: Callable[..., Fetcher]) -> None:
    """A robots.txt that drips ends like any other fetch."""
    with RawServer(dripping(HEAD + b"\r\n", b"#")) as server:
        with pytest.raises(FetchError) as caught:
            make(SHORT).fetch_rules(Lease(token=1, task=Task(id=0, url=f"{server.base}/robots.txt"), robots=True))
        assert caught.value.reason in (Reason.TIMEOUT, Reason.ROBOTS_UNREACHABLE)


@pytest.mark.parametrize(
    "head",
    [b"HTTP/1.1 404 Not Found\r\n\r\n", b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n"],
)
def test_unwanted_body_drips(make: Callable[..., Fetcher], head: bytes) -> None:
    """A status that is an answer by itself does not wait for the end of its body."""
    with RawServer(dripping(head, b"x")) as server:
        assert refusal(make(timeout=10), server.base).reason is Reason.HTTP_NOT_FOUND


# ------------------------------------------------------------------ broken


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (LONG + b"image", Reason.TRUNCATED),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nim", Reason.TRUNCATED),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nimage\r\n", Reason.TRUNCATED),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n-5\r\nimage\r\n0\r\n\r\n", Reason.BAD_RESPONSE),
        (b"", Reason.CONNECTION_LOST),
        (b"SSH-2.0-OpenSSH_9.9\r\n", Reason.BAD_RESPONSE),
        (b"HTTP/1.1 two OK\r\n\r\n", Reason.BAD_RESPONSE),
        (HEAD + b"X: y\r\n" * 200 + b"\r\nimage", Reason.BAD_RESPONSE),
        (HEAD + b"X: " + b"y" * 70_000 + b"\r\n\r\nimage", Reason.BAD_RESPONSE),
        (HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nimages", Reason.BAD_RESPONSE),
        (HEAD + b"Content-Length: -5\r\n\r\nimage", Reason.BAD_RESPONSE),
        (ok(gzip.compress(b"image"), b"Content-Encoding: gzip"), Reason.BAD_RESPONSE),
        (HEAD + b"\r\n", Reason.EMPTY),
    ],
)
def test_broken_answer(make: Callable[..., Fetcher], tmp_path: Path, answer: bytes, reason: Reason) -> None:
    """An answer that is cut or breaks the rules is told as what it is, and leaves no file."""
    with RawServer(answering(answer)) as server:
        assert refusal(make(), server.base).reason is reason
        assert server.connections == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("start", [b"", HEAD, LONG, LONG + b"image"])
def test_reset(make: Callable[..., Fetcher], tmp_path: Path, start: bytes) -> None:
    """A connection that is reset before, in or after the head of a response is lost; a new one is not asked again."""

    def script(talk: Talk) -> None:
        talk.request()
        talk.say(start)
        talk.reset()

    with RawServer(script) as server:
        assert refusal(make(), server.base).reason is Reason.CONNECTION_LOST
        assert server.connections == 1
    assert list(tmp_path.iterdir()) == []


def test_nothing_listens(make: Callable[..., Fetcher]) -> None:
    """A port at which nothing listens is told."""
    assert refusal(make(), f"http://127.0.0.1:{free_port()}/").reason is Reason.CONNECT_FAILED


def test_dead_host(make: Callable[..., Fetcher]) -> None:
    """A host that does not answer the connection is given up after the time for connecting."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        address = listener.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:  # they fill the queue of connections that nobody accepts
            one.setblocking(False)
            one.connect_ex(address)
        fetcher = make(connect_timeout=SHORT)
        assert refusal(fetcher, f"http://127.0.0.1:{address[1]}/").reason is Reason.CONNECT_TIMEOUT
        for one in waiting:
            one.close()


# ------------------------------------------------------------------ connections that are kept


def test_keep_alive(make: Callable[..., Fetcher]) -> None:
    """Fetches from one host use one connection, redirects and failures with small bodies among them."""

    def script(talk: Talk) -> None:
        while path := talk.request():
            if path == "/moved":
                talk.say(b"HTTP/1.1 302 Found\r\nLocation: /end\r\nContent-Length: 5\r\n\r\nmoved")
            elif path == "/missing":
                talk.say(b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nnone\r\n0\r\n\r\n")
            else:
                talk.say(ok(b"image"))

    fetcher = make()
    with RawServer(script) as server:
        for token, path in enumerate(["/moved", "/a", "/b"]):
            assert fetcher.fetch(lease(server.base + path, token)).size == 5
        assert refusal(fetcher, server.base + "/missing").reason is Reason.HTTP_NOT_FOUND
        assert fetcher.fetch(lease(server.base + "/c", 9)).size == 5
        assert server.connections == 1


@pytest.mark.parametrize("end", [Talk.reset, lambda _: None], ids=["reset", "closed"])
def test_closed_under_a_request(make: Callable[..., Fetcher], end: Callable[[Talk], None]) -> None:
    """A kept connection that the server closes as the next request comes is replaced by a new one."""

    def script(talk: Talk) -> None:
        talk.request()
        talk.say(ok(b"image"))
        if talk.number == 1:
            talk.request()
            end(talk)
        else:
            talk.wait()

    fetcher = make()
    with RawServer(script) as server:
        assert [fetcher.fetch(lease(f"{server.base}/{n}", n)).size for n in (1, 2)] == [5, 5]
        assert server.connections == 2


def test_closed_under_every_request(make: Callable[..., Fetcher]) -> None:
    """The request is repeated once, not more."""

    def script(talk: Talk) -> None:
        talk.request()
        if talk.number == 1:
            talk.say(ok(b"image"))
            talk.request()

    fetcher = make()
    with RawServer(script) as server:
        assert fetcher.fetch(lease(server.base)).size == 5
        assert refusal(fetcher, server.base).reason is Reason.CONNECTION_LOST
        assert server.connections == 2


def test_kept_connection_is_watched(make: Callable[..., Fetcher]) -> None:
    """The deadline holds for a request on a connection that was used before."""

    def script(talk: Talk) -> None:
        talk.request()
        talk.say(ok(b"image"))
        talk.request()
        talk.say(LONG)
        talk.drip(b"x")

    fetcher = make(SHORT)
    with RawServer(script) as server:
        assert fetcher.fetch(lease(server.base)).size == 5
        assert refusal(fetcher, server.base).reason is Reason.TIMEOUT
        assert server.connections == 1


def test_cut_spares_others(make: Callable[..., Fetcher]) -> None:
    """When one fetch is cut, a connection it used before and gave back still serves."""

    fetcher = make(SHORT)
    with RawServer(Talk.wait) as silent, RawServer(serving) as other:
        assert fetcher.fetch(lease(other.base)).size == 5
        assert refusal(fetcher, silent.base).reason is Reason.TIMEOUT
        assert fetcher.fetch(lease(other.base, 2)).size == 5
        assert other.connections == 1


# ------------------------------------------------------------------ cancelling


@pytest.mark.parametrize("start", [b"", LONG])
def test_cancel(make: Callable[..., Fetcher], tmp_path: Path, start: bytes) -> None:
    """Cancelling ends fetches in progress and refuses later ones."""
    asked = threading.Event()

    def script(talk: Talk) -> None:
        talk.request()
        talk.say(start)
        asked.set()
        talk.wait()

    fetcher, reasons = make(timeout=60), []
    with RawServer(script) as server:
        thread = threading.Thread(target=lambda: reasons.append(refusal(fetcher, server.base).reason), daemon=True)
        thread.start()
        assert asked.wait(20)
        fetcher.cancel()
        wait_until(lambda: reasons)
        assert refusal(fetcher, server.base).reason is Reason.CONNECTION_LOST
        assert server.connections == 1
    assert reasons == [Reason.CONNECTION_LOST]
    assert list(tmp_path.iterdir()) == []


def test_many_threads(make: Callable[..., Fetcher]) -> None:
    """Threads that share a fetcher each get what they asked for."""

    def script(talk: Talk) -> None:
        while path := talk.request():
            talk.say(ok(path.encode()))

    fetcher = make()
    found: dict[int, bytes] = {}

    def fetch(first: int) -> None:
        for token in range(first, first + 25):
            found[token] = Path(fetcher.fetch(lease(f"{server.base}/{token}", token)).path).read_bytes()

    with RawServer(script) as server:
        threads = [threading.Thread(target=fetch, args=(first,), daemon=True) for first in (0, 25, 50, 75)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert server.connections <= len(threads)
    assert found == {token: f"/{token}".encode() for token in range(100)}
