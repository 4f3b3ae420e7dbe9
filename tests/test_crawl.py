"""The Python API: `crawl()` with mocked HTTP on threads of this process, and for real in a script."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy
import pytest
import responses
from PIL import Image

import crawler
from crawler import ListUnreadable, OutUnusable, Summary, UsageError, crawl
from crawler.export import export
from crawler.model import Outcome
from crawler.out import Out
from crawler.producer import Picks, from_path, from_urls
from crawler.progress import Watch
from crawler.reasons import Reason
from crawler.settings import Politeness, RetryPolicy, Settings
from crawler.stats import Stats
from crawler.storage import Format, Storage
from tests.command import LIMIT
from tests.shards import read_webdataset, tars
from tests.site import Site

#: Tries again at once, so that no test waits.
QUICK = RetryPolicy(base=0.0)


def image(number: int, kind: str = "PNG") -> bytes:
    """Return a small image, another one for each number."""
    file = io.BytesIO()
    Image.new("RGB", (10 + number, 7), (number, 2 * number, 3)).save(file, kind)
    return file.getvalue()


@pytest.fixture
def web() -> Iterator[responses.RequestsMock]:
    """Mock HTTP; a request that was not foreseen fails."""
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        yield mock


def serve(web: responses.RequestsMock, *urls: str) -> None:
    """Let each of *urls* answer an image of its own."""
    for number, url in enumerate(urls):
        web.get(url, body=image(number), content_type="image/png")


def asked(web: responses.RequestsMock) -> list[str]:
    return sorted(str(call.request.url) for call in web.calls)


A, B, C = "http://a.test/1.png", "http://b.test/2.png", "https://c.test/3.png"


# ------------------------------------------------------------------ what comes out


def test_a_crawl_comes_to_images_and_records(tmp_path: Path, web: responses.RequestsMock) -> None:
    """Numbers of the summary, one record for each distinct URL, and the bytes that were served."""
    bodies = {A: image(1), B: image(2, "JPEG"), C: image(3, "GIF")}
    for url, body in bodies.items():
        web.get(url, body=body)
    web.get("http://a.test/none", status=404)
    summary = crawl(
        [A, B, "# comment", C, A, A + "#again", "http://a.test/none", "no url"], tmp_path / "out", inline=True
    )
    assert (summary.total, summary.entries, summary.stored, summary.failed, summary.left) == (5, 7, 3, 2, 0)
    assert summary.bytes == sum(map(len, bodies.values()))
    assert summary.images == tmp_path / "out" / "images" and summary.incomplete == []
    assert asked(web) == sorted([*bodies, "http://a.test/none"])
    records = {record.url: record for record in summary.records()}
    assert len(records) == 5
    for url, body in bodies.items():
        record = records[url]
        assert (record.outcome, record.attempts, record.http_status) == (Outcome.STORED, 1, 200)
        assert record.sha256 == hashlib.sha256(body).hexdigest()
        assert record.path is not None and (tmp_path / "out" / record.path).read_bytes() == body
    assert (records[C].format, records[C].width, records[C].height) == ("GIF", 13, 7)


def test_the_summary_says_why_and_what_next(tmp_path: Path, web: responses.RequestsMock) -> None:
    """Reasons with an example each, the most frequent first; hosts; the commands that follow."""
    serve(web, A)
    for url in ("http://b.test/1", "http://b.test/2"):
        web.get(url, status=404)
    web.get("http://c.test/", status=503)
    settings = Settings(politeness=Politeness(robots=False), retry=RetryPolicy(attempts=1))
    urls = [A, "http://b.test/1", "http://b.test/2", "http://c.test/"]
    summary = crawl(urls, tmp_path / "out", inline=True, settings=settings)
    first, second = summary.reasons
    assert (first.reason, first.tasks, second.reason, second.tasks) == (
        Reason.HTTP_NOT_FOUND,
        2,
        Reason.HTTP_SERVER_ERROR,
        1,
    )
    assert first.example in urls and second.example == "http://c.test/"
    assert summary.worst_hosts == [("b.test", 2), ("c.test", 1)]
    text = "\n".join(summary.lines())
    assert "4 URLs from 4 lines: 1 stored, 3 failed" in text
    assert f"crawler retry {tmp_path / 'out'} --class transient" in text
    assert repr(summary) == f"<Summary {tmp_path / 'out'}: 1 stored, 3 failed of 4>"


def test_records_are_those_of_the_completions_file(tmp_path: Path, web: responses.RequestsMock) -> None:
    """The same facts, in the order of ids; the iterator can be had again."""
    serve(web, A, B, C)
    summary = crawl([A, B, C], tmp_path / "out", inline=True)
    lines = [json.loads(line) for line in (tmp_path / "out" / "completions.jsonl").read_text().splitlines()]
    records = list(summary.records())
    assert [record.id for record in records] == [1, 2, 3]
    assert sorted((line["id"], line["seq"], line["path"]) for line in lines) == [
        (record.id, record.seq, record.path) for record in records
    ]
    assert list(summary.records()) == records


def test_images_may_go_elsewhere(tmp_path: Path, web: responses.RequestsMock) -> None:
    """Paths of records are then relative to the store."""
    serve(web, A)
    summary = crawl([A], tmp_path / "out", store=tmp_path / "store", inline=True)
    record = next(summary.records())
    assert record.path is not None and (tmp_path / "store" / record.path).read_bytes() == image(0)
    assert not (tmp_path / "out" / "images").exists()


def test_nothing_to_do_is_done(tmp_path: Path) -> None:
    """An empty list comes to an empty summary."""
    summary = crawl([], tmp_path / "out", inline=True)
    assert (summary.total, summary.entries, list(summary.records())) == (0, 0, [])


# ------------------------------------------------------------------ what goes wrong


def reasons(summary: Summary) -> dict[str, Reason | None]:
    return {record.url: record.reason for record in summary.records()}


def test_what_would_fail_again_is_asked_once(tmp_path: Path, web: responses.RequestsMock) -> None:
    """Each with its reason, and one attempt."""
    expected = {
        "http://a.test/404": Reason.HTTP_NOT_FOUND,
        "http://a.test/403": Reason.HTTP_FORBIDDEN,
        "http://a.test/204": Reason.HTTP_STATUS,
        "http://a.test/html": Reason.HTML,
        "http://a.test/text": Reason.NOT_AN_IMAGE,
        "http://a.test/half": Reason.IMAGE_TRUNCATED,
        "http://a.test/empty": Reason.EMPTY,
    }
    for status in (404, 403, 204):
        web.get(f"http://a.test/{status}", status=status)
    web.get("http://a.test/html", body="<!DOCTYPE html><html></html>", content_type="text/html")
    web.get("http://a.test/text", body="hello, world")
    web.get("http://a.test/half", body=image(99, "JPEG")[:-200])
    web.get("http://a.test/empty", body=b"")
    summary = crawl(expected, tmp_path / "out", inline=True)
    assert reasons(summary) == expected
    assert asked(web) == sorted(expected)
    assert {record.attempts for record in summary.records()} == {1}


def test_what_may_pass_is_tried_again(tmp_path: Path, web: responses.RequestsMock) -> None:
    """Up to the limit of attempts; the record says how many."""
    web.get(A, status=503)
    web.get(A, status=429)
    web.get(A, body=image(1))
    web.get(B, status=503)
    settings = Settings(politeness=Politeness(robots=False), retry=QUICK)
    summary = crawl([A, B], tmp_path / "out", inline=True, settings=settings)
    assert reasons(summary) == {A: None, B: Reason.HTTP_SERVER_ERROR}
    assert [record.attempts for record in summary.records()] == [3, 3]
    assert asked(web) == sorted([A, B] * 3)


def test_a_redirect_is_followed_to_another_host(tmp_path: Path, web: responses.RequestsMock) -> None:
    """One attempt, under the URL of the list."""
    web.get(A, status=302, headers={"Location": B})
    web.get(B, body=image(1))
    summary = crawl([A], tmp_path / "out", inline=True)
    assert [(record.url, record.outcome, record.attempts) for record in summary.records()] == [(A, Outcome.STORED, 1)]


def test_an_iterable_that_raises_ends_the_crawl(tmp_path: Path, web: responses.RequestsMock) -> None:
    """With its error; what came before it is kept for the next time."""
    serve(web, A, B)

    def urls() -> Iterator[str]:
        yield A
        raise RuntimeError("the database is gone")

    with pytest.raises(ListUnreadable, match="the database is gone"):
        crawl(urls(), tmp_path / "out", inline=True)
    assert crawl([A, B], tmp_path / "out", inline=True).stored == 2


def test_a_list_that_is_missing_makes_nothing(tmp_path: Path) -> None:
    """A string is a path, never one URL."""
    for name in ("missing.txt", A):
        with pytest.raises(ListUnreadable, match="cannot be read"):
            crawl(name, tmp_path / "out", inline=True)
    assert not (tmp_path / "out").exists()


def test_an_out_in_use_is_refused(tmp_path: Path) -> None:
    """And left alone."""
    out = tmp_path / "out"
    with Out(out).hold(), pytest.raises(OutUnusable, match="in use by process"):
        crawl([A], out, inline=True)


# ------------------------------------------------------------------ again


def test_a_crawl_is_gone_on_with(tmp_path: Path, web: responses.RequestsMock) -> None:
    """What has its record is not asked for again; further URLs are taken."""
    serve(web, A, B, C)
    assert crawl([A, B], tmp_path / "out", inline=True).stored == 2
    again = crawl(iter([A, B, C]), tmp_path / "out", inline=True)
    assert (again.total, again.stored) == (3, 3)
    assert asked(web) == sorted([A, B, C])


def test_other_urls_in_the_same_out_are_refused(tmp_path: Path, web: responses.RequestsMock) -> None:
    """By content, and by how much there is; nothing is asked for."""
    serve(web, A, B, C)
    crawl([A, B], tmp_path / "out", inline=True)
    for urls in ([A, C], [A], []):
        with pytest.raises(UsageError, match="not the list that was read before"):
            crawl(urls, tmp_path / "out", inline=True)
    assert asked(web) == sorted([A, B])


def test_a_failed_task_stays_failed(tmp_path: Path, web: responses.RequestsMock) -> None:
    """Going on is not trying again."""
    web.get(A, status=404)
    for _ in range(2):
        assert reasons(crawl([A], tmp_path / "out", inline=True)) == {A: Reason.HTTP_NOT_FOUND}
    assert asked(web) == [A]


# ------------------------------------------------------------------ columns


def exported(out: Path) -> list[dict[str, Any]]:
    """Return the rows of `crawler export`."""
    export(Out(out), out / "rows.jsonl")
    return [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]


def test_mappings_carry_their_columns(tmp_path: Path, web: responses.RequestsMock) -> None:
    """Of several with one URL each has its own; one without a URL, or without an end, fails and the rest goes on."""
    serve(web, A, B)
    endless: list[object] = []
    endless.append(endless)
    rows = [
        {"url": A, "text": "first", "size": 3, "tags": ["x", 1.5], "day": date(2026, 1, 2)},
        MappingProxyType({"url": A, "text": "again"}),
        {"text": "without"},
        {"url": B, "text": endless},
        {"url": B, "size": numpy.float32(0.5), "text": None, "tags": numpy.arange(2)},
        B,
    ]
    summary = crawl(iter(rows), tmp_path / "out", inline=True)
    assert (summary.total, summary.stored, summary.entries) == (4, 2, 6)
    found = [[row[name] for name in ("reason", "text", "size", "tags", "day")] for row in exported(tmp_path / "out")]
    assert found == [
        [None, "first", 3, ["x", 1.5], "2026-01-02"],
        [None, "again", None, None, None],
        ["bad_url", "without", None, None, None],
        ["bad_url", None, None, None, None],
        [None, None, 0.5, [0, 1], None],
        [None, None, None, None, None],
    ]


def test_mappings_are_gone_on_with(tmp_path: Path, web: responses.RequestsMock) -> None:
    """Where they are the same; a column that says something else makes another list."""
    serve(web, A, B)
    rows = [{"url": A, "text": "a"}, {"url": B, "text": "b"}]
    assert crawl(rows[:1], tmp_path / "out", inline=True).stored == 1
    assert crawl(rows, tmp_path / "out", inline=True).stored == 2
    assert asked(web) == sorted([A, B])
    with pytest.raises(UsageError, match="not the list that was read before"):
        crawl([{"url": A, "text": "other"}], tmp_path / "out", inline=True)


def test_what_is_taken_of_a_list_can_be_said(tmp_path: Path, web: responses.RequestsMock) -> None:
    """Of a file, and of mappings: the column of the URLs, and which others; captions go into shards."""
    serve(web, A)
    (tmp_path / "meta.csv").write_text(f"LINK,TEXT,more\n{A},a rose,x\n")
    picks = Picks(url_column="LINK", columns=("TEXT",))
    settings = Settings(
        politeness=Politeness(robots=False), storage=Storage(format=Format.WEBDATASET, caption_column="TEXT")
    )
    rows = [{"LINK": A, "TEXT": "a rose", "more": "x"}]
    for number, source in enumerate((from_path(str(tmp_path / "meta.csv"), picks), from_urls(rows, picks))):
        assert crawl(source, tmp_path / f"out{number}", inline=True, settings=settings).stored == 1
        [sample] = read_webdataset(tars(tmp_path / f"out{number}" / "images"))
        told = json.loads(sample["json"])
        assert (sample["txt"], told["TEXT"], "more" in told) == (b"a rose", "a rose", False)


def test_mappings_without_a_url_column_are_refused(tmp_path: Path) -> None:
    """With the columns that are there."""
    with pytest.raises(UsageError, match="has no column `url`, but `link`, `text`"):
        crawl([{"link": A, "text": "a"}], tmp_path / "out", inline=True)


# ------------------------------------------------------------------ robots, watching


def test_robots_are_ignored_inline(tmp_path: Path, web: responses.RequestsMock) -> None:
    """A mock that knows the images only is enough."""
    serve(web, A)
    assert crawl([A], tmp_path / "out", inline=True).stored == 1
    assert asked(web) == [A]


def test_robots_are_obeyed_inline_when_told(tmp_path: Path, web: responses.RequestsMock) -> None:
    """robots.txt is then a request like others, seen by the mock."""
    serve(web, A, "http://a.test/private/1.png")
    web.get("http://a.test/robots.txt", body="User-agent: *\nDisallow: /private/\n")
    urls = [A, "http://a.test/private/1.png"]
    summary = crawl(urls, tmp_path / "out", inline=True, settings=Settings(politeness=Politeness(robots=True)))
    assert reasons(summary) == {A: None, urls[1]: Reason.ROBOTS_DISALLOWED}
    assert asked(web) == [A, "http://a.test/robots.txt"]


def test_a_watch_is_told_how_it_stands(tmp_path: Path, web: responses.RequestsMock) -> None:
    """At last that all is done."""

    class Notes(Watch):
        def __init__(self) -> None:
            self.seen: list[Stats] = []

        def stats(self, stats: Stats) -> None:
            self.seen.append(stats)

    serve(web, A, B)
    notes = Notes()
    crawl([A, B], tmp_path / "out", inline=True, watch=notes)
    last = notes.seen[-1]
    assert (last.total, last.stored, last.leased, last.status) == (2, 2, 0, "finished")


# ------------------------------------------------------------------ for real

SCRIPT = """
import sys
from pathlib import Path
from crawler import crawl
from crawler.settings import Access, Politeness, Settings

