"""
Run `crawler` with leases of another life and a wall clock that can be moved: `coordinator.py LIFE CLOCK seed …`.

A lease lives 60 s; a campaign in which dozens of them run out would take hours. CLOCK is a file of eight bytes, the
seconds (a double) that are added to `time.time()`. crawler reads the wall clock nowhere else when it decides about
leases, so this is what a jump of the system's clock does to it, without moving the clock of this machine.
"""

from __future__ import annotations

import mmap
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path

from crawler import cli, coordinator


def moved(clock: Path) -> Callable[[], float]:
    """Return a wall clock that is off by what *clock* says at the moment."""
    with clock.open("r+b") as file:
        shared = mmap.mmap(file.fileno(), 8)
    real = time.time
    return lambda: real() + float(struct.unpack_from("d", shared)[0])


if __name__ == "__main__":
    life, clock = float(sys.argv[1]), Path(sys.argv[2])
    sys.argv[1:] = sys.argv[3:]
    coordinator.LEASE_LIFE = life
    time.time = moved(clock)
    cli.main()
