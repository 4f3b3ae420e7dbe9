"""Folders for temporary files: they go with their process, and what a kill leaves goes with the next start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from crawler.scratch import LOCK, Scratch
from tests.command import LIMIT, LOCAL, records, run, running, served, write_list
from tests.conftest import wait_until
from tests.site import Site

#: Makes a folder with a file in it, says where, and lives until its standard input ends.
OWNER = """
import sys
from crawler.scratch import Scratch
with Scratch() as folder:
    (folder / "download").write_bytes(b"x" * 1000)
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty folder for temporary files, of this test alone."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


@contextmanager
def owner() -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Have another process own a folder."""
    words = [sys.executable, "-P", "-c", OWNER]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, Path(process.stdout.readline().strip())
        finally:
            process.kill()


def test_it_goes_when_it_is_closed(temporary: Path) -> None:
    """With all that is in it; only this user may look inside."""
    with Scratch() as folder:
        assert folder.parent.parent == temporary
        assert folder.parent.stat().st_mode & 0o777 == 0o700
        (folder / "download").write_bytes(b"x")
    assert list(temporary.iterdir()) == []


def test_it_may_be_closed_again(temporary: Path) -> None:
    """The second time does nothing: not even to what got its name or its descriptor since."""
    scratch = Scratch()
    scratch.close()
    other = os.open(temporary, os.O_RDONLY)
    scratch.close()
    os.close(other)
    assert list(temporary.iterdir()) == []


def kill_owner() -> Path:
    """Return what a process left that was killed."""
    with owner() as (killed, left):
        killed.kill()
        killed.wait(LIMIT)
    assert (left / "download").exists()
    return left


def test_what_a_kill_left_goes_with_the_next(temporary: Path) -> None:
    """The folder of a process that was killed is removed, those of processes that live stay, this one's too."""
    with owner() as (_, kept), Scratch() as mine:
        kill_owner()
        with owner() as (_, other):
            assert sorted(temporary.iterdir()) == sorted(folder.parent for folder in (kept, mine, other))
        assert (kept / "download").exists() and mine.exists()


def test_a_process_looks_once(temporary: Path) -> None:
    """What is left while it lives waits for the next one."""
    Scratch().close()
    left = kill_owner()
    Scratch().close()
    assert (left / "download").exists()
    with owner() as (_, other):
        assert list(temporary.iterdir()) == [other.parent]


def test_what_comes_while_it_is_removed_is_swept_by_the_next(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As from a child that has not seen yet that its parent is gone: the lock goes last, so all is found again."""
    scratch, real, late = Scratch(), os.rmdir, []

    def rmdir(path: str, *, dir_fd: int | None = None) -> None:
        if not late:
            late.append(scratch.path / "late")
            late[0].write_bytes(b"x")
        real(path, dir_fd=dir_fd)

    monkeypatch.setattr("os.rmdir", rmdir)
    scratch.close()
    assert late[0].exists()
    with owner() as (_, other):
        assert list(temporary.iterdir()) == [other.parent]


@pytest.mark.parametrize("kind", ["begun", "other", "link", "file"])
def test_what_is_not_known_to_be_left_stays(temporary: Path, kind: str) -> None:
    """A folder that is not locked yet, one of somebody else's with such a name, a link to one that could go, a file."""
    named = temporary / "crawler-notes"
    if kind == "file":
        named.touch()
    elif kind == "link":
        elsewhere = temporary / "elsewhere"
        elsewhere.mkdir()
        (elsewhere / LOCK).touch()
        named.symlink_to(elsewhere)
    else:
        named.mkdir()
        (named / {"begun": f"{LOCK}-new", "other": ".lock"}[kind]).touch()
    before = sorted(temporary.rglob("*"))
    Scratch().close()
    assert sorted(temporary.rglob("*")) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root could remove what is another's")
def test_what_another_user_left_stays(temporary: Path) -> None:
    """It is theirs to remove."""
    left = kill_owner().parent
    os.chown(left, 12345, 12345)
    Scratch().close()
    assert list(temporary.iterdir()) == [left]


def test_where_nothing_can_be_locked(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on some network file systems: folders are made and closed, and nobody's is swept."""

    def refuse(descriptor: int, operation: int) -> None:
        raise OSError("no locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with Scratch() as first, Scratch() as second:
        assert sorted(temporary.iterdir()) == sorted([first.parent, second.parent])
    assert list(temporary.iterdir()) == []


def test_a_killed_worker_leaves_its_downloads_to_the_next(tmp_path: Path, site: Site, temporary: Path) -> None:
    """They are gone when it has begun, and its own at its end: nothing is left where temporary files go."""
    write_list(tmp_path, *(site.url(f"/slow/3/photo/{n}.jpg") for n in range(8)))
    worker = ("worker", "urls.crawl", "--store", "none", "--processes", "1", "--threads", "8")
    with running(tmp_path, "seed", "urls.txt", *LOCAL, "--workers", "0") as seed:
        served(tmp_path, "urls.crawl")
        with running(tmp_path, *worker) as victim:
            wait_until(lambda: [*temporary.glob(f"crawler-*/{LOCK}")])
            os.killpg(victim.pid, signal.SIGKILL)
            victim.wait(LIMIT)
        [left] = temporary.glob("crawler-*")
        (left / "download").write_bytes(b"half of it")
        done = run(tmp_path, *worker)
        assert (done.returncode, seed.wait(LIMIT)) == (0, 0), done.stderr
    assert list(temporary.iterdir()) == []
    assert len(records(tmp_path, "urls.crawl")) == 8
