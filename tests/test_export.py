"""`crawler export`: a row for each line of the lists, in the formats that others read."""

from __future__ import annotations

import bz2
import csv
import errno
import gzip
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.parquet as pq
import pytest
from backports import zstd

from crawler.broker.ledger import Ledger
from crawler.broker.local import LocalTaskQueue
from crawler.errors import StorageFailed, UsageError
from crawler.export import COLUMNS, Choice, columns, export
from crawler.model import Batch, Outcome, Role, Row
from crawler.out import Out
from crawler.reasons import Reason
from crawler.settings import Settings
from tests.command import LOCAL, rows, run
from tests.site import Site
from tests.test_task_queue import Bench, failed, lease, stored, terms

#: What it tries is the same on every Python; that crawls run there is seen by others.
pytestmark = pytest.mark.once

A, B, C = "http://a.test/1", "http://b.test/2", 'http://c.test/ä,"x"\n'


@pytest.fixture
def out(tmp_path: Path) -> Out:
    (tmp_path / "out").mkdir()
    return Out(tmp_path / "out")


@pytest.fixture
def bench(out: Out) -> Iterator[Bench]:
    """A crawl of three tasks under way: one is stored, one failed, one has no record; two lists share the first."""
    ledger = Ledger(out.ledger, 0, lambda error: None)
    local = LocalTaskQueue(ledger, terms(Settings()))
    bench = Bench(local, local, ledger)
    bench.fill(A, B, A)
    session = bench.join()
    one, two = (lease(local, session, number, 1).leases[0] for number in (1, 2))
    done = {item.task.url: item for item in (one, two)}
    local.complete(session, [stored(done[A].token, done[A].task.id)])
    local.retry(session, [failed(done[B].token, done[B].task.id, Reason.HTTP_NOT_FOUND, http_status=404, detail="no")])
    producer = bench.join(Role.PRODUCER)
    other = local.open_list(producer, "other", False)
    rows = [Row(line=5, url=A, host="a.test"), Row(line=7, url=C, host="c.test")]
    local.put(producer, other.id, Batch(first_line=1, next_line=8, offset=9, digest="d", total_bytes=9, rows=rows))
    yield bench
    local.close()
    ledger.close()


#: List, line, URL, outcome and reason of each entry of `bench`.
ROWS = [
    ("list", 1, A, "stored", None),
    ("list", 2, B, "failed", "http_not_found"),
    ("list", 3, A, "stored", None),
    ("other", 5, A, "stored", None),
    ("other", 7, C, None, None),
]


@pytest.mark.usefixtures("bench")
def test_jsonl_has_a_row_for_each_entry_while_it_runs(out: Out, tmp_path: Path) -> None:
    """In the order of lists and lines, all columns in each; without a record what became of it is null."""
    file = tmp_path / "rows.jsonl"
    assert export(out, file) == 5
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(row["list"], row["line"], row["url"], row["outcome"], row["reason"]) for row in rows] == ROWS
    assert {tuple(row) for row in rows} == {COLUMNS}
    assert rows[0]["path"] == "images/ab/ab.jpg" and rows[1]["detail"] == "no"
    assert {name for name, value in rows[4].items() if value is not None} == {"list", "line", "id", "url"}
    assert rows[0] == {**rows[2], "line": 1} == {**rows[3], "line": 1, "list": "list"}


@pytest.mark.usefixtures("bench")
def test_csv_says_the_same(out: Out, tmp_path: Path) -> None:
    """Read back by the standard reader, whatever is in a URL; null is empty."""
    file = tmp_path / "rows.CSV"
    assert export(out, file) == 5
    with file.open(newline="", encoding="utf-8") as text:
        header, *rows = csv.reader(text)
    assert tuple(header) == COLUMNS
    found = [dict(zip(header, row, strict=True)) for row in rows]
    assert [(row["list"], row["line"], row["url"], row["outcome"], row["reason"]) for row in found] == [
        (name, str(line), url, outcome or "", reason or "") for name, line, url, outcome, reason in ROWS
    ]


