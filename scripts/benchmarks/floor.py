"""
The floor: one process that does for each image only what must be done.

    python floor.py LIST FOLDER [THREADS]

Fetch with libcurl, decode as crawler's verifiers do, SHA-256, write under a temporary name, rename. No guard, no
limits, no ledger, no sandbox, no second process, no sync.
"""

from __future__ import annotations

import hashlib
import io
import queue
import sys
import threading
from pathlib import Path

import pycurl

from crawler.consumer.image import verify
from crawler.settings import Limits


def work(urls: queue.SimpleQueue[str | None], folder: Path, limits: Limits) -> None:
    """Fetch and keep one after the other, until there is none."""
    curl = pycurl.Curl()
    curl.setopt(pycurl.NOSIGNAL, 1)
    curl.setopt(pycurl.TIMEOUT, 10)
    while (url := urls.get()) is not None:
        body = io.BytesIO()
        curl.setopt(pycurl.URL, url)
        curl.setopt(pycurl.WRITEDATA, body)
        try:
            curl.perform()
        except pycurl.error:
            continue
        if curl.getinfo(pycurl.RESPONSE_CODE) == 200:
            body.seek(0)
            keep(body, folder, limits)


def keep(body: io.BytesIO, folder: Path, limits: Limits) -> None:
    """Verify an image and write it under its digest."""
    image = verify(body, limits)
    digest = hashlib.sha256(body.getbuffer()).hexdigest()
    path = folder / digest[:2] / f"{digest}.{image.format.lower()}"
    temporary = folder / f".{digest}"
    temporary.write_bytes(body.getbuffer())
    temporary.rename(path)


def main() -> None:
    """Fetch all."""
    folder, limits = Path(sys.argv[2]), Limits()
    for number in range(256):
        (folder / f"{number:02x}").mkdir(parents=True)
    urls: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    threads = [
        threading.Thread(target=work, args=(urls, folder, limits))
        for _ in range(int(sys.argv[3]) if len(sys.argv) > 3 else 8)
    ]
    for thread in threads:
        thread.start()
    with open(sys.argv[1], encoding="utf-8") as lines:
        for line in lines:
            urls.put(line.strip())
    for _ in threads:
        urls.put(None)
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
