"""
Deadlines that hold whatever a server does.

A socket's own timeout is per read, and a server that drips one byte at a time never meets it. So each fetch is watched,
and its socket is shut when its time is up. A response that was cut like this can look complete to everything above:
whoever reads one asks the watch at the end.
"""

from __future__ import annotations

import contextlib
import math
import socket
import threading
import time

from crawler.errors import FetchError
from crawler.reasons import Reason

#: Seconds after which an idle watchdog looks around: no wait is without limit.
IDLE = 60.0


class Watch:
    """One fetch as the watchdog sees it. Written under the watchdog's lock, but for `reused` and `fresh`."""

    __slots__ = ("cancelled", "deadline", "fired", "fresh", "reused", "shut_at", "sock")

    def __init__(self, deadline: float) -> None:
        #: By `time.monotonic`.
        self.deadline = deadline
        #: When the socket in use is shut: at the deadline or, while what it brings does not matter any more, before.
        self.shut_at = deadline
        #: Whether the deadline passed while the fetch was watched: nothing it brought can be trusted to be complete.
        self.fired = False
        #: Whether the fetch was cancelled.
        self.cancelled = False
        #: The socket in use.
        self.sock: socket.socket | None = None
        #: Whether the last request went out on a connection that had been used before.
        self.reused = False
        #: Whether the next request must go out on a new connection.
        self.fresh = False

    @property
    def left(self) -> float:
        """Return the seconds left, never less than a millisecond: to sockets 0 means something else."""
        return max(0.001, self.deadline - time.monotonic())


class Pace:
    """
    Judge how fast a body comes.

    Args:
        window: Seconds over which its speed is taken.
        min_speed: Bytes per second that it must bring. 0 is no limit.
    """

    def __init__(self, window: float, min_speed: int) -> None:
        self._window = window
        self._min_speed = min_speed
        self._since = time.monotonic()
        self._size = 0

    def check(self, size: int) -> None:
        """
        Return if the body, of which *size* bytes have come, was fast enough over the last window.

        Raises:
            FetchError: TIMEOUT where it was not.
        """
        now = time.monotonic()
        passed = now - self._since
        if passed < self._window:
            return
        if size - self._size < self._min_speed * passed:
            raise FetchError(Reason.TIMEOUT, f"{size - self._size} bytes in {passed:.1f} s are too slow")
        self._since, self._size = now, size


class Watchdog:
    """
    Shut the socket of every fetch at its deadline.

    One thread watches all fetches of a fetcher. They are as many as the threads that fetch, so it simply looks at each
    of them when the earliest deadline is due.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._live: set[Watch] = set()
        self._looks_at = 0.0
        self._cancelled = False
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
        self._thread.start()

    def begin(self, timeout: float) -> Watch:
        """Watch a fetch that may take *timeout* seconds. After `cancel` it is cancelled from the start."""
        watch = Watch(time.monotonic() + timeout)
        with self._changed:
            watch.cancelled = self._cancelled
            self._live.add(watch)
            if watch.deadline < self._looks_at:
                self._changed.notify()
        return watch

    def hold(self, watch: Watch, sock: socket.socket | None) -> None:
        """Say which socket is to be shut for *watch*, in place of the last one; None for none."""
        with self._changed:
            watch.sock = sock
            watch.shut_at = watch.deadline
            if watch.fired or watch.cancelled:
                _shut(watch)

    def hurry(self, watch: Watch, wait: float) -> None:
        """Shut the socket held for *watch* in *wait* seconds; the fetch itself goes on till its deadline."""
        with self._changed:
            watch.shut_at = min(watch.deadline, time.monotonic() + wait)
            if watch.shut_at < self._looks_at:
                self._changed.notify()

    def end(self, watch: Watch) -> None:
        """Forget *watch*."""
        with self._changed:
            watch.sock = None
            self._live.discard(watch)

    def cancel(self) -> None:
        """Shut the sockets of all fetches, now and from now on, and end the thread. May be called again."""
        with self._changed:
            self._cancelled = True
            for watch in self._live:
                watch.cancelled = True
                _shut(watch)
            self._changed.notify()

    def _run(self) -> None:
        with self._changed:
            while not self._cancelled:
                now = time.monotonic()
                for watch in self._live:
                    if watch.shut_at <= now:
                        watch.fired = watch.deadline <= now
                        watch.shut_at = math.inf if watch.fired else watch.deadline
                        _shut(watch)
                self._looks_at = min((watch.shut_at for watch in self._live), default=math.inf)
                self._looks_at = min(self._looks_at, now + IDLE)
                self._changed.wait(self._looks_at - now)


def _shut(watch: Watch) -> None:
    """
    Shut the socket of *watch*.

    Under the lock, because shutting does not wait, and after the owner has let go of a socket its number may belong to
    somebody else's. Not the method of SSLSocket, which takes the TLS state away from under the thread that reads.
    """
    if watch.sock is not None:
        with contextlib.suppress(OSError):
            socket.socket.shutdown(watch.sock, socket.SHUT_RDWR)
