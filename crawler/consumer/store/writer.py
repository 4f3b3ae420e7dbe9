"""
The open shard of one session: samples are appended to a part, and made durable in groups, by one thread.

    ROOT/.open/00017.part     open: appended to, also what is left of it when its session ended without closing it
    ROOT/.open/00017.sealed   closed by its session, which will not touch it again

One thread writes, so that no two samples mix and a group is whatever came while the disk worked on the last one.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import NamedTuple

from crawler.consumer.store import EXTENSIONS, About
from crawler.consumer.store.directory import sync_folder
from crawler.consumer.store.facts import caption, encode, facts
from crawler.consumer.store.tar import CAPTION, FACTS, header, key_of, member, padding
from crawler.errors import StorageFailed
from crawler.storage import Storage

log = logging.getLogger(__name__)

#: Samples made durable together, at most.
GROUP = 256
#: Seconds between two looks at the age of the open shard.
TICK = 1.0
#: Bytes copied at a time.
CHUNK = 1 << 20
#: Seconds for what is queued to be written in the end.
END_WAIT = 10.0

#: Turns what the system says about storing a file into crawler's errors.
Translate = Callable[[Path], contextlib.AbstractContextManager[None]]


class Item(NamedTuple):
    """An image that waits for its turn."""

    path: Path
    sha256: str
    format: str
    about: About
    future: Future[str]


class _Roll:
    """Stands in the queue where the shard has to change."""


class _Part:
    """The part that is open."""

    def __init__(self, number: int, name: str, path: Path) -> None:
        self.number = number
        #: What the shard will be called.
        self.name = name
        self.path = path
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        self.opened = time.monotonic()
        #: Samples in it.
        self.count = 0
        #: Bytes of whole samples.
        self.size = 0

    def append(self, item: Item, column: str | None) -> str:
        """Append a sample; where that fails, nothing of it is left. Returns the image's path in the store."""
        task = item.about.download.task
        key, name = key_of(task.id), f"{key_of(task.id)}.{EXTENSIONS[item.format]}"
        try:
            with open(item.path, "rb", buffering=0) as image:
                size = os.fstat(image.fileno()).st_size
                found = facts(item.about, item.sha256, size, key)
                text = caption(item.about, column)
                self._write(header(name, size))
                while chunk := image.read(CHUNK):
                    self._write(chunk)
            tail = padding(size) + (b"" if text is None else member(f"{key}.{CAPTION}", text))
            self._write(tail + member(f"{key}.{FACTS}", encode(found)))
        except BaseException:
            os.ftruncate(self._descriptor, self.size)
            os.lseek(self._descriptor, self.size, os.SEEK_SET)
            raise
        self.count += 1
        self.size = os.lseek(self._descriptor, 0, os.SEEK_CUR)
        return f"{self.name}/{name}"

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:  # a write may take a part only, before a disk is full
            view = view[os.write(self._descriptor, view) :]

    def sync(self) -> None:
        """Make what was appended durable."""
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Append nothing more."""
        os.close(self._descriptor)

    def finish(self, end: bytes) -> None:
        """Append *end* and nothing more."""
        self._write(end)
        self.close()


class Writer:
    """
    Append images to shards, one after the other.

    Args:
        folder: Where parts are; made where it does not exist.
        storage: When a shard is full, and what goes into it.
        translated: Turns what the system says into crawler's errors.
        next_number: Returns the number for a new shard. It may wait.
    """

    def __init__(self, folder: Path, storage: Storage, translated: Translate, next_number: Callable[[], int]) -> None:
        self._folder = folder
        self._storage = storage
        self._translated = translated
        self._next_number = next_number
        self._queue: queue.SimpleQueue[Item | _Roll | None] = queue.SimpleQueue()
        self._part: _Part | None = None
        self._failed: StorageFailed | None = None
        self._thread = threading.Thread(target=self._run, name="shards", daemon=True)
        self._thread.start()

    def keep(self, path: Path, sha256: str, format: str, about: About) -> Future[str]:
        """Take an image: see `Store.keep`."""
        future: Future[str] = Future()
        self._queue.put(Item(path, sha256, format, about, future))
        return future

    def roll(self) -> None:
        """Put what comes from now on into another shard."""
        self._queue.put(_Roll())

    def close(self) -> None:
        """Write what was taken, and close the shard. May be called again."""
        self._queue.put(None)
        self._thread.join(END_WAIT)

    # ------------------------------------------------------------ the thread

    def _run(self) -> None:
        is_open = True
        while is_open:
            batch = self._take()
            is_open = None not in batch
            group: list[tuple[Item, str]] = []
            for item in batch:
                if isinstance(item, Item):
                    self._append(item, group)
                elif item is not None:
                    self._end(group)
            self._make_durable(group)
            if self._is_full() or self._is_due():
                self._end(group)
        self._end([])

    def _take(self) -> list[Item | _Roll | None]:
        batch: list[Item | _Roll | None] = []
        with contextlib.suppress(queue.Empty):
            batch.append(self._queue.get(timeout=TICK))
            while len(batch) < GROUP:
                batch.append(self._queue.get_nowait())
        return batch

    def _append(self, item: Item, group: list[tuple[Item, str]]) -> None:
        try:
            if self._failed is not None:
                raise self._failed
            if self._is_full():
                self._end(group)
            with self._translated(item.path):
                part = self._part = self._part or self._open()
                group.append((item, part.append(item, self._storage.caption_column)))
        except Exception as error:  # whatever it is, somebody waits for this one
            item.future.set_exception(error)

    def _is_full(self) -> bool:
        part, storage = self._part, self._storage
        return part is not None and (part.count >= storage.shard_count or part.size >= storage.shard_size)

    def _is_due(self) -> bool:
        """Tell whether the open shard is closed though it is not full."""
        return self._part is not None and time.monotonic() - self._part.opened >= self._storage.shard_age

    def _open(self) -> _Part:
        number = self._next_number()
        while True:
            self._folder.mkdir(exist_ok=True)
            try:
                part = _Part(number, shard_name(number, self._storage), self._folder / f"{number:05}.part")
            except FileNotFoundError:  # the folder was empty a moment ago, and somebody tidied up
                continue
            for folder in (self._folder, self._folder.parent):
                sync_folder(folder)
            return part

    def _make_durable(self, group: list[tuple[Item, str]]) -> None:
        """Make the samples of *group* durable, and say so; it is empty afterwards."""
        if not group or self._part is None:
            return
        try:
            self._part.sync()
        except OSError as error:  # what was lost cannot be told, whatever the reason
            self._failed = StorageFailed(f"cannot make {self._part.path} durable: {error}")
            self._failed.__cause__ = error
            for item, _ in group:
                item.future.set_exception(self._failed)
        else:
            for item, path in group:
                with contextlib.suppress(OSError):  # the sweep of its session's spool will find it
                    os.unlink(item.path)
                item.future.set_result(path)
        group.clear()

    def _end(self, group: list[tuple[Item, str]]) -> None:
        """Close the open shard."""
        self._make_durable(group)
        part, self._part = self._part, None
        if part is None:
            return
        part.close()
        if self._failed is None:
            with contextlib.suppress(OSError):  # it stays as it is, and is published when its session is over
                part.path.rename(part.path.with_suffix(".sealed"))


def shard_name(number: int, storage: Storage) -> str:
    """Return what a shard is called."""
    return f"{number:05}{storage.format.ending}"
