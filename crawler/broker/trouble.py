"""
Our own faults: when nothing can be stored, the run pauses, and charges nobody.

It tries one task at a time, and goes on with the first that works; or it is told when the pause is over.
"""

from __future__ import annotations

import logging

log = logging.getLogger(__name__)

#: Local failures in a row, no download verified in between, from which on the run pauses. One machine with a full disk
#: among others that work does not come that far.
ENOUGH = 8


class Trouble:
    """Counts failures of the class LOCAL."""

    def __init__(self) -> None:
        self._in_a_row = 0
        #: When the pause began, None while there is none.
        self.since: float | None = None
        #: What was seen last.
        self.detail = ""
        #: Whether nothing is tried: somebody will tell when it is over.
        self.is_blocked = False

    def failed(self, detail: str, now: float) -> bool:
        """Note a local failure; tell whether a pause begins with it."""
        self._in_a_row += 1
        self.detail = detail
        begins = self.since is None and self._in_a_row >= ENOUGH
        if begins:
            self.since = now
        return begins

    def worked(self) -> bool:
        """Note that a download came to its verdict; tell whether a pause ends with it."""
        ends = self.since is not None and not self.is_blocked
        self._in_a_row = 0
        if ends:
            self.since = None
        return ends

    def block(self, why: str | None, now: float) -> None:
        """Begin a pause for the reason *why* in which nothing is tried; with None, end any."""
        self.is_blocked = why is not None
        self._in_a_row = 0
        self.since = now if why is not None else None
        self.detail = why or ""
