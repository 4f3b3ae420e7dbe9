"""What the head of a response means: whether its body counts, how long that is, where a redirect leads."""

from __future__ import annotations

import http.client
import io
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import BinaryIO
from urllib.parse import quote, urljoin, urlsplit, urlunsplit

from crawler.errors import FetchError
from crawler.reasons import Reason

REDIRECTS = frozenset({301, 302, 303, 307, 308})
#: Statuses with a reason of their own; any other from 500 on is the server's fault, and the rest is HTTP_STATUS.
STATUSES = {
    401: Reason.HTTP_FORBIDDEN,
    403: Reason.HTTP_FORBIDDEN,
    404: Reason.HTTP_NOT_FOUND,
    410: Reason.HTTP_NOT_FOUND,
    429: Reason.HTTP_TOO_MANY,
    451: Reason.HTTP_FORBIDDEN,
}
#: Statuses whose Retry-After is heeded.
WAITING = frozenset({429, 503})
#: Seconds that a host can ask us to wait, at most; what is made of it is the queue's business.
MAX_RETRY_AFTER = 30 * 86400.0
#: What may stay as it is in a redirect's URL; "%" too, because the server has encoded what it meant to.
URL_SAFE = "!#$%&'()*+,/:;=?@[]~"
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
#: More digits than any length has that could be accepted.
MAX_DIGITS = 18
#: Interim responses (100, 103, …) that may come before the final one.
MAX_INTERIM = 100
#: Longest line before a chunk, its extensions included.
MAX_LINE = 65536
CHUNK_SIZE = re.compile(rb"[0-9A-Fa-f]{1,16}")
#: A length as an int, signs and other digits aside.
DIGITS = re.compile(r"[0-9]{1,18}", re.ASCII)
#: Headers of a response at most.
MAX_HEADERS = 100
#: A header line in its usual form; one that is folded or is none is left to the standard library.
HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n\0]*)\r?\n")


class CheckedResponse(http.client.HTTPResponse):
    """A response that tells a connection lost before it from one lost within it, and bounds what precedes its body."""

    #: Heads of interim responses that came so far.
    _interim = 0

    def begin(self) -> None:
        """
        Read the head. RemoteDisconnected means that not one byte of it came.

        As the standard library's, whose parser for headers is one for mail and takes longer than all else here.
        """
        if self.headers is not None:
            return
        try:
            self.fp.peek(1)
        except ConnectionError as error:
            raise http.client.RemoteDisconnected(f"lost before the response: {error}") from error
        version, status, reason = self._read_status()
        while status == http.client.CONTINUE:
            read_headers(self.fp)
            version, status, reason = self._read_status()
        self.code = self.status = status
        self.reason = reason.strip()
        self.version = _version_of(version)
        self.headers = self.msg = read_headers(self.fp)
        self._find_end()

    def _find_end(self) -> None:
        """Learn from the headers how the body ends, and whether the connection does with it."""
        self.chunked = self.headers.get("transfer-encoding", "").lower() == "chunked"
        self.chunk_left = None
        length = None if self.chunked else self.headers.get("content-length")
        self.length = int(length) if length is not None and DIGITS.fullmatch(length.strip()) else None
        if self.status in (http.client.NO_CONTENT, http.client.NOT_MODIFIED):
            self.length = 0
        is_closing: bool = self._check_close()  # type: ignore[attr-defined]  # not among the published names
        is_endless = not self.chunked and self.length is None
        # What follows an interim response on its connection is no HTTP that the next request could be answered with.
        self.will_close = is_closing or is_endless or self.status < 200

    def _read_status(self) -> tuple[str, int, str]:
        version, status, reason = super()._read_status()  # type: ignore[misc]  # not among the published names
        if status == http.client.SWITCHING_PROTOCOLS or not 100 <= status < 200:
            return version, status, reason
        self._interim += 1
        if self._interim > MAX_INTERIM:
            raise http.client.HTTPException("too many interim responses")
        # The standard library passes over 100 only, and would take the final response for that of the next request.
        return version, http.client.CONTINUE, reason

    def _read_next_chunk_size(self) -> int:
        # In place of a conversion that takes signs and underscores; to the reader below -1 means all there is.
        line = self.fp.readline(MAX_LINE + 1)
        if len(line) > MAX_LINE:
            raise http.client.LineTooLong("size of a chunk")
        if not line.endswith(b"\n"):
            raise http.client.IncompleteRead(b"")
        size = line.partition(b";")[0].strip()
        if not CHUNK_SIZE.fullmatch(size):
            raise http.client.HTTPException(f"size of a chunk {size[:80]!r}")
        return int(size, 16)


