"""
Which shards are open, and whose: an image in a shard that is closed cannot be recorded any more.

    open (a session asked for a number) ─▶ closed (nothing more is recorded in it) ─▶ published

So what a closed shard must contain is settled: the images that are recorded in it, and no others.
"""

from __future__ import annotations

import re

from crawler.broker.changes import Changes
from crawler.broker.ledger import Ledger
from crawler.broker.state import State

#: Under which the number of the next shard is kept.
NEXT = "shards"
#: What goes before the number of an open one.
OPEN = "shard:"

_IN_SHARD = re.compile(r"(\d{5,})\.[a-z]+/")


class Shards:
    """
    The numbers of a crawl's shards.

    Args:
        state: Leases, and the lock.
        ledger: Where the numbers are kept.
    """

    def __init__(self, state: State, ledger: Ledger) -> None:
        self._state = state
        self._ledger = ledger
        self._next = int(ledger.view.meta(NEXT) or 0)
        self._open = {int(name.removeprefix(OPEN)): str(value) for name, value in ledger.view.metas(OPEN).items()}

    def open(self, session: str) -> int:
        """Return the number of a new shard of *session*, that none had before."""
        with self._state.lock:
            number, self._next = self._next, self._next + 1
            self._open[number] = session
            following = self._next

            def write(changes: Changes) -> None:
                changes.set_meta(NEXT, following)
                changes.set_meta(f"{OPEN}{number}", session)

            commit = self._ledger.submit(write)
        commit.result()
        return number

    def takes(self, session: str, path: str) -> bool:
        """Tell whether an image of *session* can be recorded at *path*; called with the lock held."""
        match = _IN_SHARD.match(path)
        return match is None or self._open.get(int(match[1])) == session

    def owner(self, number: int) -> str | None:
        """Return the session whose open shard it is, None where it is closed."""
        with self._state.lock:
            return self._open.get(number)

    def close(self, number: int) -> None:
        """Let nothing more be recorded in a shard; what was, is committed when this returns."""
        with self._state.lock:
            self._open.pop(number, None)
            commit = self._ledger.submit(lambda changes: changes.drop_meta(f"{OPEN}{number}"))
        commit.result()

    def leased(self, session: str) -> set[int]:
        """Return the tasks that *session* holds."""
        with self._state.lock:
            return self._state.frontier.leases.tasks(session)
