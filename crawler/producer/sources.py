"""Where lists come from: the files, folders, patterns and addresses of a user, or URLs of a caller's own."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import msgspec

from crawler.errors import ListUnreadable, UsageError
from crawler.producer.files import STANDARD_INPUT, find, is_address, is_many, open_file
from crawler.producer.formats import ENDINGS, Naming, Opened, open_list, read_name
from crawler.producer.picks import ALL, Cut, Picks

#: What opens a list: (file with `peek`, its size in bytes or None).
Opener = Callable[[], tuple[BinaryIO, int | None]]
#: A row of a caller's own: a URL, or columns with a URL among them.
Item = str | Mapping[str, Any]


class Source(NamedTuple):
    """A list, and what is taken of it."""

    #: How the list is called in records and messages.
    name: str
    #: How it is named to the user.
    path: str
    #: Opens it at its beginning.
    open: Opener
    picks: Picks = Picks()
    #: Of `ENDINGS`; None where the list's name or its beginning tells.
    format: str | None = None
    #: Shared by lists that are read one after the other.
    cut: Cut | None = None

    @property
    def is_input(self) -> bool:
        """Tell whether it is standard input, which cannot be opened twice."""
        return self.path == STANDARD_INPUT

    def read(self, file: BinaryIO, size: int | None) -> Opened:
        """Return the list in an open file; see `open_list`."""
        return open_list(file, size, Naming(self.path, self.name, self.format), self.picks)


def from_path(path: str, picks: Picks = Picks(), format: str | None = None) -> Source:  # noqa: B008  (frozen)
    """
    Return the list in a file, or on standard input where *path* is `-`.

    Raises:
        ListUnreadable: There is no such file on this machine, or it cannot be read; names it.
    """
    shown = os.fsencode(path).decode("utf-8", "backslashreplace")
    if not is_address(path):
        open_file(path)[0].close()
    name = STANDARD_INPUT if path == STANDARD_INPUT else Path(shown).name
    return Source(name, shown, lambda: open_file(path), picks, format)


def from_urls(urls: Iterable[Item], picks: Picks | None = None) -> Source:
    """
    Return URLs of the caller's own as a list called `urls`.

    Args:
        urls: URLs, or mappings of columns. The first one tells whether there are mappings among them.
        picks: What is taken of mappings, None for all of their columns.

    Raises:
        ListUnreadable: They raise an error.
    """
    items = _items(urls)
    first = [*islice(items, 1)]
    is_table = isinstance(first[0] if first else None, Mapping)
    stream = _Stream(chain(first, items), _json_line if is_table else _line)
    picks = (picks or Picks(columns=(ALL,))) if is_table else Picks()
    return Source("urls", "urls", lambda: (io.BufferedReader(stream), None), picks, "jsonl" if is_table else "txt")


def from_paths(paths: Iterable[str], picks: Picks, format: str | None, limit: int | None) -> list[Source]:
    """
    Return the lists that *paths* name, each once; a folder or a pattern names all lists in it, in the order of names.

    Args:
        paths: Of files, folders, patterns and addresses, `-` for standard input.
        picks: What is taken of each.
        format: Of `ENDINGS`; None where the name of each tells.
        limit: Rows taken of all together, None for all.

    Raises:
        ListUnreadable: One is not there.
        UsageError: A folder or a pattern names no list.
    """
    files = dict.fromkeys(file for path in paths for file in _expand(path, format))
    cut = Cut(picks.skip, limit) if picks.skip or limit is not None else None
    sources = [from_path(file, picks, format)._replace(cut=cut) for file in files]
    names = [source.name for source in sources]
    twice = {name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else set()
    # Lists of one name in different folders are called by their whole path.
    return [source._replace(name=source.path) if source.name in twice else source for source in sources]


def _expand(path: str, format: str | None) -> list[str]:
    if not is_many(path):
        return [path]
    found = find(path)
    is_pattern = not (path.endswith("/") or Path(path).is_dir())
    lists = [file for file in found if is_pattern or format or read_name(file).format]
    if not lists:
        endings = ", ".join(ending for endings in ENDINGS.values() for ending in endings)
        raise UsageError(
            f"{path} names no list: of its {len(found)} files none has one of the endings {endings}"
            if found
            else f"{path} names no list: there is no such file"
        )
    return lists


class _Stream(io.RawIOBase):
    """Items as a file of lines. One that is no URL is a line too, which fails as `bad_url`; the list goes on."""

    def __init__(self, items: Iterator[Any], line: Callable[[Any], bytes]) -> None:
        self._items = items
        self._line = line
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        while not self._rest:
            try:
                self._rest = self._line(next(self._items))
            except StopIteration:
                return 0
        piece, self._rest = self._rest[: len(buffer)], self._rest[len(buffer) :]
        buffer[: len(piece)] = piece
        return len(piece)


def _items(urls: Iterable[Item]) -> Iterator[Item]:
    try:
        yield from urls
    except Exception as error:  # whatever the caller's own code raises
        raise ListUnreadable(f"the URLs cannot be read on: {type(error).__name__}: {error}") from error


def _line(item: object) -> bytes:
    # A surrogate becomes what is not UTF-8, and so an entry that says so.
    return str(item).encode("utf-8", "surrogatepass").replace(b"\n", b" ") + b"\n"


def _json_line(item: Any) -> bytes:
    try:
        return _encode(dict(item) if isinstance(item, Mapping) else item) + b"\n"
    except (TypeError, ValueError, RecursionError, OverflowError) as error:
        return _line(f"({type(error).__name__}: {error})")


def _plain(value: Any) -> Any:
    """Return the numbers in what numpy has, and others' values as text."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


_encode = msgspec.json.Encoder(enc_hook=_plain, decimal_format="string").encode
