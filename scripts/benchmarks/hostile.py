"""
Measure how long each server of tests/hostile.py holds a fetch, and how far beyond its deadline.

    python -m scripts.benchmarks.hostile [SECONDS]

SECONDS is the deadline of each fetch, 2 by default. Exit status 1 where one took more than half a second longer.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from crawler.settings import Limits
from tests.fetching import LOOPBACK, fetchers
from tests.hostile import BEHAVIOURS
from tests.test_hostile import MAX_BYTES, follow

#: Seconds beyond the deadline that are allowed.
ALLOWED = 0.5


def main() -> int:
    """Fetch once from each; print the slowest, and return the exit status."""
    timeout = float(sys.argv[1]) if len(sys.argv) > 1 else 2.0
    took: list[tuple[float, str]] = []
    with tempfile.TemporaryDirectory() as folder, fetchers(Path(folder)) as make:
        fetcher = make(limits=Limits(timeout=timeout, max_bytes=MAX_BYTES), allow_net=LOOPBACK)
        for one in BEHAVIOURS:
            with one.serve() as server:
                began = time.monotonic()
                follow(fetcher, one.url(server))
                took.append((time.monotonic() - began, one.name))
    took.sort(reverse=True)
    print("\n".join(f"{seconds:8.3f} s  {name}" for seconds, name in took[:10]))
    return int(took[0][0] > timeout + ALLOWED)


if __name__ == "__main__":
    sys.exit(main())
