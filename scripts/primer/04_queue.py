"""
Pass texts through a queue from two writers to a reader, each a process of its own.

Nobody can see from outside that a queue will stay empty, so each writer says when it has no more: it puts None.

The crawler's threads speak over queues like this (`queue.SimpleQueue`, for example in `crawler.worker.threads`), its
processes do not: a process killed while it holds the lock of a shared queue locks out all others for ever. Each child
has a pipe of its own instead, and the queue between machines hands out leases, which end when their holder dies.
"""

from __future__ import annotations

import multiprocessing
from multiprocessing.queues import Queue

#: Seconds to wait for one text, and for one process.
LIMIT = 30.0


def write(name: str, urls: list[str], texts: Queue[str | None]) -> None:
    """Put *urls*, then the end mark."""
    for url in urls:
        # The line and its end in one piece: print may write them separately, and another process come in between.
        print(f"{name} puts {url}\n", end="")
        texts.put(url)
    texts.put(None)


def read(writers: int, texts: Queue[str | None]) -> None:
    """Get texts until *writers* end marks have come."""
    while writers:
        url = texts.get(timeout=LIMIT)
        if url is None:
            writers -= 1
        else:
            print(f"the reader gets {url}\n", end="")
    print("the reader has heard the end of both writers")


def main() -> None:
    """Run two writers and a reader."""
    texts: Queue[str | None] = multiprocessing.Queue()
    urls = [f"ImageUrl_{number}" for number in range(6)]
    processes = [
        multiprocessing.Process(target=write, args=("writer A", urls[:3], texts)),
        multiprocessing.Process(target=write, args=("writer B", urls[3:], texts)),
        multiprocessing.Process(target=read, args=(2, texts)),
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(LIMIT)


if __name__ == "__main__":
    main()
