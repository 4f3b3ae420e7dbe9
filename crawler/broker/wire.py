"""
The manager's transport: framed msgpack over a socket, with limits on size and time. Nothing here is ever unpickled.

A frame is four bytes of length (big endian) and that many bytes. A message is one frame of msgpack: a request
``[object, verb, args, kwds]``, an answer ``["#RETURN", value]`` or ``["#ERROR", {"error": NAME, "message": TEXT}]``.
Who is on the other side is settled before the first message: see `handshake`.
"""

from __future__ import annotations

import socket
import ssl
import struct
import time
from contextlib import suppress
from typing import Any

import msgspec

from crawler import errors
from crawler.broker.address import format_address
from crawler.broker.budget import Budget
from crawler.errors import CrawlerError, WireError

#: Largest frame.
MAX_FRAME = 4 << 20
#: Frames up to this size are read without asking the budget.
SMALL_FRAME = 64 << 10
#: Bytes read with the first one of a message, set aside by each connection that waits: a record of TLS.
AHEAD = 16 << 10
#: Seconds for the rest of a request, once its first byte has come.
REQUEST_LIMIT = 30.0
#: Characters of an error's text that are sent.
MAX_TEXT = 1000
#: Milliseconds after which sent bytes that nobody acknowledged end a connection.
USER_TIMEOUT_MS = 30_000

#: Object (None for the server itself), verb, arguments, and keywords, which are always empty.
# Arguments stay packed until their types are known: unpacked, a frame of empty maps takes 70 times its size.
_Request = tuple[str | None, str, msgspec.Raw, dict[str, msgspec.Raw]]
_LENGTH = struct.Struct("!I")
#: Errors that cross the wire by name: those that are made of a text alone.
_ERRORS = {
    kind.__name__: kind
    for kind in (
        errors.UsageError,
        errors.ListUnreadable,
        errors.QueueUnavailable,
        errors.OutUnusable,
        errors.StorageFailed,
        errors.Stopped,
        errors.KeyRefused,
        errors.VersionMismatch,
        errors.UnknownSession,
        errors.WireError,
        errors.CrawlerError,
    )
}
#: What the other side is told of an error that is none of these.
INTERNAL = "internal error at the coordinator"


# ------------------------------------------------------------------ messages


def encode(message: object) -> bytes:
    """
    Write a message as a frame's content.

    Raises:
        WireError: It holds something that has no place on the wire, or is too large.
    """
    try:
        frame = msgspec.msgpack.encode(message)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise WireError(f"a message cannot be sent: {error}") from error
    if len(frame) > MAX_FRAME:
        raise WireError(f"a message of {len(frame)} bytes is too large: the limit is {MAX_FRAME}")
    return frame


def decode(frame: bytes) -> Any:
    """
    Read a frame's content; the result is made of plain values only.

    Raises:
        WireError: It is no msgpack.
    """
    try:
        return msgspec.msgpack.decode(frame)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise WireError(f"a message cannot be read: {error}") from error


def typed(value: object, kind: Any) -> Any:
    """
    Hold a decoded *value* against the type *kind*, and return it as one of these.

    Raises:
        WireError: It is another type.
    """
    try:
        return msgspec.convert(value, kind, strict=True)
    except (msgspec.ValidationError, RecursionError) as error:
        raise WireError(f"a message has wrong types: {ascii(str(error)[:200])}") from error


