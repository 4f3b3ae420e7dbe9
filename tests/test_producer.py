"""URL lists: what is a URL, what becomes of a line that is none, and how a list that was left is gone on with."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawler import producer
from crawler.broker.ledger import Ledger
from crawler.broker.local import LocalTaskQueue
from crawler.errors import ListUnreadable, UsageError
from crawler.model import Batch, ListState, Role
from crawler.producer import Reading, Source, _Rows, from_path, from_urls
from crawler.producer.entries import MAX_LINE
from crawler.producer.text import parse
from crawler.producer.urls import canonical
from tests.command import rows, run, write_list
from tests.test_task_queue import hello

# ------------------------------------------------------------------ URLs


@pytest.mark.parametrize(
    ("text", "url", "host"),
    [
        ("http://a.com/x.jpg", "http://a.com/x.jpg", "a.com"),
        ("HTTP://WWW.A.Com/X.JPG", "http://www.a.com/X.JPG", "www.a.com"),
        ("https://a.com", "https://a.com/", "a.com"),
        ("http://a.com?q=1", "http://a.com/?q=1", "a.com"),
        ("http://a.com/x#part", "http://a.com/x", "a.com"),
        ("http://a.com/x#a#b?c", "http://a.com/x", "a.com"),
        ("http://a.com:8080/x", "http://a.com:8080/x", "a.com"),
        ("http://A.com:65535/", "http://a.com:65535/", "a.com"),
        ("http://a.com:/x", "http://a.com/x", "a.com"),
        ("http://localhost/x", "http://localhost/x", "localhost"),
        ("http://a_b.c-d.com/x", "http://a_b.c-d.com/x", "a_b.c-d.com"),
        ("http://a.com./x", "http://a.com./x", "a.com."),
        ("http://127.0.0.1:81/x", "http://127.0.0.1:81/x", "127.0.0.1"),
        ("http://[2001:DB8::1]:81/x", "http://[2001:db8::1]:81/x", "2001:db8::1"),
        ("http://bücher.example/ä", "http://xn--bcher-kva.example/%C3%A4", "xn--bcher-kva.example"),
        ("http://BÜCHER.example/", "http://xn--bcher-kva.example/", "xn--bcher-kva.example"),
        ("http://例え.テスト/?ö=ü", "http://xn--r8jz45g.xn--zckzah/?%C3%B6=%C3%BC", "xn--r8jz45g.xn--zckzah"),
        ("http://a.com/a,b;c?d,e=f", "http://a.com/a,b;c?d,e=f", "a.com"),
        ("http://a.com/'a'", "http://a.com/'a'", "a.com"),
        ('http://a.com/"a"', "http://a.com/%22a%22", "a.com"),
        ("http://a.com/<a>|{b}^`", "http://a.com/%3Ca%3E%7C%7Bb%7D%5E%60", "a.com"),
        ("http://a.com/%C3%A4%20b", "http://a.com/%C3%A4%20b", "a.com"),
        ("http://a.com/100%", "http://a.com/100%", "a.com"),
        ("http://a.com//b//c", "http://a.com//b//c", "a.com"),
        ("http://a.com/../b", "http://a.com/../b", "a.com"),
        ("http://a.com/x@y:z", "http://a.com/x@y:z", "a.com"),
    ],
)
def test_a_url_has_one_form(text: str, url: str, host: str) -> None:
    """Scheme and name in lower case, ASCII, a path, no fragment; all else as it was given."""
    assert canonical(text) == (url, host)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("hello", "no http or https URL"),
        ("a.com/x.jpg", "no http or https URL"),
        ("//a.com/x.jpg", "no http or https URL"),
        ("ftp://a.com/x", "no http or https URL"),
        ("data:image/png;base64,AAAA", "no http or https URL"),
        ("http://", "names no host"),
        ("http:///x", "names no host"),
        ("http://:80/x", "names no host"),
        ("http:a.com", "names no host"),
        ("http://a..b/", "is not one"),
        ("http://.a.com/", "is not one"),
        ("http://a!b.com/", "is not one"),
        ("http://a%2eb.com/", "is not one"),
        ("http://-ü-.com/", "is not one"),
        ("http://ü..com/", "is not one"),
        ("http://[::bad/x", "IPv6"),
        ("http://a.com:0/x", "port 0"),
        ("http://a.com:65536/x", "ort out of range"),
        ("http://A.com:65536/x", "ort out of range"),
        ("http://a.com:99999/x", "ort out of range"),
        ("http://a.com:eight/x", "ort could not be cast"),
        ("http://a.com:-1/x", "ort"),
        ("http://user:word@a.com/x", "user information"),
        ("http://@a.com/x", "user information"),
        ("http://a.com/a b", "a space"),
        ("http://a b.com/", "a space"),
        ("http://a.com\\@b.com/", "a backslash"),
        ("http://a.com/\tx", "a control character"),
        ("http://a.com/\r\nx", "a control character"),
        ("http://a.com/\x7f", "a control character"),
        ("http://a.com/\x00", "a control character"),
    ],
)
def test_what_is_no_url_is_refused_and_told_why(text: str, why: str) -> None:
    """Nothing is guessed, and nothing that others read in two ways is passed on."""
    with pytest.raises(ValueError, match=why):
        canonical(text)


#: Characters that mean something in URLs, or have broken parsers before.
_SPICE = st.sampled_from(
    [*"/:@?#[]%\\.-_ \t\x00,;=&\"'", "..", "://", "http://", "HTTPS://", "ß", "İ", "。", "／", "℀", "é"]
)
_TEXT = st.lists(_SPICE | st.text(max_size=3), max_size=12).map("".join)


@given(st.binary(max_size=80) | _TEXT.map(str.encode) | _TEXT.map(lambda text: b"http://" + text.encode()), st.just(1))
def test_any_line_is_an_entry_or_nothing(line: bytes, number: int) -> None:
    """Parsing never raises; what is a URL has its one form already, in ASCII; what is none says why on one line."""
    row = parse(line, "list", number)
    if row is None:
        return
    if row.error is None:
        assert canonical(row.url) == (row.url, row.host)
        assert row.url.isascii() and row.host and "#" not in row.url
    else:
        assert row.host == "" and row.error.startswith("list, line 1: ")
        assert row.url.isprintable()


# ------------------------------------------------------------------ lines


def parsed(data: bytes) -> list[tuple[int, str, bool]]:
    """Return (line, URL, whether it is one) of each entry of a list."""
    batch = first_batch(Source("list", "list", lambda: (io.BufferedReader(io.BytesIO(data)), len(data))))
    return [(row.line, row.url, row.error is None) for row in batch.rows]


def first_batch(source: Source) -> Batch:
    """Return what is put first of a list."""
    file, size = source.open()
    with file:
        batch = _Rows(file, source.read(file, size), source, ListState(id=1, name=source.name)).batch()
    assert batch is not None
    return batch


U, V = "http://a.com/1", "http://b.com/2"


@pytest.mark.parametrize(
    "data",
    [
        f"{U}\n{V}\n",
        f"{U}\n{V}",
        f"{U}\r\n{V}\r\n",
        f"\ufeff{U}\n{V}\n",
        f"  {U}\t\n\u3000{V} \n",
    ],
    ids=["plain", "no last end", "CRLF", "BOM", "white space around"],
)
def test_lines_are_urls_however_they_end(data: str) -> None:
    """A list from any editor has the same entries."""
    assert parsed(data.encode()) == [(1, U, True), (2, V, True)]


def test_comments_and_blank_lines_count_as_lines_only() -> None:
    """They are no entries; the numbers of the others are those that an editor shows."""
    assert parsed(f"# one\n\n   \n  # four\n{U}\n#\n{V}#seven\n\n".encode()) == [(5, U, True), (7, V, True)]


def test_a_byte_order_mark_is_one_on_the_first_line_only() -> None:
    """Elsewhere it is a character that no URL begins with."""
    assert parsed(f"{U}\n\ufeff{V}\n".encode()) == [(1, U, True), (2, "\\ufeffhttp://b.com/2", False)]


def test_a_line_that_is_not_utf_8_is_told_so() -> None:
    """Its bytes are shown escaped; its neighbours are entries."""
    assert parsed(f"{U}\n".encode() + b"http://a.com/\xe4\xff\n" + V.encode()) == [
        (1, U, True),
        (2, r"http://a.com/\\xe4\\xff", False),
        (3, V, True),
    ]
    row = parse(b"\xff", "list", 7)
    assert row is not None and row.error == "list, line 7: it is not UTF-8"


@pytest.mark.parametrize("more", [-1, 0, 1, MAX_LINE - 1, MAX_LINE, 3 * MAX_LINE + 7])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_line_that_is_too_long_is_one_entry(more: int, end: bytes) -> None:
    """Its length counts with its end; the next line is whole."""
    long = b"http://a.com/".ljust(MAX_LINE - len(end) + more, b"x") + end
    entries = parsed(long + V.encode() + b"\n")
    assert [(line, good) for line, _, good in entries] == [(1, more < 0), (2, True)]
    assert entries[1][1] == V


def test_a_text_that_is_cut_is_taken_for_no_url() -> None:
    """What is shown of a bad line must not be the name of a task that another line can have."""
    for text in (U + " " * MAX_LINE, U.ljust(2 * MAX_LINE, "x"), U.ljust(300, "x") + " y"):
        row = parse(text.encode(), "list", 2)
        assert row is not None and row.error is not None
        assert row.url.startswith(U) and row.url.endswith("…")


# ------------------------------------------------------------------ sources


def test_urls_of_the_callers_own_are_a_list() -> None:
    """Any iterable, read once; a line break within one makes no second entry; long ones come whole."""
    long = "http://a.com/" + "x" * 12_000
    batch = first_batch(from_urls(iter([U, long, "http://a.com/\nhttp://evil.example/", V])))
    assert [(row.url, row.error is None) for row in batch.rows] == [
        (U, True),
        (long, True),
        ("http://a.com/ http://evil.example/", False),
        (V, True),
    ]
    assert batch.total_bytes is None


@pytest.mark.parametrize("item", [None, 3, "http://a.com/\ud800", "http://a.com/\udcff", b"http://a.com/"])
def test_an_item_that_is_no_url_is_an_entry_all_the_same(item: object) -> None:
    """None does not end the list, and nothing that Python calls a string breaks it."""
    batch = first_batch(from_urls([item, V]))  # type: ignore[list-item]
    assert [row.error is None for row in batch.rows] == [False, True]


def test_an_iterable_that_raises_is_a_list_that_cannot_be_read() -> None:
    """Its error is named; what came before was read."""

    def urls() -> Iterator[str]:
        yield U
        raise RuntimeError("the database is gone")

    with pytest.raises(ListUnreadable, match="the database is gone"):
        first_batch(from_urls(urls()))


def test_a_list_that_is_a_folder_cannot_be_read(tmp_path: Path) -> None:
    """It is named, as one that is missing."""
    for path in (tmp_path, tmp_path / "missing.txt"):
        with pytest.raises(ListUnreadable, match=str(path)):
            from_path(str(path))


# ------------------------------------------------------------------ into a queue


def read(queue: LocalTaskQueue, source: Source, stop: Callable[[], bool] = lambda: False) -> tuple[ListState, bool]:
    """Read a list as far as *stop* lets it; return how it stood before, and whether its end was reached."""
    session = queue.hello(hello(Role.PRODUCER)).session
    state = queue.open_list(session, source.name, False)
    reading = Reading(queue, session, source, stop)
    reading.prepare(state)
    return state, reading.run()


def after(batches: int) -> Callable[[], bool]:
    """Return a request to stop that comes after so many batches."""
    left = iter(range(batches))
    return lambda: next(left, None) is None


def entries(tmp_path: Path) -> list[tuple[int, str]]:
    """Return (line, URL) of all entries in the ledger."""
    ledger = Ledger(tmp_path / "ledger.db", 0, lambda error: None)
    try:
        return [(row.line, row.url) for row in ledger.view.entries()]
    finally:
        ledger.close()


@pytest.mark.parametrize("lines", [5, 6, 7])
@pytest.mark.parametrize("end", ["", "\n"], ids=["no last end", "last end"])
@pytest.mark.parametrize("batches", [0, 1, 2, 3])
def test_a_list_is_gone_on_with_after_any_batch(
    tmp_path: Path, queue: LocalTaskQueue, monkeypatch: pytest.MonkeyPatch, lines: int, end: str, batches: int
) -> None:
    """Every line is an entry once, wherever the first reading stopped, with comments at the borders."""
    monkeypatch.setattr(producer, "BATCH", 2)
    urls = [f"http://a.com/{n}" if n % 4 else "# comment" for n in range(1, lines + 1)]
    path = tmp_path / "urls.txt"
    path.write_text("\n".join(urls) + end)
    _, whole = read(queue, from_path(str(path)), after(batches))
    state, finished = read(queue, from_path(str(path)))
    assert (whole, finished) == (batches * 2 >= lines, True)
    assert state.next_line == min(1 + 2 * batches, lines + 1)
    queue.close()
    assert entries(tmp_path) == [(n, url) for n, url in enumerate(urls, 1) if url != "# comment"]
    assert queue.stats().lists_read


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_last_line_may_get_its_end_later(tmp_path: Path, queue: LocalTaskQueue, end: str) -> None:
    """And more lines after it; numbers go on."""
    path = tmp_path / "urls.txt"
    path.write_bytes(f"{U}{end}{V}".encode())
    read(queue, from_path(str(path)))
    path.write_bytes(f"{U}{end}{V}{end}http://c.com/{end}".encode())
    assert read(queue, from_path(str(path)))[1]
    assert read(queue, from_path(str(path)))[0].next_line == 4
    queue.close()
    assert entries(tmp_path) == [(1, U), (2, V), (3, "http://c.com/")]


@pytest.mark.parametrize("data", [f"{V}\n{V}\n", f"{U}\n", ""], ids=["changed", "cut", "emptied"])
def test_a_list_that_is_another_one_is_refused(tmp_path: Path, queue: LocalTaskQueue, data: str) -> None:
    """What was read before must be its beginning; nothing is put."""
    path = tmp_path / "urls.txt"
    path.write_text(f"{U}\n{V}\n")
    read(queue, from_path(str(path)))
    path.write_text(data)
    with pytest.raises(UsageError, match="not the list that was read before"):
        read(queue, from_path(str(path)))
    assert queue.stats().entries == 2


def test_an_empty_list_is_read_to_its_end(tmp_path: Path, queue: LocalTaskQueue) -> None:
    """There is nothing to wait for."""
    (tmp_path / "urls.txt").touch()
    assert read(queue, from_path(str(tmp_path / "urls.txt")))[1]
    assert queue.stats().lists_read


def test_somebody_else_in_the_same_list_is_told(
    tmp_path: Path, queue: LocalTaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two producers cannot mix their lines under one name."""
    monkeypatch.setattr(producer, "BATCH", 2)
    path = tmp_path / "urls.txt"
    path.write_text("".join(f"http://a.com/{n}\n" for n in range(8)))
    session = queue.hello(hello(Role.PRODUCER)).session
    slow = Reading(queue, session, from_path(str(path)), lambda: False)
    slow.prepare(queue.open_list(session, "urls.txt", False))
    read(queue, from_path(str(path)))
    with pytest.raises(UsageError, match="expects row 9"):
        slow.run()
    assert queue.stats().entries == 8


def test_two_lists_of_one_name_are_two(tmp_path: Path) -> None:
    """They are called by their paths; a list that is named twice is read once."""
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_list(tmp_path / folder, f"no url in {folder}")
    write_list(tmp_path, *(f"no url {n}" for n in range(2 * producer.BATCH + 1)), name="long.txt")
    lists = ("a/urls.txt", "b/urls.txt", "long.txt", "long.txt")
    done = run(tmp_path, "seed", *lists, "-o", "out", "--workers", "0")
    assert done.returncode == 0, done.stderr
    found = [(row["list"], row["line"]) for row in rows(tmp_path, "out")]
    assert found == [
        ("a/urls.txt", 1),
        ("b/urls.txt", 1),
        *(("long.txt", line) for line in range(1, 2 * producer.BATCH + 2)),
    ]
