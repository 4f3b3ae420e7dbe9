"""Files of rows: csv, json lines, text and parquet, each written whole or not at all."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import msgspec

from crawler.errors import StorageFailed, UsageError
from crawler.export.columns import Column, Kind

#: Rows in a row group of parquet.
GROUP = 50_000


class Table(Protocol):
    """A file that takes rows."""

    def write(self, rows: Sequence[list[Any]]) -> None:
        """Add rows; their values are in the order of the columns."""

    def close(self) -> None:
        """End the file."""


@contextmanager
def publish(file: Path) -> Iterator[Callable[[list[Column]], Table]]:
    """
    Yield what begins a file with its columns; it has its name from the end of the block on, if nothing was raised.

    Raises:
        UsageError: No such format.
        StorageFailed: It cannot be written.
    """
    make, compress = _format(file)
    part = file.with_name(f".{file.name}.part")
    try:
        with part.open("wb") as raw, compress(raw) as packed:
            yield lambda columns: make(packed, columns)
        os.replace(part, file)
    except OSError as error:
        raise StorageFailed(f"{file} cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            part.unlink()


def _format(file: Path) -> tuple[Callable[[BinaryIO, list[Column]], Table], Callable[[BinaryIO], Any]]:
    compress = _COMPRESS.get(file.suffix.lower())
    ending = (Path(file.stem) if compress else file).suffix.lower()
    if ending not in FORMATS or (compress and ending == ".parquet"):
        raise UsageError(
            f"{file}: the ending must be one of {', '.join(FORMATS)}, all but .parquet also with one of "
            f"{', '.join(_COMPRESS)} after it"
        )
    return FORMATS[ending], compress or _plain


@contextmanager
def _plain(raw: BinaryIO) -> Iterator[BinaryIO]:
    yield raw


def _zstd(raw: BinaryIO) -> Any:
    try:
        from backports import zstd
    except ImportError as error:
        raise UsageError("a file compressed with zstd needs backports.zstd: pip install 'crawler[zstd]'") from error
    return zstd.ZstdFile(raw, "wb")


_COMPRESS: dict[str, Callable[[BinaryIO], Any]] = {
    # Without a time in it: the same rows make the same file.
    ".gz": lambda raw: gzip.GzipFile("", "wb", 6, raw, mtime=0),
    ".bz2": lambda raw: bz2.BZ2File(raw, "wb"),
    ".zst": _zstd,
}


class _Csv:
    def __init__(self, file: BinaryIO, columns: list[Column]) -> None:
        self._text = io.TextIOWrapper(file, "utf-8", newline="", write_through=True)
        self._writer = csv.writer(self._text, lineterminator="\n")
        self._writer.writerow([column.name for column in columns])

    def write(self, rows: Sequence[list[Any]]) -> None:
        self._writer.writerows([list(map(_cell, row)) for row in rows])

    def close(self) -> None:
        self._text.detach()


class _Jsonl:
    def __init__(self, file: BinaryIO, columns: list[Column]) -> None:
        self._file = file
        self._names = [column.name for column in columns]
        self._encoder = msgspec.json.Encoder()

    def write(self, rows: Sequence[list[Any]]) -> None:
        self._file.write(self._encoder.encode_lines([dict(zip(self._names, row, strict=True)) for row in rows]))

    def close(self) -> None:
        pass


class _Text:
    """URLs alone, a line each."""

    def __init__(self, file: BinaryIO, columns: list[Column]) -> None:
        self._file = file
        names = [column.name for column in columns]
        if "url" not in names:
            raise UsageError("a file of text has the URLs: leave --columns out, or name url")
        self._at = names.index("url")

    def write(self, rows: Sequence[list[Any]]) -> None:
        self._file.write("".join(f"{row[self._at]}\n" for row in rows).encode())

    def close(self) -> None:
        pass


class _Parquet:
    """Columns of one type each, compressed; what has parts is text in JSON."""

    def __init__(self, file: BinaryIO, columns: list[Column]) -> None:
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError as error:
            raise UsageError("an export to parquet needs pyarrow: pip install 'crawler[parquet]'") from error
        self._columns = columns
        self._arrow = pyarrow
        self._schema = pyarrow.schema([(column.name, _arrow_type(pyarrow, column.kind)) for column in columns])
        self._writer = pyarrow.parquet.ParquetWriter(file, self._schema, compression="zstd")
        self._rows: list[list[Any]] = []

    def write(self, rows: Sequence[list[Any]]) -> None:
        self._rows += rows
        if len(self._rows) >= GROUP:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if not self._rows:
            return
        values = zip(*self._rows, strict=True)
        arrays = [
            self._arrow.array(map(_CONVERT[column.kind], some), field.type)
            for column, some, field in zip(self._columns, values, self._schema, strict=True)
        ]
        self._writer.write_table(self._arrow.Table.from_arrays(arrays, schema=self._schema))
        self._rows = []


def _arrow_type(arrow: Any, kind: Kind) -> Any:
    made = {Kind.WHOLE: arrow.int64, Kind.REAL: arrow.float64, Kind.TRUTH: arrow.bool_, Kind.BYTES: arrow.binary}
    return made.get(kind, arrow.string)()


def _cell(value: Any) -> Any:
    """Return what stands in a cell of a csv: what has parts as JSON, bytes in base64."""
    if isinstance(value, bool) or not (value is None or isinstance(value, str | int | float)):
        return _text(value)
    return value


def _text(value: Any) -> str | None:
    if value is None or type(value) is str:
        return value
    encoded = msgspec.to_builtins(value) if not isinstance(value, dict | list) else value
    return encoded if type(encoded) is str else msgspec.json.encode(encoded).decode()


def _json(value: Any) -> str | None:
    return None if value is None else msgspec.json.encode(value).decode()


#: What a value becomes in parquet.
_CONVERT: dict[Kind, Callable[[Any], Any]] = {
    Kind.TEXT: _text,
    Kind.WHOLE: lambda value: value,
    Kind.REAL: lambda value: value,
    Kind.TRUTH: lambda value: value,
    Kind.BYTES: lambda value: value,
    Kind.MIXED: _json,
}

#: By the ending of a file's name.
FORMATS: dict[str, Callable[[BinaryIO, list[Column]], Table]] = {
    ".parquet": _Parquet,
    ".csv": _Csv,
    ".jsonl": _Jsonl,
    ".txt": _Text,
}
