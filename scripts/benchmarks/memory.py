"""
The memory of all processes of one crawl, while it fetches a long list with many threads.

    scripts/bench memory [--urls 200000] [--threads 256] [--folder .bench]

The list is that of the scenario (c) of `scripts/bench peers`, whose small images come again and again under other
addresses: each has its record, so that all grows that grows with a list. Memory is the sum of proportional set sizes
(what processes share counts once) once a second. What is printed are medians of tenths of the run. It takes what
`scripts/bench peers` takes.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT))

from scripts.benchmarks import chart  # noqa: E402
from scripts.benchmarks.corpus import SMALL, build  # noqa: E402
from scripts.benchmarks.internet import fate  # noqa: E402
from scripts.benchmarks.lists import progress  # noqa: E402
from scripts.benchmarks.network import enter, network  # noqa: E402
from scripts.benchmarks.tree import descendants, proportional  # noqa: E402

#: Different images.
IMAGES = 2_000
#: Hosts of the list.
HOSTS = 800
#: Seconds between two looks.
PAUSE = 1.0
#: Parts of the run that are told.
PARTS = 10
#: Seconds that the run may take.
LIMIT = 3_600.0


def measure(urls: Path, out: Path, threads: int, expected: int) -> tuple[list[tuple[int, float]], float]:
    """Crawl the list, all of which must be stored; return (images stored, memory in MB) at each look, and seconds."""
    options = ["--allow-net", "127.0.0.0/8", "--per-host", "256", "--robots", "ignore", "--attempts", "1", "-q"]
    command = [sys.executable, "-P", "-m", "crawler", "seed", str(urls), "-o", str(out), *options]
    looks, began = list[tuple[int, float]](), time.monotonic()
    with subprocess.Popen([*command, "--threads", str(threads), "--timeout", "10"]) as run:
        while run.poll() is None and time.monotonic() - began < LIMIT:
            size = sum(map(proportional, [run.pid, *descendants(run.pid)]))
            looks.append((progress(out / "ledger.db")[1], size / 1e6))
            time.sleep(PAUSE)
        seconds = time.monotonic() - began
        run.terminate()
    stored = progress(out / "ledger.db")[1]
    if run.returncode or stored != expected:
        raise RuntimeError(f"crawler ended with {run.returncode}, and {stored} images where {expected} are to be had")
    return [look for look in looks if look[0]], seconds


def told(looks: list[tuple[int, float]], seconds: float) -> dict[str, Any]:
    """Return the medians of equal parts of the run, and the peak."""
    size = max(1, len(looks) // PARTS)
    parts = [[memory for _, memory in looks[first : first + size]] for first in range(0, size * PARTS, size)]
    return {
        "images stored": looks[-1][0],
        "seconds": round(seconds),
        "at most, MB": round(max(memory for _, memory in looks)),
        "medians of tenths, MB": [round(statistics.median(part)) for part in parts if part],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--urls", type=int, default=200_000)
    parser.add_argument("--threads", type=int, default=256, help="of each of two downloaders")
    parser.add_argument("--folder", type=Path, default=ROOT / ".bench")
    chosen = parser.parse_args()
    folder = chosen.folder.absolute()
    pictures = build(folder / "corpus", SMALL, IMAGES)
    enter()
    urls, out = folder / "memory.txt", folder / "memory.crawl"
    with urls.open("w") as lines:
        for number in range(chosen.urls):
            lines.write(f"http://h{number % HOSTS}.slow.test/{pictures[number % IMAGES].path}?{number}\n")
    expected = sum(fate(number % IMAGES) == "stored" for number in range(chosen.urls))
    shutil.rmtree(out, ignore_errors=True)
    with network(folder / "network", folder / "corpus"):
        looks, seconds = measure(urls, out, chosen.threads, expected)
    print(json.dumps(told(looks, seconds), indent=2))
    (folder / "memory.json").write_text(json.dumps(looks))
    title = f"Memory of all processes, MB, {2 * chosen.threads} threads"
    (folder / "memory.svg").write_text(chart.lines(title, "images stored", {"all processes": looks}, is_linear=True))
    shutil.rmtree(out)


if __name__ == "__main__":
    main()