def unpack(packed: bytes | msgspec.Raw, kind: Any) -> Any:
    """
    Read what is packed as the type *kind*, and make nothing in memory that *kind* has no place for.

    Raises:
        WireError: It is something else.
    """
    try:
        return msgspec.msgpack.decode(packed, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise WireError(f"a message has wrong types: {ascii(str(error)[:200])}") from error


def _pack_error(error: BaseException) -> dict[str, str]:
    # Exact classes: one derived elsewhere could carry anything.
    if _ERRORS.get(type(error).__name__) is not type(error):
        error = CrawlerError(INTERNAL)
    return {"error": type(error).__name__, "message": str(error)[:MAX_TEXT]}


def _unpack_error(value: object) -> CrawlerError:
    facts = typed(value, dict[str, str])
    return _ERRORS.get(facts.get("error", ""), CrawlerError)(facts.get("message", INTERNAL)[:MAX_TEXT])


# ------------------------------------------------------------------ connections


class Connection:
    """
    One connection as the managers of multiprocessing want it, with one deadline for all it does.

    It belongs to one thread at a time; only `cut` may be called from any.

    Args:
        sock: A connected socket, which it closes.
        budget: Asked before a frame over 64 KiB is read. None where the other side is trusted with our memory.
    """

    def __init__(self, sock: socket.socket, budget: Budget | None = None) -> None:
        self._sock = sock
        self._budget = budget
        self._reserved = 0
        self._deadline = 0.0
        #: Read already, and not asked for yet.
        self._ahead = b""
        #: Session that it was opened for, "" for none.
        self.session = ""
        #: Whether its thread is in the middle of a call.
        self.busy = False
        #: Address of the other side, for people.
        self.peer = format_address(sock.getpeername()[:2])
        _tune(sock)

    def until(self, seconds: float) -> None:
        """Let all that follows end within *seconds*, until the next call of this."""
        self._deadline = time.monotonic() + seconds

    def secure(self, context: ssl.SSLContext, server_side: bool) -> None:
        """
        Go over to TLS.

        Raises:
            OSError: The handshake failed (ssl.SSLError among others).
        """
        # In two steps, so that `cut` meets the socket in use while the handshake lasts.
        self._sock = context.wrap_socket(self._sock, server_side=server_side, do_handshake_on_connect=False)
        self._sock.settimeout(self._seconds_left())
        self._sock.do_handshake()

    def certificate(self) -> bytes | None:
        """Return the other side's certificate (DER), None where it showed none."""
        return self._sock.getpeercert(True) if isinstance(self._sock, ssl.SSLSocket) else None

    def read(self, size: int) -> bytes:
        """
        Read exactly *size* bytes.

        Raises:
            EOFError: The other side has ended; with an argument where it did so within these bytes.
            TimeoutError: The deadline is over, however the bytes dripped.
        """
        content = bytearray(size)
        view = memoryview(content)
        have = min(size, len(self._ahead))
        view[:have], self._ahead = self._ahead[:have], self._ahead[have:]
        while have < size:
            self._sock.settimeout(self._seconds_left())
            count = self._sock.recv_into(view[have:])
            if not count:
                raise EOFError("cut off in a message") if have else EOFError
            have += count
        return bytes(content)

    def write(self, content: bytes) -> None:
        """Write all of *content* within the deadline."""
        view = memoryview(content)
        # Not sendall: over TLS that one starts its time limit anew with each piece.
        while view:
            self._sock.settimeout(self._seconds_left())
            view = view[self._sock.send(view[:SMALL_FRAME]) :]

    def send_bytes(self, frame: bytes) -> None:
        """Write one frame."""
        self.write(_LENGTH.pack(len(frame)) + frame)

    def recv_bytes(self, limit: int = MAX_FRAME) -> bytes:
        """
        Read one frame.

        Args:
            limit: Largest frame that is taken; a larger one is refused before memory is set aside for it.

        Raises:
            WireError: It is larger.
        """
        (size,) = _LENGTH.unpack(self.read(_LENGTH.size))
        if size > limit:
            raise WireError(f"a frame of {size} bytes was announced: the limit is {limit}")
        self._reserve(size)
        return self.read(size)

    def send(self, message: Any) -> None:
        """Write one message, an answer with an exception among them."""
        if isinstance(message, tuple) and message[0] == "#ERROR":
            message = ("#ERROR", _pack_error(message[1]))
        self.send_bytes(encode(message))

    def recv(self) -> tuple[str, Any]:
        """
        Read one answer, within the deadline.

        Returns:
            ("#RETURN", value) or ("#ERROR", exception).

        Raises:
            WireError: It is no answer.
        """
        self._read_ahead()
        match decode(self.recv_bytes()):
            case ["#RETURN", value]:
                return "#RETURN", value
            case ["#ERROR", facts]:
                return "#ERROR", _unpack_error(facts)
            case _:
                raise WireError("an answer was expected, and something else came")

    def recv_request(self, idle: float) -> _Request:
        """
        Read one request, its first byte within *idle* seconds and the rest within `REQUEST_LIMIT`.

        Raises:
            WireError: It is no request.
        """
        self.until(idle)
        self._read_ahead()
        self.until(REQUEST_LIMIT)
        request: _Request = unpack(self.recv_bytes(), _Request)
        return request

    def release(self) -> None:
        """Give the budget back what the last frame took: it is no longer needed."""
        if self._budget and self._reserved:
            self._budget.give(self._reserved)
        self._reserved = 0

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._sock.fileno()

    def cut(self, how: int = socket.SHUT_RDWR) -> None:
        """End reading or writing under the thread that uses the connection, which then finds it ended."""
        # The plain socket's method: that of a TLS socket would let its thread go on without TLS.
        with suppress(OSError):
            socket.socket.shutdown(self._sock, how)

    def hang_up(self, last: bytes = b"", seconds: float = 1.0) -> None:
        """
        End writing, and read what still comes: closing with bytes unread would take back the last ones written.

        Args:
            last: What to write before, in the clear, where TLS did not come about.
            seconds: Limit for all of it.
        """
        self.until(seconds)
        with suppress(OSError):
            self._sock.settimeout(self._seconds_left())
            # The plain socket's methods: those of a TLS socket are of no use where its handshake failed.
            socket.socket.sendall(self._sock, last)
            self.cut(socket.SHUT_WR)
            while socket.socket.recv(self._sock, SMALL_FRAME):
                self._sock.settimeout(self._seconds_left())

    def close(self) -> None:
        """Close the socket. May be called again."""
        self.release()
        with suppress(OSError):
            self._sock.close()

    def _read_ahead(self) -> None:
        """Wait for a message, and take what comes at once: most often all of it. Not before TLS has begun."""
        if not self._ahead:
            self._sock.settimeout(self._seconds_left())
            self._ahead = self._sock.recv(AHEAD)
            if not self._ahead:
                raise EOFError

    def _reserve(self, size: int) -> None:
        self.release()
        if self._budget and size > SMALL_FRAME:
            self._budget.take(size, self._seconds_left())
            self._reserved = size

    def _seconds_left(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the time for a message is over")
        return left


def _tune(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    options = {"TCP_NODELAY": 1, "TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
    for name, value in {**options, "TCP_USER_TIMEOUT": USER_TIMEOUT_MS}.items():
        # Not every system has all of them.
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
