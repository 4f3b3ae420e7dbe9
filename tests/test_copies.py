"""How many images have the bytes of another one: right whatever becomes of records, and counted once where it can."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from crawler.broker.copies import COUNTED, exact_duplicates
from crawler.broker.durability import Durability
from crawler.broker.ended import NOT_MODIFIED, Body, Ended, encode_body
from crawler.broker.ledger import Ledger
from crawler.broker.revival import refresh, revive
from crawler.model import Batch, Choice, Outcome, Row
from crawler.reasons import Reason

#: Tasks of the ledgers here.
TASKS = 40
#: So many that the number of copies does not follow from that of images.
DIGESTS = tuple(f"{number:02x}" * 32 for number in range(TASKS))


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """Return a ledger with tasks that have no records."""
    made = Ledger(tmp_path / "ledger.db", 0, lambda error: None, Durability.NONE)
    listed = made.change(lambda changes: changes.open_list("list", False))
    rows = [Row(line=line, url=f"http://a.test/{line}", host="a.test") for line in range(1, TASKS + 1)]
    batch = Batch(first_line=1, next_line=TASKS + 1, rows=rows, offset=0, digest="", total_bytes=None)
    made.change(lambda changes: changes.put(listed.id, batch, 0.0))
    yield made
    made.close()


def image(task: int, sha256: str | None, status: int = 200) -> Ended:
    """Return how a task ends with an image; 304: with the one that it has."""
    return Ended(None, task, None, Body(attempts=1, sha256=sha256, http_status=status))


def failure(task: int) -> Ended:
    """Return how a task fails."""
    return Ended(None, task, Reason.HTTP_NOT_FOUND, Body(attempts=1))


def record(ledger: Ledger, *ended: Ended) -> None:
    """Give tasks their records."""
    ledger.change(lambda changes: changes.record(list(ended), 0.0))


def seen(ledger: Ledger) -> int:
    """Count what `exact_duplicates` should say, from the records that are current."""
    digests = [str(item.sha256)[:32] for item in ledger.view.current() if item.outcome is Outcome.STORED]
    return len(digests) - len(set(digests))


def forget_digests(ledger: Ledger) -> None:
    """Let whoever counts from now on find no digests at all."""
    with closing(sqlite3.connect(ledger.path)) as db, db:
        db.execute("UPDATE records SET body = ?", (encode_body(Body(attempts=1)),))


def test_right_after_every_change(ledger: Ledger) -> None:
    """Images are recorded, put back, asked for again, found unchanged, changed or gone at random, and counted."""
    chance = random.Random(7)
    counts = set()
    for _ in range(200):
        some = chance.sample(range(1, TASKS + 1), chance.randint(1, 6))
        done = {item.id: item for item in ledger.view.current()}
        match chance.randrange(6):
            case 0:
                choice = Choice(ids=tuple(some)) if chance.random() < 0.8 else Choice()  # these, or all that failed
                ledger.change(lambda changes: revive(changes.db, choice, 0.0))  # noqa: B023
            case 1:
                ledger.change(lambda changes: refresh(changes.db))
            case 2:
                record(ledger, *(failure(task) for task in some if task not in done))
            case 3:
                was = {task: sha256 for task in some if (sha256 := ledger.view.kept([task]).get(task, ("", ""))[1])}
                record(ledger, *(image(task, None, NOT_MODIFIED) for task in was if task not in done))
            case _:
                record(
                    ledger, *(image(task, chance.choice(DIGESTS)) for task in range(1, TASKS + 1) if task not in done)
                )
        if chance.random() < 0.5:
            assert exact_duplicates(ledger.path) == seen(ledger)
            counts.add(seen(ledger))
    assert len(counts) > 10


def test_counted_once(ledger: Ledger) -> None:
    """While no image comes or goes, digests are not read again; a failure that is recorded changes nothing."""
    record(ledger, *(image(task, DIGESTS[0]) for task in range(1, 11)))
    assert exact_duplicates(ledger.path) == 9
    forget_digests(ledger)
    assert exact_duplicates(ledger.path) == 9
    record(ledger, failure(11))
    assert exact_duplicates(ledger.path) == 9
    record(ledger, image(12, DIGESTS[1]), image(13, DIGESTS[1]))
    assert exact_duplicates(ledger.path) == 1


def test_counted_while_another_writes(ledger: Ledger) -> None:
    """What cannot be kept is said all the same, and counted again."""
    record(ledger, *(image(task, DIGESTS[0]) for task in range(1, 11)))
    with closing(sqlite3.connect(ledger.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert exact_duplicates(ledger.path) == 9
        assert ledger.view.meta(COUNTED) is None
        other.execute("ROLLBACK")
    forget_digests(ledger)
    assert exact_duplicates(ledger.path) == 0
    assert ledger.view.meta(COUNTED) is not None
