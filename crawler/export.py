"""Records out of a ledger: one row for each entry."""

from __future__ import annotations

import contextlib
import csv
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

import msgspec

from crawler.broker.views import EntryRow, View
from crawler.errors import StorageFailed, UsageError
from crawler.facts import Facts
from crawler.model import Record
from crawler.out import Out

#: Columns of a row, in order: which entry, then what became of its task (empty without a record).
_OF_RECORD = tuple(name for name in Record.__struct_fields__ if name not in ("id", "url", "facts"))
COLUMNS = ("list", "line", "id", "url", *_OF_RECORD, *Facts.__struct_fields__)


def export(out: Out, file: Path) -> int:
    """
    Write a row for each entry, in the order of lists and lines.

    Args:
        out: A crawl.
        file: Written whole or not at all; its ending chooses the format, .jsonl or .csv.

    Returns:
        Number of rows.

    Raises:
        UsageError: No such format.
        StorageFailed: It cannot be written.
    """
    write = FORMATS.get(file.suffix.lower())
    if write is None:
        raise UsageError(f"{file}: the ending must be one of {', '.join(FORMATS)}")
    part = file.with_name(f".{file.name}.part")
    view = View(out.ledger)
    try:
        with part.open("w", encoding="utf-8", newline="") as text:
            count = write(text, map(row, view.entries()))
        os.replace(part, file)
    except OSError as error:
        raise StorageFailed(f"{file} cannot be written: {error.strerror}") from error
    finally:
        view.close()
        with contextlib.suppress(OSError):
            part.unlink()
    return count


def row(entry: EntryRow) -> dict[str, Any]:
    """Return an entry with the columns of `COLUMNS`."""
    facts = dict.fromkeys(COLUMNS)
    if entry.record is not None:
        facts.update(msgspec.to_builtins(entry.record))
        facts.update(facts.pop("facts") or {})
    facts.update(list=entry.list_name, line=entry.line, id=entry.task_id, url=entry.url)
    return {name: facts[name] for name in COLUMNS}


def _jsonl(text: TextIO, rows: Iterator[dict[str, Any]]) -> int:
    return sum(1 for facts in rows if text.write(json.dumps(facts, ensure_ascii=False) + "\n"))


def _csv(text: TextIO, rows: Iterator[dict[str, Any]]) -> int:
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    return sum(1 for facts in rows if writer.writerow(dict(zip(COLUMNS, map(_cell, facts.values()), strict=True))))


def _cell(value: Any) -> Any:
    """Return what stands in a cell: what has parts as JSON."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else value


FORMATS: dict[str, Callable[[TextIO, Iterator[dict[str, Any]]], int]] = {".jsonl": _jsonl, ".csv": _csv}
