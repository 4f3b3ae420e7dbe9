"""Shards from the outside: what readers of tars and parquet find, and that no image is lost or twice in them."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.command import LIMIT, LOCAL, records, run, running, served, status, write_list
from tests.conftest import free_port, wait_until
from tests.shards import check, listed, tars
from tests.site import Site, photo_size

#: What it tries is the same on every Python; that crawls run there is seen by others.
pytestmark = pytest.mark.once

WEBDATASET = ("--format", "webdataset")
SMALL = ("--processes", "1", "--threads", "8")


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


def test_a_worker_that_is_killed_leaves_its_part_to_the_coordinator(tmp_path: Path, site: Site) -> None:
    """Two workers fill parts of their own; one dies, the other goes on; a third has no store."""
    write_list(tmp_path, *urls(site, 300, "/slow/0.05/photo/{}.jpg"))
    with running(tmp_path, "seed", "urls.txt", *LOCAL, *WEBDATASET, "--workers", "0", "--per-host", "24") as seed:
        served(tmp_path, "urls.crawl")
        with running(tmp_path, "worker", "urls.crawl", *SMALL) as first:
            wait_until(lambda: status(tmp_path, "urls.crawl")["stored"] >= 20)
            os.killpg(first.pid, signal.SIGKILL)
        with running(tmp_path, "worker", "urls.crawl", *SMALL) as second:
            assert run(tmp_path, "worker", "urls.crawl", "--store", "none", *SMALL).returncode == 0
            assert second.wait(LIMIT) == 0
        assert seed.wait(LIMIT) == 0, seed.stderr
    check(tmp_path / "urls.crawl", 300)
    assert len(tars(tmp_path / "urls.crawl" / "images")) == 3


def test_a_worker_rides_out_a_restart_of_the_coordinator(tmp_path: Path, site: Site) -> None:
    """The part that it has open may be published meanwhile; it goes on in another one, and nothing is lost."""
    write_list(tmp_path, *urls(site, 200, "/slow/0.1/photo/{}.jpg"))
    run(tmp_path, "keygen", "key")
    listen = ("--listen", f"127.0.0.1:{free_port()}", "--key", "key")
    command = ("seed", "urls.txt", *LOCAL, *WEBDATASET, "--workers", "0", *listen)
    with running(tmp_path, *command) as first:
        served(tmp_path, "urls.crawl")
        with running(tmp_path, "worker", "urls.crawl", *SMALL) as worker:
            wait_until(lambda: status(tmp_path, "urls.crawl")["stored"] >= 40)
            os.killpg(first.pid, signal.SIGKILL)
            first.wait()
            with running(tmp_path, *command) as second:
                assert (second.wait(LIMIT), worker.wait(LIMIT)) == (0, 0)
    check(tmp_path / "urls.crawl", 200)


def test_captions_and_columns_come_from_the_list(tmp_path: Path, site: Site) -> None:
    """Of the first line of a URL; a line without a caption has none."""
    lines = ["url,text,licence", *(f'{url},"a, b {n}",cc{n}' for n, url in enumerate(urls(site, 3)))]
    write_list(
        tmp_path, *lines, f"{site.url('/photo/3.jpg')},,", f"{site.url('/photo/0.jpg')},other,other", name="a.csv"
    )
    seed = ("seed", "a.csv", *LOCAL, *WEBDATASET, "--columns", "*", "--caption-column", "text")
    done = run(tmp_path, *seed)
    assert done.returncode == 0, done.stderr
    found = {json.loads(sample["json"])["url"]: sample for sample in check(tmp_path / "a.crawl", 4)}
    for number, url in enumerate(urls(site, 3)):
        assert found[url]["txt"].decode() == f"a, b {number}"
        facts = json.loads(found[url]["json"])
        assert (facts["text"], facts["list_licence"]) == (f"a, b {number}", f"cc{number}")
    assert not found[site.url("/photo/3.jpg")].get("txt")


#: What a user of Hugging Face `datasets` writes.
READ = """
import datasets, json, sys
found = datasets.load_dataset("parquet", data_files=sys.argv[1], cache_dir=sys.argv[2], split="train")
rows = [(row["url"], row["text"], row["list_image"], row["image"].format, *row["image"].size) for row in found]
print(json.dumps([str(type(found.features["image"]).__name__), rows]))
"""


def test_datasets_reads_images(tmp_path: Path, site: Site) -> None:
    """The column is an image to Hugging Face `datasets`, and decodes; one of the list called so has another name."""
    lines = (f"{url},text {n},{n}" for n, url in enumerate(urls(site, 12)))
    write_list(tmp_path, "url,text,image", *lines, name="a.csv")
    seed = ("seed", "a.csv", *LOCAL, "--format", "parquet", "--shard-count", "5", "--columns", "*")
    assert run(tmp_path, *seed).returncode == 0
    done = subprocess.run(
        [sys.executable, "-c", READ, tmp_path / "a.crawl" / "images" / "*.parquet", tmp_path / "cache"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")},
    )
    assert done.returncode == 0, done.stderr
    kind, rows = json.loads(done.stdout.splitlines()[-1])
    assert kind == "Image"
    assert sorted(rows) == sorted(
        [url, f"text {n}", str(n), "JPEG", *photo_size(n)] for n, url in enumerate(urls(site, 12))
    )


def test_parquet_has_a_row_for_each_image(tmp_path: Path, site: Site) -> None:
    """A row for each stored image, in the type that Hugging Face `datasets` takes for images."""
    write_list(tmp_path, *urls(site, 12))
    done = run(tmp_path, "seed", "urls.txt", *LOCAL, "--format", "parquet", "--shard-count", "5")
    assert done.returncode == 0, done.stderr
    store = tmp_path / "urls.crawl" / "images"
    assert [path.name for path in sorted(store.glob("*.parquet"))] == [f"0000{number}.parquet" for number in range(3)]
    rows = pq.ParquetDataset(store).read().to_pylist()
    kept = {record["url"]: record for record in records(tmp_path, "urls.crawl")}
    assert len(rows) == len(kept) == 12
    for row in rows:
        record = kept.pop(row["url"])
        assert record["path"].endswith(f".parquet/{row['image']['path']}")
        assert hashlib.sha256(row["image"]["bytes"]).hexdigest() == row["sha256"] == record["sha256"]


def test_what_is_stored_anew_is_in_one_shard(tmp_path: Path, site: Site) -> None:
    """After a refresh the image that has changed is taken out of its first shard; one that is gone stays."""
    write_list(tmp_path, *urls(site, 10, "/kept/{}.jpg"), site.url("/flaky/0/20.jpg"))
    seed = ("seed", "urls.txt", *LOCAL, *WEBDATASET, "--shard-count", "6")
    assert run(tmp_path, *seed).returncode == 0
    for name in ("1.jpg", "2.jpg", "3.jpg"):
        site.versions[name] += 1
    assert run(tmp_path, *seed, "--refresh").returncode == 0
    check(tmp_path / "urls.crawl", 11)
    found = [len(listed(tar)) for tar in tars(tmp_path / "urls.crawl" / "images")]
    assert sum(found) == 22 and len(found) > 2


@pytest.mark.parametrize("format", ["webdataset", "parquet"])
def test_what_is_in_shards_is_verified(tmp_path: Path, site: Site, format: str) -> None:
    """`status --verify` reads each image in its shard; `retry --missing` finds those of a shard that is gone."""
    write_list(tmp_path, *urls(site, 25))
    seed = ("seed", "urls.txt", *LOCAL, "--format", format, "--shard-count", "10")
    assert run(tmp_path, *seed).returncode == 0
    done = run(tmp_path, "status", "urls.crawl", "--verify", "--json")
    found = json.loads(done.stdout)["verified"]
    assert (found["records"], found["missing"], found["other_digest"], found["orphans"]) == (25, 0, 0, 0), done.stdout
    store = tmp_path / "urls.crawl" / "images"
    shard = sorted(store.glob("00001.*"))[0]
    shard.unlink()
    done = run(tmp_path, "retry", "urls.crawl", "--missing")
    assert "10 tasks wait" in done.stdout
    assert run(tmp_path, *seed).returncode == 0
    assert status(tmp_path, "urls.crawl")["stored"] == 25
    assert not shard.exists()
    assert "25 of 25 records have their file" in run(tmp_path, "status", "urls.crawl", "--verify").stdout


@pytest.mark.parametrize(
    ("first", "then", "said"),
    [
        (WEBDATASET, ("--format", "parquet"), "begun with --format webdataset"),
        ((), WEBDATASET, "begun with --format files --name digest"),
        ((), ("--name", "index"), "begun with --format files --name digest"),
    ],
)
def test_another_format_is_refused_later(
    tmp_path: Path, site: Site, first: tuple[str, ...], then: tuple[str, ...], said: str
) -> None:
    """By name; a shard's size may change."""
    write_list(tmp_path, *urls(site, 1))
    assert run(tmp_path, "seed", "urls.txt", *LOCAL, *first).returncode == 0
    done = run(tmp_path, "seed", "urls.txt", *LOCAL, *then)
    assert (done.returncode, said in done.stderr) == (2, True), done.stderr


def test_two_crawls_do_not_share_a_store_of_numbers(tmp_path: Path, site: Site) -> None:
    """The second would give the same names."""
    write_list(tmp_path, *urls(site, 1))
    for name, status_expected in (("a", 0), ("b", 2), ("a", 0)):
        done = run(tmp_path, "seed", "urls.txt", "-o", name, "--store", "shared", *LOCAL, *WEBDATASET)
        assert done.returncode == status_expected, done.stderr
    assert (
        "images of another crawl"
        in run(tmp_path, "seed", "urls.txt", "-o", "b", "--store", "shared", *LOCAL, "--name", "index").stderr
    )


@pytest.mark.parametrize(
    "options", [("--shard-count", "5"), ("--caption-column", "text"), (*WEBDATASET, "--name", "url")]
)
def test_options_that_do_not_go_together(tmp_path: Path, site: Site, options: tuple[str, ...]) -> None:
    """Are refused before anything is made."""
    write_list(tmp_path, *urls(site, 1))
    assert run(tmp_path, "seed", "urls.txt", *options).returncode == 2
    assert not (tmp_path / "urls.crawl").exists()
