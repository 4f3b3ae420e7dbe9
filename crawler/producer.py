"""
URL lists into entries and tasks, streamed.

A list is text, one URL a line; blank lines and lines that begin with `#` are passed over. A line that is no http or
https URL is an entry all the same: its task fails as `bad_url`, named by list and line, and nothing stops.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple
from urllib.parse import quote, urlsplit, urlunsplit

import idna

from crawler.broker import TaskQueue
from crawler.errors import ListUnreadable, UsageError
from crawler.model import Batch, ListState, Row

log = logging.getLogger(__name__)

#: Lines put at a time.
BATCH = 2_000
#: Bytes of a line beyond which it is no URL.
MAX_LINE = 16_384
#: Largest port.
MAX_PORT = 65_535
#: Characters of a line that are shown.
SHOWN = 200

# What needs no further look: a lower-case name with a dot, nothing to be quoted, no user information.
_PLAIN = re.compile(
    r"https?://((?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)"
    r"(?::([1-9][0-9]{0,4}))?/(?:[A-Za-z0-9._~!$&'()*+,;=:@/?-]|%[0-9A-Fa-f]{2})*",
)
_REFUSED = re.compile(r"[\x00-\x20\x7f\\]")
#: Characters that stay as they are where a URL has to be quoted; "%" because it may be quoted already.
_SAFE = "!#$%&'()*+,/:;=?@[]~"


def canonical(text: str) -> tuple[str, str]:
    """
    Bring a URL into the one form under which it is known.

    Args:
        text: A line without white space at its ends.

    Returns:
        (URL in ASCII, without fragment, scheme and name in lower case; name of the host).

    Raises:
        ValueError: It is no absolute http or https URL that can be asked for; the message says why.
    """
    plain = _PLAIN.fullmatch(text)
    if plain and int(plain[2] or 80) <= MAX_PORT:
        return text, plain[1]
    if _REFUSED.search(text):
        raise ValueError("it has a space, a control character or a backslash")
    parts = urlsplit(text)
    if parts.scheme.lower() not in ("http", "https"):
        raise ValueError("it is no http or https URL")
    if "@" in parts.netloc:
        raise ValueError("it has user information")
    host = _host(parts.hostname or "")
    netloc = f"[{host}]" if ":" in host else host
    if parts.port is not None:  # raises ValueError where it is none
        netloc += f":{parts.port}"
    if parts.port == 0:
        raise ValueError("port 0 cannot be asked")
    path = quote(parts.path or "/", safe=_SAFE)
    return urlunsplit((parts.scheme.lower(), netloc, path, quote(parts.query, safe=_SAFE), "")), host


def _host(name: str) -> str:
    if not name:
        raise ValueError("it names no host")
    if ":" in name:
        return name.lower()
    if name.isascii():
        lower = name.lower()
        if not re.fullmatch(r"[a-z0-9_.-]+", lower) or ".." in lower or lower.startswith("."):
            raise ValueError("its host's name is not one")
        return lower
    try:
        return idna.encode(name, uts46=True).decode()
    except idna.IDNAError as error:
        raise ValueError(f"its host's name is not one: {error}") from error


class Source(NamedTuple):
    """Where the lines of a list come from."""

    #: How the list is called in records and messages.
    name: str
    #: How it is named to the user.
    path: str
    #: Opens it at its beginning.
    open: Callable[[], BinaryIO]


def from_path(path: str) -> Source:
    """
    Return the list in a file, or on standard input where *path* is `-`.

    Raises:
        ListUnreadable: There is no such file, or it cannot be read; names it.
    """
    shown = os.fsencode(path).decode("utf-8", "backslashreplace")
    source = Source("-" if path == "-" else Path(shown).name, shown, lambda: _open(path))
    source.open().close()
    return source


def from_urls(urls: Iterable[str]) -> Source:
    """Return URLs of the caller's own as a list called `urls`."""
    return Source("urls", "urls", lambda: io.BufferedReader(_Stream(iter(urls))))


class Reading:
    """
    One list on its way into a queue.

    Args:
        queue: Where it goes.
        session: Session of this producer; the caller keeps it alive.
        source: The list.
        stop: Tells whether to stop early.
    """

    def __init__(self, queue: TaskQueue, session: str, source: Source, stop: Callable[[], bool]) -> None:
        self._queue = queue
        self._session = session
        self._source = source
        self._path = source.path
        self._stop = stop

    def prepare(self, state: ListState) -> None:
        """
        Open the list and pass over what was read before.

        Args:
            state: What the queue said when the list was opened there.

        Raises:
            ListUnreadable: It can no longer be read.
            UsageError: What was read before is not the beginning of this list.
        """
        self._state = state
        self._file = self._source.open()
        try:
            self._lines = _Lines(self._file, self._path)
            self._lines.skip(state)
        except BaseException:
            self._file.close()
            raise

    def run(self) -> bool:
        """
        Read the list from where it stands to its end, and seal it.

        Returns:
            Whether the end was reached; False after *stop*.

        Raises:
            ListUnreadable: It can no longer be read.
        """
        with self._file:
            while batch := self._lines.batch():
                if self._stop():
                    return False
                self._put(self._state.id, batch)
        self._queue.seal(self._session, self._state.id)
        return True

    def _put(self, list_id: int, batch: Batch) -> None:
        following = self._queue.put(self._session, list_id, batch)
        if following != batch.next_line:
            raise UsageError(
                f"{self._path}: the queue expects line {following}, not {batch.first_line}: somebody else reads this "
                "list into the same queue"
            )


