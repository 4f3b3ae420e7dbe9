"""Which lists are being read, by whom, and which were left unfinished."""

from __future__ import annotations

from crawler.model import Batch, ListState


class _OpenList:
    def __init__(self, state: ListState, owner: str | None, since: float) -> None:
        self.name = state.name
        self.next_line = state.next_line
        self.offset = state.offset
        self.total: int | None = None
        self.owner = owner
        #: When its owner was last heard of; counts only without an owner.
        self.since = since
        self.open = not state.sealed
        self.incomplete = False


class Lists:
    """
    The lists of one ledger.

    Args:
        states: As the ledger has them; those that are not sealed wait for their producer to come back.
        now: The time.
    """

    def __init__(self, states: list[ListState], now: float) -> None:
        self._lists = {state.id: _OpenList(state, None, now) for state in states}

    def open(self, state: ListState, owner: str, now: float) -> None:
        """Note that *owner* reads a list."""
        found = self._lists.setdefault(state.id, _OpenList(state, owner, now))
        found.owner, found.open, found.incomplete = owner, True, False

    def put(self, list_id: int, owner: str, batch: Batch) -> None:
        """Note how far *owner* has read a list."""
        found = self._lists[list_id]
        found.owner, found.open, found.incomplete = owner, True, False
        found.next_line, found.offset, found.total = batch.next_line, batch.offset, batch.total_bytes

    def seal(self, list_id: int) -> None:
        """Note that a list has been read to its end."""
        self._lists[list_id].open = False

    def orphan(self, owner: str, now: float) -> None:
        """Note that *owner* is gone."""
        for item in self._lists.values():
            if item.owner == owner:
                item.owner, item.since = None, now

    def close_silent(self, before: float) -> list[str]:
        """Close the open lists without an owner since *before*; return their names."""
        silent = [item for item in self._lists.values() if item.open and item.owner is None and item.since <= before]
        for item in silent:
            item.open, item.incomplete = False, True
        return [item.name for item in silent]

    def all_read(self) -> bool:
        """Tell whether no list is open."""
        return not any(item.open for item in self._lists.values())

    def incomplete(self) -> list[str]:
        """Return the names of the lists whose producer fell silent."""
        return [item.name for item in self._lists.values() if item.incomplete]

    def part(self) -> float | None:
        """Return the part of the lists that has been read, 0 to 1, None while a size is not known."""
        if self.all_read():
            return 1.0
        items = [item for item in self._lists.values() if item.open]
        if any(not item.total for item in items):
            return None
        return sum(item.offset for item in items) / sum(item.total or 0 for item in items)
