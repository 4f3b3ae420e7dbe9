"""
Every server of `hostile` ends each fetch with the one reason it should, and the run beside it does not suffer.

CRAWLER_LONG=1 puts 1,000 good URLs in place of 200 beside the hostile ones.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from crawler.errors import FetchError
from crawler.model import Download, Lease, Task
from crawler.reasons import Reason
from crawler.settings import Limits
from crawler.worker.fetch import Fetcher
from tests.command import records, run, write_list
from tests.conftest import ROOT
from tests.fetching import LOOPBACK, fetchers
from tests.hostile import BEHAVIOURS, Behaviour
from tests.raw import RawServer, Script, Talk
from tests.site import Site
from tests.speech import drip, silent

#: It says nothing about the Python that it runs on.
pytestmark = pytest.mark.once

#: Seconds for a fetch that is to be cut.
SHORT = 0.4
#: Largest body; above every good image.
MAX_BYTES = 1_000_000
#: Good URLs of the whole run.
GOOD = 1000 if os.environ.get("CRAWLER_LONG") == "1" else 200


@pytest.fixture(scope="module")
def spool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder for bodies."""
    return tmp_path_factory.mktemp("spool")


@pytest.fixture(scope="module")
def patient(spool: Path) -> Iterator[Fetcher]:
    """Return a fetcher with time for whatever needs no deadline to end."""
    with fetchers(spool) as make:
        yield make(limits=Limits(timeout=30, max_bytes=MAX_BYTES), allow_net=LOOPBACK)


@pytest.fixture(scope="module")
def hasty(spool: Path) -> Iterator[Fetcher]:
    """Return a fetcher with little time."""
    with fetchers(spool) as make:
        yield make(limits=Limits(timeout=SHORT, max_bytes=MAX_BYTES), allow_net=LOOPBACK)


@pytest.fixture
def unhandled(monkeypatch: pytest.MonkeyPatch) -> list[threading.ExceptHookArgs]:
    """Collect what ended a thread."""
    found: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", found.append)
    return found


def follow(fetcher: Fetcher, url: str) -> Download | Reason:
    """Fetch *url* over as many hosts as it takes; return what it ends in."""
    target, hops = None, 0
    while True:
        try:
            return fetcher.fetch(Lease(token=1, task=Task(id=1, url=url, target=target, hops=hops)))
        except FetchError as error:
            if error.moved_to is None:
                return error.reason
            target, hops = error.moved_to, error.hops


@pytest.mark.parametrize("behaviour", BEHAVIOURS, ids=[one.name for one in BEHAVIOURS])
def test_behaviour(
    behaviour: Behaviour,
    patient: Fetcher,
    hasty: Fetcher,
    spool: Path,
    unhandled: list[threading.ExceptHookArgs],
) -> None:
    """It ends in its reason, leaves a file only with a download, and ends no thread."""
    fetcher = hasty if behaviour.reason is Reason.TIMEOUT else patient
    with behaviour.serve() as server:
        found = follow(fetcher, behaviour.url(server))
    if isinstance(found, Download):
        assert behaviour.reason is None or behaviour.is_fetched
        assert found.size == Path(found.path).stat().st_size
        Path(found.path).unlink()
    else:
        assert found is behaviour.reason and not behaviour.is_fetched
    assert list(spool.iterdir()) == []
    assert unhandled == []


def test_there_are_many() -> None:
    """At least sixty, and each name is used once."""
    assert len({one.name for one in BEHAVIOURS}) == len(BEHAVIOURS) >= 60


def test_reset_before_it_is_looked_at(patient: Fetcher) -> None:
    """A host that resets a connection as soon as it is made has cut it, not refused it, however the two race."""
    with RawServer(Talk.reset) as server:
        assert {follow(patient, server.base) for _ in range(200)} == {Reason.CONNECTION_LOST}


@pytest.mark.parametrize(
    ("script", "limits"),
    [
        (silent(b"HTTP/1.1 200 OK\r\n\r\nimage"), Limits(timeout=600, stall=SHORT)),
        (silent(b""), Limits(timeout=600, stall=SHORT)),
        (drip(b"HTTP/1.1 200 OK\r\n\r\n", b"x"), Limits(timeout=600, stall=SHORT, min_speed=1000)),
    ],
    ids=["body", "head", "slow"],
)
def test_stall(spool: Path, script: Script, limits: Limits) -> None:
    """A host that sends nothing, or too little, is given up long before the deadline."""
    with fetchers(spool) as make, RawServer(script) as server:
        assert follow(make(limits=limits, allow_net=LOOPBACK), server.base) is Reason.TIMEOUT
    assert list(spool.iterdir()) == []


def test_slow_is_enough_without_minimum(spool: Path) -> None:
    """With a minimum speed of 0 a body may come as slowly as it likes, until it is too large."""
    limits = Limits(timeout=60, stall=0.2, min_speed=0, max_bytes=5)
    with fetchers(spool) as make, RawServer(drip(b"HTTP/1.1 200 OK\r\n\r\n", b"x")) as server:
        assert follow(make(limits=limits, allow_net=LOOPBACK), server.base) is Reason.TOO_LARGE


FLOODS = [one.name for one in BEHAVIOURS if "flood" in one.name or "endless" in one.name or "bomb" in one.name]


def flooded(folder: Path) -> int:
    """Meet all floods, in a process of its own; return the bytes by which its memory grew at most."""
    with fetchers(folder) as make, contextlib.ExitStack() as running:
        fetcher = make(limits=Limits(timeout=2, max_bytes=20 * MAX_BYTES), allow_net=LOOPBACK)
        met = [one for one in BEHAVIOURS if one.name in FLOODS and one.reason is not None]
        urls = [one.url(running.enter_context(one.serve())) for one in met]
        start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for url in urls:
            assert isinstance(follow(fetcher, url), Reason | Download)
        return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start) * 1024


def test_memory(tmp_path: Path) -> None:
    """No flood takes more memory than twice the largest body."""
    code = (
        "import sys, pathlib; sys.path.append(sys.argv[2]); from tests.test_hostile import flooded; "
        "print(flooded(pathlib.Path(sys.argv[1])))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path, ROOT], cwd=ROOT, capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 40 * MAX_BYTES


def test_whole_run(tmp_path: Path, site: Site) -> None:
    """Among good URLs and every hostile one, each has one record with its reason, and all good ones are stored."""
    with contextlib.ExitStack() as running:
        expected = {site.url(f"/photo/{number}.jpg"): "stored" for number in range(GOOD)}
        for number, one in enumerate(BEHAVIOURS):
            server = running.enter_context(one.serve(address=f"127.0.1.{number + 1}"))
            expected[one.url(server)] = one.reason or "stored"
        good, bad = list(expected)[:GOOD], list(expected)[GOOD:]
        # Mixed, so that the hostile ones are met while the good ones are fetched.
        mixed = [url for pair in itertools.zip_longest(good, bad) for url in pair if url]
        write_list(tmp_path, *mixed)
        options = ("--allow-net", "127.0.0.0/8", "--robots", "ignore", "--processes", "1", "--threads", "32")
        limits = ("--timeout", "4", "--max-bytes", str(MAX_BYTES), "--attempts", "1")
        done = run(tmp_path, "seed", "urls.txt", *options, *limits)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    found = records(tmp_path, "urls.crawl")
    assert len(found) == len(expected)
    assert {record["url"]: record["reason"] or record["outcome"] for record in found} == expected
