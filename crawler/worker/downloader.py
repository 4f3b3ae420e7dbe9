"""A child process of a worker: a pool of threads that fetch. It knows HTTP and nothing of the queue."""

from __future__ import annotations

import contextlib
from multiprocessing.connection import Connection
from pathlib import Path

from crawler import slate
from crawler.descriptors import raise_limit
from crawler.processes import child_main
from crawler.worker.messages import Events, decode_feed, decode_setup, encode
from crawler.worker.threads import FetchThreads


def serve(connection: Connection, setup: bytes) -> None:
    """Fetch what the worker feeds, until the pipe ends."""
    told = decode_setup(setup)
    raise_limit()

    def report(events: Events) -> None:
        # Where the worker is gone, so is this process in a moment.
        with contextlib.suppress(OSError):
            connection.send_bytes(encode(events))

    pool = FetchThreads(told.settings, Path(told.spool), told.threads, report, slate.mine().note)
    pool.start()
    while True:
        pool.feed(decode_feed(connection.recv_bytes()).leases)


if __name__ == "__main__":
    child_main(serve)
