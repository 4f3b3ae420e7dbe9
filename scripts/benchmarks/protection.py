"""
What guard and sandbox cost together: CPU per image on a plain http list, with both and with neither, in turn.

    python scripts/benchmarks/protection.py [--images 1500] [--pairs 7]

CPU is that of this process, which fetches, and of its verifiers; the site has a process of its own.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT))

from requests.adapters import HTTPAdapter  # noqa: E402

import crawler.consumer  # noqa: E402
import crawler.worker.fetch  # noqa: E402
from crawler.consumer.store.files import FileStore  # noqa: E402
from crawler.model import Completion, Failure, Lease, Outcome, Task  # noqa: E402
from crawler.settings import Access, Politeness, Settings  # noqa: E402
from crawler.worker.messages import Events  # noqa: E402
from crawler.worker.threads import FetchThreads  # noqa: E402
from scripts.benchmarks.sandbox import FREE, LIMIT, SESSION, _warm  # noqa: E402

THREADS = 16
SETTINGS = Settings(access=Access(allow_net=("127.0.0.0/8",)), politeness=Politeness(robots=False, per_host=THREADS))


class Plain(HTTPAdapter):
    """requests' own adapter, with pools as large as the guarded one's."""

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__(pool_connections=256, pool_maxsize=THREADS, max_retries=0)


def spent() -> float:
    """Return the CPU seconds of this process and of its ended children."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def cpu(base: str, count: int, protected: bool) -> float:
    """Return the CPU milliseconds per image of fetching, verifying and storing *count* images."""
    crawler.consumer.VERIFIER = "crawler.consumer.verifier" if protected else "free_verifier"
    adapter = crawler.worker.fetch.GuardedAdapter if protected else Plain
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(crawler.worker.fetch, "GuardedAdapter", adapter):
        store = FileStore(Path(folder) / "images")
        store.create()
        stored: list[bool] = []
        finished = threading.Event()

        def done(end: Completion | Failure) -> None:
            stored.append(isinstance(end, Completion) and end.outcome is Outcome.STORED)
            if len(stored) == count:
                finished.set()

        def report(events: Events) -> None:
            for failure in events.failures:
                done(failure)
            for download in events.downloads:
                consumer.take(download)

        consumer = crawler.consumer.Consumer(store, SETTINGS.limits, os.cpu_count() or 1, done)
        consumer.start()
        _warm(consumer)
        pool = FetchThreads(SETTINGS, store.spool(SESSION), THREADS, report)
        pool.start()
        began = spent()
        urls = (f"{base}/photo/{number}.jpg" for number in range(count))
        pool.feed([Lease(token=n, task=Task(id=n, url=url)) for n, url in enumerate(urls, 1)])
        finished.wait(LIMIT)
        pool.close(5)
        consumer.close(10)  # the verifiers' time counts when they have ended
        if stored != [True] * count:
            raise SystemExit(f"{sum(stored)} of {count} stored")
        return 1000 * (spent() - began) / count


@contextmanager
def served() -> Iterator[str]:
    """Serve the local site from a process of its own; yield its base URL."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-P", str(ROOT / "tests" / "site.py")]
    site = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert site.stdout is not None
        yield site.stdout.readline().split()[1]
    finally:
        site.terminate()
        site.wait(10)


def main() -> None:
    """Measure, and print every pair and the median of their ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1500)
    parser.add_argument("--pairs", type=int, default=7)
    chosen = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    ratios = []
    with tempfile.TemporaryDirectory() as folder, served() as base:
        (Path(folder) / "free_verifier.py").write_text(FREE)
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [folder, os.environ.get("PYTHONPATH")]))
        for pair in range(chosen.pairs):
            order = [True, False]
            random.shuffle(order)
            spent_by = {protected: cpu(base, chosen.images, protected) for protected in order}
            ratios.append(spent_by[True] / spent_by[False])
            print(f"pair {pair + 1}: with {spent_by[True]:.3f} ms, without {spent_by[False]:.3f} ms, {ratios[-1]:.3f}")
    print(f"median ratio {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main()
