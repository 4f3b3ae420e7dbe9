"""Who is connected: sessions, their last request, and when one counts as dead."""

from __future__ import annotations

import re
import secrets
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future

from crawler.broker.outage import Outage
from crawler.errors import UnknownSession
from crawler.model import Grant, Hello, Role, Welcome

#: Seconds after which a session without a connection is dead.
AWAY = 2.0
#: Seconds that a session may take for its first connection after the hello.
ARRIVAL = 10.0
#: How the ids of sessions begin that end with their coordinator.
LOCAL = "local"
_ID = re.compile(r"[0-9a-f]{32}")


class Session:
    """One connection life of a worker or producer."""

    def __init__(self, hello: Hello, now: float) -> None:
        resumed = bool(_ID.fullmatch(hello.session))
        self.id = hello.session if resumed else (LOCAL if hello.local else "") + secrets.token_hex(16)
        self.machine = hello.machine
        self.role = hello.role
        self.nonce = secrets.token_hex(16)
        #: When it is dead if it does not come back, None while it is connected.
        self.dead_at: float | None = now + ARRIVAL
        #: Number of the last lease request and what was answered.
        self.number = 0
        self.grant: Grant | None = None
        #: Tasks it completed.
        self.completed = 0
        self.outage = Outage()
        #: When the leases last granted are on disk.
        self.commit: Future[None] | None = None


class Sessions:
    """All sessions that are alive."""

    def __init__(self) -> None:
        self._sessions: dict[str, Session] = {}
        # Kept apart: after a restart connections come back before their session says hello again.
        self._connections: Counter[str] = Counter()

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._sessions.values()))

    def open(self, hello: Hello, now: float) -> Session:
        """Make a session, or go on with the one that the hello names."""
        session = self._sessions.get(hello.session) or Session(hello, now)
        if self._connections[session.id]:
            session.dead_at = None
        self._sessions[session.id] = session
        return session

    def get(self, session: str) -> Session:
        """
        Return a session.

        Raises:
            UnknownSession: It is dead or was never opened here.
        """
        try:
            return self._sessions[session]
        except KeyError:
            raise UnknownSession(f"session {session[:8]} is not known here") from None

    def find(self, session: str) -> Session | None:
        """Return a session, None where there is none."""
        return self._sessions.get(session)

    def attached(self, session: str) -> None:
        """Count a connection of *session*."""
        self._connections[session] += 1
        if found := self._sessions.get(session):
            found.dead_at = None

    def detached(self, session: str, now: float) -> None:
        """Count a closed connection of *session*; after its last one it has a moment to come back."""
        self._connections[session] -= 1
        if self._connections[session] <= 0:
            del self._connections[session]
            if found := self._sessions.get(session):
                found.dead_at = now + AWAY

    def close(self, session: str) -> None:
        """Forget a session."""
        self._sessions.pop(session, None)

    def dead(self, now: float) -> list[str]:
        """Return the sessions that did not come back."""
        return [item.id for item in self._sessions.values() if item.dead_at is not None and item.dead_at <= now]

    def workers(self) -> int:
        """Count the workers that have not left."""
        return sum(1 for item in self._sessions.values() if item.role is Role.WORKER)


def welcome(session: Session, base: Welcome, holds: list[int]) -> Welcome:
    """Return *base*, which holds what all sessions are told, with what is *session*'s own."""
    return Welcome(
        session=session.id,
        version=base.version,
        lease_life=base.lease_life,
        store=base.store,
        nonce=session.nonce,
        settings=base.settings,
        holds=holds,
    )
