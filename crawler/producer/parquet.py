"""
Lists in parquet: tables that are read by columns, from any row on.

Such a file is never appended to, so it is known again by its beginning and by its footer, which has place, size and
bounds of all that is in it. What was read is passed over by row groups.

Source: https://parquet.apache.org/docs/file-format/
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from typing import Any, BinaryIO

from crawler.errors import UsageError
from crawler.model import ListState, Row
from crawler.producer.entries import Place
from crawler.producer.picks import Picks, lay_out
from crawler.producer.stream import Mark, cannot_read, other_list

#: Rows decoded at a time.
BATCH = 2_000
#: Bytes of a column that are read at a time.
BUFFER = 256 * 1024
#: Bytes at the beginning by which a file is known again: two short lists can have the same footer.
HEAD = 64 * 1024
#: Bytes at the end of a file: the length of the footer, and what shows that it is one.
TAIL = 8
_MAGIC = b"PAR1"


class ParquetList:
    """The rows of an open list."""

    def __init__(self, file: BinaryIO, place: Place, path: str, picks: Picks, seed: bytes) -> None:
        self._place = place
        self._path = path
        self._digest = _digest(file, path, seed)
        self._file = _open(file, path)
        layout = lay_out(picks, self._file.schema_arrow.names, path)
        self._url, self._said, self._carried = layout.url, layout.digest, layout.carried
        self._wanted = list(dict.fromkeys((layout.url, *layout.carried)))
        self._read = 0
        self._batches: Iterator[Any] = self._from(0)
        self._size = 0
        self._at = 0
        self._batch: Any = None
        #: Of the current batch, by column; made when the first of its rows is taken.
        self._values: dict[str, list[Any]] = {}

    def begin(self, state: ListState) -> None:
        """Pass over what was read before."""
        if not state.offset:
            return
        if state.digest != self._digest:
            raise other_list(self._path, "its beginning or its footer differs")
        self._batches = self._from(state.offset)
        self._read = state.offset

    def next(self) -> int | None:
        """Return where in the current batch the next row is, None at the end."""
        while self._at >= self._size:
            try:
                self._batch = next(self._batches, None)
            except Exception as error:  # of the library, or of one for another's storage
                raise cannot_read(self._path, f"after row {self._read:,}", error) from error
            if self._batch is None:
                return None
            self._size, self._at, self._values = self._batch.num_rows, 0, {}
        self._at += 1
        self._read += 1
        return self._at - 1

    def entry(self, number: int, at: int) -> Row:
        """Return the entry of a row."""
        values = self._values or self._decode()
        columns = {name: values[name][at] for name in self._carried} if self._carried else None
        digest = None if self._said is None else values[self._said][at]
        return self._place.entry(number, values[self._url][at], digest, columns)

    def mark(self) -> Mark:
        """Return how far the list has been read: rows."""
        return Mark(self._read, self._digest, self._file.metadata.num_rows)

    def _from(self, row: int) -> Iterator[Any]:
        """Yield batches of the columns that are wanted, from a row (counted from 0) on."""
        meta = self._file.metadata
        for group in range(meta.num_row_groups):
            if (rows := meta.row_group(group).num_rows) <= row:
                row -= rows
                continue
            found = self._file.iter_batches(BATCH, row_groups=[group], columns=self._wanted, use_threads=False)
            for batch in found:
                passed = min(row, batch.num_rows)
                row -= passed
                yield batch.slice(passed)

    def _decode(self) -> dict[str, list[Any]]:
        self._values = {name: _values(self._batch.column(name)) for name in self._wanted}
        return self._values


def _open(file: BinaryIO, path: str) -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise UsageError(f"{path} is a list in parquet, which needs pyarrow: pip install 'crawler[parquet]'") from error
    try:
        # Read as it is used: else all of a row group's columns would be in memory at once.
        return pyarrow.parquet.ParquetFile(file, buffer_size=BUFFER, pre_buffer=False)
    except Exception as error:  # of the library, or of one for another's storage
        raise cannot_read(path, "from its beginning", error) from error


def _digest(file: BinaryIO, path: str, seed: bytes) -> str:
    """Return a digest over size, beginning and footer of a file, which is left at its beginning."""
    if not file.seekable():
        raise UsageError(f"{path} is parquet, which is read from its end: give it as a file that is not compressed")
    try:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - TAIL))
        tail = file.read(TAIL)
        length = int.from_bytes(tail[:4], "little")
        if tail[4:] != _MAGIC or length > size - TAIL:
            raise ValueError("it is no parquet file, or its end is missing")
        file.seek(size - TAIL - length)
        footer = file.read(length)
        file.seek(0)
        head = file.read(HEAD)
        file.seek(0)
    except Exception as error:  # whatever a library for another's storage raises
        raise cannot_read(path, "from its end", error) from error
    return hashlib.sha256(seed + size.to_bytes(8, "big") + head + footer).hexdigest()


def _values(column: Any) -> list[Any]:
    """Return the values of a column; times as text, because Python has no nanoseconds."""
    import pyarrow

    types = pyarrow.types
    if types.is_timestamp(column.type) or types.is_time(column.type):
        column = column.cast(pyarrow.string())
    try:
        found: list[Any] = column.to_pylist()
    except ValueError:  # text that is no UTF-8, or a time inside of something else
        found = [_value(scalar) for scalar in column]
    return found


def _value(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        to_bytes = getattr(scalar, "as_buffer", None)
        data: bytes = str(scalar).encode() if to_bytes is None else to_bytes().to_pybytes()
        return data.decode("utf-8", "surrogateescape")
    except ValueError:
        return str(scalar)
