"""
Limit how many processes work at a time: six tasks, a pool of three processes.

A task waits at the barrier until three are there, so it can be seen that three work at once. The fourth begins when one
of the first has ended, in the same process: each process ends up with two tasks.

The crawler has a pool of its own (`crawler.processes.Crew`): `multiprocessing.Pool` waits for ever for a task whose
process was killed, and all of its processes share one queue, which a process killed at the wrong moment leaves locked.
"""

from __future__ import annotations

import multiprocessing
import os
from collections import Counter
from multiprocessing.synchronize import Barrier

#: Processes in the pool.
SIZE = 3
#: Seconds to wait for all tasks.
LIMIT = 30.0

meeting: Barrier


def begin(barrier: Barrier) -> None:
    """Keep *barrier* for the tasks of this process; called once in each."""
    global meeting  # noqa: PLW0603 - the one place where a pool's process can keep something between tasks
    meeting = barrier


def download(url: str) -> tuple[str, int]:
    """Pretend to download *url*; return it with the number of this process."""
    meeting.wait(LIMIT)
    return url, os.getpid()


def main() -> None:
    """Let the pool do six tasks, and count who did how many."""
    urls = [f"ImageUrl_{number}" for number in range(2 * SIZE)]
    with multiprocessing.Pool(SIZE, begin, (multiprocessing.Barrier(SIZE),)) as pool:
        done = pool.map_async(download, urls, chunksize=1).get(LIMIT)
    for url, process in done:
        print(f"{url} was downloaded by {process}")
    for process, count in Counter(process for _, process in done).items():
        print(f"{process} had {count} tasks")


if __name__ == "__main__":
    main()
