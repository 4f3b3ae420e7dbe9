"""Where a worker's downloads go, and what it is told of them."""

from __future__ import annotations

from typing import Protocol

from crawler.errors import CrawlerError
from crawler.model import Completion, Download, Failure


class Sink(Protocol):
    """Where downloads go: a consumer, or the result queue."""

    def start(self) -> None:
        """Begin."""

    def take(self, download: Download) -> None:
        """Take a download; never blocks."""

    def close(self, wait: float) -> None:
        """End within *wait* seconds."""


class Ends(Protocol):
    """What a sink tells its worker."""

    def ended(self, end: Completion | Failure) -> None:
        """Take the end of a task, for the queue."""

    def forget(self, tokens: list[int]) -> None:
        """Forget leases that are somebody else's now, or over."""

    def fail(self, error: CrawlerError) -> None:
        """End the worker: it cannot go on."""
