"""The line from one process to its coordinator: a connection for each thread, outages ridden out, sessions renewed."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from multiprocessing import managers, util
from typing import Any

from crawler.broker.address import format_address
from crawler.broker.handshake import HANDSHAKE_LIMIT, Proof, dial
from crawler.broker.wire import Connection
from crawler.errors import CrawlerError, QueueUnavailable, UnknownSession, WireError

log = logging.getLogger(__name__)

#: Seconds for a call, beside what the verb itself is asked to wait.
CALL_LIMIT = 30.0
#: Upper bounds in seconds of the first pause after a failure, and of all others; they double in between.
FIRST_PAUSE, LAST_PAUSE = 0.05, 2.0
#: Times that one call lets its session be renewed.
MAX_RENEWALS = 3


class Outage:
    """Whether the coordinator is away, for all threads together: one line when it goes, one when it is back."""

    def __init__(self, where: str, patience: float) -> None:
        self._where = where
        self._patience = patience
        self._lock = threading.Lock()
        self._since: float | None = None

    def failed(self, reason: BaseException) -> float:
        """
        Note that the coordinator was not reached.

        Returns:
            Seconds that one may still try, below 0 when patience has run out.
        """
        now = time.monotonic()
        with self._lock:
            news = self._since is None
            since = self._since = now if self._since is None else self._since
        if news:
            log.warning("coordinator %s is away (%s); trying for %g s", self._where, describe(reason), self._patience)
        return since + self._patience - now

    def over(self) -> None:
        """Note that the coordinator answered."""
        if self._since is None:
            return
        with self._lock:
            since, self._since = self._since, None
        if since is not None:
            log.info("coordinator %s is back after %.1f s", self._where, time.monotonic() - since)


class Renewal:
    """Let one thread renew the session while the others that need it wait."""

    def __init__(self) -> None:
        self._change = threading.Condition()
        #: Thread that is at it.
        self._by: threading.Thread | None = None
        #: Times that the session was renewed.
        self.count = 0

    def renew(self, seen: int, action: Callable[[], object], wait: float) -> bool:
        """
        Call *action* unless the session was renewed since *seen* was the count.

        Args:
            seen: The count when the call that failed began.
            action: Says hello again.
            wait: Seconds to wait for another thread that is at it.

        Returns:
            False where it was not possible: this very thread is at it, or another did not end in time.
        """
        me = threading.current_thread()
        with self._change:
            if self._by is me or not self._change.wait_for(lambda: self._by is None, wait):
                return False
            if self.count != seen:
                return True
            self._by = me
        done = False
        try:
            action()
            done = True
        finally:
            with self._change:
                self._by = None
                self.count += done
                self._change.notify_all()
        return True


class Line:
    """
    Connections to one coordinator, one for each thread that calls.

    Args:
        address: Host and port.
        proof: What is shown to the coordinator.
        patience: Seconds without the coordinator after which calls fail.
    """

    def __init__(self, address: tuple[str, int], proof: Proof, patience: float) -> None:
        self._address = address
        self._proof = proof
        self._patience = patience
        self._lock = threading.Lock()
        self._connections: dict[threading.Thread, Connection] = {}
        self._ended = threading.Event()
        self._outage = Outage(format_address(address), patience)
        self._renewal = Renewal()
        #: As the proxies of multiprocessing want it: the connection of this thread.
        self.local = util.ForkAwareLocal()
        #: Session for which new connections are opened.
        self.session = ""
        #: Called once when the coordinator does not know the session.
        self.renew: Callable[[], object] | None = None

    def connect(self) -> Connection:
        """
        Open this thread's connection, in place of one it has.

        Raises:
            KeyRefused, VersionMismatch, WireError: There is no sense in trying again.
            OSError, EOFError: The coordinator is away.
        """
        self.drop()
        session = self.session
        connection = dial(self._address, self._proof, self._keep)
        try:
            connection.until(HANDSHAKE_LIMIT)
            managers.dispatch(connection, None, "accept_connection", (session,))  # type: ignore[attr-defined]
        except BaseException:
            connection.close()
            raise
        connection.session = session
        self.local.connection = connection
        return connection

    def drop(self) -> None:
        """Close this thread's connection, if it has one."""
        connection = self.local.__dict__.pop("connection", None)
        with self._lock:
            self._connections.pop(threading.current_thread(), None)
        if connection:
            connection.close()

    def call(self, once: Callable[[], Any], wait: float) -> Any:
        """
        Call *once* with a connection in place, again and again while the coordinator is away.

        Args:
            once: Makes one call over this thread's connection. It may be repeated.
            wait: Seconds that the coordinator may take, beside `CALL_LIMIT`.

        Raises:
            QueueUnavailable: The coordinator was away for longer than patience, or `cancel` or `close` was called.
            CrawlerError: What the coordinator answered, or there is no sense in trying again.
        """
        for _ in range(MAX_RENEWALS):
            seen = self._renewal.count
            try:
                return self._ride_out(once, wait)
            except UnknownSession:
                renew = self.renew
                if renew is None or not self._renewal.renew(seen, renew, self._patience + CALL_LIMIT):
                    raise
        return self._ride_out(once, wait)

    def cancel(self) -> None:
        """End all calls, those that wait now and those to come: they raise QueueUnavailable."""
        self._ended.set()
        for connection in self._all():
            connection.cut()

    def close(self) -> None:
        """Cancel, and close all connections; one that is in use is closed by its thread."""
        self.cancel()
        for connection in self._all():
            if not connection.busy:
                connection.close()

    def _ride_out(self, once: Callable[[], Any], wait: float) -> Any:
        pause, gives_up = FIRST_PAUSE, None
        while True:
            held = self._held()
            try:
                return self._attempt(once, wait)
            except (OSError, EOFError) as error:
                self._check()
                # A connection that was open already may have been closed for its silence: that is no outage yet.
                if held and not isinstance(error, TimeoutError):
                    continue
                gives_up = gives_up or time.monotonic() + self._patience
                left = min(self._outage.failed(error), gives_up - time.monotonic())
                if left <= 0:
                    raise QueueUnavailable(
                        f"coordinator {format_address(self._address)} could not be reached for {self._patience:g} s "
                        f"({describe(error)})"
                    ) from error
            self._ended.wait(min(left, pause * random.uniform(0.5, 1.0)))
            pause = min(2 * pause, LAST_PAUSE)

    def _attempt(self, once: Callable[[], Any], wait: float) -> Any:
        """Call once; whatever leaves the connection out of step also closes it."""
        try:
            connection = self._held() or self.connect()
            # Before the check: `close` ends the line first and looks at this then.
            connection.busy = True
            self._check()
            connection.until(CALL_LIMIT + wait)
            result = once()
        except CrawlerError as error:
            if isinstance(error, WireError | QueueUnavailable):
                self.drop()
            else:
                self._settle()
            raise
        except BaseException:
            self.drop()
            raise
        self._settle()
        return result

    def _settle(self) -> None:
        """Note that an answer came."""
        # Not what `_held` returns: the session may have changed meanwhile.
        if connection := getattr(self.local, "connection", None):
            connection.busy = False
            self._outage.over()

    def _held(self) -> Connection | None:
        """Return this thread's connection where it has one for the present session."""
        connection: Connection | None = getattr(self.local, "connection", None)
        return connection if connection and connection.session == self.session else None

    def _check(self) -> None:
        if self._ended.is_set():
            self.drop()
            raise QueueUnavailable(f"calls to coordinator {format_address(self._address)} were ended here")

    def _keep(self, connection: Connection) -> None:
        """
        Remember this thread's connection, and close those of threads that have ended.

        It is only just open, so that `cancel` also ends what the coordinator does not answer in the beginning.
        """
        connection.busy = True
        with self._lock:
            ended = [thread for thread in self._connections if not thread.is_alive()]
            gone = [self._connections.pop(thread) for thread in ended]
            self._connections[threading.current_thread()] = connection
        for one in gone:
            one.close()
        self._check()

    def _all(self) -> list[Connection]:
        with self._lock:
            return list(self._connections.values())


def describe(error: BaseException) -> str:
    """Say why the coordinator was not reached, in a few words."""
    if isinstance(error, EOFError):
        return "it ended the connection"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return getattr(error, "strerror", None) or type(error).__name__
