"""Shards from the outside: what readers of tars and parquet find, and that no image is lost or twice in them."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.command import LOCAL, records, run, running, served, status, write_list
from tests.conftest import wait_until
from tests.shards import check, listed, tars
from tests.site import Site

WEBDATASET = ("--format", "webdataset")


def urls(site: Site, count: int, path: str = "/photo/{}.jpg") -> list[str]:
    """Return the URLs of so many photos."""
    return [site.url(path.format(number)) for number in range(count)]


def test_a_list_becomes_tars(tmp_path: Path, site: Site) -> None:
    """Shards are rotated by count; `tar` and `webdataset` find every stored image once, with its facts."""
    write_list(tmp_path, *urls(site, 25), site.url("/missing/1"))
    done = run(tmp_path, "seed", "urls.txt", *LOCAL, *WEBDATASET, "--shard-count", "10")
    assert done.returncode == 0, done.stderr
    check(tmp_path / "urls.crawl", 25)
    found = tars(tmp_path / "urls.crawl" / "images")
    assert [path.name for path in found] == ["00000.tar", "00001.tar", "00002.tar"]
    assert [len(listed(path)) for path in found] == [20, 20, 10]
    assert sorted(os.listdir(tmp_path / "urls.crawl" / "images")) == [".crawl", *(path.name for path in found)]


def test_kill_9_of_everything_leaves_each_image_once(tmp_path: Path, site: Site) -> None:
    """Killed again and again while shards are open and published, and then resumed."""
    write_list(tmp_path, *urls(site, 400, "/slow/0.02/photo/{}.jpg"))
    command = ("seed", "urls.txt", *LOCAL, *WEBDATASET, "--shard-count", "30")
    for goal in (40, 130, 250):
        with running(tmp_path, *command) as process:
            wait_until(lambda goal=goal: status(tmp_path, "urls.crawl").get("stored", 0) >= goal)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for tar in tars(tmp_path / "urls.crawl" / "images"):
            listed(tar)
    done = run(tmp_path, *command)
    assert done.returncode == 0, done.stderr
    check(tmp_path / "urls.crawl", 400)
