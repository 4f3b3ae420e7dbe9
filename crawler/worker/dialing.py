"""
Connect to one of several addresses without waiting out a dead one.

Each address has a moment's start before the next, and whichever answers first is used. All of it happens in the thread
that fetches, because a thread for each address would cost more than the connection.
Source: RFC 8305, 5, without its sorting and its memory of what answered.
"""

from __future__ import annotations

import errno
import os
import selectors
import socket
import time
from collections import deque
from collections.abc import Sequence

from crawler.worker.addresses import Address
from crawler.worker.watchdog import Watch

#: Seconds from the start of one address to that of the next. Source: RFC 8305, 8.
STAGGER = 0.25
#: Seconds after which a cancelled fetch is noticed.
LOOK = 0.25
#: What connecting without waiting says where it has begun.
BEGUN = (0, errno.EINPROGRESS, errno.EWOULDBLOCK)


def connect(addresses: Sequence[Address], port: int, timeout: float, watch: Watch) -> socket.socket:
    """
    Return a socket connected to the first of *addresses* that answers.

    Args:
        addresses: Numeric addresses in the order of preference, at least one.
        port: Port to connect to.
        timeout: Seconds that one address may take, from its own start.
        watch: The fetch, which may be cancelled meanwhile, and whose deadline holds.

    Raises:
        OSError: The last thing that went wrong, TimeoutError where that was no answer.
    """
    with selectors.PollSelector() as selector:
        race = _Race(selector, addresses, port, timeout)
        try:
            return race.run(watch)
        finally:
            race.close()


class _Race:
    """The addresses that wait for their start, and those under way with the time at which each is given up."""

    def __init__(
        self, selector: selectors.BaseSelector, addresses: Sequence[Address], port: int, timeout: float
    ) -> None:
        self._under_way = selector
        self._waiting = deque(addresses)
        self._port = port
        self._timeout = timeout
        self._next_start = 0.0
        self._last: OSError = TimeoutError("no time left")

    def run(self, watch: Watch) -> socket.socket:
        while not (watch.fired or watch.cancelled) and (now := time.monotonic()) < watch.deadline:
            self._give_up(now)
            if self._waiting and (now >= self._next_start or not self._under_way.get_map()):
                self._start(self._waiting.popleft(), now)
            elif not self._under_way.get_map():
                break
            for key, _ in self._under_way.select(self._wait(min(watch.deadline, now + LOOK))):
                sock: socket.socket = key.fileobj  # type: ignore[assignment]  # only sockets are registered
                self._under_way.unregister(sock)
                if self._has_connected(sock):
                    return sock
        raise self._last

    def close(self) -> None:
        for key in list(self._under_way.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]  # only sockets are registered

    def _start(self, address: Address, now: float) -> None:
        self._next_start = now + STAGGER
        try:
            sock = socket.socket(address.family, socket.SOCK_STREAM)
        except OSError as error:  # no descriptor left, or no such family on this machine
            self._fail(error)
            return
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            code = sock.connect_ex((address.ip, self._port, *address.rest))
            if code not in BEGUN:
                raise OSError(code, os.strerror(code))
            self._under_way.register(sock, selectors.EVENT_WRITE, data=now + self._timeout)
        except BaseException as error:
            sock.close()
            if not isinstance(error, OSError):
                raise
            self._fail(error)

    def _has_connected(self, sock: socket.socket) -> bool:
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code == 0:
            return True
        sock.close()
        self._fail(OSError(code, os.strerror(code)))
        return False

    def _fail(self, error: OSError) -> None:
        self._last = error
        # There is nothing to wait for on its behalf.
        self._next_start = 0.0

    def _give_up(self, now: float) -> None:
        for key in [key for key in self._under_way.get_map().values() if key.data <= now]:
            self._under_way.unregister(key.fileobj)
            key.fileobj.close()  # type: ignore[union-attr]  # only sockets are registered
            self._last = TimeoutError(f"no answer in {self._timeout:g} s")

    def _wait(self, until: float) -> float:
        """Return the seconds to the next thing there is to do, at *until* at the latest."""
        ends: list[float] = [key.data for key in self._under_way.get_map().values()]
        starts = [self._next_start] if self._waiting else []
        return max(0.0, min(until, *ends, *starts) - time.monotonic())
