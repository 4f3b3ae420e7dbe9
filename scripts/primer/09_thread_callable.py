"""
Run an object that can be called in threads: it keeps what they find out together.

Two threads change the same object, so a lock stands around the change, and only around it.

The crawler gives its threads bound methods, `target=self._run`, which are the same thing by another name: an object
with its state, and the function to run (`crawler.worker.outbox`, `crawler.worker.watchdog`).
"""

from __future__ import annotations

import threading

#: Seconds to wait for one thread.
LIMIT = 30.0


class Download:
    """
    Downloads, and counts for all threads that run it.

    Args:
        size: Bytes that each image is said to have.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.count = 0
        self.total = 0
        self._lock = threading.Lock()

    def __call__(self, urls: list[str]) -> None:
        """Pretend to download *urls*."""
        for url in urls:
            print(f"{threading.current_thread().name} downloads {url}\n", end="")
            with self._lock:
                self.count += 1
                self.total += self.size


def main() -> None:
    """Let two threads run one object."""
    urls = [f"ImageUrl_{number}" for number in range(6)]
    download = Download(size=1000)
    threads = [
        threading.Thread(target=download, args=(urls[:3],), name="thread A"),
        threading.Thread(target=download, args=(urls[3:],), name="thread B"),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    print(f"{download.count} images, {download.total} bytes")


if __name__ == "__main__":
    main()
