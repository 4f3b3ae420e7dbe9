"""A store at a gs:// address: a server that speaks Google's protocol, over HTTP."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.command import LIMIT, LOCAL, records, run, running, status, write_list
from tests.conftest import free_port, wait_until
from tests.objects import Faults, served_by
from tests.shards import check as check_tars
from tests.site import Site

#: It takes long, and says nothing about the Python.
pytestmark = pytest.mark.once


class Bucket:
    """The one bucket of a server, looked at without the library that crawler uses."""

    def __init__(self, endpoint: str) -> None:
        self._objects = f"{endpoint}/storage/v1/b/bucket/o"

    def names(self, prefix: str) -> list[str]:
        """Return the names of all objects below *prefix*, without it."""
        with urllib.request.urlopen(f"{self._objects}?prefix={prefix}", timeout=20) as answer:
            return sorted(item["name"].removeprefix(prefix) for item in json.load(answer).get("items", []))

    def get(self, name: str) -> bytes:
        """Return an object."""
        with urllib.request.urlopen(f"{self._objects}/{quote(name, safe='')}?alt=media", timeout=20) as answer:
            content: bytes = answer.read()
            return content


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """Serve an empty bucket in a process of its own."""
    port = free_port()
    command = ["-m", "gcp_storage_emulator", "start", "--port", str(port), "-H", "127.0.0.1", "--in-memory"]
    with served_by(
        [*command, "--default-bucket", "bucket"], f"http://127.0.0.1:{port}", "/storage/v1/b", {}
    ) as address:
        yield address


@pytest.fixture
def faults(endpoint: str) -> Iterator[Faults]:
    """Put a proxy before the server."""
    proxy = Faults(endpoint)
    yield proxy
    proxy.close()


@pytest.fixture
def bucket(endpoint: str, faults: Faults, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """Return the bucket, that commands of this test reach through the proxy."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", faults.endpoint)
    # It would ask Google what kind of bucket this is.
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    return Bucket(endpoint)


def test_images_are_objects(tmp_path: Path, site: Site, bucket: Bucket) -> None:
    """Each record's object has its bytes, there are no others, and all are verified."""
    write_list(tmp_path, *(site.url(f"/photo/{number}.jpg") for number in range(20)), site.url("/missing/1"))
    done = run(tmp_path, "seed", "urls.txt", *LOCAL, "--store", "gs://bucket/files")
    assert done.returncode == 0, done.stderr
    assert "downloads go to the coordinator" not in done.stderr
    digests = {record["path"]: record["sha256"] for record in records(tmp_path, "urls.crawl") if record["path"]}
    assert len(digests) == 20
    assert bucket.names("files/") == sorted(digests)
    for path, digest in digests.items():
        assert hashlib.sha256(bucket.get(f"files/{path}")).hexdigest() == digest
    assert "20 of 20 records have their file" in run(tmp_path, "status", "urls.crawl", "--verify").stdout


def check(folder: Path, bucket: Bucket, prefix: str, stored: int) -> None:
    """Hold the objects against the records: each image is there, and nothing else; none took more than one attempt."""
    kept = records(folder, "urls.crawl")
    assert len({record["id"] for record in kept}) == len(kept) == stored
    assert {(record["outcome"], record["attempts"]) for record in kept} == {("stored", 1)}
    digests = {record["path"]: record["sha256"] for record in kept}
    assert bucket.names(prefix) == sorted(digests)
    for path, digest in digests.items():
        assert hashlib.sha256(bucket.get(f"{prefix}{path}")).hexdigest() == digest


def test_uploads_that_fail_now_and_then(tmp_path: Path, site: Site, bucket: Bucket, faults: Faults) -> None:
    """Refused, cut, and some of whose end nobody hears: they are tried again, and every image is stored, once."""
    write_list(tmp_path, *(site.url(f"/photo/{number}.jpg") for number in range(24)))
    faults.plan = ("", "", "503", "", "", "", "cut", "", "", "", "lost", "")
    done = run(tmp_path, "seed", "urls.txt", *LOCAL, "--store", "gs://bucket/now-and-then")
    assert done.returncode == 0, done.stderr
    check(tmp_path, bucket, "now-and-then/", 24)
    assert min(faults.done[kind] for kind in ("503", "cut", "lost")) > 1
    assert len(site.requests) == 24


def test_uploads_that_are_all_refused_pause_the_run(tmp_path: Path, site: Site, bucket: Bucket, faults: Faults) -> None:
    """Nobody is charged an attempt, and it goes on when uploads are taken again; what is said of it are a few lines."""
    write_list(tmp_path, *(site.url(f"/photo/{number}.jpg") for number in range(24)))
    with running(tmp_path, "seed", "urls.txt", *LOCAL, "--store", "gs://bucket/refused") as seed:
        wait_until(lambda: site.requests)  # it has shown that it can write there
        faults.plan = ("401",)
        wait_until(lambda: "cannot store in gs://" in (status(tmp_path, "urls.crawl").get("trouble") or ""))
        faults.plan = ("",)
        _, said = seed.communicate(timeout=LIMIT)
    assert seed.returncode == 0, said
    assert "Traceback" not in said
    check(tmp_path, bucket, "refused/", 24)


def test_kill_9_while_shards_are_made(tmp_path: Path, site: Site, bucket: Bucket) -> None:
    """Each image is in one shard in the end."""
    write_list(tmp_path, *(site.url(f"/slow/0.05/photo/{number}.jpg") for number in range(60)))
    shards = ("--store", "gs://bucket/shards", "--format", "webdataset", "--shard-count", "10")
    with running(tmp_path, "seed", "urls.txt", *LOCAL, *shards) as process:
        wait_until(lambda: status(tmp_path, "urls.crawl").get("stored", 0) >= 20, 60)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    done = run(tmp_path, "seed", "urls.txt", *LOCAL, *shards)
    assert done.returncode == 0, done.stderr
    copies = tmp_path / "copies"
    copies.mkdir()
    for name in bucket.names("shards/"):
        if name.endswith(".tar"):
            (copies / name).write_bytes(bucket.get(f"shards/{name}"))
    check_tars(tmp_path / "urls.crawl", 60, copies)