def read_headers(file: BinaryIO) -> http.client.HTTPMessage:
    """
    Read headers up to the blank line after them.

    Raises:
        LineTooLong: One is longer than `MAX_LINE`.
        HTTPException: There are more than `MAX_HEADERS`.
    """
    message = http.client.HTTPMessage()
    lines = []
    while (line := file.readline(MAX_LINE + 1)) not in (b"\r\n", b"\n", b""):
        if len(line) > MAX_LINE:
            raise http.client.LineTooLong("header line")
        lines.append(line)
        if len(lines) > MAX_HEADERS:
            raise http.client.HTTPException(f"got more than {MAX_HEADERS} headers")
    for header in lines:
        usual = HEADER.fullmatch(header.decode("iso-8859-1"))
        if usual is None:
            return http.client.parse_headers(io.BytesIO(b"".join(lines) + line))
        message.set_raw(*usual.groups())
    # What a reader of mail has at the end of the headers.
    message.set_payload("")
    return message


def _version_of(text: str) -> int:
    """Return 10 or 11; raises UnknownProtocol for what is no HTTP/0.9 or 1."""
    if text in ("HTTP/1.0", "HTTP/0.9"):
        return 10
    if text.startswith("HTTP/1."):
        return 11
    raise http.client.UnknownProtocol(text)


def read_status(status: int, headers: Mapping[str, str]) -> None:
    """
    Return if *status* is 200.

    Raises:
        FetchError: With the status's reason, and the time to wait if the host names one.
    """
    if status == 200:
        return
    reason = STATUSES.get(status, Reason.HTTP_SERVER_ERROR if 500 <= status < 600 else Reason.HTTP_STATUS)
    retry_after = read_retry_after(headers.get("Retry-After", "")) if status in WAITING else None
    raise FetchError(reason, f"status {status}", http_status=status, retry_after=retry_after)


def read_retry_after(value: str) -> float | None:
    """
    Return the seconds from now that a Retry-After header names, None where it names none.

    Source: RFC 9110, 10.2.3: seconds, or a date.
    """
    value = value.strip()
    if value.isascii() and value.isdigit():
        return min(float(value), MAX_RETRY_AFTER)
    try:
        date = parsedate_to_datetime(value)
        # A date whose zone is unknown comes without one.
        wait = ((date if date.tzinfo else date.replace(tzinfo=UTC)) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(wait, 0.0), MAX_RETRY_AFTER)


def read_length(headers: Mapping[str, str]) -> int | None:
    """
    Return the number of bytes that the body must have, None where only its end tells.

    A body in chunks ends with them; a length that is announced beside them must agree. Source: RFC 9112, 6.3.

    Raises:
        FetchError: BAD_RESPONSE for lengths that are none or differ, and for codings that were not asked for.
    """
    coding = headers.get("Content-Encoding", "").strip().lower()
    if coding not in ("", "identity"):
        raise FetchError(Reason.BAD_RESPONSE, f"Content-Encoding {coding[:80]} was not asked for")
    transfer = headers.get("Transfer-Encoding", "").strip().lower()
    if transfer not in ("", "identity", "chunked"):
        raise FetchError(Reason.BAD_RESPONSE, f"Transfer-Encoding {transfer[:80]} was not asked for")
    announced = headers.get("Content-Length")
    if announced is None:
        return None
    lengths = {length.strip() for length in announced.split(",")}
    length = lengths.pop()
    if lengths or not (length.isascii() and length.isdigit()) or len(length) > MAX_DIGITS:
        raise FetchError(Reason.BAD_RESPONSE, f"Content-Length {announced[:80]}")
    return int(length)


def host_of(url: str) -> str:
    """
    Return the name of the server of *url* in lower case; its port does not matter.

    Raises:
        FetchError: BAD_URL where there is none.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise FetchError(Reason.BAD_URL, str(error)) from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise FetchError(Reason.BAD_URL, "no http or https URL")
    return parts.hostname.rstrip(".")


def resolve_location(url: str, location: str) -> str:
    """
    Return the absolute URL that a redirect from *url* leads to, in ASCII and without fragment.

    Args:
        url: Absolute URL that answered.
        location: Value of the Location header, each character one byte as http.client reads it.

    Raises:
        FetchError: BAD_REDIRECT where that is no URL to be followed.
    """
    location = location.strip(" ")
    refused = FetchError(Reason.BAD_REDIRECT, f"Location {location[:200]!r}")
    if CONTROL.search(location):
        raise refused
    try:
        text = location.encode("latin-1")
    except UnicodeEncodeError:
        text = location.encode()
    try:
        parts = urlsplit(urljoin(url, quote(text, safe=URL_SAFE)))
        _ = parts.port
    except ValueError as error:
        raise refused from error
    # An escape in the name stands for a character that no name has.
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or "%" in parts.netloc:
        raise refused
    return urlunsplit((parts.scheme, parts.netloc.lower(), parts.path or "/", parts.query, ""))
