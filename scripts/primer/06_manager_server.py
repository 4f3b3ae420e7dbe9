"""
Serve two queues over the network: tasks go out, results come in. The other half is 07_manager_client.py.

    python scripts/primer/06_manager_server.py     in one terminal
    python scripts/primer/07_manager_client.py     in another one, or in several

This is the manager of the crawler itself (`crawler.broker.manager`), a `BaseManager` whose transport unpickles nothing
and in which every wait has a limit. What is served here is as simple as a queue can be, and it shows: a client that is
killed takes its task with it, and the server says so after a while. The crawler's task queue hands out leases instead.

For clients on other machines: `crawler keygen DIR`, and `HOST:PORT --key DIR` on both sides.
"""

from __future__ import annotations

import argparse
import os
import queue
import sys
import tempfile
import threading
from pathlib import Path
from typing import Protocol

from crawler.broker.address import format_address, parse_address
from crawler.broker.keys import Key, fresh, load
from crawler.broker.manager import QueueServer, Service
from crawler.errors import CrawlerError

#: Tasks to be done.
COUNT = 10
#: Seconds to wait for one result, and for clients to leave.
LIMIT = 60.0


class Texts(Protocol):
    """What clients may call, and with what: a queue of texts."""

    def put(self, text: str) -> None:
        """Add *text* at the end."""

    def get(self, wait: float) -> str | None:
        """Take the first text; None means that there was none for *wait* seconds."""


class TextQueue:
    """The object behind the verbs, for threads of this process."""

    def __init__(self) -> None:
        self._texts: queue.Queue[str] = queue.Queue()

    def put(self, text: str) -> None:
        """Add *text* at the end."""
        self._texts.put(text)

    def get(self, wait: float) -> str | None:
        """Take the first text; None means that there was none for *wait* seconds."""
        try:
            return self._texts.get(timeout=wait)
        except queue.Empty:
            return None


class Guests:
    """Knows how many clients are connected; the server tells it."""

    def __init__(self) -> None:
        self._count = 0
        self._changed = threading.Condition()

    def attached(self, session: str) -> None:
        """Count a new connection."""
        with self._changed:
            self._count += 1

    def detached(self, session: str) -> None:
        """Count its end."""
        with self._changed:
            self._count -= 1
            self._changed.notify_all()

    def wait_until_gone(self, limit: float) -> None:
        """Return when nobody is connected any more, or after *limit* seconds."""
        with self._changed:
            self._changed.wait_for(lambda: not self._count, limit)


def serve(address: tuple[str, int], key: Key) -> None:
    """Put the tasks, serve until all results are here, and let the clients leave before the door closes."""
    tasks, results, guests = TextQueue(), TextQueue(), Guests()
    for number in range(COUNT):
        tasks.put(f"ImageUrl_{number}")
    services = [Service("task_queue", Texts, tasks), Service("result_queue", Texts, results)]
    server = QueueServer(services, address, key, guests)
    server.start()
    try:
        print(f"serving {COUNT} tasks at {format_address(server.address)}", flush=True)
        for _ in range(COUNT):
            result = results.get(LIMIT)
            if result is None:
                sys.exit(f"no result for {LIMIT:.0f} s: a client has died, or there was none")
            print(f"result is {result}", flush=True)
        guests.wait_until_gone(LIMIT)
    finally:
        server.close(LIMIT)
    print("all tasks are completed")


def local_key() -> Key:
    """Make a key that only this user can read, where the client looks for it."""
    folder = Path(tempfile.gettempdir()) / f"crawler-primer-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return fresh(folder)


def main() -> None:
    """Read the command line, and serve."""
    parser = argparse.ArgumentParser(description="Serve ten tasks, and print their results.")
    parser.add_argument("address", nargs="?", default="127.0.0.1:7010", help="HOST:PORT (%(default)s)")
    parser.add_argument("--key", type=Path, metavar="DIR", help="folder of a key (a new one, for this machine only)")
    options = parser.parse_args()
    try:
        serve(parse_address(options.address), load(options.key) if options.key else local_key())
    except CrawlerError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
