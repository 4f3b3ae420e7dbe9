"""Lists that are tables: every format, compressed or not, with columns, broken rows, and a part of the rows only."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import requests
from backports import zstd

from crawler import producer
from crawler.broker.local import LocalTaskQueue
from crawler.errors import ListUnreadable, UsageError
from crawler.model import ListState, Role, Row
from crawler.producer import Picks, Reading, Source, _Rows, from_path, from_paths
from crawler.producer.entries import MAX_COLUMNS
from crawler.producer.objects import MAX_VALUE
from crawler.producer.tables import MAX_ROW
from tests.command import LOCAL, records, run
from tests.site import Site
from tests.test_task_queue import hello

U, V, W = "http://a.com/1", "http://b.com/2", "http://c.com/3"
CSV = f'id,url,text\n7,{U},one\n8,{V},"two, and\nmore"\n9,{W},\n'
LINES = (
    f'{{"id": 7, "url": "{U}", "text": "one"}}\n{{"id": 8, "url": "{V}", "text": null}}\n{{"id": 9, "url": "{W}"}}\n'
)


def in_memory(data: bytes, name: str, picks: Picks | None = None) -> Source:
    """Return a list that stands in memory."""
    return Source(name, name, lambda: (io.BufferedReader(io.BytesIO(data)), len(data)), picks or Picks())


def batches(source: Source) -> Iterator[list[Row]]:
    """Yield the rows of a list in batches."""
    file, size = source.open()
    with file:
        rows = _Rows(file, source.read(file, size), source, ListState(id=1, name=source.name))
        while batch := rows.batch():
            yield batch.rows


def entries(data: bytes | str, name: str = "list.csv", **picks: Any) -> list[Row]:
    """Return the entries of a list."""
    data = data.encode() if isinstance(data, str) else data
    return [row for rows in batches(in_memory(data, name, Picks(**picks))) for row in rows]


def good(rows: list[Row]) -> list[tuple[int, str]]:
    return [(row.line, row.url) for row in rows if row.error is None]


def bad(rows: list[Row]) -> dict[int, str]:
    return {row.line: row.error for row in rows if row.error is not None}


def columns(row: Row) -> Any:
    return None if row.columns is None else msgspec.msgpack.decode(row.columns)


THREE = [(1, U), (2, V), (3, W)]

# ------------------------------------------------------------------ csv and tsv


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.csv", CSV),
        ("list.csv", CSV.replace("\n", "\r\n")),
        ("list.csv", f"\ufeff{CSV}"),
        ("list.csv", f'\ufeff"url","id"\n"{U}","7"\n"{V}","8"\n"{W}","9"'),
        ("list.CSV", f"URL\n{U}\n\n{V}\n \n{W}\n".replace("\n \n", "\n")),
        ("list.tsv", f"id\turl\n7\t{U}\n8\t{V}\n9\t{W}\n"),
        ("list.csv", f"url\n{U}\n  {V}  \n{W}"),
    ],
    ids=["quoted line end", "CRLF", "BOM", "BOM and quotes", "blank lines", "tabs", "white space"],
)
def test_a_table_has_an_entry_for_each_row(name: str, text: str) -> None:
    """Counted after the first row, whatever line ends are in a field."""
    assert good(entries(text, name)) == THREE


def test_columns_are_carried_as_they_are() -> None:
    """Those that are asked for, in the order in which they were; all but the URL for `*`; none where none are."""
    assert [columns(row) for row in entries(CSV)] == [None, None, None]
    assert [columns(row) for row in entries(CSV, columns=("text",))] == [
        {"text": "one"},
        {"text": "two, and\nmore"},
        {"text": ""},
    ]
    assert columns(entries(CSV, columns=("*",))[0]) == {"id": "7", "text": "one"}
    assert columns(entries(CSV, columns=("url",))[0]) == {"url": U}


@pytest.mark.parametrize(
    ("text", "picks", "said"),
    [
        ("id,image_url\n", {}, "no column `url`, but `id`, `image_url`: say --url-column image_url"),
        ("id,name\n", {}, "no column `url`, but `id`, `name`: name the right one with --url-column"),
        ("image_url,page_url\n", {}, "name the right one with --url-column"),
        ("URL,Url\n", {}, "name the right one"),
        ("url\n", {"url_column": "URL"}, "no column `URL`, but `url`: name another one with --url-column"),
        ("url\n", {"columns": ("text",)}, "no column `text`, but `url`: name another one with --columns"),
        ("url\n", {"digest_column": "md5"}, "no column `md5`.*--digest-column"),
        ("url,url\n", {}, "the column `url` 2 times"),
        ("url,a,a\n", {"columns": ("*",)}, "the column `a` 2 times"),
        (f"{U}\n{V}\n", {}, "--list-format txt"),
        ("", {}, "no first row that names its columns: it is empty"),
        ("\n\n", {}, "it is empty"),
        ('"url\n', {}, "no first row.*unexpected end of data"),
        ("x" * (MAX_ROW + 1), {}, "no first row.*longer than"),
    ],
)
def test_a_column_that_is_missing_is_told_with_those_that_are_there(text: str, picks: Any, said: str) -> None:
    """And with what to type."""
    with pytest.raises(UsageError, match=f"^list.csv.*{said}"):
        entries(text, **picks)


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (b"8,hello,x\n", "it is no http or https URL"),
        (b"8,,x\n", "it has no URL"),
        (b"8\n", "it has no URL"),
        (b"8," + V.encode() + b",a,b\n", "it has 4 fields, the first row 3"),
        (b'8,"' + V.encode() + b'"x,y\n', "it is no row of a table"),
        (b"8,http://b.com/\xff,x\n", "it is not UTF-8"),
        (b"8,http://b.com/\x00,x\n", "a control character"),
        (b"8,http://b.com/" + b"x" * 20_000 + b",x\n", "longer than 16384"),
        (b"8," + V.encode() + b"," + b"x" * (MAX_COLUMNS + 1) + b"\n", "its columns have 32,7"),
        (b"8," + V.encode() + b"," + b"x" * 200_000 + b"\n", "field larger than field limit"),
        (b"8," + V.encode() + b"," + b"x," * (MAX_ROW // 2) + b"\n", "it is longer than 1,048,576 bytes"),
        (b"8," + V.encode() + b"," + b"x," * 5_000_000 + b"\n", "it is longer than 1,048,576 bytes"),
    ],
)
def test_a_broken_row_is_a_failed_entry_and_the_next_is_whole(row: bytes, why: str) -> None:
    """It is named by list and row."""
    found = entries(f"id,url,text\n7,{U},one\n".encode() + row + f"9,{W},x\n".encode(), columns=("text",))
    assert good(found) == [(1, U), (3, W)]
    assert list(bad(found)) == [2]
    assert bad(found)[2].startswith("list.csv, row 2: ") and why in bad(found)[2]


def test_a_quote_that_is_not_closed_costs_its_own_row() -> None:
    """Not those that the quotes seem to hold: they are read again."""
    rows = "".join(f"{n},http://a.com/{n},x\n" for n in range(3, 9_000))
    for first, last in ((f'1,{U},"one\n', ""), (f'1,{U},"one\n', '9000,http://a.com/9000,"x'), (f'1,"{U}\n', "")):
        found = entries(f"id,url,text\n{first}2,{V},x\n{rows}{last}", columns=("text",))
        assert list(bad(found)) == ([1, 9_000] if last else [1])
        assert len(good(found)) == 8_998


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.csv", f"url,hash,text\nno link,,one\n{U},short,two\n,,three\n"),
        (
            "list.jsonl",
            f'{{"url":1,"hash":"","text":"one"}}\n{{"url": "{U}", "hash": 1, "text": "two"}}\n{{"text": "three"}}',
        ),
    ],
)
def test_a_row_that_is_no_url_keeps_its_columns(name: str, text: str) -> None:
    """So that whoever made the list finds it again."""
    rows = entries(text, name, url_column="url", columns=("text",), digest_column="hash")
    assert [sorted(bad([row])) for row in rows] == [[1], [2], [3]]
    assert [columns(row)["text"] for row in rows] == ["one", "two", "three"]


def test_what_is_not_utf_8_in_a_column_is_marked() -> None:
    """The image can be had all the same."""
    [row] = entries(b"url,text\n" + U.encode() + b",caf\xe9\n", columns=("text",))
    assert (row.url, columns(row)) == (U, {"text": "caf\ufffd"})


# ------------------------------------------------------------------ json


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.jsonl", LINES),
        ("list.ndjson", f"\ufeff{LINES}".rstrip("\n")),
        ("list.json", LINES),
        ("list.json", json.dumps([json.loads(line) for line in LINES.splitlines()])),
        ("list.json", "\ufeff\n " + json.dumps([json.loads(line) for line in LINES.splitlines()], indent=2)),
        ("list.json", json.dumps([U, V, W])),
        ("list.jsonl", f'"{U}"\n{{"url": "{V}"}}\r\n"{W}"'),
    ],
    ids=["lines", "BOM", "lines called json", "array", "array over lines", "strings", "strings and objects"],
)
def test_json_has_an_entry_for_each_value(name: str, text: str) -> None:
    """One on each line, or the items of one array; an object or a string."""
    text = text.removeprefix("\ufeff") if text.startswith("\ufeff\n") else text
    assert good(entries(text, name)) == THREE


@pytest.mark.parametrize("is_array", [True, False])
def test_values_of_columns_keep_their_types(is_array: bool) -> None:
    """Nested ones too; a key that a later object lacks is null."""
    value = {"u": U, "n": 1, "x": 1.5, "no": None, "yes": True, "deep": {"a": [1, "ä"]}}
    other = {"u": V, "more": 2}
    text = json.dumps([value, other]) if is_array else f"{json.dumps(value)}\n{json.dumps(other)}\n"
    picks: Any = {"url_column": "u"}
    first, second = entries(text, "list.json", columns=("*",), **picks)
    assert columns(first) == {name: value[name] for name in value if name != "u"}
    assert columns(second) == {"more": 2}
    assert columns(entries(text, "list.json", columns=("n", "deep"), **picks)[1]) == {"n": None, "deep": None}


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b'{"url": "http://b.com/2"', "it is no JSON"),
        (b"hello", "it is no JSON"),
        (b"http://b.com/2", "it is no JSON"),
        (b"17", "neither an object nor a string"),
        (b'["http://b.com/2"]', "neither an object nor a string"),
        (b'{"text": "x"}', "it has no URL"),
        (b'{"url": null}', "it has no URL"),
        (b'{"url": 7}', "its URL is no text but int"),
        (b'{"url": "http://b.com/\\ud800"}', "JSON"),
        (b'{"url": "http://b.com/\xff"}', "JSON"),
        (b"[" * 100_000, "it is no JSON"),
        (b'{"url": "http://b.com/2", "text": 123456789012345678901234567890}', "cannot be kept"),
        (b'"' + b"x" * (MAX_VALUE + 1) + b'"', "longer than 1,048,576 bytes"),
        (b'"' + b"x" * 10_000_000 + b'"', "longer than 1,048,576 bytes"),
    ],
)
def test_a_line_that_is_no_json_is_a_failed_entry(line: bytes, why: str) -> None:
    """It is named by list and line, and nothing stops."""
    text = b'{"url": "%s", "text": "x"}\n\n%s\n"%s"\n' % (U.encode(), line, W.encode())
    found = entries(text, "list.jsonl", columns=("text",))
    assert good(found) == [(1, U), (4, W)]
    assert list(bad(found)) == [3]
    assert bad(found)[3].startswith("list.jsonl, line 3: ") and why in bad(found)[3]


def test_the_first_object_must_have_the_columns() -> None:
    """So that a wrong name is told before a million rows have failed of it."""
    for text in ('{"a": 1, "link": "x"}\n', '[{"a": 1, "link": "x"}]'):
        with pytest.raises(UsageError, match="^list.json has no column `url`, but `a`, `link`: say --url-column link"):
            entries(text, "list.json")


@pytest.mark.parametrize("text", [f'["{U}", ', f'["{U}"', f'["{U}", nonsense]', f'["{U}", "{"x" * 1_200_000}"]'])
def test_an_array_that_breaks_off_cannot_be_read_on(text: str) -> None:
    """There is no telling where the next item begins; what came before is read."""
    found = batches(in_memory(text.encode(), "list.json"))
    with pytest.raises(ListUnreadable, match=r"list.json cannot be read on after item"):
        next(found)


# ------------------------------------------------------------------ compressed

PACK: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.compress, ".bz2": bz2.compress, ".zst": zstd.compress}


@pytest.mark.parametrize("ending", PACK)
@pytest.mark.parametrize(("name", "text"), [("list.csv", CSV), ("list.jsonl", LINES), ("list.txt", f"{U}\n{V}\n{W}\n")])
def test_a_compressed_list_is_read_as_if_it_were_not(ending: str, name: str, text: str) -> None:
    """Known by its ending or by its first bytes; of several parts one after the other, too."""
    whole, half = text.encode(), len(text) // 2
    parts = PACK[ending](whole[:half]) + PACK[ending](whole[half:])
    assert good(entries(PACK[ending](whole), name + ending)) == THREE
    assert good(entries(parts, name)) == THREE


@pytest.mark.parametrize("ending", PACK)
def test_a_compressed_list_that_is_cut_is_told_so(ending: str) -> None:
    """It does not look like a shorter one."""
    text = "".join(f"http://a.com/{n}\n" for n in range(5_000))
    data = PACK[ending](text.encode())
    with pytest.raises(ListUnreadable, match=r"list.txt\S* cannot be read on"):
        entries(data[:-30], f"list.txt{ending}")
    with pytest.raises(ListUnreadable, match="cannot be read on"):
        entries(b"no such thing", f"list.txt{ending}")


# ------------------------------------------------------------------ what is no list


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("list.xlsx", b"PK\x03\x04\x00\x00", "neither its name nor its beginning.*--list-format"),
        ("list", b"SQLite format 3\x00", "neither its name nor its beginning"),
        ("list.csv", b"PAR1\x15\x04", "is a parquet file"),
        ("list.csv", "url\n".encode("utf-16"), "UTF-16: save it as UTF-8"),
        ("list.txt", U.encode("utf-16"), "UTF-16: save it as UTF-8"),
    ],
)
def test_what_is_no_list_is_told(name: str, data: bytes, said: str) -> None:
    """And what to do."""
    with pytest.raises(UsageError, match=f"^{name} .*{said}"):
        entries(data, name)


@pytest.mark.parametrize("picks", [{"url_column": "u"}, {"columns": ("*",)}, {"digest_column": "d"}])
def test_text_has_no_columns(picks: Any) -> None:
    """Whoever asks for some meant another format."""
    with pytest.raises(UsageError, match="--list-format"):
        entries(f"{U}\n", "list.txt", **picks)


# ------------------------------------------------------------------ a part of the rows


def lists(tmp_path: Path, *sizes: int, **more: Any) -> list[list[int]]:
    """Return the numbers of the rows that are taken of lists of so many rows."""
    limit = more.pop("limit", None)
    paths = []
    for n, size in enumerate(sizes):
        paths.append(tmp_path / f"{n}.csv")
        paths[-1].write_text("url\n" + "".join(f"http://a.com/{row}\n" for row in range(size)))
    found = []
    for source in from_paths(map(str, paths), Picks(**more), None, limit):
        file, size = source.open()
        rows = _Rows(file, source.read(file, size), source, ListState(id=1, name=source.name))
        found.append([row.line for batch in iter(rows.batch, None) for row in batch.rows])
        rows.close()
    return found


def test_rows_are_cut_out_of_all_lists_together(tmp_path: Path) -> None:
    """As if they were one."""
    assert lists(tmp_path, 3, 2, 4) == [[1, 2, 3], [1, 2], [1, 2, 3, 4]]
    assert lists(tmp_path, 3, 2, 4, skip=4) == [[], [2], [1, 2, 3, 4]]
    assert lists(tmp_path, 3, 2, 4, limit=4) == [[1, 2, 3], [1], []]
    assert lists(tmp_path, 3, 2, 4, skip=1, limit=5) == [[2, 3], [1, 2], [1]]
    assert lists(tmp_path, 3, 2, 4, skip=99) == [[], [], []]
    assert lists(tmp_path, 3, 2, 4, limit=0) == [[], [], []]


def test_a_sample_is_the_same_each_time_and_another_with_another_seed(tmp_path: Path) -> None:
    """A tenth of 10,000 rows, give or take five standard deviations."""
    one, two = (lists(tmp_path, 10_000, sample=0.1, sample_seed=seed)[0] for seed in (0, 1))
    assert one == lists(tmp_path, 10_000, sample=0.1)[0]
    assert one != two
    for found in (one, two):
        assert 850 < len(found) < 1_150
    first, second = lists(tmp_path, 2_000, 2_000, sample=0.5)
    assert first != second


# ------------------------------------------------------------------ which lists


def test_a_folder_names_the_lists_in_it(tmp_path: Path) -> None:
    """In the order of names, those below it too; what others leave there is no list."""
    for name in ("b/2.jsonl", "a.csv", "b/1.csv.gz", "_SUCCESS", ".a.csv.crc", "notes.md", "_tmp/3.csv", "z.txt"):
        path = tmp_path / "all" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    names = [source.path for source in from_paths([str(tmp_path / "all")], Picks(), None, None)]
    assert names == [str(tmp_path / "all" / name) for name in ("a.csv", "b/1.csv.gz", "b/2.jsonl", "z.txt")]
    pattern = str(tmp_path / "all" / "*" / "*.csv*")
    assert [source.name for source in from_paths([pattern], Picks(), None, None)] == ["3.csv", "1.csv.gz"]
    (tmp_path / "a.csv").touch()
    same = from_paths([str(tmp_path / "a.csv"), str(tmp_path / "all" / "a.csv")] * 2, Picks(), None, None)
    assert [source.name for source in same] == [str(tmp_path / "a.csv"), str(tmp_path / "all" / "a.csv")]


def test_a_folder_without_a_list_is_told(tmp_path: Path) -> None:
    """As is a pattern that nothing fits."""
    (tmp_path / "x.png").touch()
    for path, said in ((tmp_path, "of its 1 files none has one of the endings"), (tmp_path / "*.csv", "no such file")):
        with pytest.raises(UsageError, match=said):
            from_paths([str(path)], Picks(), None, None)


# ------------------------------------------------------------------ gone on with


def read(queue: LocalTaskQueue, source: Source, count: int | None = None) -> None:
    """Read a list into a queue, so many batches of it."""
    session = queue.hello(hello(Role.PRODUCER)).session
    left = iter(range(count)) if count is not None else None
    reading = Reading(queue, session, source, lambda: left is not None and next(left, None) is None)
    reading.prepare(queue.open_list(session, source.name, False))
    reading.run()


def lines(queue: LocalTaskQueue) -> list[int]:
    return [row.line for row in queue._ledger.view.entries()]


ROWS = [{"url": f"http://a.com/{n}", "text": "a\nb" if n % 3 else "c"} for n in range(7)]


def as_csv(rows: list[dict[str, str]]) -> str:
    return "url,text\n" + "".join(f'{row["url"]},"{row["text"]}"\n' for row in rows)


WRITE: dict[str, Callable[[list[dict[str, str]]], bytes]] = {
    "list.csv": lambda rows: as_csv(rows).encode(),
    "list.csv.gz": lambda rows: gzip.compress(as_csv(rows).encode()),
    "list.csv.zst": lambda rows: zstd.compress(as_csv(rows).encode()),
    "list.jsonl": lambda rows: "".join(json.dumps(row) + "\n" for row in rows).encode(),
    "list.json": lambda rows: json.dumps(rows).encode(),
}


@pytest.mark.parametrize("name", WRITE)
@pytest.mark.parametrize("count", range(4))
def test_a_list_is_gone_on_with_after_any_batch(
    tmp_path: Path, queue: LocalTaskQueue, monkeypatch: pytest.MonkeyPatch, name: str, count: int
) -> None:
    """Each row is an entry once; rows that were added at its end are taken too."""
    monkeypatch.setattr(producer, "BATCH", 2)
    path = tmp_path / name
    path.write_bytes(WRITE[name](ROWS[:5]))
    read(queue, from_path(str(path), Picks(columns=("text",))), count)
    assert lines(queue) == list(range(1, min(5, 2 * count) + 1))
    path.write_bytes(WRITE[name](ROWS))
    for _ in range(2):
        read(queue, from_path(str(path), Picks(columns=("text",))))
        assert lines(queue) == list(range(1, 8))
    assert [row.url for row in queue._ledger.view.entries()] == [row["url"] for row in ROWS]


@pytest.mark.parametrize("name", WRITE)
def test_another_list_or_another_choice_of_rows_is_refused(tmp_path: Path, queue: LocalTaskQueue, name: str) -> None:
    """What was read before must be its beginning, and have been read in the same way; more rows may be taken."""
    path = tmp_path / name
    path.write_bytes(WRITE[name](ROWS))
    [source] = from_paths([str(path)], Picks(), None, 3)
    read(queue, source)
    assert lines(queue) == [1, 2, 3]
    for picks in (Picks(columns=("text",)), Picks(skip=1), Picks(sample=0.5), Picks(url_column="url")):
        with pytest.raises(UsageError, match="not the list that was read before, or its columns or rows"):
            read(queue, from_path(str(path), picks))
    path.write_bytes(WRITE[name](ROWS[1:]))
    with pytest.raises(UsageError, match="not the list that was read before"):
        read(queue, from_path(str(path)))
    path.write_bytes(WRITE[name](ROWS[:2]))
    with pytest.raises(UsageError, match="not the list that was read before"):
        read(queue, from_path(str(path)))
    path.write_bytes(WRITE[name](ROWS))
    read(queue, from_path(str(path)))
    assert lines(queue) == list(range(1, 8))


# ------------------------------------------------------------------ the command


def test_a_table_is_crawled(tmp_path: Path, site: Site) -> None:
    """From a compressed table to images; what is wrong is told with status 2 before anything is made."""
    text = "id,image\n" + "".join(f"{n},{site.url(f'/photo/{n}.jpg')}\n" for n in range(3)) + "3,hello\n"
    (tmp_path / "meta.csv.gz").write_bytes(gzip.compress(text.encode()))
    done = run(tmp_path, "seed", "meta.csv.gz", *LOCAL)
    assert (done.returncode, done.stdout) == (2, "")
    assert "meta.csv.gz has no column `url`, but `id`, `image`: say --url-column image" in done.stderr
    done = run(tmp_path, "seed", "meta.csv.gz", "--url-column", "image", *LOCAL)
    assert done.returncode == 0, done.stderr
    assert "4 URLs from 4 lines: 3 stored, 1 failed" in done.stdout
    assert "meta.csv.gz, row 4: it is no http or https URL" in done.stdout
    assert len(list((tmp_path / "meta.crawl" / "images").rglob("*.jpg"))) == 3


def test_images_must_have_the_digest_that_the_list_says(tmp_path: Path, site: Site) -> None:
    """An MD5 or a SHA-256 in any case; another one fails for good, none is not checked, nonsense is a broken row."""
    photo = requests.get(site.url("/photo/1.jpg"), timeout=10).content
    digests = [
        hashlib.md5(photo, usedforsecurity=False).hexdigest().upper(),
        hashlib.sha256(photo).hexdigest(),
        "",
        hashlib.md5(b"", usedforsecurity=False).hexdigest(),
        hashlib.sha256(b"").hexdigest(),
        "abc",
    ]
    rows = [f"{site.url(f'/photo/1.jpg?{n}')},{digest}\n" for n, digest in enumerate(digests)]
    (tmp_path / "meta.csv").write_text("url,sum\n" + "".join(rows))
    done = run(tmp_path, "seed", "meta.csv", "--digest-column", "sum", *LOCAL)
    assert done.returncode == 0, done.stderr
    found = sorted(records(tmp_path, "meta.crawl"), key=lambda record: record["id"])
    mismatch, broken = "digest_mismatch", "bad_url"
    assert [record["reason"] for record in found] == [None, None, None, mismatch, mismatch, broken]
    assert found[3]["detail"] == f"{digests[0].lower()} came, {digests[3]} was expected"
    assert found[4]["detail"] == f"{digests[1]} came, {digests[4]} was expected"
    assert found[3]["attempts"] == 1
    assert "meta.csv, row 6: its digest is neither an MD5 nor a SHA-256" in found[5]["detail"]
