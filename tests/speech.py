"""How the servers of `hostile` speak: scripts for `raw.RawServer`, made from what is said and how it ends."""

from __future__ import annotations

import struct
import zlib

from tests.raw import Script, Talk, ok
from tests.site import photo

HEAD = b"HTTP/1.1 200 OK\r\n"
LONG = HEAD + b"Content-Length: 100000\r\n\r\n"
CHUNKS = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
OPEN = HEAD + b"\r\n"
PHOTO = photo(0)
#: Bytes that a flood sends at a time.
FLOOD = 1 << 16
#: Seconds between two pieces of a drip: 100 lines, which end a head, take longer than any fetch of the tests.
PAUSE = 0.1


def once(*pieces: bytes) -> Script:
    """Answer one request and close."""

    def script(talk: Talk) -> None:
        talk.request()
        talk.say(*pieces)

    return script


def silent(start: bytes) -> Script:
    """Answer one request with *start* and say nothing more."""

    def script(talk: Talk) -> None:
        talk.request()
        talk.say(start)
        talk.wait()

    return script


def reset(start: bytes) -> Script:
    """Answer one request with *start* and cut the connection."""

    def script(talk: Talk) -> None:
        talk.request()
        talk.say(start)
        talk.reset()

    return script


def drip(start: bytes, piece: bytes) -> Script:
    """Answer one request with *start*, then *piece* again and again, slowly."""

    def script(talk: Talk) -> None:
        talk.request()
        talk.say(start)
        talk.drip(piece, PAUSE)

    return script


def flood(start: bytes, piece: bytes) -> Script:
    """Answer one request with *start*, then *piece* again and again, as fast as it is taken."""
    pieces = piece * max(1, FLOOD // len(piece))

    def script(talk: Talk) -> None:
        talk.request()
        talk.say(start)
        while True:
            talk.say(pieces)

    return script


def moved(location: bytes, body: bytes = b"") -> bytes:
    """Return a redirect."""
    return b"HTTP/1.1 302 Found\r\nLocation: %s\r\nContent-Length: %d\r\n\r\n%s" % (location, len(body), body)


def always(answer: bytes) -> Script:
    """Give the same answer to every request of a connection."""

    def script(talk: Talk) -> None:
        while talk.request():
            talk.say(answer)

    return script


def redirecting_on(talk: Talk) -> None:
    """Redirect from each number to the next, without end."""
    number = 0
    while talk.request():
        number += 1
        talk.say(moved(b"/%d/%d" % (talk.number, number)))


def redirecting_once(first: bytes, *then: bytes) -> Script:
    """Answer /image.jpg with *first*, whatever follows with *then*."""

    def script(talk: Talk) -> None:
        while path := talk.request():
            talk.say(first if path == "/image.jpg" else b"".join(then))

    return script


def closing_kept(talk: Talk) -> None:
    """Redirect on a connection that stays open, and close it under the next request."""
    if talk.request() == "/image.jpg":
        talk.say(moved(b"/next"))
        talk.request()
    else:
        talk.say(ok(PHOTO))


def resetting_kept(talk: Talk) -> None:
    """Redirect on a connection that stays open, and reset it under every further request."""
    if talk.request() == "/image.jpg":
        talk.say(moved(b"/next"))
        talk.request()
    talk.reset()


def closing_at_once(talk: Talk) -> None:
    """Close before anything was asked."""


def dripping(talk: Talk) -> None:
    """Send zeros, slowly."""
    talk.drip(b"\0", PAUSE)


def raw(start: bytes, end: str = "close") -> Script:
    """Say *start* without waiting for a request, then close, reset, drip or wait."""

    def script(talk: Talk) -> None:
        talk.sock.recv(FLOOD)
        talk.say(start)
        {"close": closing_at_once, "reset": Talk.reset, "wait": Talk.wait, "drip": lambda t: t.drip(b"\0", PAUSE)}[end](
            talk
        )

    return script


def status(line: bytes, *headers: bytes, body: bytes = b"no") -> Script:
    """Answer every request with a status and a small body."""
    lines = (b"HTTP/1.1 " + line, b"Content-Length: %d" % len(body), *headers, b"", body)
    return always(b"\r\n".join(lines))


def png(width: int, height: int) -> bytes:
    """Return a PNG that claims a size and brings almost no data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


def typed(body: bytes, kind: bytes = b"image/jpeg") -> Script:
    """Serve *body* as an image."""
    return always(ok(body, b"Content-Type: " + kind))
