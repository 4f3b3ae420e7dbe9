"""Files called by the number or the URL of their task: safe, bounded, no two the same, none overwritten."""

from __future__ import annotations

import errno
import hashlib
import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawler.broker.claims import PATH
from crawler.consumer.store import About
from crawler.consumer.store.named import NamedFileStore, stem
from crawler.errors import StorageFailed
from crawler.model import Download, Image, Response, Task
from crawler.storage import Naming
from tests.command import LOCAL, records, run, write_list
from tests.site import Site, photo

#: What it tries is the same on every Python; that crawls run there is seen by others.
pytestmark = pytest.mark.once

SESSION = "0123456789abcdef0123456789abcdef"


def keep(store: NamedFileStore, content: bytes, task: int = 123, url: str = "http://a.example/x.jpg") -> str:
    """Keep *content* as the image of a task."""
    path = store.spool(SESSION) / "1"
    path.write_bytes(content)
    response = Response(http_status=200, final_url=url)
    sha256 = hashlib.sha256(content).hexdigest()
    download = Download(
        token=1, task=Task(id=task, url=url), path=str(path), size=len(content), sha256=sha256, response=response
    )
    kept = store.keep(path, sha256, "PNG", About(download, Image(format="PNG", width=1, height=1)))
    assert not path.exists()
    return kept


@pytest.fixture(params=list(Naming)[1:])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> NamedFileStore:
    """Return a new store of each naming."""
    made = NamedFileStore(tmp_path / "images", request.param)
    made.create()
    return made


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://a.example/roses/red.jpg?x=1", "a.example/roses_red-000000007"),
        ("https://A.example:8443/", "a.example/000000007"),
        ("http://a.example/../../etc/passwd", "a.example/etc_passwd-000000007"),
        ("http://a.example/%2e%2e%2f%00.png", "a.example/000000007"),
        ("http://[2001:db8::1]/r%C3%B6se.jpg", "2001_db8__1/r_se-000000007"),
        ("http://a.example/.hidden", "a.example/hidden-000000007"),
        ("http://a.example/" + "x" * 3000 + ".jpg", "a.example/" + "x" * 80 + "-000000007"),
        ("http://" + "y" * 63 + "." + "z" * 63 + ".example/a", ("y" * 63 + "." + "z" * 16) + "/a-000000007"),
    ],
)
def test_what_of_a_url_is_safe(url: str, expected: str) -> None:
    """Nothing leads out of its folder, is hidden, or too long."""
    assert "/".join(stem(Task(id=7, url=url), Naming.URL)) == expected


@given(host=st.text(min_size=1, max_size=300), path=st.text(max_size=300), task=st.integers(1, (1 << 63) - 1))
def test_no_url_makes_a_name_that_is_refused(host: str, path: str, task: int) -> None:
    """The queue takes every path that is made, and the file system every name."""
    try:
        made = stem(Task(id=task, url=f"http://{host}/{path}"), Naming.URL)
    except ValueError:  # such a URL is refused before it becomes a task
        return
    assert PATH.fullmatch("/".join(made) + ".jpg")
    assert all(len(part) < 200 for part in made)
    assert made[1].endswith(f"{task:09}")


def test_a_file_is_called_by_its_task(store: NamedFileStore) -> None:
    """The same bytes for two tasks are two files."""
    first, second = keep(store, b"a", 123), keep(store, b"a", 124)
    assert first != second
    assert [found.path for found in store.walk()] == sorted([first, second])
    for path in (first, second):
        assert re.search(r"00000012[34]\.png$", path)
        assert Path(store.root, path).read_bytes() == b"a"


def test_no_name_changes_its_bytes(store: NamedFileStore) -> None:
    """Other bytes for the same task get a name of their own; the same bytes again are one file."""
    first, other, again = keep(store, b"a"), keep(store, b"b"), keep(store, b"a")
    assert (first, Path(store.root, first).read_bytes()) == (again, b"a")
    assert Path(store.root, other).read_bytes() == b"b"
    assert keep(store, b"b") == other
    assert [found.path for found in store.walk()] == sorted([first, other])


def test_a_file_that_was_changed_is_not_used(store: NamedFileStore) -> None:
    """Where both names have other bytes than they should, somebody must look."""
    first, other = keep(store, b"a"), keep(store, b"b")
    for path in (first, other):
        Path(store.root, path).write_bytes(b"changed")
    with pytest.raises(StorageFailed, match="has other bytes than its name says"):
        keep(store, b"b")


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EPERM])
def test_file_systems_without_links(store: NamedFileStore, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Another file system is copied from; one that knows no second names has files moved."""
    real = os.link

    def link(path: Path, target: str) -> None:
        if number == errno.EPERM or Path(path).parent != Path(target).parent:
            raise OSError(number, "injected")
        real(path, target)

    monkeypatch.setattr(os, "link", link)
    first, other = keep(store, b"a"), keep(store, b"b")
    assert (Path(store.root, first).read_bytes(), Path(store.root, other).read_bytes()) == (b"a", b"b")
    assert {path.name for path in Path(store.root, first).parent.iterdir()} == {Path(first).name, Path(other).name}


@pytest.mark.parametrize("naming", ["index", "url"])
def test_a_crawl_by_name(tmp_path: Path, site: Site, naming: str) -> None:
    """Records name the files, `--verify` finds all, and what is fetched anew is beside what was there."""
    write_list(tmp_path, *(site.url(f"/photo/{n}.jpg") for n in range(5)), site.url("/kept/7.jpg"))
    seed = ("seed", "urls.txt", *LOCAL, "--name", naming)
    assert run(tmp_path, *seed).returncode == 0
    for record in records(tmp_path, "urls.crawl"):
        number = int(record["url"].rpartition("/")[2].partition(".")[0])
        assert (tmp_path / "urls.crawl" / record["path"]).read_bytes() == photo(number)
        assert f"{record['id']:09}.jpg" in record["path"]
    site.versions["7.jpg"] += 1
    assert run(tmp_path, *seed, "--refresh").returncode == 0
    kept = {record["id"]: record for record in records(tmp_path, "urls.crawl")}
    assert len(kept) == 6
    for record in kept.values():
        data = (tmp_path / "urls.crawl" / record["path"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == record["sha256"]
    said = run(tmp_path, "status", "urls.crawl", "--verify").stdout
    assert "6 of 6 records have their file" in said and "without a record" not in said
