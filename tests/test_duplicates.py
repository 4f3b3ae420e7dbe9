"""Images that look like one before: named or dropped, by the queue and from the command line."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from msgspec.structs import replace

from crawler.broker.copies import exact_duplicates
from crawler.broker.duplicates import Duplicates, compared
from crawler.broker.ended import Body, Ended
from crawler.broker.ledger import Ledger
from crawler.broker.likeness import Likeness
from crawler.broker.local import LocalTaskQueue
from crawler.broker.schema import TABLES
from crawler.errors import UsageError
from crawler.facts import Facts
from crawler.model import Choice, Completion, Hello, Lease
from crawler.reasons import Reason
from crawler.settings import NearDuplicates, Settings
from crawler.treatment import Treatment
from tests.command import LIMIT, LOCAL, records, rows, run, running, served, status, write_list
from tests.conftest import wait_until
from tests.shards import listed, tars
from tests.site import Site
from tests.test_task_queue import Bench, hello, lease, stored, terms

#: What it tries is the same on every Python; that crawls run there is seen by others.
pytestmark = pytest.mark.once

HASHED = Treatment(facts=("phash",))
KEEP, DROP = NearDuplicates(distance=4), NearDuplicates(distance=4, drop=True)


class Crawl(NamedTuple):
    """A queue whose tasks are all leased to one worker."""

    bench: Bench
    worker: str
    leases: list[Lease]

    def complete(self, *hashes: int | None, first: int = 0) -> list[int]:
        """Complete leases from the *first* on at once, with images of these hashes."""
        some = self.leases[first : first + len(hashes)]
        ends = [seen(one, value) for one, value in zip(some, hashes, strict=True)]
        return self.bench.queue.complete(self.worker, ends)

    def duplicates(self) -> dict[int, tuple[int | None, int | None]]:
        """Return (task, bits) of which each stored image is a duplicate."""
        found = [(record.id, record.facts) for record in self.bench.records() if record.outcome == "stored"]
        return {task: (facts.duplicate_of, facts.duplicate_distance) for task, facts in found if facts}


def seen(lease: Lease, value: int | None) -> Completion:
    """Return the completion of a task whose image has a hash."""
    facts = Facts(phash=None if value is None else f"{value:016x}")
    return replace(stored(lease.token, lease.task.id), facts=facts)


@contextlib.contextmanager
def opened(folder: Path, asked: NearDuplicates | None) -> Iterator[Bench]:
    """Open the queue of a folder, as a start does."""
    ledger = Ledger(folder / "ledger.db", 0, lambda error: None)
    with contextlib.ExitStack() as stack:
        stack.callback(ledger.close)
        queue = LocalTaskQueue(ledger, terms(Settings(treatment=HASHED, near_duplicates=asked)))
        stack.callback(queue.close)
        yield Bench(queue, queue, ledger)


@contextlib.contextmanager
def crawling(folder: Path, asked: NearDuplicates | None, tasks: int) -> Iterator[Crawl]:
    """Begin with so many tasks, each at a host of its own."""
    with opened(folder, asked) as bench:
        bench.fill(*(f"http://h{number}.test/" for number in range(tasks)))
        worker = bench.join()
        yield Crawl(bench, worker, sorted(lease(bench.queue, worker, 1).leases, key=lambda one: one.task.id))


def test_a_duplicate_names_the_nearest_before_it(tmp_path: Path) -> None:
    """Also within one batch; of equally near ones the oldest; no image without a hash is compared."""
    with crawling(tmp_path, KEEP, 8) as crawl:
        crawl.complete(0xFF00, 0xFF01, None, (1 << 64) - 1)
        crawl.complete(0xFF0000FF, 0xFF00, 0xFF0F, 0xFF3F, first=4)
        none = (None, None)
        assert crawl.duplicates() == {
            1: none, 2: (1, 1), 3: none, 4: none, 5: none, 6: (1, 0), 7: (1, 4), 8: none
        }  # fmt: skip
        assert crawl.bench.queue.stats().near_duplicates == 3
        assert crawl.bench.ledger.view.counters()["near_duplicates"] == 3


def test_no_chain_leads_away(tmp_path: Path) -> None:
    """What is near a duplicate only is none; it is compared with the nearer of two."""
    with crawling(tmp_path, KEEP, 4) as crawl:
        for number, value in enumerate((0b0, 0b1111, 0b11111, 0b111)):
            crawl.complete(value, first=number)
        assert crawl.duplicates() == {1: (None, None), 2: (1, 4), 3: (None, None), 4: (3, 2)}


def test_dropped(tmp_path: Path) -> None:
    """The task fails for good with its own reason, which names the task; no file is recorded."""
    with crawling(tmp_path, DROP, 3) as crawl:
        crawl.complete(0xFF00, 0xFF01, 0xFF03)
        first, second, third = crawl.bench.records()
        assert (first.reason, first.path) == (None, "images/ab/ab.jpg")
        assert (second.reason, second.path, second.detail) == (
            Reason.NEAR_DUPLICATE, None, "1 bit from the image of task 1"
        )  # fmt: skip
        assert third.detail == "2 bits from the image of task 1"
        stats = crawl.bench.queue.stats()
        assert (stats.stored, stats.failed, stats.bytes, stats.near_duplicates) == (1, 2, 7, 0)
        assert stats.reasons == crawl.bench.ledger.view.reasons() == {"near_duplicate": 2}


def test_a_repeated_complete_changes_nothing(tmp_path: Path) -> None:
    """It is accepted, and the image is no duplicate of itself."""
    with crawling(tmp_path, DROP, 2) as crawl:
        tokens = crawl.complete(0xFF00, 0xFF01)
        before = crawl.bench.records()
        assert crawl.complete(0xFF00, 0xFF01) == tokens
        assert crawl.bench.records() == before
        assert [record.reason for record in before] == [None, Reason.NEAR_DUPLICATE]


def test_a_restart_goes_on(tmp_path: Path) -> None:
    """What was recorded before it counts; hashes of all 64 bits among them."""
    with crawling(tmp_path, KEEP, 4) as crawl:
        crawl.complete((1 << 64) - 1, 0)
    with opened(tmp_path, DROP) as bench:
        worker = bench.queue.hello(coming_back(crawl.worker, crawl.leases[2:])).session
        Crawl(bench, worker, crawl.leases).complete((1 << 64) - 2, 1 << 63, first=2)
        assert [record.detail for record in bench.records()[2:]] == [
            "1 bit from the image of task 1",
            "1 bit from the image of task 2",
        ]


def coming_back(session: str, leases: list[Lease]) -> Hello:
    return hello(session=session, holds=[one.token for one in leases])


def test_what_is_fetched_anew_lets_go(tmp_path: Path) -> None:
    """An image whose task goes back is compared with no more, and comes again as any other."""
    with crawling(tmp_path, KEEP, 4) as crawl:
        crawl.complete(0xFF00, 0xFF01)
        bench = crawl.bench
        assert bench.queue.revive(crawl.worker, Choice(ids=(1, 2))) == {"stored": 2}
        assert (bench.queue.stats().near_duplicates, bench.ledger.view.counters()["near_duplicates"]) == (0, 0)
        crawl.complete(0xFF00, first=2)
        assert crawl.duplicates() == {3: (None, None)}
        again = sorted(lease(bench.queue, crawl.worker, 2).leases, key=lambda one: one.task.id)
        Crawl(bench, crawl.worker, again).complete(0xFF00, 0)
        assert crawl.duplicates() == {1: (3, 0), 2: (None, None), 3: (None, None)}


def test_a_worker_is_not_believed(tmp_path: Path) -> None:
    """Of what an image is a duplicate the queue says alone; what is no hash is not compared."""
    with crawling(tmp_path, KEEP, 3) as crawl:
        claims = [
            Facts(phash="ff", duplicate_of=3, duplicate_distance=1),
            Facts(phash="f" * 300),
            Facts(phash="-00000000000000f"),
        ]
        crawl.bench.queue.complete(
            crawl.worker,
            [replace(seen(one, 0), facts=facts) for one, facts in zip(crawl.leases, claims, strict=True)],
        )
        assert set(crawl.duplicates().values()) == {(None, None)}
        assert len(crawl.duplicates()) == 3
        assert list(crawl.bench.ledger.view.hashes()) == []


def test_what_was_rolled_back_does_not_count(tmp_path: Path) -> None:
    """The same is judged again the same, and an image that never got its record is nobody's original."""
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        db.executescript(TABLES)
        duplicates = Duplicates(KEEP, tmp_path, [])
        ended = [Ended(n, n, None, Body(attempts=1, facts=Facts(phash=f"{0xFF:016x}"))) for n in (1, 2)]
        for _ in range(2):
            db.execute("BEGIN")
            judged = [end.body.facts and end.body.facts.duplicate_of for end in duplicates.judge(db, ended)]
            assert judged == [None, 1]
            db.execute("ROLLBACK")
        assert [end.body.is_duplicate for end in duplicates.judge(db, ended[1:])] == [False]