class _Lines:
    """The lines of an open list, with a digest of all that was read."""

    def __init__(self, file: BinaryIO, path: str) -> None:
        self._file = file
        self._path = path
        self._digest = hashlib.sha256()
        self._offset = 0
        self._line = 1
        self._total = _size(file)

    def skip(self, state: ListState) -> None:
        """Pass over what was read before, if it is the same."""
        tail = b""
        while self._offset < state.offset:
            data = self._read(self._file.read, min(1 << 20, state.offset - self._offset))
            if not data:
                break
            self._digest.update(data)
            self._offset += len(data)
            tail = data[-1:]
        if state.offset and (self._offset < state.offset or self._digest.hexdigest() != state.digest):
            raise UsageError(
                f"{self._path} is not the list that was read before (its first {state.offset} bytes differ): "
                "choose another OUT with -o, or bring the list back"
            )
        self._line = state.next_line
        if tail and tail != b"\n":
            self._check_torn()

    def _check_torn(self) -> None:
        """Refuse a list whose last line, read before without its end, has grown."""
        rest = self._read(self._file.readline, MAX_LINE)
        self._digest.update(rest)
        self._offset += len(rest)
        if rest.strip(b"\r\n"):
            raise UsageError(
                f"{self._path}: line {self._line - 1} was read before as the last one, without a line end, and has "
                "grown since: choose another OUT with -o"
            )

    def batch(self) -> Batch | None:
        """Return the next lines, None at the end."""
        first, rows = self._line, []
        while self._line < first + BATCH:
            line = self._next()
            if not line:
                break
            row = parse(line, self._path, self._line)
            if row is not None:
                rows.append(row)
            self._line += 1
        if self._line == first:
            return None
        digest = self._digest.copy().hexdigest()
        return Batch(
            first_line=first,
            next_line=self._line,
            offset=self._offset,
            digest=digest,
            total_bytes=self._total,
            rows=rows,
        )

    def _next(self) -> bytes:
        """Return a line; of one that is too long its beginning, the rest is passed over."""
        line = piece = self._read(self._file.readline, MAX_LINE)
        self._digest.update(piece)
        self._offset += len(piece)
        while len(piece) == MAX_LINE and not piece.endswith(b"\n"):
            piece = self._read(self._file.readline, MAX_LINE)
            self._digest.update(piece)
            self._offset += len(piece)
        return line

    def _read(self, read: Callable[[int], bytes], size: int) -> bytes:
        try:
            return read(size)
        except OSError as error:
            raise ListUnreadable(f"{self._path} cannot be read on after line {self._line - 1}: {error}") from error


def parse(line: bytes, path: str, number: int) -> Row | None:
    """
    Make an entry of a line.

    Args:
        line: The line, with or without its end.
        path: Name of the list, for messages.
        number: Number of the line, from 1.

    Returns:
        The entry, or None for a comment or a blank line. One that is no URL has its `error` set.
    """
    try:
        text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
        if not text or text.startswith("#"):
            return None
        if len(line) >= MAX_LINE:
            raise ValueError(f"it is longer than {MAX_LINE} bytes")
        url, host = canonical(text)
        return Row(line=number, url=url, host=host)
    except ValueError as error:
        shown = _show(line.decode("utf-8", "backslashreplace").strip(), len(line) >= MAX_LINE)
        why = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
        return Row(line=number, url=shown, host="", error=f"{path}, line {number}: {why}")


def _show(text: str, cut: bool) -> str:
    """Escape and cut a line; the mark keeps it from having the same text as a URL, whose task would be its own then."""
    shown = text[:SHOWN].encode("unicode_escape").decode()
    return f"{shown}…" if cut or len(text) > SHOWN else shown


def _open(path: str) -> BinaryIO:
    if path == "-":
        return open(sys.stdin.fileno(), "rb", closefd=False)
    try:
        return open(path, "rb")
    except OSError as error:
        raise ListUnreadable(f"the list {path} cannot be read: {error.strerror}") from error


class _Stream(io.RawIOBase):
    """URLs as a file of lines. An item that is no text is a line too, which fails as `bad_url`; the list goes on."""

    def __init__(self, urls: Iterator[object]) -> None:
        self._urls = urls
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        while not self._rest:
            try:
                self._rest = _line(next(self._urls))
            except StopIteration:
                return 0
            except Exception as error:  # whatever the caller's own code raises
                raise ListUnreadable(f"the URLs cannot be read on: {type(error).__name__}: {error}") from error
        piece, self._rest = self._rest[: len(buffer)], self._rest[len(buffer) :]
        buffer[: len(piece)] = piece
        return len(piece)


def _line(item: object) -> bytes:
    # A surrogate becomes what is not UTF-8, and so an entry that says so.
    return str(item).encode("utf-8", "surrogatepass").replace(b"\n", b" ") + b"\n"


def _size(file: BinaryIO) -> int | None:
    try:
        return file.seek(0, 2) or None if file.seekable() else None
    except OSError:
        return None
    finally:
        if file.seekable():
            file.seek(0)
