"""Where a worker's downloads go when it cannot write the store: to the coordinator, bytes included."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from pathlib import Path

from crawler.broker import ResultQueue
from crawler.errors import CrawlerError
from crawler.model import Completion, Download, Failure, Part
from crawler.reasons import Reason
from crawler.worker.outbox import unforeseen

log = logging.getLogger(__name__)

#: Bytes of a piece.
PIECE = 1 << 20
#: Seconds after which a download is offered again for which there was no room.
NO_ROOM_PAUSE = 0.5
#: Threads that upload.
THREADS = 4


class Upload:
    """
    A sink that puts downloads on the result queue.

    Args:
        results: The queue.
        session: Whose leases they are.
        handed_over: Called with the token of each download that the coordinator took.
        failed: Called with one that could not be read any more.
        on_error: Called with what made uploading impossible.
    """

    def __init__(
        self,
        results: ResultQueue,
        session: str,
        handed_over: Callable[[list[int]], None],
        failed: Callable[[Completion | Failure], None],
        on_error: Callable[[CrawlerError], None],
    ) -> None:
        self._results = results
        self._session = session
        self._handed_over = handed_over
        self._failed = failed
        self._on_error = on_error
        self._todo: queue.SimpleQueue[Download | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._threads = [threading.Thread(target=self._run, name="upload", daemon=True) for _ in range(THREADS)]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def take(self, download: Download) -> None:
        """Take a download; never blocks."""
        self._todo.put(download)

    def close(self, wait: float) -> None:
        """End within *wait* seconds; what was not taken by the coordinator is dropped."""
        self._closing.set()
        for _ in self._threads:
            self._todo.put(None)
        for thread in self._threads:
            thread.join(wait)

    def _run(self) -> None:
        while (download := self._todo.get()) is not None and not self._closing.is_set():
            try:
                self._upload(download)
            except OSError as error:
                detail = f"the spool cannot be read: {error}"
                token, task = download.token, download.task.id
                self._failed(Failure(token=token, task_id=task, reason=Reason.INTERNAL, detail=detail))
            except Exception as error:  # without this thread the worker would wait for ever
                self._on_error(error if isinstance(error, CrawlerError) else unforeseen(error))
                return

    def _upload(self, download: Download) -> None:
        path = Path(download.path)
        with path.open("rb") as file:
            while not self._closing.is_set():
                data = file.read(PIECE)
                offset = file.tell() - len(data)
                if not self._results.put(self._session, Part(download=download, offset=offset, data=data)):
                    self._closing.wait(NO_ROOM_PAUSE)
                    file.seek(0)
                elif offset + len(data) >= download.size or not data:
                    break
        path.unlink(missing_ok=True)
        self._handed_over([download.token])
