"""
Run one command and tell what it and all processes below it took.

    python tree.py FILE COMMAND...      # writes {"seconds", "cpu", "memory", "status"} to FILE as JSON

`cpu` is in seconds, of the command and all its descendants; `memory` is the peak, sampled twice a second, of their
proportional set sizes (what processes share counts once), in bytes.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path

#: Source: prctl(2), PR_SET_CHILD_SUBREAPER: descendants whose parent is gone become ours, so that their time counts.
SUBREAPER = 36
#: Seconds between samples of memory.
PAUSE = 0.5
#: Seconds that any command may take.
LIMIT = 3_600.0


def descendants(pid: int) -> list[int]:
    """Return the processes below *pid*."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found[1:]


def proportional(pid: int) -> int:
    """Return the proportional set size of a process in bytes, 0 where it is gone."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


class Peak(threading.Thread):
    """Samples the memory of all processes below this one until told to stop."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.over = threading.Event()
        self.bytes = 0

    def run(self) -> None:
        """Sample."""
        while not self.over.wait(PAUSE):
            self.bytes = max(self.bytes, sum(map(proportional, descendants(os.getpid()))))


def main() -> None:
    """Run, wait for all descendants, write."""
    ctypes.CDLL(None, use_errno=True).prctl(SUBREAPER, 1, 0, 0, 0)
    peak = Peak()
    peak.start()
    began = time.monotonic()
    run = subprocess.run(sys.argv[2:], timeout=LIMIT, check=False)
    seconds = time.monotonic() - began
    peak.over.set()
    while True:
        try:
            os.wait()
        except ChildProcessError:
            break
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    facts = {"seconds": seconds, "cpu": used.ru_utime + used.ru_stime, "memory": peak.bytes, "status": run.returncode}
    Path(sys.argv[1]).write_text(json.dumps(facts))


if __name__ == "__main__":
    main()
