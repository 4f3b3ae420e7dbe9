"""
Lists in JSON: one value a line (json lines), or one array of them.

A value is an object, whose keys are columns, or a string, which is a URL. Lines that are none of these are entries
that fail; blank lines are passed over.
"""

from __future__ import annotations

import hashlib
from codecs import BOM_UTF8
from typing import Any, BinaryIO

import msgspec

from crawler.errors import UsageError
from crawler.model import ListState, Row
from crawler.producer.entries import Place, show
from crawler.producer.picks import Layout, Picks, lay_out
from crawler.producer.stream import Mark, Stream, cannot_read, other_list

#: Bytes of a line at most, and of an item of an array.
MAX_VALUE = 1 << 20
#: Brackets of an item of an array that are open at a time.
MAX_DEPTH = 1_000
#: Bytes of an array that are read at a time.
CHUNK = 64 * 1024


class Values:
    """Entries of JSON values."""

    def __init__(self, place: Place, path: str, picks: Picks) -> None:
        self._place = place
        self._path = path
        self._picks = picks
        self._is_first = True
        self._layout: Layout | None = None

    def begin(self, state: ListState) -> None:
        """Note whether the list is begun: the first object of one must have the columns that are asked for."""
        self._is_first = not state.offset

    def entry(self, number: int, value: Any, text: str) -> Row:
        """Return the entry of a value; *text* is shown of one that is none."""
        if isinstance(value, str):
            return self._place.entry(number, value, None, None)
        if not isinstance(value, dict):
            return self._place.bad(number, "it is neither an object nor a string", text)
        layout = self._lay_out(value)
        names = value if "*" in self._picks.columns else layout.carried
        columns = {name: value.get(name) for name in names if name != layout.url} if names else None
        digest = None if layout.digest is None else value.get(layout.digest)
        return self._place.entry(number, value.get(layout.url), digest, columns)

    def _lay_out(self, value: dict[str, Any]) -> Layout:
        if self._layout is None and self._is_first:
            self._layout = lay_out(self._picks, list(value), self._path)
        elif self._layout is None:  # gone on with: what the first object said counts no more than the options
            self._layout = _said(self._picks, value)
        return self._layout


def _said(picks: Picks, value: dict[str, Any]) -> Layout:
    same = [name for name in value if name.lower() == "url"]
    url = picks.url_column or ("url" if "url" in value or len(same) != 1 else same[0])
    digest = picks.digest_column
    carried = tuple(dict.fromkeys([*picks.columns, *([digest] if digest else [])]))
    return Layout(url=url, digest=digest, carried=carried)


class LinesList:
    """The lines of an open list, each a value."""

    def __init__(self, stream: Stream, place: Place, path: str, picks: Picks) -> None:
        self._stream = stream
        self._place = place
        self._values = Values(place, path, picks)

    def begin(self, state: ListState) -> None:
        """Pass over what was read before."""
        self._values.begin(state)
        if state.offset:
            self._stream.pass_over(state)

    def next(self) -> bytes | None:
        """Return the next line, None at the end; of one that is too long its beginning."""
        line = self._stream.line(MAX_VALUE)
        return line or None

    def entry(self, number: int, line: bytes) -> Row | None:
        """Return the entry of a line, None for a blank one."""
        text = line.removeprefix(BOM_UTF8 if number == 1 else b"").strip()
        if not text:
            return None
        if len(line) >= MAX_VALUE:
            return self._place.bad(number, f"it is longer than {MAX_VALUE:,} bytes")
        shown = show(text.decode("utf-8", "backslashreplace"))
        try:
            value = msgspec.json.decode(text)
        except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, nested too deeply
            return self._place.bad(number, f"it is no JSON: {error}", shown)
        return self._values.entry(number, value, shown)

    def mark(self) -> Mark:
        """Return how far the list has been read."""
        return self._stream.mark()


class ArrayList:
    """
    The items of an open list that is one array.

    It is gone on with by item, not by byte: the digest is one of the items read, each in one form.
    """

    def __init__(self, file: BinaryIO, place: Place, path: str, picks: Picks, seed: bytes) -> None:
        self._values = Values(place, path, picks)
        self._path = path
        self._file = _Bounded(file)
        self._items = _items(self._file)
        self._count = 0
        self._digest = hashlib.sha256(seed)

    def begin(self, state: ListState) -> None:
        """Pass over the items that were read before."""
        self._values.begin(state)
        while self._count < state.offset and self.next() is not None:
            pass
        if state.offset and (self._count != state.offset or self._digest.hexdigest() != state.digest):
            raise other_list(self._path, f"its first {state.offset} items differ")

    def next(self) -> tuple[Any] | None:
        """Return the next item, None at the end."""
        try:
            item = next(self._items)
        except StopIteration:
            return None
        except Exception as error:  # of the parser, a decompressor, or a library for another's storage
            raise cannot_read(self._path, f"after item {self._count:,}", error) from error
        self._file.begin_item()
        self._count += 1
        self._digest.update(msgspec.json.encode(item, order="deterministic") + b"\n")
        return (item,)

    def entry(self, number: int, item: tuple[Any]) -> Row:
        """Return the entry of an item."""
        return self._values.entry(number, item[0], show(repr(item[0])))

    def mark(self) -> Mark:
        """Return how far the list has been read: items, whose number in all is not known."""
        return Mark(self._count, self._digest.copy().hexdigest(), None)


class _Bounded:
    """A file of which no item may be too large or too deep: the parser holds it whole, and a name for each level."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._since = 0
        self._depth = 0

    def read(self, size: int) -> bytes:
        if self._since > MAX_VALUE:
            raise ValueError(f"an item is longer than {MAX_VALUE:,} bytes")
        data = self._file.read(size)
        self._since += len(data)
        # Brackets in texts count as well, which only matters where very many are not closed.
        self._depth += sum(map(data.count, (b"[", b"{"))) - sum(map(data.count, (b"]", b"}")))
        if self._depth > MAX_DEPTH:
            raise ValueError(f"an item has more than {MAX_DEPTH:,} brackets that are not closed")
        return data

    def begin_item(self) -> None:
        self._since = 0
        self._depth = 0


def _items(file: _Bounded) -> Any:
    try:
        import ijson
    except ImportError as error:
        raise UsageError("a list that is one JSON array needs ijson: pip install 'crawler[json]'") from error
    return ijson.items(file, "item", buf_size=CHUNK, use_float=True)
