"""A server that says what a script tells it to, byte for byte, for what no well-behaved server does."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator

#: Seconds that closing waits for each thread, whose socket is shut by then.
CLOSING = 10.0
#: Seconds between two pieces of an answer that drips.
DRIP = 0.02


class Talk:
    """One connection, as a script sees it."""

    def __init__(self, sock: socket.socket, number: int, closing: threading.Event) -> None:
        self.sock = sock
        #: Counts the server's connections from 1.
        self.number = number
        self._closing = closing
        self._reader = sock.makefile("rb")

    def request(self) -> str:
        """Read the head of a request and return its path, "" where the client went away."""
        lines = []
        while (line := self._reader.readline()) not in (b"", b"\r\n"):
            lines.append(line)
        return lines[0].split()[1].decode() if lines else ""

    def say(self, *pieces: bytes) -> None:
        """Send *pieces*."""
        self.sock.sendall(b"".join(pieces))

    def drip(self, piece: bytes, pause: float = DRIP) -> None:
        """Send *piece* again and again, *pause* seconds apart, until the client goes away."""
        while not self._closing.wait(pause):
            self.say(piece)

    def wait(self) -> None:
        """Be silent until the client goes away or the server is closed."""
        self._reader.read()

    def reset(self) -> None:
        """Cut the connection, so that the client meets a reset."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        # The descriptor is closed only with the last that uses it.
        self._reader.close()
        self.sock.close()


Script = Callable[[Talk], None]


class RawServer:
    """
    Hand each connection to *script*, in a thread of its own, while used as a context manager.

    Args:
        script: Speaks with one client; the connection is closed when it returns.
        context: TLS to speak, None for none.
        address: Loopback address to listen on.
        port: Port to listen on, 0 for any free one.
    """

    def __init__(
        self, script: Script, context: ssl.SSLContext | None = None, address: str = "127.0.0.1", port: int = 0
    ) -> None:
        self._script = script
        self._context = context
        self._listener = socket.create_server((address, port), backlog=128)
        self._closing = threading.Event()
        self._open: list[tuple[threading.Thread, socket.socket]] = []
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self.port: int = self._listener.getsockname()[1]
        self.base = f"{'https' if context else 'http'}://{address}:{self.port}"

    @property
    def connections(self) -> int:
        """Connections accepted so far."""
        return len(self._open)

    def __enter__(self) -> RawServer:
        self._acceptor.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._acceptor.join(CLOSING)
        self._listener.close()
        for thread, sock in self._open:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            thread.join(CLOSING)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                thread = threading.Thread(target=self._serve, args=(sock, self.connections + 1), daemon=True)
                self._open.append((thread, sock))
                thread.start()

    def _serve(self, sock: socket.socket, number: int) -> None:
        with contextlib.suppress(OSError, ValueError), sock, self._secured(sock) as spoken:
            self._script(Talk(spoken, number, self._closing))

    @contextlib.contextmanager
    def _secured(self, sock: socket.socket) -> Iterator[socket.socket]:
        if self._context is None:
            yield sock
        else:
            # Of its own descriptor, so that `sock` still shuts the connection when the server is closed.
            with self._context.wrap_socket(sock.dup(), server_side=True) as secured:
                yield secured


def ok(body: bytes, *headers: bytes) -> bytes:
    """Return a whole response that brings *body*."""
    lines = [b"HTTP/1.1 200 OK", b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body
