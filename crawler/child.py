"""
One child process and its pipe, as its parent sees them; `crawler.processes` keeps some of them as a crew.

Every wait on a pipe has a limit: a child that stops reading, or stops in the middle of a message, is killed.
"""

from __future__ import annotations

import contextlib
import os
import site
import socket
import struct
import subprocess
import sys
import threading
import time
from multiprocessing.connection import Connection, Pipe
from multiprocessing.reduction import sendfds
from pathlib import Path

from crawler.slate import Slate, share

#: Seconds that a child may leave a message to it unread, or one of its own half sent, before it is killed.
PIPE_WAIT = 10.0
#: Seconds to wait for the kernel to end a killed process.
REAP_WAIT = 5.0
#: Bytes kept of what a child said before it was ready.
TAIL_SIZE = 2000


class Child:
    """
    One process and the parent's end of its pipe.

    Args:
        number: Its number in the crew.
        module: What it runs.
        setup: First message to it.
        places: Places of its slate.

    Raises:
        OSError: It cannot be started.
    """

    def __init__(self, number: int, module: str, setup: bytes, places: int) -> None:
        self.number = number
        self.began = time.monotonic()
        self.is_ready = False
        self._lock = threading.Lock()
        self._is_open = True
        with contextlib.ExitStack() as undo:
            self.connection, theirs = Pipe()
            undo.callback(self.connection.close)
            shared = share(places)
            undo.callback(os.close, shared)
            self.slate = Slate(shared, places)
            undo.callback(self.slate.close)
            with theirs:
                _limit_waits(self.connection)
                reading, writing = os.pipe()
                with open(writing, "wb") as errors:
                    self._said = undo.enter_context(open(reading, "rb", buffering=0))
                    os.set_blocking(reading, False)
                    self.process = subprocess.Popen(
                        [sys.executable, "-P", "-m", module, *map(str, (theirs.fileno(), shared, places))],
                        stdin=subprocess.DEVNULL,
                        # Where standard error goes once it is ready; until then it is kept, to say why it is not.
                        stdout=_standard_error(),
                        stderr=errors,
                        env=_environment(),
                        pass_fds=(theirs.fileno(), shared),
                    )
            undo.pop_all()
            os.close(shared)
        # Where it is dead already, its closed pipe says so.
        self.send(setup)

    def send(self, message: bytes, *fds: int) -> bool:
        """Send, or return False; a child that does not read, or that read half a message, is of no use: kill it."""
        # The one lock held across I/O: two threads must not mix their messages, and `PIPE_WAIT` bounds it.
        with self._lock:
            if not self._is_open:
                return False
            try:
                self.connection.send_bytes(message)
                if fds:
                    with socket_of(self.connection) as pipe:
                        sendfds(pipe, list(fds))
            except OSError:
                self.process.kill()
                return False
            return True

    def be_ready(self) -> str:
        """Note that it is ready, and return what it said until then; from now on its standard error is the parent's."""
        self.is_ready = True
        return self._take_said()

    def hang_up(self) -> None:
        """Close the pipe for both sides; a send in progress fails."""
        with contextlib.suppress(OSError), socket_of(self.connection) as pipe:
            pipe.shutdown(socket.SHUT_RDWR)

    def end(self, end_by: float) -> tuple[int | None, str]:
        """
        Wait for its end until *end_by* (monotonic), then kill; free everything.

        Returns:
            Exit status, None where even a kill does not end it; and what it said last before it was ready.
        """
        self.hang_up()
        try:
            self.process.wait(max(0.0, end_by - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(REAP_WAIT)
        with self._lock:
            self._is_open = False
            self.connection.close()
        self.slate.close()
        return self.process.returncode, self._take_said()

    def _take_said(self) -> str:
        """Return the last of what it said before it was ready, once; do not wait for more."""
        if self._said.closed:
            return ""
        with self._said as said:
            tail = said.read(1 << 20) or b""
        return tail[-TAIL_SIZE:].decode(errors="replace").strip()


def _limit_waits(connection: Connection) -> None:
    """Let no read or write on the pipe take longer than `PIPE_WAIT`; it fails with BlockingIOError then."""
    seconds, rest = divmod(PIPE_WAIT, 1)
    limit = struct.pack("@ll", int(seconds), int(rest * 1_000_000))
    with socket_of(connection) as pipe:
        pipe.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        pipe.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)


def socket_of(connection: Connection) -> socket.socket:
    """Return the socket under the pipe, as a duplicate to be closed."""
    return socket.fromfd(connection.fileno(), socket.AF_UNIX, socket.SOCK_STREAM)


def _standard_error() -> int:
    """Return the descriptor of standard error, or of nothing where that is closed."""
    try:
        os.fstat(2)
    except OSError:
        return subprocess.DEVNULL
    return 2


def _environment() -> dict[str, str]:
    """Return this process's environment, with crawler's own folder on the import path where it is not installed."""
    root = Path(__file__).resolve().parent.parent
    environment = dict(os.environ)
    if root not in (Path(folder).resolve() for folder in (*site.getsitepackages(), site.getusersitepackages())):
        paths = (environment.get("PYTHONPATH"), str(root))
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    return environment
