"""Stores at an address: an object store over HTTP, as it works and as it fails."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.command import LIMIT, LOCAL, records, run, running, served, status, write_list
from tests.conftest import wait_until
from tests.objects import Bucket, Faults, object_store
from tests.shards import check as check_tars
from tests.shards import listed
from tests.site import Site

#: It takes long, and says nothing about the Python.
pytestmark = pytest.mark.once

SMALL = ("--processes", "1", "--threads", "8")


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """Serve an object store for all tests here."""
    with object_store() as address:
        yield address


@pytest.fixture
def faults(endpoint: str) -> Iterator[Faults]:
    """Put a proxy before the object store."""
    proxy = Faults(endpoint)
    yield proxy
    proxy.close()


@pytest.fixture
def bucket(endpoint: str, faults: Faults, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """Return an empty bucket, that commands of this test reach through the proxy."""
    name = hashlib.sha256(request.node.name.encode()).hexdigest()[:20]
    made = Bucket(endpoint, name)
    for key, value in {**made.environment, "AWS_ENDPOINT_URL": faults.endpoint}.items():
        monkeypatch.setenv(key, value)
    return made


def urls(site: Site, count: int, path: str = "/photo/{}.jpg") -> list[str]:
    """Return the URLs of so many photos."""
    return [site.url(path.format(number)) for number in range(count)]


def check(folder: Path, bucket: Bucket, stored: int, orphans: bool = False) -> dict[int, dict[str, Any]]:
    """Hold the objects against the records: each has its bytes; there are no others, unless there may be orphans."""
    kept = {record["id"]: record for record in records(folder, "urls.crawl")}
    paths = {record["path"]: record for record in kept.values() if record["outcome"] == "stored"}
    assert len(paths) == stored
    wanted, found = {f"pre/{path}" for path in paths}, {name for name in bucket.names() if "/." not in name}
    assert wanted <= found if orphans else wanted == found
    for path, record in paths.items():
        assert hashlib.sha256(bucket.get(f"pre/{path}")).hexdigest() == record["sha256"]
    assert not [name for name in bucket.names() if ".spool" in name or ".probe" in name]
    assert bucket.unfinished() == 0
    return kept


@pytest.mark.parametrize("naming", ["digest", "index", "url"])
def test_images_are_objects(tmp_path: Path, site: Site, bucket: Bucket, naming: str) -> None:
    """Written in place by the worker; nothing is left beside them, and no secret is told."""
    write_list(tmp_path, *urls(site, 20), site.url("/missing/1"))
    done = run(tmp_path, "seed", "urls.txt", *LOCAL, "--store", f"s3://{bucket.name}/pre", "--name", naming, "-vv")
    assert done.returncode == 0, done.stderr
    check(tmp_path, bucket, 20)
    assert f"images in s3://{bucket.name}/pre" in done.stdout
    assert "downloads go to the coordinator" not in done.stderr
    assert "a-secret-for-tests" not in done.stdout + done.stderr


def test_what_a_bucket_lost_is_found_and_fetched_again(tmp_path: Path, site: Site, bucket: Bucket) -> None:
    """`status --verify` reads every object, `retry --missing` has those fetched that are gone."""
    write_list(tmp_path, *urls(site, 10))
    seed = ("seed", "urls.txt", *LOCAL, "--store", f"s3://{bucket.name}/pre")
    assert run(tmp_path, *seed).returncode == 0
    first, second, *_ = bucket.names()
    bucket.delete(first)
    bucket.put(second, b"x" * len(bucket.get(second)))
    orphan = f"pre/ab/{'ab' * 32}.jpg"
    bucket.put(orphan, b"orphan")
    done = run(tmp_path, "status", "urls.crawl", "--verify", "--json")
    found = json.loads(done.stdout)["verified"]
    assert (found["records"], found["missing"], found["other_digest"], found["orphans"]) == (10, 1, 1, 1), found
    bucket.delete(second)
    assert "2 tasks wait" in run(tmp_path, "retry", "urls.crawl", "--missing").stdout
    assert run(tmp_path, *seed).returncode == 0
    assert len(site.requests) == 10 + 2
    swept = run(tmp_path, "status", "urls.crawl", "--verify", "--sweep", "--store", f"s3://{bucket.name}/pre")
    assert swept.returncode == 0, swept.stderr
    assert orphan not in bucket.names()
    assert len(bucket.names()) == 10


def test_an_object_store_that_fails_now_and_then(tmp_path: Path, site: Site, bucket: Bucket, faults: Faults) -> None:
    """Refused, cut, slow uploads, and some of whose end nobody hears: every image is stored, once."""
    write_list(tmp_path, *urls(site, 60))
    faults.plan = ("", "503", "", "cut", "slow", "", "lost")
    done = run(tmp_path, "seed", "urls.txt", *LOCAL, "--store", f"s3://{bucket.name}/pre")
    assert done.returncode == 0, done.stderr
    kept = check(tmp_path, bucket, 60)
    assert all(record["attempts"] == 1 for record in kept.values())
    assert min(faults.done[kind] for kind in ("503", "cut", "slow", "lost")) > 5
    assert len(site.requests) == 60


def test_an_object_store_that_refuses_all_pauses_the_run(
    tmp_path: Path, site: Site, bucket: Bucket, faults: Faults
) -> None:
    """As a full disk does: nobody is charged an attempt, and it goes on when uploads are taken again."""
    write_list(tmp_path, *urls(site, 30))
    faults.plan = ("403",)
    with running(tmp_path, "seed", "urls.txt", *LOCAL, "--store", f"s3://{bucket.name}/pre") as seed:
        wait_until(lambda: "cannot store in s3://" in (status(tmp_path, "urls.crawl").get("trouble") or ""))
        faults.plan = ("",)
        assert seed.wait(LIMIT) == 0
    kept = check(tmp_path, bucket, 30)
    assert all(record["attempts"] == 1 for record in kept.values())


def test_kill_9_of_everything(tmp_path: Path, site: Site, bucket: Bucket) -> None:
    """What is recorded is there; the rest is fetched again."""
    write_list(tmp_path, *urls(site, 60, "/slow/0.2/photo/{}.jpg"))
    command = ("seed", "urls.txt", *LOCAL, "--store", f"s3://{bucket.name}/pre", "--name", "index")
    for goal in (10, 30):
        with running(tmp_path, *command) as process:
            wait_until(lambda goal=goal: status(tmp_path, "urls.crawl").get("stored", 0) >= goal)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    done = run(tmp_path, *command)
    assert done.returncode == 0, done.stderr
    # This server keeps what it got of an upload whose client was killed: that is nobody's image.
    check(tmp_path, bucket, 60, orphans=True)


def test_a_worker_that_cannot_reach_it_sends_downloads(tmp_path: Path, site: Site, bucket: Bucket) -> None:
    """The coordinator uploads them; where it was told to write there, it ends with what is wrong."""
    write_list(tmp_path, *urls(site, 10))
    store = f"s3://{bucket.name}/pre"
    with running(tmp_path, "seed", "urls.txt", *LOCAL, "--workers", "0", "--store", store) as seed:
        served(tmp_path, "urls.crawl")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
            patch.setenv("AWS_MAX_ATTEMPTS", "1")
            refused = run(tmp_path, "worker", "urls.crawl", "--store", store, *SMALL)
            assert (refused.returncode, "cannot be written" in refused.stderr) == (2, True), refused.stderr
            assert run(tmp_path, "worker", "urls.crawl", *SMALL).returncode == 0
        assert seed.wait(LIMIT) == 0
    check(tmp_path, bucket, 10)


def fetched(bucket: Bucket, folder: Path) -> Path:
    """Return a folder with copies of the shards in a bucket, that has nothing but them and what is in them."""
    folder.mkdir()
    for name in bucket.names():
        assert name.startswith(("pre/.index/", "pre/0", "pre/.crawl")), name
        if name.startswith("pre/0"):
            (folder / name.removeprefix("pre/")).write_bytes(bucket.get(name))
    assert bucket.unfinished() == 0
    return folder


def shards(bucket: Bucket, count: int) -> tuple[str, ...]:
    """Return the options for tars in a bucket."""
    return ("--store", f"s3://{bucket.name}/pre", "--format", "webdataset", "--shard-count", str(count))


def test_shards_are_objects(tmp_path: Path, site: Site, bucket: Bucket) -> None:
    """Each one whole, each image in one; verified by what it holds."""
    write_list(tmp_path, *urls(site, 25), site.url("/missing/1"))
    done = run(tmp_path, "seed", "urls.txt", *LOCAL, *shards(bucket, 10))
    assert done.returncode == 0, done.stderr
    store = fetched(bucket, tmp_path / "store")
    check_tars(tmp_path / "urls.crawl", 25, store)
    assert [len(listed(path)) for path in sorted(store.iterdir())] == [20, 20, 10]
    said = run(tmp_path, "status", "urls.crawl", "--verify").stdout
    assert "25 of 25 records have their file" in said and "without a record" not in said
    bucket.delete("pre/00001.tar")
    assert "10 tasks wait" in run(tmp_path, "retry", "urls.crawl", "--missing").stdout


def test_shards_in_a_bucket_are_swept(tmp_path: Path, site: Site, bucket: Bucket) -> None:
    """What no record names is taken out of its shard; a shard of nothing else goes, with its index."""
    write_list(tmp_path, *urls(site, 12))
    assert run(tmp_path, "seed", "urls.txt", *LOCAL, *shards(bucket, 4)).returncode == 0
    by_path = {record["path"]: record["id"] for record in records(tmp_path, "urls.crawl")}
    second = sorted(path for path in by_path if path.startswith("00001.tar/"))
    lost = [by_path[path] for path in (*second, min(by_path))]
    with closing(sqlite3.connect(tmp_path / "urls.crawl" / "ledger.db")) as db, db:
        marks = ", ".join("?" * len(lost))
        db.execute(f"DELETE FROM records WHERE task IN ({marks})", lost)
        db.execute(f"UPDATE tasks SET state = 1, due = 0, seq = NULL WHERE id IN ({marks})", lost)
    place = ("--store", f"s3://{bucket.name}/pre")
    swept = run(tmp_path, "status", "urls.crawl", "--verify", "--sweep", *place, "--json")
    assert swept.returncode == 0, swept.stderr
    facts = json.loads(swept.stdout)["verified"]
    assert (facts["records"], facts["orphans"], facts["swept"]) == (7, 5, True)
    store = fetched(bucket, tmp_path / "store")
    assert [(path.name, len(listed(path))) for path in sorted(store.iterdir())] == [("00000.tar", 6), ("00002.tar", 8)]
    assert not [name for name in bucket.names() if "00001" in name]
    facts = json.loads(run(tmp_path, "status", "urls.crawl", "--verify", "--json").stdout)["verified"]
    assert (facts["records"], facts["orphans"], facts["missing"]) == (7, 0, 0)


def test_a_bucket_with_shards_without_names_is_not_swept(tmp_path: Path, site: Site, bucket: Bucket) -> None:
    """As after a kill between upload and name: nothing is removed until the same command has published them."""
    write_list(tmp_path, *urls(site, 8))
    seed = ("seed", "urls.txt", *LOCAL, *shards(bucket, 4))
    assert run(tmp_path, *seed).returncode == 0
    published = bucket.names()
    for name, former in (("00001.tar", ".open/00001.sealed"), (".index/00001", ".open/00001.index")):
        bucket.put(f"pre/{former}", bucket.get(f"pre/{name}"))
        bucket.delete(f"pre/{name}")
    before = bucket.names()
    sweep = ("status", "urls.crawl", "--verify", "--sweep", "--store", f"s3://{bucket.name}/pre")
    refused = run(tmp_path, *sweep)
    assert refused.returncode == 73
    [line] = refused.stderr.splitlines()
    assert "shards that are not published yet" in line and "crawler seed" in line
    assert bucket.names() == before != published
    assert run(tmp_path, *seed).returncode == 0
    swept = run(tmp_path, *sweep)
    assert (swept.returncode, "8 of 8 records have their file" in swept.stdout) == (0, True), swept.stderr
    assert bucket.names() == published


def test_held_tasks_are_kept_alive_until_the_upload(tmp_path: Path, site: Site, bucket: Bucket, faults: Faults) -> None:
    """More than the threads, shown as held; while uploads fail nothing is recorded, and no attempt is lost."""
    write_list(tmp_path, *urls(site, 60))
    faults.plan = ("403",)
    with running(tmp_path, "seed", "urls.txt", *LOCAL, *shards(bucket, 45)) as seed:
        wait_until(lambda: status(tmp_path, "urls.crawl").get("held", 0) > 30, 40)
        assert status(tmp_path, "urls.crawl")["stored"] == 0
        wait_until(lambda: faults.done["403"] > 1, 40)
        faults.plan = ("",)
        assert seed.wait(LIMIT) == 0
    kept = records(tmp_path, "urls.crawl")
    assert (len(kept), {record["attempts"] for record in kept}) == (60, {1})
    check_tars(tmp_path / "urls.crawl", 60, fetched(bucket, tmp_path / "store"))
    assert len(site.requests) == 60


def test_kill_9_while_shards_are_uploaded(tmp_path: Path, site: Site, bucket: Bucket, faults: Faults) -> None:
    """Some uploads fail, and everything is killed: each image is in one shard in the end."""
    write_list(tmp_path, *urls(site, 90, "/slow/0.2/photo/{}.jpg"))
    faults.plan = ("", "", "503", "", "cut", "slow")
    command = ("seed", "urls.txt", *LOCAL, *shards(bucket, 10))
    for goal in (20, 50):
        with running(tmp_path, *command) as process:
            wait_until(lambda goal=goal: status(tmp_path, "urls.crawl").get("stored", 0) >= goal, 60)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    done = run(tmp_path, *command)
    assert done.returncode == 0, done.stderr
    check_tars(tmp_path / "urls.crawl", 90, fetched(bucket, tmp_path / "store"))


def kill_when_refused(process: subprocess.Popen[str], faults: Faults) -> None:
    """Kill a process with its children once an upload of theirs was refused."""
    wait_until(lambda: faults.done["refused"] > 0, 40)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_kill_9_between_what_is_listed_and_the_shard(
    tmp_path: Path, site: Site, bucket: Bucket, faults: Faults
) -> None:
    """The list of a shard that never came is not left behind by the next run."""
    write_list(tmp_path, *urls(site, 12))
    command = ("seed", "urls.txt", *LOCAL, *shards(bucket, 5))
    faults.refused = ".sealed"
    with running(tmp_path, *command) as process:
        kill_when_refused(process, faults)
    assert [name for name in bucket.names() if "/.open/" in name] == ["pre/.open/00000.index"]
    faults.refused = ""
    done = run(tmp_path, *command)
    assert done.returncode == 0, done.stderr
    check_tars(tmp_path / "urls.crawl", 12, fetched(bucket, tmp_path / "store"))


def test_a_worker_is_killed_between_what_is_listed_and_the_shard(
    tmp_path: Path, site: Site, bucket: Bucket, faults: Faults
) -> None:
    """Others end the run: the list of a shard that never came does not outlast it."""
    write_list(tmp_path, *urls(site, 12))
    faults.refused = ".sealed"
    with running(tmp_path, "seed", "urls.txt", *LOCAL, *shards(bucket, 5), "--workers", "0") as seed:
        served(tmp_path, "urls.crawl")
        with running(tmp_path, "worker", "urls.crawl", *SMALL) as worker:
            kill_when_refused(worker, faults)
        faults.refused = ""
        assert run(tmp_path, "worker", "urls.crawl", *SMALL).returncode == 0
        assert seed.wait(LIMIT) == 0
    check_tars(tmp_path / "urls.crawl", 12, fetched(bucket, tmp_path / "store"))


def test_a_shard_whose_list_is_lost(tmp_path: Path, site: Site, bucket: Bucket) -> None:
    """As where a coordinator begins while it is uploaded: it is read for what is in it, and gets its name."""
    write_list(tmp_path, *urls(site, 8))
    seed = ("seed", "urls.txt", *LOCAL, *shards(bucket, 4))
    assert run(tmp_path, *seed).returncode == 0
    published = bucket.names()
    bucket.put("pre/.open/00001.sealed", bucket.get("pre/00001.tar"))
    bucket.delete("pre/.index/00001")
    bucket.delete("pre/00001.tar")
    verify = ("status", "urls.crawl", "--verify")
    assert "8 of 8 records have their file" in run(tmp_path, *verify).stdout
    assert run(tmp_path, *seed).returncode == 0
    assert bucket.names() == published
    bucket.delete("pre/.index/00001")
    assert "8 of 8 records have their file" in run(tmp_path, *verify).stdout


def test_parquet_in_a_bucket(tmp_path: Path, site: Site, bucket: Bucket) -> None:
    """Made by the coordinator from what workers uploaded; after a refresh each image is there once."""
    write_list(tmp_path, *urls(site, 12, "/kept/{}.jpg"))
    seed = ("seed", "urls.txt", *LOCAL, *shards(bucket, 5), "--format", "parquet", "--shard-age", "1")
    assert run(tmp_path, *seed).returncode == 0
    site.versions["3.jpg"] += 1
    assert run(tmp_path, *seed, "--refresh").returncode == 0
    rows = pq.ParquetDataset(fetched(bucket, tmp_path / "store")).read().to_pylist()
    kept = {record["url"]: record for record in records(tmp_path, "urls.crawl")}
    assert len(rows) == len(kept) == 12
    for row in rows:
        assert hashlib.sha256(row["image"]["bytes"]).hexdigest() == kept.pop(row["url"])["sha256"]
    assert "12 of 12 records have their file" in run(tmp_path, "status", "urls.crawl", "--verify").stdout


@pytest.mark.parametrize(
    ("store", "said", "code"),
    [
        ("s3://no-such-bucket-here/pre", "cannot be made", 73),
        ("s3://name:word@bucket/pre", "holds no name or password", 2),
        ("memory://here", "no place that other processes see", 2),
        ("nonsense://here", "cannot be reached", 2),
    ],
)
def test_an_address_that_cannot_be_used(
    tmp_path: Path, site: Site, bucket: Bucket, store: str, said: str, code: int
) -> None:
    """Is refused before anything is fetched."""
    write_list(tmp_path, *urls(site, 1))
    done = run(tmp_path, "seed", "urls.txt", *LOCAL, "--store", store)
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr
    assert "Traceback" not in done.stderr
    assert site.requests == []


@pytest.mark.parametrize("layout", ["files", "webdataset"])
def test_near_duplicates_are_dropped(tmp_path: Path, site: Site, bucket: Bucket, layout: str) -> None:
    """From a shard when it is published; as objects without a record they are swept."""
    write_list(tmp_path, *urls(site, 12))
    options = ("--near-duplicates", "3", "--drop-near-duplicates", "--format", layout)
    if layout == "webdataset":
        options += ("--shard-age", "1")
    done = run(tmp_path, "seed", "urls.txt", *LOCAL, "--store", f"s3://{bucket.name}/pre", *options)
    assert done.returncode == 0, done.stderr
    assert "1 stored, 11 failed" in done.stdout
    swept = run(tmp_path, "status", "urls.crawl", "--verify", "--sweep", "--store", f"s3://{bucket.name}/pre")
    assert swept.returncode == 0, swept.stderr
    [kept] = [record for record in records(tmp_path, "urls.crawl") if record["outcome"] == "stored"]
    images = [name for name in bucket.names() if "/." not in name]
    if layout == "files":
        assert images == [f"pre/{kept['path']}"]
    else:
        [shard] = images
        (tmp_path / "00000.tar").write_bytes(bucket.get(shard))
        assert [f"{shard}/{name}" for name in listed(tmp_path / "00000.tar") if name.endswith(".jpg")] == [
            f"pre/{kept['path']}"
        ]