def test_a_full_disk_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without room for the index the ledger pauses as it does without room of its own, and nothing is lost."""
    monkeypatch.setattr("crawler.broker.ledger.FULL_PAUSE", 0.01)
    failures = [OSError(errno.ENOSPC, "full")] * 3

    def fails(self: Likeness, value: int) -> None:
        if failures:
            raise failures.pop()
        add(self, value)

    with crawling(tmp_path, KEEP, 2) as crawl:
        add = Likeness.add
        monkeypatch.setattr(Likeness, "add", fails)
        monkeypatch.setattr(crawl.bench.ledger, "_pause_limit", 60.0)
        assert len(crawl.complete(0xFF00, 0xFF01)) == 2
        assert (failures, crawl.duplicates()) == ([], {1: (None, None), 2: (1, 1)})


def test_what_has_no_meaning_is_refused(tmp_path: Path) -> None:
    """Without hashes nothing could be compared; a distance has a bound."""
    with pytest.raises(UsageError, match="phash"):
        compared(Settings(near_duplicates=KEEP), tmp_path, [])
    with pytest.raises(UsageError, match="0 to 11 bits, not 12"):
        Duplicates(NearDuplicates(distance=12), tmp_path, [])
    write_list(tmp_path, "http://a.test/")
    done = run(tmp_path, "seed", "urls.txt", "--drop-near-duplicates")
    assert (done.returncode, "goes with --near-duplicates" in done.stderr) == (2, True)


# ------------------------------------------------------------ the command; all photos of the site are within 3 bits


def current(folder: Path) -> list[dict[str, object]]:
    return list({record["id"]: record for record in records(folder, "urls.crawl")}.values())


@pytest.mark.parametrize("options", [(), ("--format", "webdataset"), ("--name", "index")])
def test_the_same_bytes_are_counted(tmp_path: Path, site: Site, options: tuple[str, ...]) -> None:
    """In the summary, in the status and its JSON; the first of each is none, nor is a line with the same URL."""
    urls = [site.url(f"/photo/{number}.jpg") for number in range(4)]
    again = [f"{urls[0]}?again", f"{urls[0]}?third", f"{urls[1]}?again", site.url("/missing/1"), urls[0]]
    write_list(tmp_path, *urls, *again)
    done = run(tmp_path, "seed", "urls.txt", *LOCAL, *options)
    assert done.returncode == 0, done.stderr
    assert "7 stored, 1 failed" in done.stdout
    assert "3 of the stored images have the same bytes as another of them" in done.stdout
    assert status(tmp_path, "urls.crawl")["exact_duplicates"] == 3
    assert "7   of these 3 the same bytes as another" in run(tmp_path, "status", "urls.crawl").stdout


def test_the_same_bytes_are_counted_of_what_is_stored_now(tmp_path: Path) -> None:
    """An image whose task goes back counts no more, nor does the former one of a task that has another now."""
    with crawling(tmp_path, None, 4) as crawl:
        digests = ("aa" * 32, "aa" * 32, "aa" * 31 + "bb", "cc" * 32)
        ends = [replace(seen(one, None), sha256=sha) for one, sha in zip(crawl.leases, digests, strict=True)]
        crawl.bench.queue.complete(crawl.worker, ends)
        ledger = crawl.bench.ledger.path
        assert exact_duplicates(ledger) == 2  # the third differs in bits that are not looked at
        crawl.bench.queue.revive(crawl.worker, Choice(ids=(2,)))
        assert exact_duplicates(ledger) == 1


def test_kept_and_told(tmp_path: Path, site: Site) -> None:
    """Records, exports, the summary and the status say so; the files are all there."""
    write_list(tmp_path, *(site.url(f"/photo/{number}.jpg") for number in range(12)))
    done = run(tmp_path, "seed", "urls.txt", *LOCAL, "--near-duplicates", "3")
    assert done.returncode == 0, done.stderr
    assert "12 stored, 0 failed" in done.stdout
    assert "11 of the stored images are nearly the same as another of them" in done.stdout
    [first] = [record["id"] for record in current(tmp_path) if "duplicate_of" not in record["facts"]]  # type: ignore[operator]
    assert sorted(str(row.get("duplicate_of")) for row in rows(tmp_path, "urls.crawl")) == [str(first)] * 11 + ["None"]
    assert status(tmp_path, "urls.crawl")["near_duplicates"] == 11
    assert "12   of these 11 nearly the same as another" in run(tmp_path, "status", "urls.crawl").stdout
    assert run(tmp_path, "status", "urls.crawl", "--verify").returncode == 0


def test_dropped_over_a_kill_9(tmp_path: Path, site: Site) -> None:
    """Killed in the middle and gone on with, one image is stored; the files of the others are swept as orphans."""
    write_list(tmp_path, *(site.url(f"/slow/0.05/photo/{number}.jpg") for number in range(120)))
    command = ("seed", "urls.txt", *LOCAL, "--near-duplicates", "3", "--drop-near-duplicates")
    with running(tmp_path, *command) as process:
        wait_until(lambda: (tmp_path / "urls.crawl" / "completions.jsonl").exists() and len(current(tmp_path)) > 20)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    done = run(tmp_path, *command)
    assert done.returncode == 0, done.stderr
    found = current(tmp_path)
    assert (len(found), len([one for one in found if one["outcome"] == "stored"])) == (120, 1)
    assert {one["reason"] for one in found} == {None, "near_duplicate"}
    assert run(tmp_path, "status", "urls.crawl", "--verify", "--sweep").returncode == 0
    left = list((tmp_path / "urls.crawl" / "images").rglob("*.jpg"))
    assert len(left) == 1
    assert run(tmp_path, "status", "urls.crawl", "--verify").returncode == 0


def test_one_original_for_all_workers(tmp_path: Path, site: Site) -> None:
    """Of two that store in place, and one whose images the coordinator stores."""
    write_list(tmp_path, *(site.url(f"/slow/0.05/photo/{number}.jpg") for number in range(60)))
    options = ("--near-duplicates", "3", "--drop-near-duplicates", "--workers", "2", "--per-host", "24")
    with running(tmp_path, "seed", "urls.txt", *LOCAL, *options) as seed:
        served(tmp_path, "urls.crawl")
        run(tmp_path, "worker", "urls.crawl", "--store", "none", "--processes", "1", "--threads", "8")
        assert seed.wait(LIMIT) == 0, seed.stderr
    found = current(tmp_path)
    assert (len(found), len([one for one in found if one["outcome"] == "stored"])) == (60, 1)


def test_what_was_dropped_can_be_had(tmp_path: Path, site: Site) -> None:
    """Put back, and gone on with without the option, all is stored."""
    write_list(tmp_path, *(site.url(f"/photo/{number}.jpg") for number in range(4)))
    dropped = run(tmp_path, "seed", "urls.txt", *LOCAL, "--near-duplicates", "3", "--drop-near-duplicates")
    assert "1 stored, 3 failed" in dropped.stdout
    assert run(tmp_path, "retry", "urls.crawl", "--reason", "near_duplicate").returncode == 0
    assert "4 stored, 0 failed" in run(tmp_path, "seed", "urls.txt", *LOCAL).stdout
    assert run(tmp_path, "status", "urls.crawl", "--verify").returncode == 0


def test_dropped_from_shards(tmp_path: Path, site: Site) -> None:
    """A shard is published without them."""
    write_list(tmp_path, *(site.url(f"/photo/{number}.jpg") for number in range(12)))
    options = ("--near-duplicates", "3", "--drop-near-duplicates", "--format", "webdataset")
    done = run(tmp_path, "seed", "urls.txt", *LOCAL, *options)
    assert done.returncode == 0, done.stderr
    [kept] = [one for one in current(tmp_path) if one["outcome"] == "stored"]
    [tar] = tars(tmp_path / "urls.crawl" / "images")
    assert [name for name in listed(tar) if name.endswith(".jpg")] == [str(kept["path"]).rpartition("/")[2]]