settings = Settings(access=Access(allow_net=("127.0.0.0/8",)), politeness=Politeness(robots=False))
urls = sys.argv[1:]
Path("urls.txt").write_text("\\n".join(urls))
for number, source in enumerate((Path("urls.txt"), "urls.txt", (url for url in urls))):
    summary = crawl(source, f"out{number}", threads=4, settings=settings)
    print(summary.stored, summary.failed, len([record for record in summary.records() if record.worker]))
"""


def test_a_script_needs_no_guard(tmp_path: Path, site: Site) -> None:
    """Children are no copies of it: lists by path and by iterable are crawled once each, and it ends by itself."""
    (tmp_path / "script.py").write_text(SCRIPT)
    urls = [site.url("/photo/1.jpg"), site.url("/photo/2.jpg"), site.url("/missing/1")]
    done = subprocess.run(
        [sys.executable, "script.py", *urls], cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "2 1 3\n" * 3, "")
    assert len(site.requests) == 9


# ------------------------------------------------------------------ the package


def test_importing_it_is_light() -> None:
    """Neither HTTP nor images nor a database is loaded before it is used, not for an error's name either."""
    heavy = {"requests", "urllib3", "PIL", "click", "sqlite3", "msgspec", "tqdm", "ssl", "multiprocessing", "asyncio"}
    script = f"import sys, crawler; crawler.UsageError; print(sorted(sys.modules.keys() & {heavy}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=LIMIT, check=True)
    assert done.stdout == "[]\n"


def test_every_public_name_is_there() -> None:
    """Those that are promised, and no other by accident."""
    assert {name: getattr(crawler, name) for name in crawler.__all__}.keys() == set(crawler.__all__)
    assert set(crawler.__all__) <= set(dir(crawler))
    assert not hasattr(crawler, "banana")
