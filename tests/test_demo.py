"""What `scripts/demo` says to wrong words, and whether its worked example sees what is wrong."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.command import LIMIT, LOCAL, run
from tests.conftest import ROOT
from tests.site import Site

#: It says nothing about the Python that it runs on.
pytestmark = pytest.mark.once

DEMO = ROOT / "scripts" / "demo"
EXAMPLE = ROOT / "scripts" / "examples" / "dataset.py"
COLUMNS = ("--url-column", "URL", "--columns", "TEXT,LICENSE,similarity,tags", "--caption-column", "TEXT")
SHARDS = ("--format", "webdataset", "--shard-count", "8", "--resize", "96", "--resize-mode", "center-crop")


def start(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a script or program to its end."""
    return subprocess.run([*map(str, arguments)], capture_output=True, text=True, timeout=LIMIT, check=False)


def read_back(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the example's check on what was crawled in *folder*."""
    shards = sorted((folder / "meta.crawl" / "images").glob("*.tar"))
    return start(sys.executable, "-P", EXAMPLE, "read", folder / "meta.parquet", folder / "rows.jsonl", *shards)


def rewrite(tar: Path, change: Callable[[str, bytes], bytes | None]) -> None:
    """Write *tar* anew with what *change* makes of each member's name and bytes; None leaves it out."""
    with tarfile.open(tar) as old:
        members = [(member.name, old.extractfile(member).read()) for member in old]  # type: ignore[union-attr]
    with tarfile.open(tar, "w") as new:
        for name, data in members:
            if (changed := change(name, data)) is not None:
                info = tarfile.TarInfo(name)
                info.size = len(changed)
                new.addfile(info, io.BytesIO(changed))


@pytest.fixture(scope="module")
def crawled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the list of the example, its crawl, and the export."""
    folder = tmp_path_factory.mktemp("example")
    with Site() as site:
        assert start(sys.executable, "-P", EXAMPLE, "list", site.base, folder / "meta.parquet").returncode == 0
        done = run(folder, "seed", "meta.parquet", *COLUMNS, *SHARDS, "--min-width", "32", *LOCAL)
        assert done.returncode == 0, done.stderr
    assert run(folder, "export", "meta.crawl", "rows.jsonl").returncode == 0
    return folder


@pytest.fixture
def copied(crawled: Path, tmp_path: Path) -> Path:
    """Return a copy of it, to be broken."""
    subprocess.run(["cp", "-r", f"{crawled}/.", tmp_path], check=True)
    return tmp_path


def test_the_example_is_content_with_its_crawl(crawled: Path) -> None:
    """And shows what is in the shards."""
    done = read_back(crawled)
    assert (done.returncode, done.stderr) == (0, "")
    # In the order of the list, whatever was fetched first.
    shown = [line.split()[0] for line in done.stdout.splitlines()[1:7]]
    assert shown == sorted(shown)
    assert "000000001  96×96 RGB  JPEG, baseline" in done.stdout
    assert "of 38 rows 20 images, each once in one of 3 shards" in done.stdout


def test_it_sees_a_sample_that_is_there_twice(copied: Path) -> None:
    """In another shard."""
    first, *_ = (copied / "meta.crawl" / "images").glob("*.tar")
    first.with_name("00099.tar").write_bytes(first.read_bytes())
    done = read_back(copied)
    assert (done.returncode, "wrong: files in tars" in done.stderr) == (1, True), done.stderr


@pytest.mark.parametrize(
    ("ending", "change", "said"),
    [
        (".txt", lambda data: None, "files in tars"),
        (".txt", lambda data: data + b"!", "caption of"),
        (".json", lambda data: json.dumps({**json.loads(data), "similarity": 2}).encode(), "columns of 0"),
    ],
)
def test_it_sees_what_was_changed_in_a_shard(
    copied: Path, ending: str, change: Callable[[bytes], bytes | None], said: str
) -> None:
    """A caption that is gone or another one; a column that is another one."""
    first, *_ = (copied / "meta.crawl" / "images").glob("*.tar")
    rewrite(first, lambda name, data: change(data) if name.endswith(ending) else data)
    done = read_back(copied)
    assert (done.returncode, f"wrong: {said}" in done.stderr) == (1, True), done.stderr


def test_it_sees_a_row_that_lost_its_columns(copied: Path) -> None:
    """Also one that failed."""
    text = (copied / "rows.jsonl").read_text()
    (copied / "rows.jsonl").write_text(text.replace('"picture whose link was lost"', "null"))
    assert text != (copied / "rows.jsonl").read_text()
    done = read_back(copied)
    assert (done.returncode, "wrong: columns of no link" in done.stderr) == (1, True), done.stderr


def test_wrong_words_are_told() -> None:
    """Before anything is installed; `--help` says the same, and is no error."""
    helped = start(DEMO, "--help")
    assert (helped.returncode, "scripts/demo dataset " in helped.stdout, helped.stderr) == (0, True, "")
    for words in (["data"], ["dataset", "more"], [""]):
        done = start(DEMO, *words)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == f"scripts/demo: no such demo: {' '.join(words)}\n\n{helped.stdout}"
