"""Lists added to a queue that is being served."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crawler.errors import UsageError
from crawler.join import connect, greet
from crawler.model import Role
from crawler.producer import Reading, Source
from crawler.run import Stop


def add(sources: Sequence[Source], address: str, key: Path, stop: Stop) -> int:
    """
    Add lists to a queue that is being served, and leave.

    Args:
        sources: The lists.
        address: HOST:PORT of the coordinator.
        key: Folder of the key.
        stop: Asked to end early.

    Returns:
        Number of lists that were read to their end.

    Raises:
        CrawlerError: The queue cannot be reached, or a list cannot be read.
    """
    client = connect(address, str(key), 120.0)
    try:
        queue = client.proxy("task_queue")
        client.session = queue.hello(greet(Role.PRODUCER)).session
        client.renew = lambda: queue.hello(greet(Role.PRODUCER, client.session))
        done = sum(_add(queue, client.session, source, stop) for source in sources)
        queue.leave(client.session)
        return done
    finally:
        client.close()


def _add(queue: Any, session: str, source: Source, stop: Stop) -> bool:
    reading = Reading(queue, session, source, stop.asked.is_set)
    try:
        if source.name == "-":  # cannot be read twice to see whether it is the same
            raise UsageError("standard input is a new list each time")
        reading.prepare(queue.open_list(session, source.name, False))
    except UsageError:
        reading.prepare(queue.open_list(session, source.name, True))
    return reading.run()
