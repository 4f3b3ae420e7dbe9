"""
Make a thread by a subclass of Thread: `run` is what it does, its fields are what it knows.

What `run` returns is lost, so the thread keeps its results; whoever has joined it may read them without a lock.

The crawler has no such class. A part of it that needs a thread holds one and does not inherit from it, so that `start`,
`join` and `name` mean what the part promises and not what a thread does (`crawler.broker.ledger`, `crawler.processes`).
"""

from __future__ import annotations

import threading

#: Seconds to wait for one thread.
LIMIT = 30.0


class Downloader(threading.Thread):
    """
    A thread that downloads.

    Args:
        name: How it is called.
        urls: What it is to download.
    """

    def __init__(self, name: str, urls: list[str]) -> None:
        super().__init__(name=name)
        self.urls = urls
        self.completed: list[str] = []

    def run(self) -> None:
        """Pretend to download; called by `start`, in the new thread."""
        for url in self.urls:
            self.completed.append(f"{url}------>completed!")


def main() -> None:
    """Run two downloaders, and print what they have done."""
    urls = [f"ImageUrl_{number}" for number in range(6)]
    downloaders = [Downloader("thread A", urls[:3]), Downloader("thread B", urls[3:])]
    for downloader in downloaders:
        downloader.start()
    for downloader in downloaders:
        downloader.join(LIMIT)
        for text in downloader.completed:
            print(f"{downloader.name}: {text}")


if __name__ == "__main__":
    main()
