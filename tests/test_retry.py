"""`crawler retry`: which tasks go back."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command import LOCAL, records, run, running, served, status, write_list
from tests.conftest import wait_until
from tests.site import Site

#: What it tries is the same on every Python; that crawls run there is seen by others.
pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A crawl that has ended, of two hosts: three kinds of failures and two images."""
    tmp_path = tmp_path_factory.mktemp("ended")
    with Site(addresses=2) as site:
        urls = [site.url("/missing/1"), site.url("/missing/2", host=2), site.url("/flaky/9/1.jpg")]
        write_list(tmp_path, *urls, "no url", site.url("/photo/1.jpg"), site.url("/photo/2.jpg"))
        done = run(tmp_path, "seed", "urls.txt", *LOCAL, "--attempts", "1")
    assert done.returncode == 0, done.stderr
    return tmp_path


@pytest.fixture
def ended(once: Path, tmp_path: Path) -> Iterator[Path]:
    """The same, to be changed; the store's place is told by its path, so it lies where it did."""
    kept = tmp_path / "kept"
    shutil.copytree(once, kept)
    yield once
    shutil.rmtree(once)
    kept.rename(once)


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ((), 3),
        (("--reason", "http_not_found"), 2),
        (("--reason", "http_not_found", "--reason", "http_server_error"), 3),
        (("--class", "transient"), 1),
        (("--class", "permanent"), 2),
        (("--class", "local"), 0),
        (("--class", "transient", "--reason", "http_server_error"), 1),
        (("--host", "127.0.0.2"), 1),
        (("--host", "*.0.0.1"), 2),
        (("--host", "0.0.1"), 0),
        (("--http-status", "404"), 2),
        (("--http-status", "404", "--host", "127.0.0.1"), 1),
        (("--older-than", "1h"), 0),
        (("--older-than", "0s"), 3),
        (("--missing",), 0),
    ],
)
def test_what_is_said_narrows_the_choice(once: Path, options: tuple[str, ...], count: int) -> None:
    """A dry run counts, and changes nothing."""
    ledger = (once / "urls.crawl" / "ledger.db").read_bytes()
    done = run(once, "retry", "urls.crawl", "--dry-run", *options)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{count} task{'' if count == 1 else 's'} would wait for another try\n")
    assert (once / "urls.crawl" / "ledger.db").read_bytes() == ledger


def test_counts_follow(ended: Path) -> None:
    """What goes back is ready and failed no more."""
    done = run(ended, "retry", "urls.crawl", "--reason", "http_not_found")
    assert done.stdout.splitlines() == [
        "2 tasks wait for another try: run the same `crawler seed` command again",
        "          2  http_not_found",
    ]
    found = status(ended, "urls.crawl")
    assert (found["ready"], found["failed"], found["stored"]) == (2, 2, 2)
    assert found["reasons"] == {"bad_url": 1, "http_server_error": 1}


def test_images_that_are_gone_are_fetched_again(tmp_path: Path) -> None:
    """One removed, one cut; the others are left alone."""
    with Site() as site:
        write_list(tmp_path, *(site.url(f"/photo/{number}.jpg") for number in range(4)))
        assert run(tmp_path, "seed", "urls.txt", *LOCAL).returncode == 0
        kept = {record["id"]: tmp_path / "urls.crawl" / record["path"] for record in records(tmp_path, "urls.crawl")}
        whole = kept[2].read_bytes()
        kept[1].unlink()
        kept[2].write_bytes(whole[:-1])
        done = run(tmp_path, "retry", "urls.crawl", "--missing")
        assert done.stdout.startswith("2 tasks wait for another try"), done
        assert status(tmp_path, "urls.crawl")["stored"] == 2
        assert run(tmp_path, "seed", "urls.txt", *LOCAL).returncode == 0
        assert (kept[1].exists(), kept[2].read_bytes()) == (True, whole)
        found = status(tmp_path, "urls.crawl")
        assert (found["stored"], found["bytes"]) == (4, sum(path.stat().st_size for path in kept.values()))
        assert len(site.requests) == 6


def test_a_store_that_is_not_there_is_not_an_empty_one(ended: Path) -> None:
    """Its disk may not be mounted: nothing is put back."""
    (ended / "urls.crawl" / "images").rename(ended / "elsewhere")
    done = run(ended, "retry", "urls.crawl", "--missing")
    assert (done.returncode, "mounted" in done.stderr) == (73, True)
    assert status(ended, "urls.crawl")["stored"] == 2
    done = run(ended, "seed", "urls.txt", *LOCAL)
    assert (done.returncode, "mounted" in done.stderr) == (73, True)
    assert not (ended / "urls.crawl" / "images").exists()


def test_a_running_crawl_takes_them_at_once(tmp_path: Path) -> None:
    """No second command is needed; a host that was given up gets another chance."""
    with Site() as site:
        write_list(tmp_path, site.url("/flaky/1/1.jpg"), site.url("/missing/1"))
        with running(tmp_path, "seed", "urls.txt", *LOCAL, "--attempts", "1", "--keep-open"):
            served(tmp_path, "urls.crawl")
            wait_until(lambda: status(tmp_path, "urls.crawl").get("failed") == 2)
            done = run(tmp_path, "retry", "urls.crawl", "--class", "transient")
            assert done.stdout.splitlines()[0] == "1 task waits for another try"
            wait_until(lambda: status(tmp_path, "urls.crawl").get("stored") == 1)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--older-than", "soon"), "soon"),
        (("--host", "http://a/"), "http://a/"),
        (("--class", "local", "--reason", "timeout"), "--class"),
        (("--missing", "--reason", "timeout"), "--missing"),
        (("--http-status", "1000"), "1000"),
    ],
)
def test_usage(once: Path, options: tuple[str, ...], named: str) -> None:
    """What cannot be meant is named."""
    done = run(once, "retry", "urls.crawl", *options)
    assert (done.returncode, named in done.stderr) == (2, True)
