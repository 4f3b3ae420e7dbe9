"""How processes grow: memory, threads and descriptors, sampled from /proc."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import NamedTuple

#: Seconds between two samples.
PAUSE = 1.0
#: Part of the samples at the beginning and at the end that are held against each other.
PART = 4
#: How much larger the last part may be than the second: memory of a process settles, it is not constant.
GROWTH = {"MB": 1.15, "threads": 1.1, "descriptors": 1.1}
#: Growth of a figure that is never too much.
SLACK = {"MB": 8.0, "threads": 4.0, "descriptors": 16.0}
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Sample(NamedTuple):
    """One look at one process."""

    #: From the beginning.
    seconds: float
    figures: dict[str, float]


class Sampler:
    """
    Look at processes once a second while used as a context manager.

    Args:
        processes: Name to what returns its process id.
        spared: Name to what returns bytes of its memory that are not counted: a cache that has a bound of its own.
    """

    def __init__(
        self, processes: dict[str, Callable[[], int]], spared: dict[str, Callable[[], int]] | None = None
    ) -> None:
        self._processes = processes
        self._spared = spared or {}
        self.samples: dict[str, list[Sample]] = {name: [] for name in processes}
        self._began = time.monotonic()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join(10 * PAUSE)

    def _run(self) -> None:
        while not self._ending.wait(PAUSE):
            for name, process in self._processes.items():
                with contextlib.suppress(OSError, ValueError):  # gone
                    figures = look(process())
                    figures["MB"] -= self._spared.get(name, int)() / 1e6
                    self.samples[name].append(Sample(time.monotonic() - self._began, figures))

    def growth(self) -> dict[str, tuple[float, float, bool]]:
        """Return for each process and figure: median of the second quarter, of the last one, and whether it is flat."""
        found = {}
        for name, samples in self.samples.items():
            quarter = len(samples) // PART
            if quarter == 0:
                continue
            for figure, most in GROWTH.items():
                early = median(sample.figures[figure] for sample in samples[quarter : 2 * quarter])
                late = median(sample.figures[figure] for sample in samples[-quarter:])
                found[f"{name}, {figure}"] = early, late, late <= max(early * most, early + SLACK[figure])
        return found


def look(pid: int) -> dict[str, float]:
    """Return resident memory, threads and descriptors of a process; raises OSError where it is gone."""
    folder = Path(f"/proc/{pid}")
    pages = int((folder / "statm").read_text().split()[1])
    return {
        "MB": pages * _PAGE / 1e6,
        "threads": float(len(os.listdir(folder / "task"))),
        "descriptors": float(len(os.listdir(folder / "fd"))),
    }