@pytest.mark.usefixtures("bench")
def test_a_file_that_is_there_is_replaced_whole(out: Out, tmp_path: Path) -> None:
    """Nothing of the old one, and no file beside it."""
    file = tmp_path / "rows.jsonl"
    file.write_text("old\n" * 1000)
    export(out, file)
    assert len(file.read_text().splitlines()) == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "rows.jsonl"]


@pytest.mark.usefixtures("bench")
@pytest.mark.parametrize("name", ["rows", "rows.xls", "rows.parquet.gz", "jsonl", ".csv", "rows.gz"])
def test_an_unknown_ending_is_a_usage_error(out: Out, tmp_path: Path, name: str) -> None:
    """The message names those that are known; nothing is written."""
    with pytest.raises(UsageError, match=r"\.parquet, \.csv, \.jsonl"):
        export(out, tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.usefixtures("bench")
def test_what_cannot_be_written_is_named(out: Out, tmp_path: Path) -> None:
    """A folder that is missing, one that is a file, a target that is a folder; nothing is left behind."""
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "file").touch()
    for path in ("missing/rows.csv", "file/rows.csv", "folder.csv"):
        with pytest.raises(StorageFailed, match=path.replace(".", r"\.")):
            export(out, tmp_path / path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.csv", "out"]


@pytest.mark.usefixtures("bench")
def test_a_disk_that_does_not_keep_what_was_read_is_named(
    out: Out, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger's, not that of the file which is written; no file is left that says more than the ledger may keep."""
    sync = os.fdatasync

    def fail(file: int) -> None:
        if threading.current_thread() is threading.main_thread():
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        sync(file)

    monkeypatch.setattr(os, "fdatasync", fail)
    with pytest.raises(StorageFailed, match=f"{out.ledger} .*error"):
        export(out, tmp_path / "rows.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.usefixtures("bench")
def test_the_command_tells_how_many(tmp_path: Path) -> None:
    """On standard error, with status 0; 2 for a usage error, 74 for a folder that is none, 73 without a crawl."""
    good = run(tmp_path, "export", "out", "rows.csv")
    assert (good.returncode, good.stdout, good.stderr) == (0, "", "5 rows written to rows.csv\n")
    bad = [
        run(tmp_path, "export", *names).returncode
        for names in (("out", "rows.xls"), ("out", "missing/rows.csv"), ("nowhere", "rows.csv"))
    ]
    assert bad == [2, 74, 73]


# ------------------------------------------------------------------ columns of lists

#: Columns of successive entries; the first list is a crawl's own, and others were added to it.
CARRIED: list[dict[str, Any] | None] = [
    {"text": 'ä, "x"\n', "n": 7, "x": 1, "yes": True, "deep": {"a": [1]}, "raw": b"\xff", "mixed": 1, "width": 3},
    {"text": None, "n": None, "x": 1.5, "yes": None, "deep": None, "raw": None, "mixed": "one", "width": None},
    None,
    {"more": "only here", "n": 1 << 62, "large": 1 << 63, "nothing": None, "nan": float("nan")},
]
#: Of each column, what parquet calls it, and its values.
EXPECTED: dict[str, tuple[str, list[Any]]] = {
    "text": ("string", ['ä, "x"\n', None, None, None]),
    "n": ("int64", [7, None, None, 1 << 62]),
    "x": ("double", [1.0, 1.5, None, None]),
    "yes": ("bool", [True, None, None, None]),
    "deep": ("string", ['{"a":[1]}', None, None, None]),
    "raw": ("binary", [b"\xff", None, None, None]),
    "mixed": ("string", ["1", '"one"', None, None]),
    "list_width": ("int64", [3, None, None, None]),
    "more": ("string", [None, None, None, "only here"]),
    "large": ("string", [None, None, None, "9223372036854775808"]),
    "nothing": ("string", [None] * 4),
}


@pytest.fixture
def carrying(out: Out) -> Iterator[Bench]:
    """A crawl of entries with columns: the last one's task has failed."""
    ledger = Ledger(out.ledger, 0, lambda error: None)
    local = LocalTaskQueue(ledger, terms(Settings()))
    bench = Bench(local, local, ledger)
    producer = bench.join(Role.PRODUCER)
    listed = local.open_list(producer, "list", False)
    rows = [
        Row(line=n, url=url, host=url[7:13], columns=None if one is None else msgspec.msgpack.encode(one))
        for n, (url, one) in enumerate(zip((A, A, A, B), CARRIED, strict=True), 1)
    ]
    rows.append(Row(line=5, url="hello", host="", error="no URL", columns=msgspec.msgpack.encode({"text": "bad"})))
    local.put(producer, listed.id, Batch(first_line=1, next_line=6, offset=9, digest="d", total_bytes=9, rows=rows))
    session = bench.join()
    leases = {item.task.url: item for number in (1, 2) for item in lease(local, session, number, 1).leases}
    local.complete(session, [stored(leases[A].token, leases[A].task.id)])
    local.retry(session, [failed(leases[B].token, leases[B].task.id, Reason.HTTP_NOT_FOUND, http_status=404)])
    yield bench
    local.close()
    ledger.close()


@pytest.mark.usefixtures("carrying")
def test_parquet_has_a_type_for_each_column(out: Out, tmp_path: Path) -> None:
    """That of all its values; text in JSON for values with parts or of several types. Ours are typed as well."""
    file = tmp_path / "rows.parquet"
    assert export(out, file) == 5
    table = pq.read_table(file)
    assert table.column_names[: len(COLUMNS)] == list(COLUMNS)
    for name, (kind, values) in EXPECTED.items():
        assert (str(table.schema.field(name).type), table[name].to_pylist()[:4]) == (kind, values), name
    kinds = {name: str(table.schema.field(name).type) for name in COLUMNS}
    assert {name for name, kind in kinds.items() if kind == "double"} == {"fetch_seconds", "decode_seconds"}
    assert {kinds[name] for name in ("line", "id", "seq", "http_status", "bytes", "attempts", "frames")} == {"int64"}
    assert {kinds[name] for name in ("list", "url", "outcome", "reason", "exif", "licence")} == {"string"}
    assert table["outcome"].to_pylist() == ["stored", "stored", "stored", "failed", "failed"]


@pytest.mark.usefixtures("carrying")
def test_lines_and_cells_say_the_same(out: Out, tmp_path: Path) -> None:
    """JSON keeps the types of each value; in csv what has parts is JSON, bytes are base64, null is empty."""
    export(out, tmp_path / "rows.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [lines[0][name] for name in ("n", "x", "yes", "deep", "raw", "list_width")] == [
        7,
        1,
        True,
        {"a": [1]},
        "/w==",
        3,
    ]
    assert (lines[1]["mixed"], lines[3]["large"], lines[3]["nan"]) == ("one", 1 << 63, None)
    assert len({tuple(line) for line in lines}) == 1
    export(out, tmp_path / "rows.csv")
    with (tmp_path / "rows.csv").open(newline="", encoding="utf-8") as text:
        first, second, *_ = csv.DictReader(text)
    assert [first[name] for name in ("text", "n", "yes", "deep", "raw")] == [
        'ä, "x"\n',
        "7",
        "true",
        '{"a":[1]}',
        "/w==",
    ]
    assert (second["n"], second["x"]) == ("", "1.5")


@pytest.mark.usefixtures("carrying")
@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (Choice(), [1, 2, 3, 4, 5]),
        (Choice(outcome=Outcome.STORED), [1, 2, 3]),
        (Choice(outcome=Outcome.FAILED), [4, 5]),
        (Choice(reasons=("http_not_found",)), [4]),
        (Choice(reasons=("http_not_found", "bad_url")), [4, 5]),
        (Choice(hosts=("a.test",)), [1, 2, 3]),
        (Choice(hosts=("*.test",)), [1, 2, 3, 4]),
        (Choice(outcome=Outcome.FAILED, hosts=("a.test",)), []),
        (Choice(is_list=True), [4]),
    ],
)
def test_rows_are_chosen_by_what_became_of_them(out: Out, tmp_path: Path, choice: Choice, expected: list[int]) -> None:
    """All that is said must fit."""
    columns = ("text",) if choice.is_list else ("line", "text")
    assert export(out, tmp_path / "rows.jsonl", choice._replace(columns=columns)) == len(expected)
    lines = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert {tuple(line) for line in lines} <= {columns}
    assert choice.is_list or [line["line"] for line in lines] == expected


@pytest.mark.usefixtures("carrying")
def test_an_unknown_column_is_told(out: Out, tmp_path: Path) -> None:
    """With those that are there; nothing is written. Too many of them are refused."""
    with pytest.raises(UsageError, match="no column `txt`, but list, line, id, url, .*text"):
        export(out, tmp_path / "rows.csv", Choice(columns=("txt",)))
    with pytest.raises(UsageError, match="no column `outcome`, but url, text, n"):
        export(out, tmp_path / "rows.csv", Choice(columns=("outcome",), is_list=True))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    blobs = [msgspec.msgpack.encode({f"k{n}": 1}) for n in range(columns.MAX_COLUMNS + 1)]
    with pytest.raises(UsageError, match="more than 1,000 columns"):
        columns.carried_columns(blobs, ())
    assert "k1000" in [column.name for column in columns.carried_columns(blobs * 2, ("k1000",))]


@pytest.mark.usefixtures("carrying")
@pytest.mark.parametrize(
    ("ending", "unpack"), [(".gz", gzip.decompress), (".bz2", bz2.decompress), (".zst", zstd.decompress)]
)
def test_a_compressed_export_has_the_same_bytes(out: Out, tmp_path: Path, ending: str, unpack: Any) -> None:
    """By its ending."""
    for name in ("rows.csv", "rows.jsonl", "rows.txt"):
        export(out, tmp_path / name)
        export(out, tmp_path / f"{name}{ending}")
        assert unpack((tmp_path / f"{name}{ending}").read_bytes()) == (tmp_path / name).read_bytes() != b""


@pytest.mark.parametrize("name", ["failed.parquet", "failed.csv", "failed.jsonl.gz", "failed.txt"])
def test_what_failed_is_a_list_for_another_crawl(tmp_path: Path, site: Site, name: str) -> None:
    """With the columns that it came with; lines that were no URL are not in it."""
    urls = [site.url("/photo/1.jpg"), site.url("/missing/1"), site.url("/missing/1"), "hello", site.url("/missing/2")]
    lines = [{"image": url, "url": f"page {n}", "n": n} for n, url in enumerate(urls)]
    (tmp_path / "meta.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    done = run(tmp_path, "seed", "meta.jsonl", "--url-column", "image", "--columns", "*", *LOCAL)
    assert done.returncode == 0, done.stderr
    done = run(tmp_path, "export", "meta.crawl", name, "--failed", "--host", "127.0.0.1")
    assert (done.returncode, done.stderr) == (0, f"3 rows written to {name}\n")
    carried = () if name.endswith(".txt") else ("--columns", "*")
    done = run(tmp_path, "seed", name, *carried, *LOCAL)
    assert done.returncode == 0, done.stderr
    found = rows(tmp_path, "failed.crawl")
    assert [row["url"] for row in found] == [urls[1], urls[2], urls[4]]
    if carried:
        text = [str(row["n"]) for row in found]
        assert (text, [row["list_url"] for row in found]) == (["1", "2", "4"], ["page 1", "page 2", "page 4"])
