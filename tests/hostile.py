"""
Servers that behave badly, each in one way that has a name: raw sockets, byte for byte.

    python tests/hostile.py --list              the names, and what each ends in
    python tests/hostile.py [--port 0] [NAME…]  serve these, or all, until Ctrl-C

What the second prints is a list of URLs that can be crawled; its comments are the names. With a port other than 0 the
first behaviour has that port, the next the one after it.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import signal
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from crawler.reasons import Reason
from tests.raw import RawServer, Script, Talk, ok
from tests.speech import (
    CHUNKS,
    HEAD,
    LONG,
    OPEN,
    PHOTO,
    always,
    closing_at_once,
    closing_kept,
    drip,
    flood,
    moved,
    once,
    png,
    raw,
    redirecting_on,
    redirecting_once,
    reset,
    resetting_kept,
    silent,
    status,
    typed,
)


class Behaviour(NamedTuple):
    """One way to behave badly."""

    name: str
    #: Why the task fails in the end; None where the image is stored all the same.
    reason: Reason | None
    script: Script
    scheme: str = "http"
    #: Whether the fetch brings a body as announced, and only the verifier refuses it.
    is_fetched: bool = False

    def serve(self, address: str = "127.0.0.1", port: int = 0) -> RawServer:
        """Return a server that behaves like this."""
        return RawServer(self.script, address=address, port=port)

    def url(self, server: RawServer) -> str:
        """Return the URL to ask *server* for."""
        return f"{self.scheme}://{server.base.partition('://')[2]}/image.jpg"


# ------------------------------------------------------------------ what they do

R = Reason
BOMB = gzip.compress(bytes(20_000_000))
BODY = b"%x\r\n%s\r\n0\r\n\r\n" % (len(PHOTO), PHOTO)

#: By reason: what ends in it, before or within the body.
FETCHES: dict[Reason | None, dict[str, Script]] = {
    R.TIMEOUT: {
        "silence": silent(b""),
        "silence-in-status": silent(b"HTTP/1.1 2"),
        "silence-in-headers": silent(HEAD + b"X: y\r\n"),
        "silence-after-head": silent(LONG),
        "silence-in-body": silent(LONG + b"x" * 50_000),
        "silence-in-chunk": silent(CHUNKS + b"ff\r\nx"),
        "drip-status": drip(b"", b"H"),
        "drip-header-lines": drip(HEAD, b"X: y\r\n"),
        "drip-header-value": drip(HEAD + b"X: ", b"y"),
        "drip-interim": drip(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        "drip-body": drip(LONG, b"x"),
        "drip-body-without-length": drip(OPEN, b"x"),
        "drip-chunks": drip(CHUNKS, b"1\r\nx\r\n"),
        "drip-chunk-size": drip(CHUNKS, b"0"),
        "drip-chunk-extension": drip(CHUNKS + b"5;", b"x"),
        "drip-trailers": drip(CHUNKS + b"0\r\n", b"X: y\r\n"),
        "flood-trailers": flood(CHUNKS + b"0\r\n", b"X: y\r\n"),
        "redirect-then-silence": redirecting_once(moved(b"/next")),
    },
    R.CONNECTION_LOST: {
        "close-at-once": closing_at_once,
        "close-after-request": once(b""),
        "reset-at-once": Talk.reset,
        "reset-after-request": reset(b""),
        "reset-in-status": reset(b"HTTP/1.1 2"),
        "reset-in-headers": reset(HEAD + b"X: y\r\n"),
        "reset-after-head": reset(LONG),
        "reset-in-body": reset(LONG + b"image"),
        "reset-in-chunk": reset(CHUNKS + b"ff\r\nx"),
        "reset-without-length": reset(OPEN + b"image"),
        "reset-kept-connections": resetting_kept,
    },
    R.TRUNCATED: {
        "close-in-body": once(LONG, b"image"),
        "close-after-head": once(LONG),
        "close-in-chunk": once(CHUNKS, b"ff\r\nimage"),
        "close-after-chunk": once(CHUNKS, b"5\r\nimage\r\n"),
        "close-before-chunks": once(CHUNKS),
        "endless-chunk-size": once(CHUNKS, b"ffffffffffffffff\r\nimage"),
        "chunks-fewer-than-length": once(HEAD, b"Content-Length: 999999\r\n", CHUNKS[len(HEAD) :], BODY),
    },
    R.BAD_RESPONSE: {
        "http-0.9": once(PHOTO),
        "other-protocol": once(b"SSH-2.0-OpenSSH_9.9\r\n"),
        "http-2": once(b"HTTP/2 200 OK\r\n\r\n", PHOTO),
        "http-2-frames": once(b"\0\0\x12\x04\0\0\0\0\0" + bytes(18)),
        "status-of-words": once(b"HTTP/1.1 two OK\r\n\r\n"),
        "status-of-two-digits": once(b"HTTP/1.1 20 OK\r\n\r\n"),
        "status-of-four-digits": once(b"HTTP/1.1 2000 OK\r\n\r\n"),
        "close-in-status": once(b"HTTP/1.1 2"),
        "flood-status": flood(b"HTTP/1.1 200 ", b"x"),
        "flood-headers": flood(HEAD, b"X: y\r\n"),
        "flood-header-value": flood(HEAD + b"X: ", b"y"),
        "flood-interim-100": flood(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        "flood-interim-103": flood(b"", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"),
        "two-hundred-headers": once(HEAD, b"X: y\r\n" * 200, b"\r\n", PHOTO),
        "two-lengths": once(HEAD, b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nimages"),
        "two-lengths-in-one": once(HEAD, b"Content-Length: 5, 6\r\n\r\nimages"),
        "negative-length": once(HEAD, b"Content-Length: -5\r\n\r\nimage"),
        "length-of-words": once(HEAD, b"Content-Length: five\r\n\r\nimage"),
        "length-in-hex": once(HEAD, b"Content-Length: 0x5\r\n\r\nimage"),
        "length-of-forty-digits": once(HEAD, b"Content-Length: " + b"9" * 40 + b"\r\n\r\nimage"),
        "chunks-more-than-length": once(HEAD, b"Content-Length: 5\r\n", CHUNKS[len(HEAD) :], BODY),
        "negative-chunk": once(CHUNKS, b"-5\r\nimage\r\n0\r\n\r\n"),
        "chunk-of-words": once(CHUNKS, b"five\r\nimage\r\n0\r\n\r\n"),
        "chunk-of-other-digits": once(CHUNKS, b"0_5\r\nimage\r\n0\r\n\r\n"),
        "flood-chunk-size": flood(CHUNKS, b"0"),
        "flood-chunk-extension": flood(CHUNKS + b"5;", b"x"),
        "gzip": always(ok(gzip.compress(PHOTO), b"Content-Encoding: gzip")),
        "gzip-bomb": always(ok(BOMB, b"Content-Encoding: gzip")),
        "gzip-cut": once(ok(gzip.compress(PHOTO)[:-9], b"Content-Encoding: gzip")),
        "brotli": always(ok(b"x", b"Content-Encoding: br")),
        "two-codings": always(ok(BOMB, b"Content-Encoding: gzip, gzip")),
        "transfer-gzip": once(HEAD, b"Transfer-Encoding: gzip, chunked\r\n\r\n", BODY),
        "chunked-twice": once(HEAD, b"Transfer-Encoding: chunked\r\n" * 2, b"\r\n", BODY),
    },
    R.TOO_LARGE: {
        "endless-body": flood(OPEN, b"x"),
        "endless-chunks": flood(CHUNKS, b"400\r\n" + b"x" * 1024 + b"\r\n"),
        "endless-small-chunks": flood(CHUNKS, b"32\r\n" + b"x" * 50 + b"\r\n"),
        "one-huge-chunk": flood(CHUNKS + b"ffffffffff\r\n", b"x"),
        "huge-length": silent(HEAD + b"Content-Length: 99999999999\r\n\r\n"),
    },
    R.EMPTY: {
        "empty": always(ok(b"")),
        "empty-without-length": once(OPEN),
        "empty-chunks": once(CHUNKS, b"0\r\n\r\n"),
    },
    R.TOO_MANY_REDIRECTS: {
        "redirect-to-itself": always(moved(b"/image.jpg")),
        "redirect-to-and-fro": redirecting_once(moved(b"/next"), moved(b"/image.jpg")),
        "redirect-on-and-on": redirecting_on,
        "redirect-with-big-bodies": always(moved(b"/image.jpg", bytes(200_000))),
    },
    R.BAD_REDIRECT: {
        "redirect-nowhere": always(b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n"),
        "redirect-to-ftp": always(moved(b"ftp://127.0.0.1/x.jpg")),
        "redirect-to-file": always(moved(b"file:///etc/passwd")),
        "redirect-to-script": always(moved(b"javascript:alert(1)")),
        "redirect-to-bad-brackets": always(moved(b"http://[::bad/")),
        "redirect-to-bad-port": always(moved(b"http://127.0.0.1:99999/")),
        "redirect-with-user": always(moved(b"http://user:word@127.0.0.1/")),
        "redirect-with-control": always(moved(b"/a\x01b")),
    },
    R.ADDRESS_REFUSED: {
        "redirect-to-metadata": always(moved(b"http://169.254.169.254/latest/")),
        "redirect-to-metadata-number": always(moved(b"http://2852039166/")),
        "redirect-to-mapped": always(moved(b"http://[::ffff:169.254.169.254]/")),
        "redirect-to-private": always(moved(b"http://10.0.0.1/")),
    },
    R.HTTP_NOT_FOUND: {
        "missing": status(b"404 Not Found"),
        "missing-endless": flood(b"HTTP/1.1 404 Not Found\r\n\r\n", b"x"),
        "missing-with-image": status(b"404 Not Found", b"Content-Type: image/jpeg", body=PHOTO),
        "gone": status(b"410 Gone"),
    },
    R.HTTP_FORBIDDEN: {"forbidden": status(b"403 Forbidden"), "for-legal-reasons": status(b"451 No")},
    R.HTTP_TOO_MANY: {
        "too-many": status(b"429 Slow", b"Retry-After: 99999999999999999999"),
        "too-many-nonsense": status(b"429 Slow", b"Retry-After: Thu, 99 Foo 9999 99:99:99"),
    },
    R.HTTP_SERVER_ERROR: {"broken": status(b"500 Oh"), "away": status(b"503 Away", b"Retry-After: -1")},
    R.HTTP_STATUS: {
        "nothing": once(b"HTTP/1.1 204 No Content\r\n\r\n"),
        "part-unasked": status(b"206 Part", b"Content-Range: bytes 0-9/99999", body=PHOTO),
        "part-wrong-range": status(b"206 Part", b"Content-Range: bytes 9-0/x", body=PHOTO),
        "not-modified": once(b"HTTP/1.1 304 Not Modified\r\n\r\n"),
        "many-choices": status(b"300 Choices"),
        "other-protocol-switched-to": once(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", PHOTO),
        "status-999": status(b"999 No"),
    },
    None: {
        "early-hints": once(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", ok(PHOTO)),
        "closed-kept-connections": closing_kept,
        "redirect-without-host": redirecting_once(moved(b"http:///next"), ok(PHOTO)),
        "range-in-200": always(ok(PHOTO, b"Content-Range: bytes 5-9/3")),
        "same-length-twice": always(ok(PHOTO, b"Content-Length: %d" % len(PHOTO))),
        "more-than-length": always(ok(PHOTO) + PHOTO),
        "answers-nobody-asked-for": redirecting_once(moved(b"/next") + ok(b"<html>"), ok(PHOTO)),
        "no-headers": once(OPEN, PHOTO),
        "html-type": typed(PHOTO, b"text/html"),
        "nonsense-headers": once(HEAD, b"X: a\0b\r\n: y\r\nX\xff: \xff\r\n\r\n", PHOTO),
    },
}
#: By reason: bodies that are what was announced, and no image.
BODIES: dict[Reason, dict[str, Script]] = {
    R.HTML: {"html": typed(b"<!DOCTYPE html><html></html>"), "html-late": typed(b"\n \n<html><p>log in</p></html>")},
    R.NOT_AN_IMAGE: {
        "json": typed(b'{"error": "no such image"}'),
        "gzip-unsaid": typed(gzip.compress(PHOTO)),
        "zeros": typed(bytes(10_000)),
    },
    R.SVG: {"svg": typed(b'<svg xmlns="http://www.w3.org/2000/svg"/>', b"image/png")},
    R.IMAGE_TRUNCATED: {"image-cut": typed(PHOTO[: len(PHOTO) // 2]), "cut-without-length": once(OPEN, PHOTO[:-500])},
    R.TOO_MANY_PIXELS: {"pixel-bomb": typed(png(60_000, 60_000), b"image/png")},
}
#: By reason: what happens before TLS speaks.
HANDSHAKES: dict[Reason, dict[str, Script]] = {
    R.TIMEOUT: {"tls-silence": raw(b"", "wait"), "tls-drip": raw(b"\x16\x03\x03\x40\x00", "drip")},
    R.CONNECTION_LOST: {"tls-close": raw(b""), "tls-reset": raw(b"", "reset"), "tls-cut": raw(b"\x16\x03\x03\x40\x00")},
    R.TLS_FAILED: {
        "tls-plain-http": raw(ok(PHOTO)),
        "tls-nonsense": raw(b"\xff" * 1000),
        "tls-alert": raw(b"\x15\x03\x03\x00\x02\x02\x28"),
        "tls-record-too-long": raw(b"\x16\x03\x03\xff\xff" + bytes(0xFFFF)),
    },
}

BEHAVIOURS: tuple[Behaviour, ...] = (
    *(Behaviour(n, reason, script) for reason, group in FETCHES.items() for n, script in group.items()),
    *(Behaviour(n, reason, script, is_fetched=True) for reason, group in BODIES.items() for n, script in group.items()),
    *(Behaviour(n, reason, script, "https") for reason, group in HANDSHAKES.items() for n, script in group.items()),
)


def _serve(behaviours: Iterable[Behaviour], port: int) -> None:
    """Serve until a signal."""
    signals = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    with contextlib.ExitStack() as running:
        for number, one in enumerate(behaviours):
            server = running.enter_context(one.serve(port=port and port + number))
            print(f"# {one.name}: {one.reason or 'stored'}\n{one.url(server)}", flush=True)
        signal.sigwait(signals)


def main() -> None:
    """Run from the command line."""
    known = {one.name: one for one in BEHAVIOURS}
    parser = argparse.ArgumentParser(description="Serve bad behaviour on loopback, each on a port of its own.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="what to serve; all where none is given")
    parser.add_argument("--list", action="store_true", help="print the names and what each ends in")
    parser.add_argument("--port", type=int, default=0, help="port of the first, 0 for any free ones")
    given = parser.parse_args()
    if unknown := [name for name in given.names if name not in known]:
        parser.error(f"not known: {', '.join(unknown)}; see --list")
    if given.list:
        print("\n".join(f"{one.name:32}{one.reason or 'stored'}" for one in BEHAVIOURS))
    else:
        _serve([known[name] for name in given.names] or BEHAVIOURS, given.port)


if __name__ == "__main__":
    main()
