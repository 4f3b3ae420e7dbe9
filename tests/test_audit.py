"""`crawler status`: the store held against the ledger, orphans swept, and hosts that wait."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import shutil
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crawler.broker.ledger import Ledger
from crawler.broker.local import LocalTaskQueue
from crawler.model import Progress
from crawler.settings import Settings
from tests.command import LIMIT, LOCAL, records, run, running, served, status, write_list
from tests.conftest import wait_until
from tests.shards import listed
from tests.site import Site
from tests.test_task_queue import batch, hello, terms

#: What it tries is the same on every Python; that crawls run there is seen by others.
pytestmark = pytest.mark.once

OUT = "urls.crawl"
CONTENT = b"an image that nobody recorded"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
ORPHAN = f"images/{SHA256[:2]}/{SHA256}.jpg"


def crawl(folder: Path, site: Site, *options: str, count: int = 4) -> list[str]:
    """Crawl some photos; return the paths of their images in OUT."""
    write_list(folder, *(site.url(f"/photo/{n}.jpg") for n in range(count)))
    done = run(folder, "seed", "urls.txt", *LOCAL, *options)
    assert done.returncode == 0, done.stderr
    return [record["path"] for record in records(folder, OUT)]


def put(folder: Path, path: str = ORPHAN, content: bytes = CONTENT) -> Path:
    """Put a file into OUT."""
    file = folder / OUT / path
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content)
    return file


def verified(folder: Path, *options: str) -> tuple[int, dict[str, Any]]:
    """Return exit status and facts of `status --verify`."""
    done = run(folder, "status", OUT, "--verify", "--json", *options)
    assert done.stdout, done.stderr
    facts: dict[str, Any] = json.loads(done.stdout)["verified"]
    return done.returncode, facts


def files(folder: Path) -> set[str]:
    """Return the paths of all files of the store in OUT."""
    return {str(path.relative_to(folder / OUT)) for path in (folder / OUT / "images").rglob("*") if path.is_file()}


# ------------------------------------------------------------------ verify


def test_a_sound_store_is_told(tmp_path: Path, site: Site) -> None:
    """Status 0; two tasks with the same image are two records."""
    write_list(tmp_path, site.url("/photo/1.jpg"), site.url("/photo/1.jpg?again"), site.url("/missing/1"))
    assert run(tmp_path, "seed", "urls.txt", *LOCAL).returncode == 0
    exit_status, facts = verified(tmp_path)
    assert exit_status == 0
    assert facts == {
        "store": str(tmp_path / OUT / "images"),
        "records": 2,
        **dict.fromkeys(("missing", "other_size", "other_digest", "unreadable", "orphans", "orphan_bytes"), 0),
        "swept": False,
    }
    done = run(tmp_path, "status", OUT, "--verify")
    assert f"Store {tmp_path / OUT / 'images'}: 2 of 2 records have their file\n" in done.stdout


def test_what_is_wrong_is_found_named_and_mended(tmp_path: Path, site: Site) -> None:
    """Gone, cut, other bytes: status 3, each told with its path, and the command that it tells fetches them again."""
    paths = crawl(tmp_path, site)
    gone, cut, other = (tmp_path / OUT / path for path in paths[:3])
    gone.unlink()
    cut.write_bytes(cut.read_bytes()[:-1])
    other.write_bytes(other.read_bytes()[:-1] + b"?")
    exit_status, facts = verified(tmp_path)
    assert exit_status == 3
    assert [facts[name] for name in ("records", "missing", "other_size", "other_digest")] == [4, 1, 1, 1]
    done = run(tmp_path, "status", OUT, "--verify", "-v")
    assert done.returncode == 3
    assert "1 of 4 records have their file" in done.stdout
    for path, words in zip(paths, ("gone", "another size", "other bytes"), strict=False):
        name = path.removeprefix("images/")
        assert re.search(rf"^ +1  the file.* {words}\n +e\.g\. {re.escape(name)}$", done.stdout, re.M)
        assert re.search(rf"^{re.escape(name)}: the file.* {words}$", done.stderr, re.M)
    assert f"crawler retry {tmp_path / OUT} --missing" in done.stdout
    other.unlink()
    assert run(tmp_path, "retry", OUT, "--missing").stdout.startswith("3 tasks")
    assert run(tmp_path, "seed", "urls.txt", *LOCAL).returncode == 0
    exit_status, facts = verified(tmp_path)
    assert (exit_status, facts["records"], facts["missing"], facts["orphans"]) == (0, 4, 0, 0)


def test_a_store_of_which_all_is_gone_may_not_be_mounted(tmp_path: Path, site: Site) -> None:
    """No advice to fetch everything again; without its folder the store cannot be verified at all."""
    crawl(tmp_path, site, count=2)
    store = tmp_path / OUT / "images"
    shutil.rmtree(store)
    lost = run(tmp_path, "status", OUT, "--verify")
    assert lost.returncode == 73
    assert f"{store} is not there" in lost.stderr
    store.mkdir()
    empty = run(tmp_path, "status", OUT, "--verify")
    assert empty.returncode == 3
    assert "is its disk mounted?" in empty.stdout and "crawler retry" not in empty.stdout.partition("Store ")[2]


def test_a_link_in_place_of_an_image_is_the_image(tmp_path: Path, site: Site) -> None:
    """Somebody moved it to another disk. One that leads nowhere is none, nor is a folder; none is an orphan."""
    first, second, third = (tmp_path / OUT / path for path in crawl(tmp_path, site, count=3))
    first.unlink()
    first.mkdir()
    second.rename(tmp_path / "elsewhere")
    second.symlink_to(tmp_path / "elsewhere")
    third.unlink()
    third.symlink_to(tmp_path / "nowhere")
    exit_status, facts = verified(tmp_path)
    assert (exit_status, facts["records"], facts["missing"], facts["orphans"]) == (3, 3, 2, 0)


def test_a_running_crawl_can_be_verified(tmp_path: Path, site: Site) -> None:
    """Its orphans may be what was just stored; nothing can be swept."""
    write_list(tmp_path, site.url("/photo/1.jpg"))
    with running(tmp_path, "seed", "urls.txt", *LOCAL, "--keep-open") as seed:
        served(tmp_path, OUT)
        wait_until(lambda: status(tmp_path, OUT).get("stored") == 1)
        orphan = put(tmp_path)
        done = run(tmp_path, "status", OUT, "--verify")
        assert done.returncode == 0
        assert "1 file without a record (0.0 MB): just stored, or left by a crash" in done.stdout
        refused = run(tmp_path, "status", OUT, "--verify", "--sweep")
        assert (refused.returncode, refused.stdout) == (73, "")
        assert f"{tmp_path / OUT} runs: stop it before --sweep" in refused.stderr
        assert orphan.exists()
        seed.send_signal(signal.SIGTERM)
        assert seed.wait(LIMIT) == 75


# ------------------------------------------------------------------ sweep


def test_orphans_are_counted_kept_and_swept(tmp_path: Path, site: Site) -> None:
    """An orphan is nothing wrong. What is swept is what this program left, and nothing else."""
    crawl(tmp_path, site)
    kept = files(tmp_path) | {
        str(put(tmp_path, path).relative_to(tmp_path / OUT))
        for path in ("images/README", "images/ab/notes.txt", f"images/zz/{SHA256}.jpg", f"images/00/{SHA256}.jpg")
    }
    put(tmp_path)
    put(tmp_path, f"{Path(ORPHAN).parent}/.{Path(ORPHAN).name}.{'0' * 32}", b"half")
    exit_status, facts = verified(tmp_path)
    assert (exit_status, facts["orphans"], facts["orphan_bytes"]) == (0, 2, len(CONTENT) + 4)
    told = run(tmp_path, "status", OUT, "--verify").stdout
    assert "2 files without a record (0.0 MB), left by a crash, or dropped: used when the same bytes come again" in told
    assert len(files(tmp_path)) == len(kept) + 2
    exit_status, facts = verified(tmp_path, "--sweep")
    assert (exit_status, facts["orphans"], facts["swept"]) == (0, 2, True)
    assert files(tmp_path) == kept
    assert verified(tmp_path)[1]["orphans"] == 0
    assert run(tmp_path, "seed", "urls.txt", *LOCAL).returncode == 0
    assert len(site.requests) == 4


@pytest.mark.parametrize("format", ["webdataset", "parquet"])
def test_shards_are_swept(tmp_path: Path, site: Site, format: str) -> None:
    """What no record names is taken out of its shard; a shard of nothing else goes, and so does one half made."""
    options = ("--format", format, "--shard-count", "4")
    paths = crawl(tmp_path, site, *options, count=12)
    shards = sorted({path.split("/")[1] for path in paths})
    assert len(shards) == 3
    by_shard = [[path for path in paths if path.split("/")[1] == shard] for shard in shards]
    lost = [by_shard[0][1], *by_shard[1]]
    for path in lost:
        task = int(Path(path).stem)
        change(tmp_path, f"DELETE FROM records WHERE task = {task}")
        change(tmp_path, f"UPDATE tasks SET state = 1, due = 0, seq = NULL WHERE id = {task}")
    images = tmp_path / OUT / "images"
    (images / ".open").mkdir()
    (images / ".open" / "00009.new").write_bytes(b"half")
    assert verified(tmp_path)[1]["orphans"] == 5
    whole = (images / shards[2]).read_bytes()
    exit_status, facts = verified(tmp_path, "--sweep")
    assert (exit_status, facts["records"], facts["orphans"], facts["swept"]) == (0, 7, 5, True)
    assert files(tmp_path) == {f"images/{name}" for name in (".crawl", shards[0], shards[2])}
    assert (images / shards[2]).read_bytes() == whole
    exit_status, facts = verified(tmp_path)
    assert (exit_status, facts["records"], facts["orphans"], facts["missing"]) == (0, 7, 0, 0)
    if format == "webdataset":
        assert [name for name in listed(images / shards[0]) if name.endswith(".jpg")] == [
            Path(path).name for path in by_shard[0] if path not in lost
        ]


def test_nothing_is_swept_while_a_lease_is_alive(tmp_path: Path, site: Site) -> None:
    """A worker on another machine may ride out the coordinator's absence; a lease that ran out is over for good."""
    crawl(tmp_path, site, count=1)
    orphan = put(tmp_path)
    leave_a_lease(tmp_path / OUT / "ledger.db")
    change(tmp_path, "UPDATE leases SET expires = expires + 1e6")
    refused = run(tmp_path, "status", OUT, "--verify", "--sweep")
    assert refused.returncode == 73
    assert re.search(r"workers may still store images for .*: what they hold runs out in \d+ s", refused.stderr)
    assert orphan.exists()
    change(tmp_path, "UPDATE leases SET expires = 0")
    assert run(tmp_path, "status", OUT, "--verify", "--sweep").returncode == 0
    assert not orphan.exists()
    assert change(tmp_path, "SELECT count(*) FROM leases") == [(0,)]


