"""What of an acknowledged change survives which accident."""

from __future__ import annotations

import enum

#: Seconds between two syncs of the log where answers do not wait for them.
WINDOW = 1.0


class Durability(enum.StrEnum):
    """
    When a ledger is synced. A kill of the process costs nothing acknowledged in any case.

    What a power cut or a crash of the system costs: with `full` nothing; with `batch` what was acknowledged within the
    last `WINDOW` and the time that one sync takes; with `none` anything, the file itself included.
    """

    #: Before each answer.
    FULL = "full"
    #: In the order of the changes, and at least once in `WINDOW` seconds.
    BATCH = "batch"
    #: When the system thinks fit.
    NONE = "none"

    @property
    def level(self) -> str:
        """Return the level of SQLite's own syncs: that of each commit is left to `Syncs`."""
        return "OFF" if self is Durability.NONE else "NORMAL"
