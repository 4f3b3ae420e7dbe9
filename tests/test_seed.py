"""`crawler seed`, from the outside: what comes out, and how it goes on after whatever ended it."""

from __future__ import annotations

import csv
import fcntl
import hashlib
import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from crawler.out import Out
from tests.command import LIMIT, LOCAL, records, rows, run, running, served, status, write_list
from tests.conftest import wait_until
from tests.site import Site, photo


def test_a_list_becomes_images_and_records(tmp_path: Path, site: Site) -> None:
    """Counts, files, records, rows and the summary agree; nothing is left behind."""
    urls = [site.url(f"/photo/{n}.jpg") for n in range(20)]
    lines = ["# a comment", "", *urls, urls[3], urls[3] + "#part", site.url("/missing/1"), "no url, at all"]
    write_list(tmp_path, *lines)
    done = run(tmp_path, "seed", "urls.txt", *LOCAL)
    assert done.returncode == 0, done.stderr
    assert "22 URLs from 24 lines: 20 stored, 2 failed" in done.stdout
    assert "crawler export" in done.stdout
    kept = {record["url"]: record for record in records(tmp_path, "urls.crawl")}
    assert len(kept) == 22
    for number, url in enumerate(urls):
        data = (tmp_path / "urls.crawl" / kept[url]["path"]).read_bytes()
        assert data == photo(number)
        assert kept[url]["sha256"] == hashlib.sha256(data).hexdigest()
    assert kept[site.url("/missing/1")]["reason"] == "http_not_found"
    bad = kept["no url, at all"]
    assert (bad["reason"], "line 26" in bad["detail"], "urls.txt" in bad["detail"]) == ("bad_url", True, True)
    assert [row["line"] for row in rows(tmp_path, "urls.crawl")] == [*range(3, 27)]
    assert site.count("/photo/3.jpg") == 1
    names = sorted(path.name for path in (tmp_path / "urls.crawl").iterdir())
    assert names == [".lock", "completions.jsonl", "images", "ledger.db"]
    assert not list((tmp_path / "urls.crawl" / "images").glob(".*"))


def test_export_writes_csv(tmp_path: Path, site: Site) -> None:
    """Commas and quotes in URLs stay what they are."""
    write_list(tmp_path, site.url("/photo/1.jpg?a=b,c"), 'http://a b/","')
    assert run(tmp_path, "seed", "urls.txt", *LOCAL).returncode == 0
    assert run(tmp_path, "export", "urls.crawl", "all.csv").returncode == 0
    with (tmp_path / "all.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert [(row["url"], row["outcome"]) for row in found] == [
        (site.url("/photo/1.jpg?a=b,c"), "stored"),
        ('http://a b/","', "failed"),
    ]


def test_a_list_from_standard_input(tmp_path: Path, site: Site) -> None:
    """`-` is a list too; OUT is then stdin.crawl."""
    done = run(tmp_path, "seed", "-", *LOCAL, given=site.url("/photo/1.jpg") + "\n")
    assert done.returncode == 0, done.stderr
    assert [record["outcome"] for record in records(tmp_path, "stdin.crawl")] == ["stored"]


def test_the_same_command_again_does_nothing_twice(tmp_path: Path, site: Site) -> None:
    """A finished crawl stays finished; appended lines are taken."""
    write_list(tmp_path, site.url("/photo/1.jpg"))
    assert run(tmp_path, "seed", "urls.txt", *LOCAL).returncode == 0
    assert run(tmp_path, "seed", "urls.txt", *LOCAL).returncode == 0
    with (tmp_path / "urls.txt").open("a") as file:
        file.write(site.url("/photo/2.jpg") + "\n")
    assert run(tmp_path, "seed", "urls.txt", *LOCAL).returncode == 0
    assert [record["seq"] for record in records(tmp_path, "urls.crawl")] == [1, 2]
    assert (site.count("/photo/1.jpg"), site.count("/photo/2.jpg")) == (1, 1)


def test_another_list_in_the_same_out_is_refused(tmp_path: Path, site: Site) -> None:
    """By its content, by its name, and where its last line has grown."""
    write_list(tmp_path, site.url("/photo/1.jpg"))
    assert run(tmp_path, "seed", "urls.txt", *LOCAL).returncode == 0
    write_list(tmp_path, site.url("/photo/2.jpg"))
    changed = run(tmp_path, "seed", "urls.txt", *LOCAL)
    write_list(tmp_path, site.url("/photo/2.jpg"), name="other.txt")
    renamed = run(tmp_path, "seed", "other.txt", "-o", "urls.crawl", *LOCAL)
    assert (changed.returncode, renamed.returncode) == (2, 2)
    assert "not the list that was read before" in changed.stderr
    assert "urls.txt" in renamed.stderr
    assert site.count("/photo/2.jpg") == 0