def leave_a_lease(path: Path) -> None:
    """Add a task to a ledger and lease it to a worker of another machine, as a coordinator does that dies then."""
    ledger = Ledger(path, 0, lambda error: None)
    queue = LocalTaskQueue(ledger, terms(Settings()))
    session = queue.hello(hello()).session
    queue.put(session, queue.open_list(session, "more", False).id, batch(1, "http://a.test/1"))
    numbers = itertools.count(1)
    wait_until(lambda: queue.lease(session, next(numbers), 1, 5.0, Progress()).leases)
    queue.close()
    ledger.close()


def change(folder: Path, sql: str) -> list[Any]:
    """Run a statement on the ledger."""
    db = sqlite3.connect(folder / OUT / "ledger.db")
    with db:
        rows = db.execute(sql).fetchall()
    db.close()
    return rows


def test_a_store_elsewhere_is_swept_only_by_its_name(tmp_path: Path, site: Site) -> None:
    """Two crawls may share it: what one has not recorded the other may have."""
    crawl(tmp_path, site, "--store", "shared", count=2)
    stored = sorted((tmp_path / "shared").glob("??/*"))
    write_list(tmp_path, site.url("/photo/9.jpg"), name="other.txt")
    assert run(tmp_path, "seed", "other.txt", *LOCAL, "--store", "shared").returncode == 0
    for wrong in ((), ("--store", OUT)):
        refused = run(tmp_path, "status", OUT, "--verify", "--sweep", *wrong)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert f"add --store {tmp_path / 'shared'}" in refused.stderr
    assert len(list((tmp_path / "shared").glob("??/*"))) == 3
    exit_status, facts = verified(tmp_path, "--sweep", "--store", "shared")
    assert (exit_status, facts["records"], facts["orphans"]) == (0, 2, 1)
    assert sorted((tmp_path / "shared").glob("??/*")) == stored


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((OUT, "--sweep"), "--sweep goes with --verify"),
        ((OUT, "--verify", "--store", "images"), "--store goes with --verify --sweep"),
        (("127.0.0.1:9", "--key", "key", "--verify"), "name the OUT"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, arguments: tuple[str, ...], named: str) -> None:
    """Status 2, before anything is looked at."""
    write_list(tmp_path, "no url")
    assert run(tmp_path, "seed", "urls.txt", *LOCAL).returncode == 0
    assert run(tmp_path, "keygen", "key").returncode == 0
    done = run(tmp_path, "status", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert named in done.stderr


# ------------------------------------------------------------------ hosts


def test_hosts_that_wait_are_told(tmp_path: Path, site: Site) -> None:
    """While the crawl runs, and after it was stopped: how many, which, why and until when."""
    write_list(tmp_path, site.url("/retry-after/3600/9/1.jpg"), site.url("/photo/2.jpg"))

    def told(state: Callable[[dict[str, Any]], bool]) -> str:
        facts = status(tmp_path, OUT)
        assert state(facts), facts
        hosts = facts["hosts"]
        assert (hosts["slowed"], hosts["open"], hosts["unavailable"], len(hosts["waiting"])) == (1, 0, 0, 1)
        assert hosts["waiting"][0]["name"] == "127.0.0.1"
        return run(tmp_path, "status", OUT).stdout

    with running(tmp_path, "seed", "urls.txt", *LOCAL, "--per-host", "1") as seed:
        served(tmp_path, OUT)
        wait_until(lambda: status(tmp_path, OUT).get("hosts", {}).get("waiting"))
        assert re.search(WAITS, told(lambda facts: facts["running"]), re.M)
        seed.send_signal(signal.SIGTERM)
        assert seed.wait(LIMIT) == 75
    assert re.search(WAITS, told(lambda facts: not facts["running"]), re.M)


WAITS = r"^hosts: 1 slowed down\n  127\.0\.0\.1: slowed, asked again in \d+ min"


def test_a_crawl_without_trouble_says_nothing_of_hosts(tmp_path: Path, site: Site) -> None:
    """There is nothing to say; a program finds zeros."""
    crawl(tmp_path, site, count=1)
    assert "hosts:" not in run(tmp_path, "status", OUT).stdout
    assert status(tmp_path, OUT)["hosts"] == {"slowed": 0, "open": 0, "unavailable": 0, "waiting": []}
