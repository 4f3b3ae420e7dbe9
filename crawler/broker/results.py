"""The result queue at the coordinator: downloads that come in pieces, bounded in bytes, on disk."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from crawler.broker.local import LocalTaskQueue
from crawler.errors import WireError
from crawler.model import Download, Part

log = logging.getLogger(__name__)

#: Bytes that may be on the way and waiting.
MAX_BYTES = 1 << 30
#: Largest piece.
MAX_PIECE = 1 << 20
#: Seconds without a piece after which an upload is dropped.
SILENCE = 120.0


class _Incoming:
    """A download of which pieces have come."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self.size = size
        self.have = 0
        self.digest = hashlib.sha256()
        self.heard = time.monotonic()
        self.lock = threading.Lock()
        self.file = path.open("wb", buffering=0)  # so that a full disk shows at the write

    def add(self, data: bytes) -> None:
        """Append a piece."""
        if self.file.write(data) != len(data):
            raise OSError(errno.ENOSPC, "a piece did not fit")
        self.digest.update(data)
        self.have += len(data)
        self.heard = time.monotonic()


class LocalResultQueue:
    """
    The verbs of `ResultQueue`.

    Args:
        tasks: The queue whose leases move with the downloads.
        spool: Returns the folder for the bytes; called when the first piece comes.
        take: The coordinator's consumer; it calls `done` for each download that it was given.
        limit: Bytes that may be on the way and waiting.
    """

    def __init__(
        self,
        tasks: LocalTaskQueue,
        spool: Callable[[], Path],
        take: Callable[[Download], None],
        limit: int = MAX_BYTES,
    ) -> None:
        self._tasks = tasks
        self._spool = spool
        self._take = take
        self._limit = limit
        self._lock = threading.Lock()
        self._incoming: dict[int, _Incoming] = {}
        #: Bytes reserved, by token.
        self._reserved: dict[int, int] = {}

    def put(self, session: str, part: Part) -> bool:
        """Take a piece: see ResultQueue."""
        download, size = part.download, len(part.data)
        if size > MAX_PIECE or part.offset < 0 or part.offset + size > download.size:
            raise WireError(f"a piece of {size} bytes at {part.offset} does not fit a download of {download.size}")
        # Of somebody else's lease, or of one that is over, nothing is wanted; the consumer's own count as taken.
        if not self._tasks.is_held(session, download.token):
            return True
        try:
            incoming = self._begin(download) if part.offset == 0 else self._incoming.get(download.token)
            return incoming is not None and self._add(session, part, incoming)
        except OSError as error:
            self._tasks.local_fault(f"the spool cannot be written: {error.strerror}")
            self._drop([download.token])
            return False

    def _add(self, session: str, part: Part, incoming: _Incoming) -> bool:
        token = part.download.token
        with incoming.lock:  # a call may come again while the first one is still at it
            if part.offset > incoming.have:
                return False
            if self._incoming.get(token) is not incoming:
                return True
            if part.offset == incoming.have:
                incoming.add(part.data)
            if incoming.have == incoming.size:
                self._finish(session, part.download, incoming)
        return True

    def done(self, token: int) -> None:
        """Free the room of a download that the consumer has dealt with."""
        with self._lock:
            self._reserved.pop(token, None)

    def _begin(self, download: Download) -> _Incoming | None:
        """Reserve room, and open a file; a beginning that comes again begins again."""
        self._drop_silent()
        with self._lock:
            old = self._incoming.pop(download.token, None)
            self._reserved.pop(download.token, None)
            # One download always fits, however small the limit.
            if self._reserved and sum(self._reserved.values()) + download.size > self._limit:
                return None
            self._reserved[download.token] = download.size
        if old:
            old.file.close()
        incoming = _Incoming(self._spool() / f"{download.token:x}", download.size)
        with self._lock:
            self._incoming[download.token] = incoming
        return incoming

    def _finish(self, session: str, download: Download, incoming: _Incoming) -> None:
        incoming.file.close()
        with self._lock:
            self._incoming.pop(download.token, None)
        whole = incoming.digest.hexdigest() == download.sha256
        if whole and self._tasks.transfer(session, download.token):
            self._take(msgspec.structs.replace(download, path=str(incoming.path)))
            return
        if not whole:
            log.warning("task %d arrived damaged and is fetched again", download.task.id)
            self._tasks.release(session, [download.token], lost=False)
        incoming.path.unlink(missing_ok=True)
        self.done(download.token)

    def _drop_silent(self) -> None:
        before = time.monotonic() - SILENCE
        with self._lock:
            silent = [token for token, incoming in self._incoming.items() if incoming.heard < before]
        self._drop(silent)

    def _drop(self, tokens: list[int]) -> None:
        """Forget downloads that did not come to their end."""
        with self._lock:
            gone = [self._incoming.pop(token) for token in tokens if token in self._incoming]
            for token in tokens:
                self._reserved.pop(token, None)
        for incoming in gone:
            with contextlib.suppress(OSError):  # what is still in its buffer may have no room either
                incoming.file.close()
            incoming.path.unlink(missing_ok=True)
