"""`crawler seed --refresh`: what is stored is asked for again, if it has changed."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.command import LIMIT, LOCAL, records, run, running, status, write_list
from tests.conftest import wait_until
from tests.site import Site, photo

#: What it tries is the same on every Python; that crawls run there is seen by others.
pytestmark = pytest.mark.once


def current(folder: Path) -> dict[int, dict[str, object]]:
    """Return the last record of each task."""
    return {record["id"]: record for record in records(folder, "urls.crawl")}


def test_only_what_has_changed_is_fetched(tmp_path: Path) -> None:
    """304 keeps the file and the facts; another image is stored; one without ETag is fetched."""
    with Site() as site:
        urls = [site.url(f"/kept/{number}.jpg") for number in (1, 2)] + [site.url("/photo/3.jpg")]
        write_list(tmp_path, *urls)
        assert run(tmp_path, "seed", "urls.txt", *LOCAL).returncode == 0
        before = current(tmp_path)
        site.versions["2.jpg"] += 1
        done = run(tmp_path, "seed", "urls.txt", "--refresh", *LOCAL)
        assert done.returncode == 0, done.stderr
        answers = [(request.path, request.status) for request in site.requests[3:]]
        assert sorted(answers) == [("/kept/1.jpg", 304), ("/kept/2.jpg", 200), ("/photo/3.jpg", 200)]
    after = current(tmp_path)
    facts = ("outcome", "path", "sha256", "bytes", "width", "height", "format", "attempts")
    assert [after[1][name] for name in facts] == [before[1][name] for name in facts]
    assert [after[number]["http_status"] for number in (1, 2, 3)] == [304, 200, 200]
    path = tmp_path / "urls.crawl" / str(after[2]["path"])
    assert (after[2]["path"] != before[2]["path"], path.read_bytes()) == (True, photo(1002))
    found = status(tmp_path, "urls.crawl")
    assert (found["stored"], found["failed"]) == (3, 0)
    assert found["bytes"] == sum(int(str(record["bytes"])) for record in after.values())


def test_a_refresh_that_was_killed_goes_on(tmp_path: Path) -> None:
    """The same command again asks for what it had not come to, and no more."""
    with Site() as site:
        write_list(tmp_path, *(site.url(f"/slow/0.2/kept/{number}.jpg") for number in range(40)))
        assert run(tmp_path, "seed", "urls.txt", *LOCAL).returncode == 0
        # One at a time, so that it cannot come to its end before it is killed.
        with running(tmp_path, "seed", "urls.txt", "--refresh", "--per-host", "1", *LOCAL) as process:
            wait_until(lambda: len(records(tmp_path, "urls.crawl")) > 42)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(LIMIT)
        assert run(tmp_path, "seed", "urls.txt", "--refresh", *LOCAL).returncode == 0
        assert len(records(tmp_path, "urls.crawl")) == 80
        assert {record["http_status"] for record in current(tmp_path).values()} == {304}
    found = status(tmp_path, "urls.crawl")
    assert (found["stored"], found["ready"], found["delayed"]) == (40, 0, 0)


def test_an_image_that_is_gone_is_fetched_whatever_the_host_says(tmp_path: Path) -> None:
    """`retry --missing` asks without conditions."""
    with Site() as site:
        write_list(tmp_path, site.url("/kept/1.jpg"))
        assert run(tmp_path, "seed", "urls.txt", *LOCAL).returncode == 0
        path = tmp_path / "urls.crawl" / str(current(tmp_path)[1]["path"])
        path.unlink()
        assert run(tmp_path, "retry", "urls.crawl", "--missing").returncode == 0
        assert run(tmp_path, "seed", "urls.txt", *LOCAL).returncode == 0
        assert [request.status for request in site.requests] == [200, 200]
        assert path.exists()


def test_a_refresh_that_fails_loses_no_image(tmp_path: Path) -> None:
    """Where the host is down, files that were recorded before stay, also when orphans are swept."""
    with Site() as site:
        write_list(tmp_path, site.url("/kept/1.jpg"), site.url("/kept/2.jpg"))
        assert run(tmp_path, "seed", "urls.txt", *LOCAL).returncode == 0
    kept = [tmp_path / "urls.crawl" / str(record["path"]) for record in current(tmp_path).values()]
    assert run(tmp_path, "seed", "urls.txt", "--refresh", "--attempts", "1", *LOCAL).returncode == 0
    assert status(tmp_path, "urls.crawl")["failed"] == 2
    assert run(tmp_path, "status", "urls.crawl", "--verify", "--sweep").returncode == 0
    assert [path.exists() for path in kept] == [True, True]
