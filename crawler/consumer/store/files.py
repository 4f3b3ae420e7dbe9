"""
A store with a file for each image.

    ROOT/ab/ab12….jpg          an image: its name comes from its content's SHA-256 and its sniffed format
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import threading
import uuid
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

from crawler.consumer.store import EXTENSIONS, About, Found
from crawler.consumer.store.directory import Directory, names, regular, sync, sync_folder

#: Names that are remembered as durable.
REMEMBERED = 10_000
#: What a folder of images is called.
FOLDER = re.compile(r"[0-9a-f]{2}")
#: What an image is called.
IMAGE = re.compile(rf"[0-9a-f]{{64}}\.(?:{'|'.join(EXTENSIONS.values())})")
#: What one is called while it is copied from another file system.
_PARTIAL = re.compile(rf"\.{IMAGE.pattern}\.[0-9a-f]{{32}}")


class FileStore(Directory):
    """
    A store with a file for each image.

    Args:
        root: The directory; see `create`.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._lock = threading.Lock()
        #: Folders whose own names are durable.
        self._folders: set[str] = set()
        #: Images that are durable, last used last.
        self._durable: OrderedDict[str, None] = OrderedDict()

    def keep(self, path: Path, sha256: str, format: str, about: About | None = None) -> str:
        """Turn a spool file into a durable image: see `Store.keep`."""
        # Names are text here: this runs for every image, and paths as objects would cost as much as its system calls.
        folder = sha256[:2]
        relative = f"{folder}/{sha256}.{EXTENSIONS[format]}"
        target = f"{self.root}/{relative}"
        with self._translated(path):
            if _is_kept(target, os.stat(path).st_size):
                self._ensure_durable(folder, relative)
                os.unlink(path)
            else:
                sync(path)
                self._ensure_folder(folder)
                _move(path, target)
                self._sync_entry(folder, relative)
        return relative

    def walk(self) -> Iterator[Found]:
        """Yield what this store has made: see `Store.walk`. In memory is one folder of it at a time."""
        for folder in names(self.root):
            if FOLDER.fullmatch(folder):
                yield from self._walk(folder)

    def roll(self) -> None:
        """Do nothing: no file is open."""

    def close(self) -> None:
        """Do nothing: no file is open."""

    def _walk(self, folder: str) -> Iterator[Found]:
        for name in names(f"{self.root}/{folder}"):
            if (IMAGE.fullmatch(name) or _PARTIAL.fullmatch(name)) and name.lstrip(".").startswith(folder):
                found = regular(f"{self.root}/{folder}/{name}", links=False)
                if found is not None:
                    yield Found(f"{folder}/{name}", found.st_size)

    def size(self, path: str) -> int | None:
        """Return the size of an image, None where there is none: see `Store.size`."""
        found = regular(f"{self.root}/{path}", links=True)
        return None if found is None else found.st_size

    def digest(self, path: str) -> str:
        """Return the SHA-256 of an image: see `Store.digest`."""
        with open(f"{self.root}/{path}", "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def remove(self, paths: list[str]) -> None:
        """Remove files: see `Store.remove`. Their folder stays: others may be about to put something there."""
        for path in paths:
            os.unlink(f"{self.root}/{path}")

    def _ensure_durable(self, folder: str, relative: str) -> None:
        """Make an image durable that is there, perhaps from somebody who died before he had done so."""
        with self._lock:
            if relative in self._durable:
                self._durable.move_to_end(relative)
                return
        sync(f"{self.root}/{relative}")
        self._ensure_folder(folder)
        self._sync_entry(folder, relative)

    def _ensure_folder(self, folder: str) -> None:
        """Make *folder* with a durable name. Somebody else may have made it a moment ago and not be that far."""
        with self._lock:
            if folder in self._folders:
                return
        Path(self.root, folder).mkdir(exist_ok=True)
        sync_folder(self.root)
        with self._lock:
            self._folders.add(folder)

    def _sync_entry(self, folder: str, relative: str) -> None:
        """Make an image's name durable, and remember it as such."""
        sync_folder(f"{self.root}/{folder}")
        with self._lock:
            self._durable[relative] = None
            while len(self._durable) > REMEMBERED:
                self._durable.popitem(last=False)


def _is_kept(target: str, size: int) -> bool:
    """Tell whether *target* is there, whole. Its content was durable before it got its name."""
    found = regular(target, links=False)
    return found is not None and found.st_size == size


def _move(path: Path, target: str) -> None:
    """Give a durable file its final name, also from another file system."""
    try:
        os.replace(path, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        folder, name = os.path.split(target)
        partial = Path(folder, f".{name}.{uuid.uuid4().hex}")
        try:
            shutil.copyfile(path, partial)
            sync(partial)
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
        path.unlink()
