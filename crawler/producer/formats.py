"""Which format a list has, and how it is opened: a new format is one new file beside this one and a line here."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any, BinaryIO, NamedTuple, Protocol
from urllib.parse import urlsplit

from crawler.errors import ListUnreadable, UsageError
from crawler.model import ListState, Row
from crawler.producer.compression import BY_ENDING, BY_MAGIC
from crawler.producer.entries import Place
from crawler.producer.files import BUFFER, is_address
from crawler.producer.objects import ArrayList, LinesList
from crawler.producer.parquet import ParquetList
from crawler.producer.picks import Picks
from crawler.producer.stream import Mark, Stream, cannot_read
from crawler.producer.tables import TableList
from crawler.producer.text import TextList

#: Formats, and the endings of names by which they are known.
ENDINGS = {
    "txt": (".txt", ".text", ".lst", ".list", ".urls"),
    "csv": (".csv",),
    "tsv": (".tsv", ".tab"),
    "jsonl": (".jsonl", ".ndjson", ".jsonlines"),
    "json": (".json",),
    "parquet": (".parquet", ".pq"),
}
_BY_ENDING = {ending: format for format, endings in ENDINGS.items() for ending in endings}
#: How a parquet file begins.
_PARQUET = b"PAR1"
#: Bytes that are looked at to tell what a file is.
_LOOK = 4096
#: How text in UTF-16 begins.
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


class Opened(Protocol):
    """A list that is open."""

    def begin(self, state: ListState) -> None:
        """Pass over what was read before; UsageError where it is not the beginning of this list."""

    def next(self) -> Any:
        """Return the next row as the format has it, None at the end."""

    def entry(self, number: int, row: Any) -> Row | None:
        """Return the entry of a row, None where it is none."""

    def mark(self) -> Mark:
        """Return how far the list has been read: up to the row returned last."""


class Name(NamedTuple):
    """What the name of a list says."""

    #: Without the endings that are known.
    stem: str
    #: None where it says nothing.
    format: str | None
    #: Ending of a compressed file, "" where it is none.
    compression: str


def read_name(path: str) -> Name:
    """Tell from its name what a list is; an address may have a query."""
    name = PurePosixPath(urlsplit(path).path if is_address(path) else path)
    compression = name.suffix.lower() if name.suffix.lower() in BY_ENDING else ""
    if compression:
        name = name.with_suffix("")
    format = _BY_ENDING.get(name.suffix.lower())
    return Name(name.stem if format else name.name, format, compression)


def open_list(file: BinaryIO, size: int | None, naming: Naming, picks: Picks) -> Opened:
    """
    Open a list.

    Args:
        file: At its beginning, with `peek`; the list reads from it, the caller closes it.
        size: Bytes of the file, None where that is not known.
        naming: What it is called, and what it is said to be.
        picks: What is taken of it.

    Raises:
        UsageError: It is in no known format, or lacks a column that is asked for.
        ListUnreadable: It cannot be read.
    """
    head, said = _look(file, naming.path), read_name(naming.path)
    by_magic = (unpack for magic, unpack in BY_MAGIC.items() if head.startswith(magic))
    unpack = BY_ENDING.get(said.compression) or next(by_magic, None)
    if unpack:
        file, size = io.BufferedReader(unpack(file), BUFFER), None
        head = _look(file, naming.path)
    format = naming.format or said.format or _guess(head, naming.path)
    if format == "parquet" and unpack:
        raise UsageError(f"{naming.path} is parquet, which is compressed inside: unpack it")
    if format == "json" and not head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
        format = "jsonl"  # many call it so
    _refuse_binary(format, head, naming.path)
    return _OPENERS[format](_Raw(file, size, naming.path, naming.name, picks, picks.identity(format)))


class Naming(NamedTuple):
    """What a list is called, and what it is said to be."""

    #: How it is named to the user.
    path: str
    #: How it is called in records.
    name: str
    #: Of `ENDINGS`, None where its name or its beginning tells.
    format: str | None = None


class _Raw(NamedTuple):
    """An open file that is about to be read as a list."""

    file: BinaryIO
    size: int | None
    path: str
    name: str
    picks: Picks
    seed: bytes

    def stream(self) -> Stream:
        return Stream(self.file, self.path, self.seed, self.size)

    def place(self, unit: str) -> Place:
        return Place(self.path, self.name, unit)


_OPENERS: dict[str, Callable[[_Raw], Opened]] = {
    "txt": lambda raw: TextList(raw.stream(), raw.path, raw.picks),
    "csv": lambda raw: TableList(raw.stream(), raw.place("row"), raw.path, raw.picks, ","),
    "tsv": lambda raw: TableList(raw.stream(), raw.place("row"), raw.path, raw.picks, "\t"),
    "jsonl": lambda raw: LinesList(raw.stream(), raw.place("line"), raw.path, raw.picks),
    "json": lambda raw: ArrayList(raw.file, raw.place("item"), raw.path, raw.picks, raw.seed),
    "parquet": lambda raw: ParquetList(raw.file, raw.place("row"), raw.path, raw.picks, raw.seed),
}


def _look(file: Any, path: str) -> bytes:
    """Return how a file begins, without reading it."""
    try:
        head: bytes = file.peek(_LOOK)[:_LOOK]
    except ListUnreadable:
        raise
    except Exception as error:  # whatever a decompressor or a library for another's storage raises
        raise cannot_read(path, "from its beginning", error) from error
    return head


def _guess(head: bytes, path: str) -> str:
    """Tell what a list is whose name does not say."""
    if head.startswith(_PARQUET):
        return "parquet"
    if b"\x00" in head and not head.startswith(_UTF_16):
        raise UsageError(
            f"{path} is no text, and neither its name nor its beginning tells what it is: name its format with "
            f"--list-format ({', '.join(ENDINGS)})"
        )
    return "txt"


def _refuse_binary(format: str, head: bytes, path: str) -> None:
    """Refuse what would be read as text and is none."""
    if format != "parquet" and head.startswith(_PARQUET):
        raise UsageError(f"{path} is a parquet file: give it the ending .parquet, or say --list-format parquet")
    if format != "parquet" and head.startswith(_UTF_16):
        raise UsageError(f"{path} is text in UTF-16: save it as UTF-8")
