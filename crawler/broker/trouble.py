"""Our own faults: when nothing can be stored, the run pauses, tries one task at a time, and charges nobody."""

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
        ends = self.since is not None
        self._in_a_row, self.since = 0, None
        return ends
