"""Which columns an export has, and of which kind: those of every crawl, and those that its lists brought along."""

from __future__ import annotations

import enum
import types
import typing
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from crawler.errors import UsageError
from crawler.facts import LIST_PREFIX, Facts
from crawler.model import Record

#: Columns of lists at most: objects of JSON could have other keys on each line.
MAX_COLUMNS = 1_000
#: Whole numbers beyond this are no int64.
_LARGE = 1 << 63


class Kind(enum.Enum):
    """What the values of a column are."""

    TEXT = "text"
    WHOLE = "whole"
    REAL = "real"
    TRUTH = "truth"
    BYTES = "bytes"
    #: Values with parts, or of several kinds: text in JSON where a format knows no such.
    MIXED = "mixed"


class Column(NamedTuple):
    """One column of an export."""

    name: str
    kind: Kind
    #: Its name in the list that brought it; None for one of ours.
    key: str | None = None


_KINDS: dict[type, Kind] = {
    str: Kind.TEXT,
    datetime: Kind.TEXT,
    int: Kind.WHOLE,
    float: Kind.REAL,
    bool: Kind.TRUTH,
    bytes: Kind.BYTES,
}


def _own() -> Iterator[Column]:
    yield from (Column("list", Kind.TEXT), Column("line", Kind.WHOLE), Column("id", Kind.WHOLE))
    yield Column("url", Kind.TEXT)
    for struct in (Record, Facts):
        for name, hint in typing.get_type_hints(struct).items():
            if name in struct.__struct_fields__ and name not in ("id", "url", "facts"):
                yield Column(name, _kind_of_hint(hint))


def _kind_of_hint(hint: Any) -> Kind:
    """Return the kind of a field that may be None."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) or typing.get_origin(hint) else (hint,)
    [inner] = [option for option in options if option is not type(None)] if len(options) < 3 else [dict]
    if not isinstance(inner, type) or typing.get_origin(inner) is not None:
        return Kind.MIXED
    return next((kind for known, kind in _KINDS.items() if issubclass(inner, known)), Kind.MIXED)


#: Columns of every crawl.
OWN = tuple(_own())
_NAMES = {column.name for column in OWN}
_unpack = msgspec.msgpack.Decoder().decode


def carried_columns(packed: Iterable[bytes], chosen: tuple[str, ...]) -> list[Column]:
    """
    Return the columns that lists brought along, in the order in which they are first seen.

    Args:
        packed: The columns of each entry.
        chosen: Names of the only columns that are wanted, as exported; none for all. Others are returned too, as long
            as they are not too many.

    Raises:
        UsageError: There are too many, and none is chosen.
    """
    kinds: dict[str, Kind | None] = {}
    seen: set[tuple[tuple[str, ...], tuple[Any, ...]]] = set()
    for blob in packed:
        entry = _unpack(blob)
        shape = (tuple(entry), tuple(_kind_of(value) for value in entry.values()))
        if shape in seen:
            continue
        if len(seen) < MAX_COLUMNS:
            seen.add(shape)
        for name, kind in zip(*shape, strict=True):
            if name in kinds or len(kinds) <= MAX_COLUMNS or exported(name) in chosen:
                kinds[name] = _join(kinds.get(name), kind)
        if len(kinds) > MAX_COLUMNS and not chosen:
            raise UsageError(f"the lists have more than {MAX_COLUMNS:,} columns: choose some with --columns")
    return [Column(exported(name), kind or Kind.TEXT, name) for name, kind in kinds.items()]


def exported(name: str) -> str:
    """Return the name under which the column *name* of a list is exported."""
    return LIST_PREFIX + name if name in _NAMES else name


def _kind_of(value: Any) -> Kind | None:
    if value is None:
        return None
    if isinstance(value, int) and not -_LARGE <= value < _LARGE:
        return Kind.MIXED
    return _KINDS.get(type(value), Kind.MIXED)


def _join(one: Kind | None, other: Kind | None) -> Kind | None:
    """Return the kind of a column that has values of two."""
    if one is None or other is None or one is other:
        return one or other
    return Kind.REAL if {one, other} == {Kind.WHOLE, Kind.REAL} else Kind.MIXED
