"""
Lists that are tables in text: csv and tsv, with the names of their columns in the first row.

Quoted as RFC 4180 says, so that a field may hold line ends. Rows are counted from 1 after the first, blank lines not.
A row whose quotes are wrong is an entry that fails, and reading goes on with the line after its first one.

Source: RFC 4180.
"""

from __future__ import annotations

import csv
from codecs import BOM_UTF8
from collections.abc import Iterator

from crawler.errors import UsageError
from crawler.model import ListState, Row
from crawler.producer.entries import Place
from crawler.producer.picks import Layout, Picks, lay_out
from crawler.producer.stream import Mark, Stream

#: Bytes of a row at most.
MAX_ROW = 1 << 20


class Torn(ValueError):
    """Report a row that cannot be told from the next."""


class TableList:
    """The rows of an open list."""

    def __init__(self, stream: Stream, place: Place, path: str, picks: Picks, delimiter: str) -> None:
        self._stream = stream
        self._place = place
        self._path = path
        self._delimiter = delimiter
        self._lines = _Lines(stream)
        self._reader = csv.reader(self._lines, delimiter=delimiter, strict=True)
        names = self._head()
        self._layout = lay_out(picks, names, path)
        self._width = len(names)
        self._url, self._digest, self._carried = _places(self._layout, names)

    def _head(self) -> list[str]:
        names = self.next()
        if not isinstance(names, list):
            why = "it is empty" if names is None else str(names)
            raise UsageError(f"{self._path} has no first row that names its columns: {why}")
        return names

    def begin(self, state: ListState) -> None:
        """Pass over what was read before, the names of the columns among it."""
        if state.offset:
            self._stream.pass_over(state)

    def next(self) -> list[str] | Torn | None:
        """Return the fields of the next row, what is wrong with it, or None at the end."""
        while True:
            try:
                fields = next(self._reader)
            except StopIteration:
                self._lines.accept()
                return None
            except (csv.Error, Torn) as error:
                self._lines.reject()
                return Torn(str(error))
            self._lines.accept()
            if fields:
                return fields

    def entry(self, number: int, fields: list[str] | Torn) -> Row:
        """Return the entry of a row."""
        if isinstance(fields, Torn):
            return self._place.bad(number, f"it is no row of a table: {fields}")
        if len(fields) > self._width:
            return self._place.bad(number, f"it has {len(fields)} fields, the first row {self._width}")
        fields += [""] * (self._width - len(fields))
        columns = {name: fields[n] for name, n in self._carried.items()} if self._carried else None
        digest = None if self._digest is None else fields[self._digest]
        return self._place.entry(number, fields[self._url], digest, columns)

    def mark(self) -> Mark:
        """Return how far the list has been read."""
        return self._stream.mark()


class _Lines:
    """The lines of a row on their way to the parser, which may prove to be more than one row."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._taken: list[bytes] = []
        self._size = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._stream.read(MAX_ROW)
        if not line:
            raise StopIteration
        is_first = self._stream.is_unused and not self._taken
        self._taken.append(line)
        self._size += len(line)
        if self._size >= MAX_ROW:
            raise Torn(f"it is longer than {MAX_ROW:,} bytes, or its quotes are not closed")
        return line.removeprefix(BOM_UTF8 if is_first else b"").decode("utf-8", "surrogateescape")

    def accept(self) -> None:
        """Note that the lines taken are a row."""
        for line in self._taken:
            self._stream.use(line)
        self._clear()

    def reject(self) -> None:
        """Give up the first of the lines taken, and have the others read again."""
        first, *others = self._taken
        self._stream.put_back(others)
        self._stream.use(first)
        self._stream.finish(first, MAX_ROW)
        self._clear()

    def _clear(self) -> None:
        self._taken.clear()
        self._size = 0


def _places(layout: Layout, names: list[str]) -> tuple[int, int | None, dict[str, int]]:
    digest = None if layout.digest is None else names.index(layout.digest)
    return names.index(layout.url), digest, {name: names.index(name) for name in layout.carried}
