"""
Files made to break decoders, and fixtures damaged in thousands of ways, through a real consumer with real verifiers.

CRAWLER_LONG=1 tries 10,000 damaged fixtures in place of 600; CRAWLER_CORPORA names the folder of the corpora.
"""

from __future__ import annotations

import functools
import http.server
import os
import random
import re
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import pytest

import crawler.consumer
from crawler.consumer.store import EXTENSIONS
from crawler.model import Completion, Failure
from crawler.reasons import Reason
from tests.command import LOCAL, records, run, write_list
from tests.conftest import ROOT, wait_until
from tests.test_consumer import Bench, verifiers

#: It says nothing about the Python that it runs on.
pytestmark = pytest.mark.once

#: Whether there is time for all that is promised, rather than for a part of it.
LONG = os.environ.get("CRAWLER_LONG") == "1"
#: Damaged fixtures that are tried.
MUTATIONS = 10_000 if LONG else 600
#: Seconds within which each image has its verdict.
VERDICT = 10.0
#: Most memory that a verifier may ever have resident.
MEMORY = 512 * 1024 * 1024
#: Downloads in hand at a time.
BATCH = 200
#: What may be said of bytes that are no good image.
IMAGE_REASONS = {
    Reason.EMPTY,
    Reason.HTML,
    Reason.SVG,
    Reason.NOT_AN_IMAGE,
    Reason.FORMAT_REFUSED,
    Reason.IMAGE_TRUNCATED,
    Reason.IMAGE_BROKEN,
    Reason.TOO_MANY_PIXELS,
}


class Judgement(NamedTuple):
    """What a consumer made of a file."""

    #: None where it was stored.
    reason: Reason | None
    #: Where it was stored.
    path: str | None
    #: Format, width and height.
    facts: tuple[str | None, int | None, int | None]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """Return a bench with a running consumer that allows no image more time than is promised."""
    monkeypatch.setattr(crawler.consumer, "IMAGE_WAIT", VERDICT)
    made = Bench(tmp_path / "images")
    made.start(2)
    yield made
    made.consumer.close(0)


def judge(bench: Bench, contents: Iterable[bytes]) -> list[Judgement]:
    """Have all *contents* judged, a bounded number at a time, and return what was made of each, in order."""
    judgements = [judgement for batch in _batches(contents) for judgement in _judge_batch(bench, batch)]
    assert (bench.missing, bench.spool_files()) == ([], [])
    return judgements


def _judge_batch(bench: Bench, batch: list[bytes]) -> list[Judgement]:
    bench.results.clear()
    tasks = [bench.take(content).task.id for content in batch]
    wait_until(lambda: len(bench.results) >= len(tasks), 20 * VERDICT)
    found = {result.task_id: result for result in bench.results}
    assert len(bench.results) == len(found) == len(tasks)
    return [_judgement(found[task]) for task in tasks]


def _batches(contents: Iterable[bytes]) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    for content in contents:
        batch.append(content)
        if len(batch) == BATCH:
            yield batch
            batch = []
    yield batch


def _judgement(result: Completion | Failure) -> Judgement:
    assert isinstance(result, Completion), result
    return Judgement(result.reason, result.path, (result.format, result.width, result.height))


def peaks() -> list[int]:
    """Return the most memory that each verifier alive has ever had resident, in bytes."""
    texts = [Path(f"/proc/{pid}/status").read_text() for pid in verifiers()]
    return [int(found[1]) * 1024 for text in texts if (found := re.search(r"VmHWM:\s+(\d+) kB", text))]


def check(judgements: list[Judgement]) -> None:
    """Hold what is promised of any bytes: a verdict about the image, the right name for it, and memory in bounds."""
    assert {judgement.reason for judgement in judgements} <= IMAGE_REASONS | {None}
    for judgement in judgements:
        if judgement.reason is None:
            assert judgement.path is not None
            assert judgement.path.endswith("." + EXTENSIONS[str(judgement.facts[0])])
    assert peaks()
    assert max(peaks()) < MEMORY


def damaged(contents: list[bytes], count: int) -> Iterator[bytes]:
    """Return *count* variants of *contents*, the same ones each time: bytes flipped, cut out, or duplicated."""
    chance = random.Random(20)
    for _ in range(count):
        content = bytearray(chance.choice(contents))
        for _ in range(chance.choice((1, 1, 2, 5, 30))):
            _damage(content, chance)
        yield bytes(content)


