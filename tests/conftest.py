"""What all tests share: a local site, the corpora, and how to wait."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from crawler.broker.ledger import Ledger
from crawler.broker.local import LocalTaskQueue
from crawler.broker.terms import Terms
from crawler.model import Welcome
from crawler.settings import Politeness, Settings
from tests.site import Site

ROOT = Path(__file__).resolve().parents[1]
# Whoever starts the tests may have it ignored (`nohup`), and what they start would ignore it, too.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
#: Seconds between two looks of `wait_until`: at first, and at most, since a look may cost something.
LOOK, LATER = 0.01, 0.1


def wait_until(predicate: Callable[[], object], seconds: float = 60.0) -> None:
    """
    Return as soon as *predicate* is true.

    Args:
        predicate: Called again and again, from this thread.
        seconds: Limit; it decides about failing only, never about how long a passing test takes.

    Raises:
        AssertionError: It was not true within *seconds*.
    """
    deadline, pause = time.monotonic() + seconds, LOOK
    while not predicate():
        assert time.monotonic() < deadline, f"not true within {seconds} s: {predicate}"
        time.sleep(pause)
        pause = min(LATER, 1.2 * pause)


def free_port() -> int:
    """Return a port that nothing listened on a moment ago: for what is to be absent, or to start there later."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture(scope="session", autouse=True)
def temporary_files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Have what processes leave that tests kill lie in a folder that goes with the tests; returns it."""
    folder = tmp_path_factory.mktemp("temporary")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder))
        patch.setattr(tempfile, "tempdir", str(folder))
        yield folder


@pytest.fixture
def site() -> Iterator[Site]:
    """Serve a fresh local site on 127.0.0.1 for the time of a test."""
    with Site() as running:
        yield running


@pytest.fixture(scope="session")
def corpora() -> Path:
    """Return the folder with files made by others to break decoders."""
    folder = Path(os.environ.get("CRAWLER_CORPORA") or ROOT.parent / "shared" / "corpora")
    if not folder.is_dir():
        missing(f"no corpora at {folder}; CRAWLER_CORPORA names the folder")
    return folder


def missing(what: str) -> NoReturn:
    """Skip a test for want of *what*, or fail it in CI, where nobody would notice that it is never run."""
    tell = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
    tell(what)


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[LocalTaskQueue]:
    """Return a queue in this process, which asks for no robots.txt."""
    settings = Settings(politeness=Politeness(robots=False))
    base = Welcome(session="", version="1.0", lease_life=60.0, store="/store", nonce="", settings=settings)
    ledger = Ledger(tmp_path / "ledger.db", 0, lambda error: None)
    local = LocalTaskQueue(ledger, Terms(base, lambda session: None, "images/"))
    yield local
    local.close()
    ledger.close()
