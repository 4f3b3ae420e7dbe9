"""
A local web site for tests, the demo and trials by hand: real sockets, HTTP/1.1, keep-alive, every request recorded.

    python tests/site.py [--port 0] [--addresses 1] [--print-urls N]

The first line printed is `# http://127.0.0.1:PORT`; with --print-urls a mixed list of N URLs follows, so that the whole
output is a list that can be crawled. What a path answers is read off `Site._answer`.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import selectors
import signal
import socket
import threading
import time
from collections import Counter
from pathlib import Path
from typing import BinaryIO, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from PIL import Image

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
#: Different pictures behind /photo; the number of a photo is in its bytes too, so that no two are the same file.
PICTURES = 64
#: Longest line of a request's head.
MAX_LINE = 65536
#: Seconds that closing waits for the threads, whose sockets are shut by then.
CLOSING = 10.0
TYPES = {
    "jpg": "image/jpeg",
    "png": "image/png",
    "gif": "image/gif",
    "webp": "image/webp",
    "bmp": "image/bmp",
    "tiff": "image/tiff",
    "svg": "image/svg+xml",
    "ico": "image/x-icon",
    "pdf": "application/pdf",
    "eps": "application/postscript",
}
PHRASES = {200: "OK", 404: "Not Found", 429: "Too Many Requests", 503: "Service Unavailable"}


class Request(NamedTuple):
    """One request that was read completely."""

    path: str
    #: Value of the Host header.
    host: str
    #: Names in lower case; of a repeated header the last value.
    headers: dict[str, str]
    #: time.monotonic() when the head had been read.
    start: float
    #: time.monotonic() before the answer was sent: a client that has it may already ask again, so that later
    #: would make requests overlap that did not.
    end: float
    #: Of the answer.
    status: int = 200


class Answer(NamedTuple):
    """What a path answers."""

    status: int = 200
    body: bytes = b""
    kind: str = "text/plain"
    headers: tuple[tuple[str, str], ...] = ()
    #: Bytes of the body that are sent before the connection is closed, None for all of it and no closing.
    sent: int | None = None

    def encode(self, head_only: bool) -> bytes:
        """Return the bytes of the response."""
        lines = [
            f"HTTP/1.1 {self.status} {PHRASES.get(self.status, 'Something')}",
            f"Content-Type: {self.kind}",
            f"Content-Length: {len(self.body)}",
            *(f"{name}: {value}" for name, value in self.headers),
        ]
        body = b"" if head_only else self.body[: self.sent]
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def photo_size(number: int) -> tuple[int, int]:
    """Return the size of photo *number* as (width, height) in pixels."""
    return 64 + number % PICTURES, 48 + number % 7


@functools.cache
def _picture(width: int, height: int) -> bytes:
    image = Image.linear_gradient("L").resize((width, height))
    file = io.BytesIO()
    Image.merge("RGB", [image, image.rotate(180), image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]).save(file, "JPEG")
    return file.getvalue()


def photo(number: int) -> bytes:
    """Return the JPEG that is served as /photo/NUMBER.jpg: the same at each call, another for each number."""
    data = _picture(*photo_size(number))
    comment = f"photo {number}".encode()
    # A comment segment after the start marker. Source: ITU T.81, B.2.4.5.
    return data[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + data[2:]


def most_at_once(requests: list[Request]) -> int:
    """Return the largest number of *requests* that were in progress at a time."""
    busy = most = 0
    # At one and the same time an end comes before a start.
    for _, change in sorted([(r.start, 1) for r in requests] + [(r.end, -1) for r in requests]):
        busy += change
        most = max(most, busy)
    return most


def mixed(number: int) -> str:
    """Return the path of line *number* of a mixed list: 10 % missing, 2 % no images, 2 % cut off, the rest photos."""
    place = number % 50
    if place < 5:
        return f"/missing/{number}"
    return {5: f"/html/{number}", 6: f"/truncated/{number}"}.get(place, f"/photo/{number}.jpg")


class Site:
    """
    Serve on 127.0.0.1, and on further loopback addresses as further hosts, while used as a context manager.

    Args:
        addresses: Hosts to be: 127.0.0.1, 127.0.0.2, … up to this number, at most 250, all with the same port.
        port: Port to listen on, 0 for any free one.
    """

    def __init__(self, addresses: int = 1, port: int = 0) -> None:
        self._listeners = _listen(addresses, port)
        self.port: int = self._listeners[0].getsockname()[1]
        #: What /robots.txt answers.
        self.robots = Answer(404)
        self._lock = threading.Lock()
        self._requests: list[Request] = []
        self._calls: Counter[str] = Counter()
        #: Versions of what /kept answers, by name.
        self.versions: Counter[str] = Counter()
        #: When a host that is limited answers again.
        self._limits: dict[str, float] = {}
        self._open: dict[threading.Thread, socket.socket] = {}
        self._closing = threading.Event()
        self._wake, self._woken = socket.socketpair()
        self._acceptor = threading.Thread(target=self._accept, name="site", daemon=True)

    def __enter__(self) -> Site:
        self._acceptor.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._wake.close()
        self._acceptor.join(CLOSING)
        with self._lock:
            left = list(self._open.items())
        for thread, connection in left:
            _shut(connection)
            thread.join(CLOSING)
        for listener in (*self._listeners, self._woken):
            listener.close()

    # -------------------------------------------------------------- what tests ask

    @property
    def base(self) -> str:
        """URL of the first host, without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    def url(self, path: str, host: int = 1) -> str:
        """Return the URL of *path* at host number *host*, from 1."""
        return f"http://127.0.0.{host}:{self.port}{path}"

    @property
    def requests(self) -> list[Request]:
        """Requests answered so far, in the order of their ends; a copy."""
        with self._lock:
            return list(self._requests)

    def count(self, path: str) -> int:
        """Return how often *path*, with its query, was answered, by all hosts together."""
        return sum(request.path == path for request in self.requests)

    def note(self, request: Request) -> None:
        """Remember a request; called with the lock held. For sites that are asked millions of times, to be replaced."""
        self._requests.append(request)

    # -------------------------------------------------------------- connections

    def _accept(self) -> None:
        with selectors.DefaultSelector() as selector:
            for listener in (*self._listeners, self._woken):
                selector.register(listener, selectors.EVENT_READ)
            while not self._closing.is_set():
                for key, _ in selector.select():
                    if isinstance(key.fileobj, socket.socket) and key.fileobj is not self._woken:
                        self._welcome(key.fileobj)

    def _welcome(self, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except OSError:  # gone again before it was taken
            return
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        thread = threading.Thread(target=self._serve, args=(connection,), name="site connection", daemon=True)
        with self._lock:
            self._open[thread] = connection
        thread.start()

    def _serve(self, connection: socket.socket) -> None:
        # A client that goes away, or speaks something else than HTTP, loses its connection and no more.
        with contextlib.suppress(OSError, ValueError), connection, connection.makefile("rb") as reader:
            while self._exchange(connection, reader):
                pass
        with self._lock:
            del self._open[threading.current_thread()]

    def _exchange(self, connection: socket.socket, reader: BinaryIO) -> bool:
        """Answer one request; return whether the connection stays open."""
        line = reader.readline(MAX_LINE).decode("latin-1")
        if not line:
            return False
        method, path, _ = line.split()
        headers = _read_headers(reader)
        start = time.monotonic()
        answer = self._answer(path, headers.get("host", "")) if method in ("GET", "HEAD") else Answer(405)
        if ("ETag", headers.get("if-none-match")) in answer.headers:
            answer = Answer(304)
        request = Request(path, headers.get("host", ""), headers, start, time.monotonic(), answer.status)
        with self._lock:
            self.note(request)
        connection.sendall(answer.encode(method == "HEAD"))
        return answer.sent is None and headers.get("connection", "").lower() != "close"

    # -------------------------------------------------------------- answers

    def _answer(self, path: str, host: str) -> Answer:  # noqa: PLR0912  (a line for each path)
        """Find what *path*, with its query, answers at *host*."""
        match unquote(urlsplit(path).path).split("/")[1:]:
            case ["robots.txt"]:
                return self.robots
            case ["fixtures", name]:  # a file of fixtures/
                return _fixture(name)
            case ["photo", name]:  # N.jpg: a small JPEG, another one for each N
                return _photo(name)
            case ["html", number]:  # 200 and a web page
                return Answer(200, f"<!DOCTYPE html><html><body>page {number}</body></html>\n".encode(), "text/html")
            case ["truncated", name]:  # announces photo N, sends half of it and closes
                return _photo(name, shown=0.5)
            case ["cut", name]:  # half of photo N, announced as such
                return _photo(name, kept=0.5)
            case ["slow", seconds, *_]:  # /slow/SECONDS/PATH waits, then answers like /PATH
                self._closing.wait(float(seconds))
                return self._answer("/" + path.split("/", 3)[3], host)
            case ["redirect", status]:  # /redirect/CODE?to=URL; without `to` there is no Location
                to = parse_qs(urlsplit(path).query, keep_blank_values=True).get("to")
                return Answer(int(status), headers=(("Location", to[0]),) if to else ())
            case ["status", status]:
                return Answer(int(status))
            case ["flaky", failures, name]:  # 503 the first K times, then photo N
                return self._at_last(path, int(failures), Answer(503), name)
            case ["retry-after", seconds, failures, name]:  # 429 with this Retry-After the first K times
                return self._at_last(path, int(failures), Answer(429, headers=(("Retry-After", seconds),)), name)
            case ["kept", name]:  # a photo that changes with `versions`, and an ETag; 304 to whoever has it
                version = self.versions[name]
                number = int(name.removesuffix(".jpg")) + 1000 * version
                return _photo(f"{number}.jpg")._replace(headers=(("ETag", f'"{version}"'),))
            case ["limited", rate, seconds, name]:  # photo N, RATE times a second; else 429 with this Retry-After
                return self._limited(host, 1 / float(rate), seconds, name)
            case _:  # /missing/N among others
                return Answer(404)

    def _limited(self, host: str, gap: float, wait: str, name: str) -> Answer:
        """Answer the photo *name* where *host* answered none for *gap* seconds, else 429."""
        now = time.monotonic()
        with self._lock:
            if now < self._limits.get(host, 0.0):
                return Answer(429, headers=(("Retry-After", wait),))
            self._limits[host] = now + gap
        return _photo(name)

    def _at_last(self, path: str, failures: int, failure: Answer, name: str) -> Answer:
        """Answer *failure* the first *failures* times that *path* is asked for, then the photo *name*."""
        with self._lock:
            self._calls[path] += 1
            return failure if self._calls[path] <= failures else _photo(name)


def _photo(name: str, kept: float = 1.0, shown: float = 1.0) -> Answer:
    """Answer the first part *kept* of a photo, and of that send the first part *shown*; 1.0 is all."""
    data = photo(int(name.removesuffix(".jpg")))
    data = data[: int(len(data) * kept)]
    return Answer(200, data, TYPES["jpg"], sent=None if shown == 1.0 else int(len(data) * shown))


def _fixture(name: str) -> Answer:
    file = FIXTURES / name
    if Path(name).name != name or not file.is_file():
        return Answer(404)
    return Answer(200, file.read_bytes(), TYPES.get(file.suffix[1:], "application/octet-stream"))


def _read_headers(reader: BinaryIO) -> dict[str, str]:
    headers: dict[str, str] = {}
    while (line := reader.readline(MAX_LINE).decode("latin-1").rstrip("\r\n")) != "":
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    return headers


def _listen(addresses: int, port: int) -> list[socket.socket]:
    """Listen on 127.0.0.1 … 127.0.0.*addresses* with one port; where that is taken at one of them, with another."""
    for attempt in range(20):
        listeners: list[socket.socket] = []
        try:
            for number in range(1, addresses + 1):
                wanted = listeners[0].getsockname()[1] if listeners else port
                listeners.append(socket.create_server((f"127.0.0.{number}", wanted), backlog=1024))
            return listeners
        except OSError:
            for listener in listeners:
                listener.close()
            if port or attempt == 19:
                raise
    raise AssertionError("unreachable")


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # closed by its own thread in between
        connection.shutdown(socket.SHUT_RDWR)


def main() -> None:
    """Serve until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(description="Serve a small web site on loopback.")
    parser.add_argument("--port", type=int, default=0, help="port to listen on (any free one)")
    parser.add_argument("--addresses", type=int, default=1, help="hosts to be: 127.0.0.1, 127.0.0.2, … (1)")
    parser.add_argument("--print-urls", type=int, default=0, metavar="N", help="print a mixed list of N URLs")
    options = parser.parse_args()
    stop = {signal.SIGINT, signal.SIGTERM}
    # Blocked before any thread starts, so that all inherit it and sigwait alone sees the signals.
    signal.pthread_sigmask(signal.SIG_BLOCK, stop)
    with Site(options.addresses, options.port) as site:
        lines = [site.url(mixed(number), 1 + number % options.addresses) for number in range(options.print_urls)]
        print(f"# {site.base}", *lines, sep="\n", flush=True)
        signal.sigwait(stop)


if __name__ == "__main__":
    main()
