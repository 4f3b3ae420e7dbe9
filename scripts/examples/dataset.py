"""
Both ends of `scripts/demo dataset`: a list as data sets come, and shards read back and held against it.

    python scripts/examples/dataset.py list BASE LIST              write LIST, in parquet, of the fixtures at BASE
    python scripts/examples/dataset.py read LIST ROWS SHARD...     ROWS is what `crawler export` wrote, as .jsonl

The status is 1 where something is not as it should be; what that is, is said.
"""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
#: Columns that go along with a URL.
COLUMNS = ("TEXT", "LICENSE", "similarity", "tags")
LICENSES = ("CC0-1.0", "CC-BY-4.0", "CC-BY-SA-4.0")
#: What the demo's crawl makes of every picture, (width, height) in pixels.
SIZE = (96, 96)
#: Fixtures that its filter refuses, though they are images.
REFUSED = {"one_pixel.png": "too_narrow"}
#: Rows of a table that are shown, and characters of a text.
SHOWN, WIDTH = 6, 48


def manifest() -> dict[str, tuple[str, str]]:
    """Return (what should become of it, what it is) of each fixture, by its name."""
    lines = [line.split("\t") for line in (FIXTURES / "MANIFEST.tsv").read_text("utf-8").splitlines()[1:]]
    return {name: (REFUSED.get(name, outcome), purpose) for name, _, outcome, purpose in lines}


def make(base: str) -> pa.Table:
    """Return a list like those that go about: with dead links, a URL that is there twice, and one that is none."""
    pairs = [(f"{base}/fixtures/{name}", purpose) for name, (_, purpose) in manifest().items()]
    pairs += [
        (f"{base}/missing/1", "picture that is gone"),
        (pairs[0][0], "first picture in other words"),
        ("no link", "picture whose link was lost"),
    ]
    numbers = range(len(pairs))
    return pa.table(
        {
            "URL": [url for url, _ in pairs],
            "TEXT": [text for _, text in pairs],
            "LICENSE": [LICENSES[number % len(LICENSES)] for number in numbers],
            "similarity": [round(0.28 + number / 300, 4) for number in numbers],
            "tags": [["fixture", f"row {number}"] for number in numbers],
        }
    )


# ------------------------------------------------------------------ reading back


def samples(shards: list[str]) -> list[dict[str, Any]]:
    """Return what a training job gets of shards: pictures, captions and columns."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about what the package itself uses
        import webdataset

        return list(webdataset.WebDataset(shards, shardshuffle=False).decode("pil"))


def members(shard: str) -> list[str]:
    """Return the names that `tar` lists, once it has read all of a shard."""
    return subprocess.run(["tar", "-tf", shard], capture_output=True, text=True, check=True).stdout.splitlines()


def compare(rows: list[dict[str, Any]], exported: list[dict[str, Any]], shards: list[str]) -> Iterator[str]:
    """
    Yield what is wrong with the results of a crawl.

    Args:
        rows: Of its list.
        exported: Of `crawler export`, which has one for each of these.
        shards: Paths of all tars.
    """
    yield from _differ("rows exported", len(exported), len(rows))
    for row, found in zip(rows, exported, strict=False):
        yield from _differ(f"columns of {row['URL']}", carried(found), carried(row))
        yield from _differ(f"outcome of {row['URL']}", outcome(found), expected(row["URL"]))
    # Of several rows with one URL, the first goes into the shard.
    stored = {Path(row["path"]).stem: row for row in reversed(exported) if row["outcome"] == "stored"}
    files = [f"{key}.{ending}" for key in stored for ending in ("jpg", "json", "txt")]
    yield from _differ("files in tars", sorted(name for shard in shards for name in members(shard)), sorted(files))
    read = samples(shards)
    yield from _differ("samples", sorted(sample["__key__"] for sample in read), sorted(stored))
    for sample in read:
        yield from _compare_one(sample, stored.get(sample["__key__"], {}))


def _compare_one(sample: dict[str, Any], row: dict[str, Any]) -> Iterator[str]:
    key = sample["__key__"]
    yield from _differ(f"caption of {key}", sample.get("txt"), row.get("TEXT"))
    yield from _differ(f"columns of {key}", carried(sample.get("json", {})), carried(row))
    yield from _differ(f"size of {key}", sample["jpg"].size if "jpg" in sample else None, SIZE)


def _differ(what: str, found: object, wanted: object) -> Iterator[str]:
    if found != wanted:
        yield f"{what}: {found!r} where there should be {wanted!r}"


def carried(row: dict[str, Any]) -> dict[str, Any]:
    """Return the columns that a row, or the JSON of a sample, has from the list."""
    return {name: row.get(name) for name in COLUMNS}


def outcome(row: dict[str, Any]) -> str:
    """Return why an exported row failed, or that it is stored."""
    return str(row["reason"] or row["outcome"])


def expected(url: str) -> str:
    """Return what should become of a URL of the list."""
    if not url.startswith("http://"):
        return "bad_url"
    return manifest().get(Path(url).name, ("http_not_found", ""))[0]


# ------------------------------------------------------------------ for people


def show(heads: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Print the first rows of a table, and how many more there are."""
    lines = [[*heads], *([_cell(cell) for cell in row] for row in rows)]
    shown, more = lines[: SHOWN + 1], len(lines) - SHOWN - 1
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    for line in shown:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    if more > 0:
        print(f"… and {more} more")


def _cell(value: object) -> str:
    text = ", ".join(value) if isinstance(value, list) else str(value)
    return text if len(text) <= WIDTH else f"{text[: WIDTH - 1]}…"


def make_list(base: str, path: str) -> bool:
    """Write the list, and show it."""
    table = make(base)
    pq.write_table(table, path)
    show(table.column_names, (row.values() for row in table.to_pylist()))
    return True


def read_back(path: str, exported: str, *shards: str) -> bool:
    """Show what is in the shards and return True, or say what is not as it should be."""
    rows = pq.read_table(path).to_pylist()
    outcomes = [json.loads(line) for line in Path(exported).read_text("utf-8").splitlines()]
    if wrong := [*compare(rows, outcomes, [*shards])]:
        print(*(f"wrong: {line}" for line in wrong), sep="\n", file=sys.stderr)
        return False
    in_order = sorted(samples([*shards]), key=lambda sample: str(sample["__key__"]))
    show(("__key__", "jpg", "txt", *(f"json: {name}" for name in COLUMNS[1:])), map(_cells, in_order))
    images = len({row["path"] for row in outcomes} - {None})
    print(f"\nAll as it should be: of {len(rows)} rows {images} images, each once in one of {len(shards)} shards,")
    print("with its caption and columns; every other row has the reason for which it failed.")
    return True


def _cells(sample: dict[str, Any]) -> list[object]:
    picture, (_, *others) = sample["jpg"], carried(sample["json"]).values()
    return [sample["__key__"], f"{picture.width}×{picture.height} {picture.mode}", sample["txt"], *others]


if __name__ == "__main__":
    sys.exit(0 if {"list": make_list, "read": read_back}[sys.argv[1]](*sys.argv[2:]) else 1)
