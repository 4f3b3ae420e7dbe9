"""`crawler export`: a row for each line of the lists, in the formats that others read."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from crawler.broker.ledger import Ledger
from crawler.broker.local import LocalTaskQueue
from crawler.errors import StorageFailed, UsageError
from crawler.export import COLUMNS, export
from crawler.model import Batch, Role, Row
from crawler.out import Out
from crawler.reasons import Reason
from crawler.settings import Settings
from tests.command import run
from tests.test_task_queue import Bench, failed, lease, stored, terms

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
@pytest.mark.parametrize("name", ["rows", "rows.txt", "rows.parquet", "jsonl", ".csv"])
def test_an_unknown_ending_is_a_usage_error(out: Out, tmp_path: Path, name: str) -> None:
    """The message names those that are known; nothing is written."""
    with pytest.raises(UsageError, match=r"\.jsonl, \.csv"):
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
def test_the_command_tells_how_many(tmp_path: Path) -> None:
    """On standard error, with status 0; 2 for a usage error, 74 for a folder that is none, 73 without a crawl."""
    good = run(tmp_path, "export", "out", "rows.csv")
    assert (good.returncode, good.stdout, good.stderr) == (0, "", "5 rows written to rows.csv\n")
    bad = [
        run(tmp_path, "export", *names).returncode
        for names in (("out", "rows.xls"), ("out", "missing/rows.csv"), ("nowhere", "rows.csv"))
    ]
    assert bad == [2, 74, 73]