def test_a_last_line_that_has_grown_is_refused(tmp_path: Path, site: Site) -> None:
    """It was read without its end: what it is now was never fetched."""
    (tmp_path / "urls.txt").write_text(site.url("/photo/1.jpg"))
    assert run(tmp_path, "seed", "urls.txt", *LOCAL).returncode == 0
    with (tmp_path / "urls.txt").open("a") as file:
        file.write("?more\n")
    grown = run(tmp_path, "seed", "urls.txt", *LOCAL)
    assert grown.returncode == 2
    assert "has grown" in grown.stderr


def test_another_store_is_refused(tmp_path: Path, site: Site) -> None:
    """Images of one crawl stay together."""
    write_list(tmp_path, site.url("/photo/1.jpg"))
    assert run(tmp_path, "seed", "urls.txt", *LOCAL, "--store", "here").returncode == 0
    assert not records(tmp_path, "urls.crawl")[0]["path"].startswith("images/")
    refused = run(tmp_path, "seed", "urls.txt", *LOCAL, "--store", "there")
    assert refused.returncode == 2
    assert "here" in refused.stderr and "there" in refused.stderr


def test_strict_tells_of_failures(tmp_path: Path, site: Site) -> None:
    """Failed downloads are in the summary, and with --strict in the status."""
    write_list(tmp_path, site.url("/missing/1"))
    assert run(tmp_path, "seed", "urls.txt", *LOCAL).returncode == 0
    assert run(tmp_path, "seed", "urls.txt", *LOCAL, "--strict").returncode == 3


def test_a_missing_list_is_65_and_makes_nothing(tmp_path: Path) -> None:
    """It is named, and no OUT is made for it."""
    done = run(tmp_path, "seed", "nowhere.txt")
    assert done.returncode == 65
    assert "nowhere.txt" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("missing", "options", "extra"),
    [
        ("fsspec", ("--store", "s3://bucket/prefix"), "crawler[s3]"),
        ("s3fs", ("--store", "s3://bucket/prefix"), "crawler[s3]"),
        ("gcsfs", ("--store", "gs://bucket/prefix"), "crawler[gs]"),
        ("pyarrow", ("--format", "parquet"), "crawler[parquet]"),
    ],
)
def test_a_store_without_its_library_makes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str, options: tuple[str, ...], extra: str
) -> None:
    """What to install is told, and no OUT is made before."""
    broken, folder = tmp_path / "broken", tmp_path / "folder"
    broken.mkdir()
    folder.mkdir()
    (broken / f"{missing}.py").write_text(f"raise ImportError('No module named {missing}')")
    monkeypatch.setenv("PYTHONPATH", str(broken))
    write_list(folder, "http://127.0.0.1/1.jpg")
    done = run(folder, "seed", "urls.txt", *options)
    assert (done.returncode, extra in done.stderr, "Traceback" in done.stderr) == (2, True, False), done.stderr
    assert [path.name for path in folder.iterdir()] == ["urls.txt"]


def test_out_in_use_is_73_and_names_the_process(tmp_path: Path, site: Site) -> None:
    """Two coordinators on one OUT: the second leaves."""
    write_list(tmp_path, site.url("/slow/30/photo/1.jpg"))
    with running(tmp_path, "seed", "urls.txt", *LOCAL) as first:
        served(tmp_path, "urls.crawl")
        second = run(tmp_path, "seed", "urls.txt", *LOCAL)
        assert second.returncode == 73
        assert str(first.pid) in second.stderr


def test_who_only_looks_whether_out_is_in_use_is_in_nobodys_way(tmp_path: Path) -> None:
    """`crawler status` at the very moment that `crawler seed` begins."""
    out = Out(tmp_path / "urls.crawl")
    with out.hold():
        pass
    look = (out.path / ".lock").open("rb")
    fcntl.flock(look, fcntl.LOCK_SH)
    threading.Timer(0.1, look.close).start()
    with out.hold():
        assert look.closed


def test_a_ledger_that_is_none_is_73(tmp_path: Path, site: Site) -> None:
    """A foreign file in its place is told, and left alone."""
    write_list(tmp_path, site.url("/photo/1.jpg"))
    (tmp_path / "urls.crawl").mkdir()
    (tmp_path / "urls.crawl" / "ledger.db").write_text("not a ledger " * 100)
    done = run(tmp_path, "seed", "urls.txt", *LOCAL)
    assert done.returncode == 73
    assert (tmp_path / "urls.crawl" / "ledger.db").read_text().startswith("not a ledger")


