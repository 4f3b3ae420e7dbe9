"""Lists in parquet: types, nulls, nested columns, row groups, files that are cut, and going on from any row."""

from __future__ import annotations

import decimal
import io
import itertools
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from crawler import producer
from crawler.broker.local import LocalTaskQueue
from crawler.errors import ListUnreadable, UsageError
from crawler.producer import Picks, from_path, from_paths
from tests.command import LOCAL, records, run
from tests.site import Site
from tests.test_lists import THREE, U, V, W, bad, columns, entries, good, lines, read


def written(table: dict[str, Any] | pa.Table, **more: Any) -> bytes:
    """Return a table as parquet."""
    data = io.BytesIO()
    pq.write_table(table if isinstance(table, pa.Table) else pa.table(table), data, **more)
    return data.getvalue()


@pytest.mark.parametrize(
    "kind",
    [pa.string(), pa.large_string(), pa.binary(), pa.large_binary(), pa.dictionary(pa.int32(), pa.string())],
    ids=str,
)
@pytest.mark.parametrize("group", [1, 2, 100])
def test_a_url_may_have_any_type_of_text(kind: pa.DataType, group: int) -> None:
    """Also bytes, and also by numbers in a dictionary; in groups of any size."""
    urls = pa.array([U, V, W]).cast(kind) if pa.types.is_dictionary(kind) else pa.array([U, V, W], kind)
    data = written({"id": [1, 2, 3], "url": urls}, row_group_size=group)
    assert good(entries(data, "list.parquet")) == THREE
    assert good(entries(data, "list")) == THREE


def test_values_of_columns_keep_their_types() -> None:
    """Nested ones too; times are text, and null is null."""
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    data = written(
        {
            "url": [U, V],
            "n": pa.array([7, None], pa.int8()),
            "x": [1.5, None],
            "yes": [True, None],
            "day": [date(2026, 1, 2), None],
            "utc": pa.array([moment, None], pa.timestamp("ns", "UTC")),
            "local": pa.array([moment.replace(tzinfo=None), None], pa.timestamp("ns")),
            "price": [decimal.Decimal("1.50"), None],
            "deep": [{"a": [1, 2], "b": "ä"}, None],
            "pairs": pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int64())),
            "said": pa.array(["x", None]).dictionary_encode(),
            "raw": [b"\xff", None],
        }
    )
    first, second = entries(data, "list.parquet", columns=("*",))
    found = columns(first)
    assert found.pop("utc").startswith("2026-01-02 03:04:05")
    assert found.pop("local") == "2026-01-02 03:04:05.000000000"
    assert found == {
        "n": 7,
        "x": 1.5,
        "yes": True,
        "day": "2026-01-02",
        "price": "1.50",
        "deep": {"a": [1, 2], "b": "ä"},
        "pairs": [["k", 1]],
        "said": "x",
        "raw": b"\xff",
    }
    assert set(columns(second).values()) == {None} and len(columns(second)) == 11


def test_only_the_columns_that_are_asked_for_are_read() -> None:
    """Also where a name has a dot, or is only that of a group of columns."""
    data = written({"a.b": [1], "url": [U], "deep": [{"url": "no", "x": 1}], "": ["empty"]})
    [row] = entries(data, "list.parquet", columns=("deep", "a.b", ""))
    assert (row.url, columns(row)) == (U, {"deep": {"url": "no", "x": 1}, "a.b": 1, "": "empty"})


@pytest.mark.parametrize(
    ("value", "why"),
    [(None, "it has no URL"), ("", "it has no URL"), ("hello", "no http or https URL"), (U + "\x00", "control")],
)
def test_a_row_without_a_url_is_a_failed_entry(value: str | None, why: str) -> None:
    """Named by list and row."""
    found = entries(written({"url": [U, value, W]}), "list.parquet")
    assert good(found) == [(1, U), (3, W)]
    assert why in bad(found)[2] and bad(found)[2].startswith("list.parquet, row 2: ")


def test_what_is_not_utf_8_costs_its_own_row() -> None:
    """In a URL; in another column it is marked. A writer that does not look leaves such text."""
    broken = pa.array([U.encode(), b"http://b.com/\xff", W.encode()]).view(pa.string())
    text = pa.array([b"a", b"b", b"caf\xe9"]).view(pa.string())
    found = entries(written({"url": broken, "text": text}), "list.parquet", columns=("text",))
    assert good(found) == [(1, U), (3, W)]
    assert "it is not UTF-8" in bad(found)[2]
    assert columns(found[2]) == {"text": "caf\ufffd"}


