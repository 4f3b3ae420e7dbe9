"""
Take tasks from a queue on the network, and put results into another. Start 06_manager_server.py first.

Client and server must agree on the names and the verbs of what is served; each says so for itself. To the client a
served queue looks like an object of its own: the calls go over the network, typed on both sides.

A crawler worker is such a client (`crawler.join`, `crawler.worker`), with a lease for each task that it takes, so that
nothing is lost with it, and with batches, so that the network is not what it waits for.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Protocol

from crawler.broker.address import parse_address
from crawler.broker.keys import Key, load
from crawler.broker.manager import QueueClient, Service
from crawler.errors import CrawlerError

#: Seconds to go on trying where the server does not answer.
PATIENCE = 30.0
#: Seconds that a download is said to take.
DURATION = 0.2


class Texts(Protocol):
    """What can be called, and with what: a queue of texts."""

    def put(self, text: str) -> None:
        """Add *text* at the end."""

    def get(self, wait: float) -> str | None:
        """Take the first text; None means that there was none for *wait* seconds."""


def work(address: tuple[str, int], key: Key) -> None:
    """Do tasks until there are no more."""
    services = [Service("task_queue", Texts, None), Service("result_queue", Texts, None)]
    client = QueueClient(address, key, services, PATIENCE)
    # By this name the server tells clients apart, and knows when one has left.
    client.session = f"client {os.getpid()}"
    try:
        tasks: Texts = client.proxy("task_queue")
        results: Texts = client.proxy("result_queue")
        # All tasks are there before the server opens, so there is nothing to wait for.
        while (url := tasks.get(0.0)) is not None:
            results.put(download(url))
    finally:
        client.close()
    print("no more tasks")


def download(url: str) -> str:
    """Pretend to download *url*; return what to tell of it."""
    print(f"downloading {url}", flush=True)
    time.sleep(DURATION)
    return f"{url}------>completed!"


def main() -> None:
    """Read the command line, and work."""
    folder = Path(tempfile.gettempdir()) / f"crawler-primer-{os.getuid()}"
    parser = argparse.ArgumentParser(description="Do the tasks of 06_manager_server.py.")
    parser.add_argument("address", nargs="?", default="127.0.0.1:7010", help="HOST:PORT (%(default)s)")
    parser.add_argument("--key", type=Path, metavar="DIR", default=folder, help="folder of the key (%(default)s)")
    options = parser.parse_args()
    try:
        work(parse_address(options.address), load(options.key))
    except CrawlerError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
