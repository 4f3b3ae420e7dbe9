"""Records out of a ledger: one row for each entry, in the formats that others read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec

from crawler.broker.syncs import sync_log
from crawler.broker.views import EntryRow, View
from crawler.errors import UsageError
from crawler.export.columns import OWN, Column, carried_columns
from crawler.export.files import Table, publish
from crawler.model import Outcome, Record
from crawler.out import Out
from crawler.reasons import Reason
from crawler.settings import HostRule

__all__ = ["COLUMNS", "Choice", "export"]

#: Columns of a row that every crawl has, in order: which entry, then what became of its task (empty without a record).
COLUMNS = tuple(column.name for column in OWN)
#: Rows written at a time.
BATCH = 1_000

_unpack = msgspec.msgpack.Decoder().decode


class Choice(NamedTuple):
    """Which rows are exported, those that fit all that is said, and what of them."""

    #: None for all, also those of tasks without a record.
    outcome: Outcome | None = None
    #: Reasons of failures; none for all.
    reasons: tuple[str, ...] = ()
    #: Names of hosts, `*.NAME` for all below NAME; none for all.
    hosts: tuple[str, ...] = ()
    #: Names of columns, in order; none for all.
    columns: tuple[str, ...] = ()
    #: Whether the rows are a list of what failed: its URL and its own columns, without lines that were no URL.
    is_list: bool = False

    def takes(self, entry: EntryRow) -> bool:
        """Tell whether an entry is exported."""
        record = entry.record
        if self.is_list and (record is None or record.reason in (None, Reason.BAD_URL)):
            return False
        if self.outcome is not None and (record is None or record.outcome is not self.outcome):
            return False
        if self.reasons and (record is None or record.reason not in self.reasons):
            return False
        return not self.hosts or self._fits(entry)

    def _fits(self, entry: EntryRow) -> bool:
        if entry.record is not None and entry.record.reason is Reason.BAD_URL:
            return False
        name = urlsplit(entry.url).hostname or ""
        return any(HostRule(pattern=pattern).fits(name) for pattern in self.hosts)


def export(out: Out, file: Path, choice: Choice = Choice()) -> int:  # noqa: B008  (frozen)
    """
    Write a row for each entry, in the order of lists and lines.

    Args:
        out: A crawl.
        file: Written whole or not at all; its ending chooses the format, one of `FORMATS`.
        choice: Which rows, and which of their columns.

    Returns:
        Number of rows.

    Raises:
        UsageError: No such format, or no such column.
        StorageFailed: It cannot be written.
    """
    with closing(View(out.ledger)) as view, publish(file) as begin:
        lists = view.lists()  # from here on entries may be added, which are left out
        columns = _choose(choice, carried_columns(view.carried(lists), choice.columns))
        rows = map(_values(columns), filter(choice.takes, view.entries(lists)))
        count = _write(begin(columns), rows)
        sync_log(out.ledger)  # no row of what a power cut takes back, where a crawl is running
        return count


def _choose(choice: Choice, carried: list[Column]) -> list[Column]:
    own = [column for column in OWN if not choice.is_list or column.name == "url"]
    known = {column.name: column for column in [*own, *carried]}
    if unknown := [name for name in choice.columns if name not in known]:
        raise UsageError(f"there is no column `{unknown[0]}`, but {', '.join(list(known)[:100])}")
    return [known[name] for name in choice.columns or known]


def _values(columns: list[Column]) -> Any:
    """Return a function from an entry to its values in *columns*."""
    carries = any(column.key is not None for column in columns)

    def values(entry: EntryRow) -> list[Any]:
        own = flatten(entry)
        theirs = _unpack(entry.columns) if carries and entry.columns is not None else {}
        return [own.get(column.name) if column.key is None else theirs.get(column.key) for column in columns]

    return values


def flatten(entry: EntryRow) -> dict[str, Any]:
    """Return what is known of an entry, by the names of `COLUMNS`; facts beside the rest. What is not is left out."""
    found = {} if entry.record is None else dict(_fields(entry.record))
    found.update(list=entry.list_name, line=entry.line, id=entry.task_id, url=entry.url)
    return found


def _fields(record: Record) -> Iterator[tuple[str, Any]]:
    for name in record.__struct_fields__:
        value = getattr(record, name)
        if isinstance(value, msgspec.Struct):
            yield from ((inner, getattr(value, inner)) for inner in value.__struct_fields__)
        else:
            yield name, value


def _write(table: Table, rows: Iterator[list[Any]]) -> int:
    count = 0
    while some := list(islice(rows, BATCH)):
        table.write(some)
        count += len(some)
    table.close()
    return count