def _damage(content: bytearray, chance: random.Random) -> None:
    """Damage a random place, near the beginning as often as anywhere else: that is where lengths and sizes are."""
    size = len(content)
    start = chance.randrange(min(size, chance.choice((200, size))) or 1) if size else 0
    end = min(size, start + chance.choice((1, 2, 8, 100, 1000)))
    match chance.choice(("flip", "flip", "cut", "duplicate")):
        case "flip":
            content[start:end] = bytes(byte ^ chance.randrange(1, 256) for byte in content[start:end])
        case "cut":
            del content[start:end]
        case "duplicate":
            content[start:start] = content[start:end]


def test_corpora(bench: Bench, corpora: Path) -> None:
    """Every file gets a verdict about the image, in time and within memory, and the same when asked again."""
    files = [file for file in sorted(corpora.rglob("*")) if file.is_file()]
    first = judge(bench, (file.read_bytes() for file in files))
    check(first)
    assert {Reason.IMAGE_BROKEN, Reason.IMAGE_TRUNCATED, Reason.TOO_MANY_PIXELS} < {one.reason for one in first}
    again = judge(bench, (file.read_bytes() for file in reversed(files)))
    assert [file.name for file, one, other in zip(files, first, reversed(again), strict=True) if one != other] == []
    assert len(files) > 1000


class _Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class _Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128


@pytest.fixture
def served(corpora: Path) -> Iterator[str]:
    """Serve the corpora, each file with the type that its name suggests, and return the URL of their folder."""
    with _Server(("127.0.0.1", 0), functools.partial(_Handler, directory=str(corpora))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_whole_pipeline(tmp_path: Path, corpora: Path, served: str) -> None:
    """A crawl of every file ends with one record for each, about the image, and what is stored is what was served."""
    files = [file for file in sorted(corpora.rglob("*")) if file.is_file()]
    urls = {f"{served}/{quote(str(file.relative_to(corpora)))}": file for file in files}
    write_list(tmp_path, *urls)
    done = run(tmp_path, "seed", "urls.txt", *LOCAL)
    assert done.returncode == 0, done.stderr
    kept = {record["url"]: record for record in records(tmp_path, "urls.crawl")}
    assert kept.keys() == urls.keys()
    assert len(records(tmp_path, "urls.crawl")) == len(urls)
    assert {record["reason"] for record in kept.values()} <= IMAGE_REASONS | {None}
    for url, record in kept.items():
        if record["reason"] is None:
            assert (tmp_path / "urls.crawl" / record["path"]).read_bytes() == urls[url].read_bytes()


def test_png_suite(bench: Bench, corpora: Path) -> None:
    """Every file of PngSuite that begins with x is refused, every other one stored."""
    files = sorted((corpora / "pngsuite").rglob("*.png"))
    judgements = judge(bench, (file.read_bytes() for file in files))
    stored = {file.name for file, one in zip(files, judgements, strict=True) if one.reason is None}
    assert stored == {file.name for file in files if not file.name.startswith("x")}
    assert len(files) > 170


@pytest.mark.timeout(600 if LONG else 240)
def test_damaged_fixtures(bench: Bench) -> None:
    """Whatever is done to good images gets a verdict about the image, and the same when asked again."""
    names = [line.split("\t")[0] for line in (ROOT / "fixtures/MANIFEST.tsv").read_text().splitlines()[1:]]
    contents = [(ROOT / "fixtures" / name).read_bytes() for name in names]
    first = judge(bench, damaged(contents, MUTATIONS))
    check(first)
    assert judge(bench, damaged(contents, MUTATIONS)) == first
    assert len(first) == MUTATIONS
    # Damage that were never found, or always, would show nothing.
    kinds = [one.reason for one in first]
    assert min(kinds.count(kind) for kind in (None, Reason.IMAGE_BROKEN, Reason.IMAGE_TRUNCATED)) > MUTATIONS // 20


def test_nothing_is_loaded_late() -> None:
    """A verifier has all modules it needs for any image before the first one: in its sandbox it could open none."""
    program = """
import pathlib, sys
from crawler.consumer.messages import Setup
from crawler.consumer.verifier import treat, warm_up
from crawler.errors import ImageRefused
from crawler.settings import Limits
setup = Setup(limits=Limits())
warm_up(setup)
before = set(sys.modules)
for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    with path.open("rb") as file:
        try:
            treat(file, setup.limits, setup.treatment)
        except ImageRefused:
            pass
print(sorted(set(sys.modules) - before))
"""
    done = subprocess.run(
        [sys.executable, "-P", "-c", program, ROOT / "fixtures"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
