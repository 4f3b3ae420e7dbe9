"""
Child processes over pipes: start, feed, watch, replace.

A `Crew` is some children of one kind. Each has a pipe of its own, so that killing any one breaks nobody else's
channel, and a closed pipe is the news of its death. Messages are bytes; who uses a crew encodes them.

    parent                                            child: python -P -m MODULE PIPE SLATE PLACES
      setup ───────────────────────────────────────────▶ child_main
      ◀─────────────────────────────────────────── b"" (ready)
      send(message), send(message, *descriptors) ──────▶ serve
      on_message ◀────────────────────────────────── messages
      on_death   ◀────────────────────────────────── end of the pipe, what is on its slate
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import os
import selectors
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

from crawler.child import REAP_WAIT, Child, socket_of
from crawler.errors import CrawlerError

log = logging.getLogger(__name__)

#: First message of a child.
READY = b""
#: Largest message a parent reads, in bytes.
MAX_MESSAGE = 64 * 1024 * 1024
#: Seconds from a child's start to its first message, before it is killed.
READY_WAIT = 60.0
#: Children in a row that may die before their first message; then no more are started.
MAX_STILLBORN = 5
#: Seconds between two looks at children that are not ready.
TICK = 1.0
#: Signals that are meant for the parent of a crew, and reach its children too.
FOR_PARENTS = {signal.SIGINT, signal.SIGHUP, signal.SIGTERM}
#: Number of prctl's option. Source: linux/prctl.h.
PR_SET_PDEATHSIG = 1


class Crew:
    """
    Some children of one kind, each fed over its own pipe and replaced when it dies.

    The callbacks come from one thread, with no lock held; they must not block for long nor call `close`.

    Args:
        module: Name of the module to run; its end is `child_main(serve)`.
        setup: First message to each child.
        size: Number of children, at least 1.
        on_message: Called with a child's number and a message of it.
        on_death: Called with the number of a child that ended, and what it had noted on its slate; its replacement is
            there already. All that it sent before has been handed to `on_message`.
        places: Places of each child's slate, at least 1.
    """

    def __init__(
        self,
        module: str,
        setup: bytes,
        size: int,
        on_message: Callable[[int, bytes], None],
        on_death: Callable[[int, set[int]], None],
        places: int = 1,
    ) -> None:
        #: Whether children cannot be started: those that die are not replaced any more.
        self.hopeless = False
        #: What the last child that could not be started said.
        self.why = ""
        self._module = module
        self._setup = setup
        self._size = size
        self._on_message = on_message
        self._on_death = on_death
        self._places = places
        self._lock = threading.Lock()
        self._children: dict[int, Child] = {}
        self._numbers = itertools.count(1)
        self._stillborn = 0
        self._fill_at = 0.0
        self._end_by: float | None = None
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"crew {module}", daemon=True)

    def start(self) -> None:
        """
        Start the children; they may not be ready yet when this returns.

        Raises:
            CrawlerError: They cannot be started.
        """
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = os.pipe()
        self._selector.register(self._wake_read, selectors.EVENT_READ, lambda: None)
        self._thread.start()
        self._started.wait(READY_WAIT)
        if not self.children():
            self.close(0)
            raise CrawlerError(f"cannot start {self._module}: {self.why}")

    def children(self) -> list[int]:
        """Return the numbers of the live children, oldest first. A number is never used twice."""
        with self._lock:
            return list(self._children)

    def send(self, child: int, message: bytes, *fds: int) -> bool:
        """
        Send to one child; one that does not read for `crawler.child.PIPE_WAIT` is killed.

        Args:
            child: Its number.
            message: What to send.
            fds: Open descriptors to pass with it, all at once and in order, at most 250; the caller keeps and closes
                his own.

        Returns:
            False where the child is dead: its `on_death` comes or came.
        """
        with self._lock:
            found = self._children.get(child)
        return found is not None and found.send(message, *fds)

    def kill(self, child: int) -> None:
        """End one child at once; its `on_death` follows. Unknown numbers are passed over."""
        with self._lock:
            found = self._children.get(child)
        if found is not None:
            found.process.kill()

    def close(self, wait: float) -> None:
        """
        Close the pipes and reap all children; `on_death` is not called for them. May be called again.

        Args:
            wait: Seconds that children have to end by themselves before they are killed.
        """
        with self._lock:
            if self._end_by is None and self._thread.ident is not None:
                self._end_by = time.monotonic() + wait
                os.write(self._wake_write, b"x")
        if self._thread.ident is not None:
            self._thread.join(wait + self._size * REAP_WAIT)

    # ------------------------------------------------------------ the crew's thread

    def _run(self) -> None:
        # Children are started by this thread only: it outlives them, and their death signal is bound to it. They
        # inherit its signal mask, so that Ctrl-C cannot end one before it has said that it ignores it.
        signal.pthread_sigmask(signal.SIG_BLOCK, FOR_PARENTS)
        try:
            self._fill()
            self._started.set()
            while self._end_by is None:
                for key, _ in self._selector.select(TICK):
                    key.data()
                self._kill_late()
                self._fill()
        except Exception as error:  # whoever waits for a child must learn that there will be none
            log.exception("unforeseen in the crew of %s", self._module)
            self.hopeless, self.why = True, repr(error)
        finally:
            self._started.set()
            self._end()

    def _fill(self) -> None:
        """Start children until the crew is complete, or hopeless."""
        while len(self._children) < self._size and not self.hopeless and time.monotonic() >= self._fill_at:
            try:
                child = Child(next(self._numbers), self._module, self._setup, self._places)
            except OSError as error:
                # No memory, processes or descriptors left. That may pass.
                self._fill_at = time.monotonic() + TICK
                self._count_stillborn(str(error))
                return
            self._selector.register(
                child.connection.fileno(), selectors.EVENT_READ, functools.partial(self._read, child)
            )
            with self._lock:
                self._children[child.number] = child

    def _count_stillborn(self, why: str) -> None:
        self._stillborn += 1
        self.why = why
        self.hopeless = self._stillborn >= MAX_STILLBORN
        log.warning("%s cannot be started%s: %r", self._module, ", given up" if self.hopeless else "", why[-300:])

    def _read(self, child: Child) -> None:
        """Take one message of *child*, or the news of its death."""
        try:
            message = child.connection.recv_bytes(MAX_MESSAGE)
        except (EOFError, OSError):
            self._bury(child)
            return
        if message == READY:
            self._stillborn = 0
            if said := child.be_ready():
                log.warning("%s %d said: %r", self._module, child.number, said)
        else:
            self._tell(self._on_message, child.number, message)

    def _bury(self, child: Child) -> None:
        """Reap a child whose pipe is closed, replace it, then tell."""
        self._selector.unregister(child.connection.fileno())
        with self._lock:
            del self._children[child.number]
        noted = child.slate.read()
        status, said = child.end(time.monotonic())
        if child.is_ready:
            log.warning("%s %d (process %d) ended, status %s", self._module, child.number, child.process.pid, status)
        else:
            self._count_stillborn(said or f"status {status}")
        self._fill()
        self._tell(self._on_death, child.number, noted)

    def _tell(self, callback: Callable[..., None], *args: int | bytes | set[int]) -> None:
        try:
            callback(*args)
        except Exception:  # a defect in a callback must not leave the other children without a parent
            log.exception("unforeseen in what follows a message of %s", self._module)

    def _kill_late(self) -> None:
        """Kill children that take too long to be ready."""
        latest = time.monotonic() - READY_WAIT
        for child in self._children.values():
            if not child.is_ready and child.began < latest:
                child.process.kill()

    def _end(self) -> None:
        """Close all pipes, give the children their time, then kill and reap."""
        end_by = self._end_by or time.monotonic()
        with self._lock:
            children = list(self._children.values())
            self._children.clear()
        for child in children:
            child.hang_up()
        for child in children:
            child.end(end_by)
        self._selector.close()
        os.close(self._wake_read)
        with self._lock:
            self._end_by = end_by
            os.close(self._wake_write)


# ------------------------------------------------------------------ the child's side


def child_main(serve: Callable[[Connection, bytes], None]) -> None:
    """
    Be a child of a crew: to be called at the end of a module that is run.

    Args:
        serve: Called with the pipe and the setup message; when it returns, or the pipe ends (EOFError, or
            a broken pipe), the child ends.
    """
    # The parent decides when to end. Ctrl-C and the closing of a terminal reach all of its processes, and a service
    # manager's SIGTERM all processes of the service: a child that died of one would look like one that crashed.
    for number in FOR_PARENTS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, FOR_PARENTS)
    fd, slate = int(sys.argv[1]), int(sys.argv[2])
    os.set_inheritable(fd, False)
    os.set_inheritable(slate, False)
    with Connection(fd) as connection, contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        _end_with_parent(connection)
        setup = connection.recv_bytes()
        sys.stderr.flush()
        os.dup2(1, 2)
        connection.send_bytes(READY)
        serve(connection, setup)
    # Nothing in memory is needed any more, and to have Python free it, piece by piece, costs as much as some images.
    sys.stderr.flush()
    os._exit(0)


def _end_with_parent(connection: Connection) -> None:
    """Have the kernel kill this process when its parent dies, also where it is busy and would not see the pipe end."""
    if not sys.platform.startswith("linux"):
        return
    import ctypes  # not needed in parents

    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    # The pipe knows who made it: struct ucred begins with the process id. A parent that died before the line above
    # is somebody else by now.
    with socket_of(connection) as pipe:
        credentials = pipe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    if struct.unpack("3i", credentials)[0] != os.getppid():
        raise EOFError("the parent is gone")
