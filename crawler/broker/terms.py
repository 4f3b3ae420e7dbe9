"""The terms of a queue."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from crawler.errors import CrawlerError
from crawler.model import Welcome


class Terms(NamedTuple):
    """What a queue tells its sessions, and how it checks that they see the store."""

    #: What all sessions are told.
    base: Welcome
    #: Returns what a session wrote into its spool, None where nothing is there.
    proof: Callable[[str], str | None]
    #: Put before a completion's path in records: the store's place in OUT, "" where it is elsewhere.
    prefix: str = ""
    #: Whether to go on waiting for lists when all are read.
    keep_open: bool = False
    #: Seconds for which nothing may be stored through our own fault before `fail` is called.
    pause_limit: float = 600.0
    fail: Callable[[CrawlerError], None] = lambda error: None
