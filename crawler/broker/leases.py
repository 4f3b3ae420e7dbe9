"""The leases that are held now. Pure, like the frontier, whose they are."""

from __future__ import annotations

from crawler.broker.hosts import Held


class Leases:
    """Leases by token, and what is asked of them."""

    def __init__(self) -> None:
        self._held: dict[int, Held] = {}
        self._rules = 0

    def add(self, held: Held) -> None:
        """Add a lease that was handed out."""
        self._held[held.token] = held
        self._rules += held.origin is not None

    def remove(self, held: Held) -> None:
        """Forget a lease that has ended."""
        del self._held[held.token]
        self._rules -= held.origin is not None

    def get(self, session: str, token: int) -> Held | None:
        """Return the lease *token*, None where *session* does not hold it."""
        held = self._held.get(token)
        return held if held is not None and held.session == session else None

    def of(self, session: str, tokens: list[int]) -> list[Held]:
        """Return those leases of *tokens* that *session* holds, in their order."""
        found = (self._held.get(token) for token in tokens)
        return [held for held in found if held is not None and held.session == session]

    def expired(self, now: float) -> list[tuple[str, int]]:
        """Return (session, token) of those that have run out."""
        return [(held.session, held.token) for held in self._held.values() if held.expires <= now]

    def url_of(self, session: str, token: int) -> str | None:
        """Return where the robots.txt is for which *session* holds the lease *token*, None where it holds none such."""
        held = self.get(session, token)
        return held.task.url if held is not None and held.origin is not None else None

    def tokens(self, session: str) -> list[int]:
        """Return the tokens that *session* holds."""
        return [held.token for held in self._held.values() if held.session == session]

    def tasks(self, session: str) -> set[int]:
        """Return the ids of the tasks that *session* holds."""
        return {held.task.id for held in self._held.values() if held.session == session}

    def count(self) -> int:
        """Count the tasks that are leased; a robots.txt is none."""
        return len(self._held) - self._rules

    def fetched(self) -> int:
        """Count those whose fetch has ended: their tasks are about to be recorded."""
        return sum(not held.busy for held in self._held.values())

    def by_session(self) -> dict[str, int]:
        """Count by session."""
        counts: dict[str, int] = {}
        for held in self._held.values():
            counts[held.session] = counts.get(held.session, 0) + 1
        return counts
