"""`completions.jsonl`: what the ledger recorded, a line each, whatever happened to the file."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crawler.broker import completions
from crawler.broker.completions import CompletionLog
from crawler.broker.ledger import Ledger
from crawler.broker.local import LocalTaskQueue
from crawler.errors import StorageFailed
from crawler.model import Choice
from crawler.reasons import Reason
from crawler.settings import RetryPolicy, Settings
from tests.conftest import wait_until
from tests.test_task_queue import Bench, failed, lease, stored, terms

URLS = tuple(f"http://h{n}.test/ä" for n in range(4))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A queue whose tasks can be ended."""
    ledger = Ledger(tmp_path / "ledger.db", 0, lambda error: None)
    local = LocalTaskQueue(ledger, terms(Settings(retry=RetryPolicy(base=0.0))))
    yield Bench(local, local, ledger)
    local.close()
    ledger.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "completions.jsonl"


def work(bench: Bench, session: str, count: int) -> None:
    """End *count* tasks: every second one fails for good, beginning with the first."""
    for number in range(count):
        before = len(bench.ledger.view.records(0, 99))
        item = lease(bench.queue, session, before + 1, 1).leases[0]
        if number % 2:
            bench.queue.complete(session, [stored(item.token, item.task.id)])
        else:
            bench.queue.retry(session, [failed(item.token, item.task.id, Reason.HTTP_NOT_FOUND, http_status=404)])


def start(path: Path, bench: Bench) -> None:
    """Let the file be mended and completed, and close it."""
    log = CompletionLog(path, bench.ledger)
    log.start()
    log.close()


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_recording_is_a_line_with_the_record(bench: Bench, path: Path) -> None:
    """In the order of `seq`, with every field that programs rely on."""
    bench.fill(*URLS)
    work(bench, bench.join(), 4)
    start(path, bench)
    assert [line["seq"] for line in lines(path)] == [1, 2, 3, 4]
    assert [line["outcome"] for line in lines(path)] == ["failed", "stored"] * 2
    records = {record.seq: record for record in bench.records()}
    for line in lines(path):
        record = records[line["seq"]]
        assert line == {name: getattr(record, name) for name in record.__struct_fields__}
    failure, success = lines(path)[:2]
    assert (failure["reason"], failure["http_status"], failure["path"]) == ("http_not_found", 404, None)
    assert (success["reason"], success["path"], success["bytes"]) == (None, "images/ab/ab.jpg", 7)


def test_lines_come_while_the_crawl_runs(bench: Bench, path: Path) -> None:
    """Nobody has to wait for the end; a line is there whole or not at all."""
    bench.fill(*URLS)
    session = bench.join()
    log = CompletionLog(path, bench.ledger)
    log.start()
    for number in range(1, 4):
        work(bench, session, 1)
        wait_until(lambda n=number: path.read_bytes().count(b"\n") == n)  # type: ignore[misc]
    log.close()
    assert [line["seq"] for line in lines(path)] == [1, 2, 3]


def test_what_was_recorded_last_is_written_at_the_end(
    bench: Bench, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closing waits for no tick and leaves nothing out, also where it is more than is written at a time."""
    monkeypatch.setattr(completions, "TICK", 3600)
    monkeypatch.setattr(completions, "BATCH", 3)
    bench.fill(*URLS)
    log = CompletionLog(path, bench.ledger)
    log.start()
    work(bench, bench.join(), 4)
    assert path.read_bytes() == b""
    log.close()
    assert [line["seq"] for line in lines(path)] == [1, 2, 3, 4]


def test_a_task_that_is_tried_again_gets_another_line(bench: Bench, path: Path) -> None:
    """The last of an id counts; a start between them repeats nothing."""
    bench.fill(URLS[0])
    session = bench.join()
    item = lease(bench.queue, session, 1).leases[0]
    bench.queue.retry(session, [failed(item.token, 1, Reason.HTTP_NOT_FOUND)])
    start(path, bench)
    assert bench.queue.revive(session, Choice()) == {"http_not_found": 1}
    start(path, bench)
    item = lease(bench.queue, session, 2).leases[0]
    bench.queue.complete(session, [stored(item.token, 1)])
    start(path, bench)
    start(path, bench)
    assert [(line["seq"], line["id"], line["outcome"]) for line in lines(path)] == [(1, 1, "failed"), (2, 1, "stored")]


def test_a_torn_file_is_mended_wherever_it_was_torn(bench: Bench, path: Path) -> None:
    """At every offset: it is the same as before."""
    bench.fill(*URLS)
    work(bench, bench.join(), 3)
    start(path, bench)
    whole = path.read_bytes()
    assert whole.count(b"\n") == 3
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        start(path, bench)
        assert path.read_bytes() == whole, size


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: whole + bytes(4096),
        lambda whole: whole[:-40] + bytes(40),
        lambda whole: whole + b'{"seq": 9',
        lambda whole: whole + b"what an editor left\n",
        lambda whole: whole.replace(b'"seq":3', b'"seq":"x"'),
        lambda whole: b"\n\n\n",
        lambda whole: b"\xff\xfe nothing of ours\n",
    ],
    ids=["zeros after", "zeros within", "half a line", "text after", "no number", "blank", "foreign"],
)
def test_a_damaged_end_is_replaced(bench: Bench, path: Path, damage: Any) -> None:
    """The ledger has it all: what cannot be gone on with is written anew."""
    bench.fill(*URLS)
    work(bench, bench.join(), 3)
    start(path, bench)
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    start(path, bench)
    assert [line["seq"] for line in lines(path)] == [1, 2, 3]


def test_only_the_end_of_a_long_file_is_read(bench: Bench, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start costs the same however many lines there are; what stands before is left alone."""
    bench.fill(*URLS)
    session = bench.join()
    work(bench, session, 3)
    start(path, bench)
    first, *rest = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"#" * len(first) + b"".join(rest) + b"torn")
    monkeypatch.setattr(completions, "TAIL", len(rest[-1]) + 40)
    work(bench, session, 1)
    start(path, bench)
    assert path.read_bytes().startswith(b"#" * len(first) + b"".join(rest))
    assert json.loads(path.read_bytes().splitlines()[-1])["seq"] == 4


def test_a_file_that_cannot_be_written_is_named(bench: Bench, path: Path) -> None:
    """Before anything is crawled."""
    path.mkdir()
    with pytest.raises(StorageFailed, match=r"completions\.jsonl cannot be written"):
        CompletionLog(path, bench.ledger)


def test_completions_are_told_when_asked(bench: Bench, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One line each, with the reason where it failed."""
    bench.fill(*URLS)
    work(bench, bench.join(), 2)
    with caplog.at_level(logging.INFO, "crawler.broker.completions"):
        start(path, bench)
    first, second = (record.url for record in bench.ledger.view.records(0, 9))
    said = [record.getMessage() for record in caplog.records]
    assert said == [f"{first} ------> failed: http_not_found", f"{second} ------> completed!"]
