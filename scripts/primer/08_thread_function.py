"""
Run a function in threads, which share all memory of one process.

Two threads take URLs from one queue. Who gets which is not settled; that each URL is taken once is.

The crawler downloads like this: the pool of a downloader process is some threads that run one method each
(`crawler.worker.threads`). Downloading is waiting, and threads wait well; work for the processor goes to processes.
"""

from __future__ import annotations

import queue
import threading

#: Seconds to wait for one thread.
LIMIT = 30.0


def download(urls: queue.SimpleQueue[str]) -> None:
    """Pretend to download until *urls* is empty."""
    while True:
        try:
            url = urls.get_nowait()
        except queue.Empty:
            return
        # The line and its end in one piece: print writes them separately, and another thread can come in between.
        print(f"{threading.current_thread().name} downloads {url}\n", end="")


def main() -> None:
    """Let two threads empty one queue."""
    urls: queue.SimpleQueue[str] = queue.SimpleQueue()
    for number in range(6):
        urls.put(f"ImageUrl_{number}")
    threads = [threading.Thread(target=download, args=(urls,), name=f"thread {name}") for name in "AB"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    print("both threads have ended")


if __name__ == "__main__":
    main()
