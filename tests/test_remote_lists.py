"""Lists that are not on this machine, over real HTTP on loopback; and lists made to need much memory."""

from __future__ import annotations

import asyncio
import bz2
import gzip
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from backports import zstd

from crawler.errors import ListUnreadable, UsageError
from crawler.producer import Picks, from_path, from_paths
from tests.command import LIMIT, LOCAL, run
from tests.command import rows as exported
from tests.conftest import free_port
from tests.hub import hub
from tests.objects import Bucket, object_store
from tests.site import Site
from tests.test_lists import CSV, LINES, THREE, batches, good
from tests.test_parquet_lists import written

# ------------------------------------------------------------------ over HTTP


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serve the files of a folder, parts of them too; yield the address."""
    port, begun, loop = free_port(), threading.Event(), asyncio.new_event_loop()

    async def begin() -> web.AppRunner:
        app = web.Application()
        app.router.add_static("/", folder)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        begun.set()
        return runner

    runner = loop.create_task(begin())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    assert begun.wait(10)
    yield f"http://127.0.0.1:{port}"
    asyncio.run_coroutine_threadsafe(runner.result().cleanup(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    loop.close()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("list.csv", CSV.encode()),
        ("list.csv.gz", gzip.compress(CSV.encode())),
        ("list.jsonl.zst", zstd.compress(LINES.encode())),
        ("list.parquet", written({"url": [url for _, url in THREE]})),
    ],
)
def test_a_list_is_read_over_http(tmp_path: Path, name: str, data: bytes) -> None:
    """Whatever its format; a query after its name is no part of that."""
    (tmp_path / name).write_bytes(data)
    with serving(tmp_path) as address:
        for query in ("", "?token=a.b"):
            source = from_path(f"{address}/{name}{query}")
            assert good([row for rows in batches(source) for row in rows]) == THREE


def test_a_large_list_is_read_over_http_in_pieces(tmp_path: Path) -> None:
    """In order, and whole."""
    (tmp_path / "list.txt").write_text("".join(f"http://a.com/{n:050d}\n" for n in range(200_000)))
    with serving(tmp_path) as address:
        rows = [row.url for rows in batches(from_path(f"{address}/list.txt")) for row in rows]
    assert rows == [f"http://a.com/{n:050d}" for n in range(200_000)]


def test_an_address_that_has_no_list_is_told(tmp_path: Path) -> None:
    """Missing, not reachable, or of a kind that nobody knows."""
    with serving(tmp_path) as address, pytest.raises(ListUnreadable, match="missing.csv cannot be read"):
        list(batches(from_path(f"{address}/missing.csv")))
    with pytest.raises(ListUnreadable, match="cannot be read"):
        list(batches(from_path(f"http://127.0.0.1:{free_port()}/list.csv")))
    with pytest.raises(UsageError, match="nonsense"):
        list(batches(from_path("nonsense://list.csv")))


def test_folders_and_patterns_of_addresses_name_lists(tmp_path: Path) -> None:
    """With whatever fsspec knows; here its file system for this machine."""
    for name in ("b.csv", "a.jsonl", "_x.csv", "notes.md"):
        (tmp_path / name).write_text(CSV)
    for path, names in ((f"file://{tmp_path}/", ["a.jsonl", "b.csv"]), (f"file://{tmp_path}/*.csv", ["b.csv"])):
        assert [source.name for source in from_paths([path], Picks(), None, None)] == names


def test_lists_are_read_from_an_object_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """One by its address, all below a prefix, and those that fit a pattern."""
    with object_store() as endpoint:
        bucket = Bucket(endpoint, "lists")
        for name, value in bucket.environment.items():
            monkeypatch.setenv(name, value)
        for name in ("all/b.csv", "all/a.parquet", "all/_SUCCESS", "other.csv"):
            data = written({"url": [url for _, url in THREE]}) if name.endswith(".parquet") else CSV.encode()
            bucket.put(name, data)
        found = {
            path: [source.path for source in from_paths([path], Picks(), None, None)]
            for path in ("s3://lists/all/", "s3://lists/all/*.csv", "s3://lists/other.csv")
        }
        assert found == {
            "s3://lists/all/": ["s3://lists/all/a.parquet", "s3://lists/all/b.csv"],
            "s3://lists/all/*.csv": ["s3://lists/all/b.csv"],
            "s3://lists/other.csv": ["s3://lists/other.csv"],
        }
        for path in found["s3://lists/all/"]:
            assert good([row for rows in batches(from_path(path)) for row in rows]) == THREE


@pytest.mark.once
@pytest.mark.parametrize("path", ["data/a.csv", "data/", "data/*.csv"])
def test_lists_are_read_from_a_hub_of_data_sets(
    tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """One by its address, all in a folder, and those that fit a pattern."""
    rows = f"url,text\n{site.url('/photo/1.jpg')},a photo\n{site.url('/missing/1')},none\n".encode()
    with hub("somebody/pictures", {"data/a.csv": rows, "README.md": b"# Pictures\n"}) as address:
        monkeypatch.setenv("HF_ENDPOINT", address)
        done = run(
            tmp_path, "seed", f"hf://datasets/somebody/pictures/{path}", "-o", "out", "--columns", "text", *LOCAL
        )
    assert (done.returncode, "1 stored, 1 failed" in done.stdout) == (0, True), done.stderr
    assert [(row["list"], row["text"]) for row in exported(tmp_path, "out")] == [
        ("a.csv", "a photo"),
        ("a.csv", "none"),
    ]


# ------------------------------------------------------------------ lists made to need much memory

#: Reads a list to its end and prints the most memory that this took, in kB.
READ = """
import resource, sys
from crawler.errors import ListUnreadable
from crawler.model import ListState
from crawler.producer import Picks, _Rows, from_path

source = from_path(sys.argv[1], Picks(columns=("*",)) if "txt" not in sys.argv[1] else Picks())
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
file, size = source.open()
rows = _Rows(file, source.read(file, size), source, ListState(id=1, name="list"))
count = 0
try:
    while batch := rows.batch():
        count += len(batch.rows)
except ListUnreadable as error:
    count = -1
print(count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
#: Bytes of nothing much, which become few when compressed.
LARGE = 150_000_000
PACK: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".zst": zstd.open}


@pytest.mark.parametrize(
    ("name", "head", "body", "count"),
    [
        ("list.txt.gz", b"", b"x", 1),
        ("list.txt.zst", b"", b"x", 1),
        ("list.csv.gz", b"url,text\n", b"x", 1),
        ("list.csv.gz", b'url,text\n"', b",", 1),
        ("list.csv.zst", b"url,text\n", b'"\n', None),
        ("list.jsonl.gz", b"", b"[", 1),
        ("list.json.gz", b'["', b"x", -1),
        ("list.json.zst", b"[", b"[", -1),
    ],
)
def test_what_a_small_file_becomes_is_never_in_memory_whole(
    tmp_path: Path, name: str, head: bytes, body: bytes, count: int | None
) -> None:
    """150 MB out of some kB take less than 60, whatever they would be."""
    path = tmp_path / name
    size = LARGE if count is not None else 1_000_000  # each line of the latter is a row of its own
    with PACK[path.suffix](path, "wb") as file:
        file.write(head)
        for _ in range(0, size, 1_000_000):
            file.write(body * (1_000_000 // len(body)))
    done = subprocess.run(
        [sys.executable, "-P", "-c", READ, str(path)], capture_output=True, text=True, timeout=LIMIT, check=True
    )
    found, memory = map(int, done.stdout.split())
    assert count is None or found == count
    assert memory < 60_000, f"{memory} kB"
