"""Memory that the connections of one server share, reserved before a large frame is read."""

from __future__ import annotations

import threading

#: Bytes of large frames that all connections of one server may have in memory.
BUDGET = 64 << 20


class Budget:
    """
    Bytes of memory that the connections of one server share.

    Args:
        size: Bytes in all; at least one frame.
    """

    def __init__(self, size: int = BUDGET) -> None:
        self._left = size
        self._change = threading.Condition()

    def take(self, size: int, wait: float) -> None:
        """
        Reserve *size* bytes.

        Raises:
            TimeoutError: They did not come free within *wait* seconds.
        """
        with self._change:
            if not self._change.wait_for(lambda: self._left >= size, wait):
                raise TimeoutError("no memory for a message came free in time")
            self._left -= size

    def give(self, size: int) -> None:
        """Give back what was reserved."""
        with self._change:
            self._left += size
            self._change.notify_all()
