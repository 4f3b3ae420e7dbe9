"""
What the sandbox costs: images a second through a consumer, with verifiers confined and not, in interleaved pairs.

    python scripts/benchmarks/sandbox.py [--images 2000] [--pairs 7]
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT))

import crawler.consumer  # noqa: E402
from crawler.consumer.store.files import FileStore  # noqa: E402
from crawler.model import Completion, Download, Failure, Outcome, Response, Task  # noqa: E402
from crawler.settings import Limits  # noqa: E402
from tests.site import photo  # noqa: E402  (the site is a program of the tests, not of the package)

#: Seconds that one measurement may take.
LIMIT = 300.0
SESSION = "0" * 32
#: A verifier that gives nothing up.
FREE = """
from crawler.consumer import sandbox, verifier
from crawler.processes import child_main
sandbox.confine = lambda room: []
sandbox.allow_cpu = lambda seconds: None
if __name__ == "__main__":
    child_main(verifier.serve)
"""


def rate(module: str, images: list[bytes], verifiers: int) -> float:
    """Return the images a second that a consumer with verifiers of *module* stores."""
    crawler.consumer.VERIFIER = module
    with tempfile.TemporaryDirectory() as folder:
        store = FileStore(Path(folder) / "images")
        store.create()
        downloads = [_download(store, number, content) for number, content in enumerate(images, 1)]
        results: list[Completion | Failure] = []
        finished = threading.Event()

        def done(result: Completion | Failure) -> None:
            results.append(result)
            if len(results) == len(images) or not isinstance(result, Completion):
                finished.set()

        consumer = crawler.consumer.Consumer(store, Limits(), verifiers, done)
        consumer.start()
        _warm(consumer)
        began = time.monotonic()
        for download in downloads:
            consumer.take(download)
        finished.wait(LIMIT)
        seconds = time.monotonic() - began
        consumer.close(10)
        stored = sum(isinstance(one, Completion) and one.outcome is Outcome.STORED for one in results)
        if stored != len(images):
            raise SystemExit(f"{stored} of {len(images)} stored")
        return len(images) / seconds


def _warm(consumer: crawler.consumer.Consumer) -> None:
    """Wait until the verifiers are there, so that their start is not measured."""
    latest = time.monotonic() + LIMIT
    while len(consumer._jobs._desks) < consumer._crew._size and time.monotonic() < latest:
        time.sleep(0.01)


def _download(store: FileStore, number: int, content: bytes) -> Download:
    path = store.spool(SESSION) / str(number)
    path.write_bytes(content)
    return Download(
        token=number,
        task=Task(id=number, url=f"http://127.0.0.1/{number}"),
        path=str(path),
        size=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        response=Response(http_status=200, final_url=f"http://127.0.0.1/{number}"),
    )


def main() -> None:
    """Measure, and print every pair and the median of their ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--verifiers", type=int, default=os.cpu_count() or 1)
    chosen = parser.parse_args()
    images = [photo(number) for number in range(chosen.images)]
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "free_verifier.py").write_text(FREE)
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [folder, os.environ.get("PYTHONPATH")]))
        for pair in range(chosen.pairs):
            modules = ["crawler.consumer.verifier", "free_verifier"]
            random.shuffle(modules)
            rates = {module: rate(module, images, chosen.verifiers) for module in modules}
            confined, free = rates["crawler.consumer.verifier"], rates["free_verifier"]
            ratios.append(confined / free)
            print(f"pair {pair + 1}: confined {confined:.0f}/s, free {free:.0f}/s, ratio {ratios[-1]:.3f}", flush=True)
    print(f"median ratio {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main()
