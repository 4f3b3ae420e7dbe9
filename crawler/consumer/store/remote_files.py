"""
A store at an address with an object for each image, called as files are.

An object is there whole or not at all, and when it is, it stays: so an upload that has ended is durable.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

from crawler.consumer.store import EXTENSIONS, About, Found
from crawler.consumer.store.files import FOLDER, IMAGE
from crawler.consumer.store.named import DIGITS, NAMED, stem
from crawler.consumer.store.remote import Remote, translated
from crawler.errors import FetchError
from crawler.reasons import Reason
from crawler.storage import Naming

#: Uploads at a time: each one waits for answers most of its time.
UPLOADS = 32


class RemoteFileStore(Remote):
    """
    A store at an address with an object for each image.

    Args:
        address: As s3://bucket/prefix; see `create`.
        naming: How objects are called.

    Raises:
        UsageError: The address cannot be used.
    """

    def __init__(self, address: str, naming: Naming) -> None:
        super().__init__(address)
        self._naming = naming
        self._waiting: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []

    def keep(self, path: Path, sha256: str, format: str, about: About) -> Future[str]:
        """Upload an image: see `Store.keep`."""
        future: Future[str] = Future()

        def upload() -> None:
            try:
                future.set_result(self._keep(path, sha256, format, about))
            except Exception as error:  # whatever it is, somebody waits for this one
                future.set_exception(error)

        self._waiting.put(upload)
        if len(self._threads) < UPLOADS:
            # Daemons, as no pool of the standard library has them: an upload that hangs must not keep a program alive.
            self._threads.append(threading.Thread(target=self._upload_all, name="upload", daemon=True))
            self._threads[-1].start()
        return future

    def _upload_all(self) -> None:
        while (upload := self._waiting.get()) is not None:
            upload()

    def _keep(self, path: Path, sha256: str, format: str, about: About) -> str:
        if not path.exists():
            raise FetchError(Reason.INTERNAL, f"cannot store: {path} is gone")
        with translated(self.root):
            name = self._free_name(sha256, EXTENSIONS[format], about)
            self._put_file(name, path)
        with contextlib.suppress(OSError):  # the sweep of its session's spool will find it
            os.unlink(path)
        return name

    def _free_name(self, sha256: str, ending: str, about: About) -> str:
        """Return a name that no other bytes have; see `named.py` for those that come from tasks."""
        if self._naming is Naming.DIGEST:
            return f"{sha256[:2]}/{sha256}.{ending}"
        folder, name = stem(about.download.task, self._naming)
        path = f"{folder}/{name}.{ending}"
        is_taken = self.size(path) is not None and self.digest(path) != sha256
        return f"{folder}/{name}-{sha256[:DIGITS]}.{ending}" if is_taken else path

    def walk(self) -> Iterator[Found]:
        """Yield what this store has made: see `Store.walk`. In memory is one folder of it at a time."""
        folder_is, image_is = (FOLDER, IMAGE) if self._naming is Naming.DIGEST else (None, NAMED)
        for folder, size in self._list(""):
            is_ours = folder_is.fullmatch(folder) if folder_is else not folder.startswith(".")
            if size is None and is_ours:
                yield from self._found(folder, image_is)

    def roll(self) -> None:
        """Do nothing: nothing is open."""

    def close(self) -> None:
        """Upload nothing more: see `Store.close`."""
        for _ in self._threads:
            self._waiting.put(None)