def test_urls_of_another_type_are_failed_entries() -> None:
    """What they are is told."""
    assert "its URL is no text but int" in bad(entries(written({"url": [7]}), "list.parquet"))[1]


def test_a_missing_or_doubled_column_is_told() -> None:
    """With those that are there."""
    with pytest.raises(UsageError, match="list.parquet has no column `url`, but `id`, `link`: say --url-column link"):
        entries(written({"id": [1], "link": [U]}), "list.parquet")
    double = pa.Table.from_arrays([pa.array([U]), pa.array([V]), pa.array([1])], names=["url", "url", "n"])
    with pytest.raises(UsageError, match="the column `url` 2 times"):
        entries(written(double), "list.parquet")
    with pytest.raises(UsageError, match="no column `url`, but none at all"):
        entries(written(pa.table({})), "list.parquet")


def test_a_file_that_is_cut_or_none_cannot_be_read() -> None:
    """Its end is looked at first, so nothing of it is put."""
    data = written({"url": [U]})
    for broken in (data[:-1], data[:-20], b"PAR1", b"PAR1PAR1", b"hello", data[:4] + b"\xff" * 4 + b"PAR1"):
        with pytest.raises(ListUnreadable, match="^list.parquet cannot be read on from its"):
            entries(broken, "list.parquet")


def test_a_damaged_page_ends_the_list_where_it_is(tmp_path: Path) -> None:
    """With the number of rows before it."""
    data = bytearray(written({"url": [f"http://a.com/{n}" for n in range(8_000)]}, row_group_size=4_000))
    meta = pq.ParquetFile(io.BytesIO(data)).metadata.row_group(1).column(0)
    start = meta.dictionary_page_offset or meta.data_page_offset
    data[start : start + 50] = b"\xff" * 50
    with pytest.raises(ListUnreadable, match=r"cannot be read on after row 4,000"):
        entries(bytes(data), "list.parquet")


# ------------------------------------------------------------------ gone on with


@pytest.mark.parametrize(("group", "count"), list(itertools.product([1, 3, 4, 100], range(5))))
def test_a_list_is_gone_on_with_after_any_batch(
    tmp_path: Path, queue: LocalTaskQueue, monkeypatch: pytest.MonkeyPatch, group: int, count: int
) -> None:
    """From its row on, wherever that is in a group; each row is an entry once."""
    monkeypatch.setattr(producer, "BATCH", 2)
    monkeypatch.setattr(producer.parquet, "BATCH", 3)
    path = tmp_path / "list.parquet"
    path.write_bytes(written({"url": [f"http://a.com/{n}" for n in range(7)]}, row_group_size=group))
    read(queue, from_path(str(path)), count)
    assert lines(queue) == list(range(1, min(7, 2 * count) + 1))
    for _ in range(2):
        read(queue, from_path(str(path)))
        assert lines(queue) == list(range(1, 8))
    assert [row.url for row in queue._ledger.view.entries()] == [f"http://a.com/{n}" for n in range(7)]


def test_another_file_is_refused(tmp_path: Path, queue: LocalTaskQueue) -> None:
    """Longer ones too, and other columns; another limit is not another list."""
    path = tmp_path / "list.parquet"
    path.write_bytes(written({"url": [U, V, W]}))
    [source] = from_paths([str(path)], Picks(), None, 2)
    read(queue, source)
    for urls, picks in (([U, V, W, U], Picks()), ([V, U, W], Picks()), ([U, V, W], Picks(sample=0.5))):
        path.write_bytes(written({"url": urls}))
        with pytest.raises(UsageError, match="not the list that was read before"):
            read(queue, from_path(str(path), picks))
    path.write_bytes(written({"url": [U, V, W]}))
    read(queue, from_path(str(path)))
    assert lines(queue) == [1, 2, 3]


def test_it_is_crawled(tmp_path: Path, site: Site) -> None:
    """From a folder; a pipe or a compressed file is refused."""
    (tmp_path / "parts").mkdir()
    for n in range(2):
        data = written({"URL": [site.url(f"/photo/{n}.jpg"), site.url(f"/missing/{n}")]})
        (tmp_path / "parts" / f"{n}.parquet").write_bytes(data)
    done = run(tmp_path, "seed", "parts", *LOCAL)
    assert done.returncode == 0, done.stderr
    assert sorted(record["reason"] or "" for record in records(tmp_path, "parts.crawl")) == [
        "",
        "",
        *["http_not_found"] * 2,
    ]
    done = run(tmp_path, "seed", "-", "--list-format", "parquet", given="PAR1")
    assert (done.returncode, "parquet, which is read from its end" in done.stderr) == (2, True)