def test_sigterm_ends_with_75_and_the_rest_is_done_later(tmp_path: Path, site: Site) -> None:
    """What was in hand is done or given back; the same command goes on."""
    urls = [site.url(f"/slow/0.2/photo/{n}.jpg") for n in range(60)]
    write_list(tmp_path, *urls)
    with running(tmp_path, "seed", "urls.txt", *LOCAL) as process:
        served(tmp_path, "urls.crawl")
        wait_until(lambda: status(tmp_path, "urls.crawl").get("stored", 0) > 4)
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT) == 75
    assert not list((tmp_path / "urls.crawl" / "images").glob(".*"))
    done = run(tmp_path, "seed", "urls.txt", *LOCAL)
    assert done.returncode == 0, done.stderr
    assert sorted(record["url"] for record in records(tmp_path, "urls.crawl")) == sorted(urls)
    assert len(site.requests) == len(urls)


def test_kill_9_of_everything_loses_nothing(tmp_path: Path, site: Site) -> None:
    """The same command again ends every task once, and fetches only what had no record."""
    urls = [site.url(f"/slow/0.1/photo/{n}.jpg") for n in range(80)]
    write_list(tmp_path, *urls)
    with running(tmp_path, "seed", "urls.txt", *LOCAL) as process:
        served(tmp_path, "urls.crawl")
        wait_until(lambda: status(tmp_path, "urls.crawl").get("stored", 0) > 8)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(LIMIT)
    stored, restart = status(tmp_path, "urls.crawl")["stored"], time.monotonic()
    done = run(tmp_path, "seed", "urls.txt", *LOCAL)
    assert done.returncode == 0, done.stderr
    kept = records(tmp_path, "urls.crawl")
    assert [record["seq"] for record in kept] == list(range(1, len(urls) + 1))
    assert sorted(record["url"] for record in kept) == sorted(urls)
    for record in kept:
        data = (tmp_path / "urls.crawl" / record["path"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == record["sha256"]
    assert stored < len(urls)
    assert sum(request.start > restart for request in site.requests) == len(urls) - stored
    assert not list((tmp_path / "urls.crawl" / "images").glob(".*"))


def test_a_torn_completions_file_is_mended(tmp_path: Path, site: Site) -> None:
    """A torn tail is cut, what is missing is appended."""
    write_list(tmp_path, *(site.url(f"/photo/{n}.jpg") for n in range(5)))
    assert run(tmp_path, "seed", "urls.txt", *LOCAL).returncode == 0
    path = tmp_path / "urls.crawl" / "completions.jsonl"
    whole = path.read_bytes()
    for size in (len(whole) - 1, len(whole) - 30, len(whole) // 2, 3, 0):
        path.write_bytes(whole[:size])
        assert run(tmp_path, "seed", "urls.txt", *LOCAL).returncode == 0
        assert path.read_bytes() == whole


def test_retry_of_a_finished_crawl(tmp_path: Path, site: Site) -> None:
    """Failed tasks go back, the next seed takes them; the last line of an id counts."""
    write_list(tmp_path, site.url("/flaky/1/1.jpg"), site.url("/missing/1"))
    assert run(tmp_path, "seed", "urls.txt", *LOCAL, "--attempts", "1").returncode == 0
    again = run(tmp_path, "retry", "urls.crawl", "--reason", "http_server_error")
    assert again.returncode == 0 and again.stdout.startswith("1 task"), again
    assert status(tmp_path, "urls.crawl")["ready"] == 1
    assert run(tmp_path, "seed", "urls.txt", *LOCAL, "--attempts", "1").returncode == 0
    lines = [record for record in records(tmp_path, "urls.crawl") if record["id"] == 1]
    assert [line["outcome"] for line in lines] == ["failed", "stored"]
    facts = status(tmp_path, "urls.crawl")
    assert (facts["stored"], facts["failed"], facts["reasons"]) == (1, 1, {"http_not_found": 1})


def test_a_transient_failure_passes(tmp_path: Path, site: Site) -> None:
    """The queue tries again; the record tells how often."""
    write_list(tmp_path, site.url("/flaky/2/1.jpg"))
    assert run(tmp_path, "seed", "urls.txt", *LOCAL).returncode == 0
    assert [(record["outcome"], record["attempts"]) for record in records(tmp_path, "urls.crawl")] == [("stored", 3)]


def test_a_redirect_to_another_host_is_followed(tmp_path: Path) -> None:
    """It queues there, and is one attempt."""
    with Site(addresses=2) as site:
        target = site.url("/photo/7.jpg", host=2)
        write_list(tmp_path, site.url(f"/redirect/302?to={target}"))
        assert run(tmp_path, "seed", "urls.txt", *LOCAL).returncode == 0
    record = records(tmp_path, "urls.crawl")[0]
    assert (record["outcome"], record["attempts"]) == ("stored", 1)


def test_loopback_is_refused_unless_allowed(tmp_path: Path, site: Site) -> None:
    """Only public addresses by default."""
    write_list(tmp_path, site.url("/photo/1.jpg"))
    assert run(tmp_path, "seed", "urls.txt", "--processes", "1").returncode == 0
    assert [record["reason"] for record in records(tmp_path, "urls.crawl")] == ["address_refused"]
    assert site.requests == []


def test_what_is_ignored_is_told(tmp_path: Path, site: Site) -> None:
    """The summary says so, by whoever's choice it was."""
    write_list(tmp_path, site.url("/photo/1.jpg"))
    done = run(tmp_path, "seed", "urls.txt", *LOCAL, "--opt-out", "ignore")
    assert "robots.txt and opt-outs of hosts were ignored, as asked" in done.stdout
    assert site.count("/robots.txt") == 0


def test_robots_are_obeyed(tmp_path: Path, site: Site) -> None:
    """By default robots.txt is fetched, and what it disallows is not."""
    site.robots = site.robots._replace(status=200, body=b"User-agent: *\nDisallow: /photo/2\n")
    write_list(tmp_path, site.url("/photo/1.jpg"), site.url("/photo/2.jpg"))
    assert run(tmp_path, "seed", "urls.txt", "--allow-net", "127.0.0.1/32", "--processes", "1").returncode == 0
    kept = {record["url"]: record["reason"] for record in records(tmp_path, "urls.crawl")}
    assert list(kept.values()).count("robots_disallowed") == 1
    assert kept[site.url("/photo/2.jpg")] == "robots_disallowed"
    assert site.count("/photo/2.jpg") == 0
    assert site.count("/robots.txt") >= 1


def test_per_host_and_delay_hold(tmp_path: Path, site: Site) -> None:
    """One fetch at a time, and a pause between starts as the site sees them."""
    write_list(tmp_path, *(site.url(f"/photo/{n}.jpg") for n in range(6)))
    assert run(tmp_path, "seed", "urls.txt", *LOCAL, "--per-host", "1", "--delay", "0.2").returncode == 0
    starts = sorted(request.start for request in site.requests)
    assert len(starts) == 6
    assert min(late - early for early, late in zip(starts, starts[1:], strict=False)) > 0.18


def test_options_reach_the_requests(tmp_path: Path, site: Site) -> None:
    """User-Agent with contact, and further headers."""
    write_list(tmp_path, site.url("/photo/1.jpg"))
    more = ("--contact", "me@example.org", "--header", "Accept-Language: de")
    assert run(tmp_path, "seed", "urls.txt", *LOCAL, *more).returncode == 0
    headers = site.requests[0].headers
    assert headers["user-agent"].startswith("crawler/") and "me@example.org" in headers["user-agent"]
    assert headers["accept-language"] == "de"


def test_status_json_of_a_finished_crawl(tmp_path: Path, site: Site) -> None:
    """The fields that other programs rely on."""
    write_list(tmp_path, site.url("/photo/1.jpg"), site.url("/missing/1"))
    assert run(tmp_path, "seed", "urls.txt", *LOCAL).returncode == 0
    facts = json.loads(run(tmp_path, "status", "urls.crawl", "--json").stdout)
    names = ("total", "ready", "leased", "delayed", "stored", "failed", "reasons")
    assert [facts[name] for name in names] == [2, 0, 0, 0, 1, 1, {"http_not_found": 1}]


def test_completions_are_logged_when_asked(tmp_path: Path, site: Site) -> None:
    """-v says each; it is what the example in the tutorial printed."""
    write_list(tmp_path, site.url("/photo/1.jpg"))
    done = run(tmp_path, "-v", "seed", "urls.txt", *LOCAL)
    assert f"{site.url('/photo/1.jpg')} ------> completed!" in done.stderr


def test_a_signal_to_the_whole_group_drains_too(tmp_path: Path, site: Site) -> None:
    """A terminal that closes, or a service manager, reaches the children as well: no fetch is lost to that."""
    urls = [site.url(f"/slow/0.2/photo/{n}.jpg") for n in range(60)]
    write_list(tmp_path, *urls)
    for number in (signal.SIGHUP, signal.SIGTERM):
        with running(tmp_path, "seed", "urls.txt", *LOCAL) as process:
            served(tmp_path, "urls.crawl")
            before = len(site.requests)
            wait_until(lambda before=before: len(site.requests) > before + 4)  # type: ignore[misc]
            os.killpg(process.pid, number)
            said = process.communicate(timeout=LIMIT)[1]
            assert process.returncode == 75
            assert "died" not in said
    assert run(tmp_path, "seed", "urls.txt", *LOCAL).returncode == 0
    assert len(site.requests) == len(urls)
