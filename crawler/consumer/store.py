"""
Where images end: a store, and the one that is a directory.

    ROOT/ab/ab12….jpg          an image: its name comes from its content's SHA-256 and its sniffed format
    ROOT/.spool/SESSION/       downloads of a session on their way; swept when its leases are over
    ROOT/.spool/SESSION/nonce  shows that this session's machine writes to the same store as the coordinator
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import re
import shutil
import stat
import threading
import uuid
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

from crawler.errors import FetchError, StorageFailed
from crawler.reasons import Reason

log = logging.getLogger(__name__)

#: Ending of a file's name for each format, by Pillow's name of it.
EXTENSIONS = {
    "JPEG": "jpg",
    "PNG": "png",
    "GIF": "gif",
    "WEBP": "webp",
    "AVIF": "avif",
    "BMP": "bmp",
    "TIFF": "tiff",
}
#: Names that are remembered as durable.
REMEMBERED = 10_000
#: Longest nonce that is read, in characters.
MAX_NONCE = 1024
#: What a folder of images is called.
_FOLDER = re.compile(r"[0-9a-f]{2}")
#: What an image is called.
_IMAGE = re.compile(rf"[0-9a-f]{{64}}\.(?:{'|'.join(EXTENSIONS.values())})")
#: What one is called while it is copied from another file system.
_PARTIAL = re.compile(rf"\.{_IMAGE.pattern}\.[0-9a-f]{{32}}")
#: Errors that say: no room now.
_FULL = (errno.ENOSPC, errno.EDQUOT)
#: Errors that say: this process or machine has reached a limit.
_OWN_LIMITS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class Found(NamedTuple):
    """A file of a store."""

    #: Relative to the store's root.
    path: str
    size: int


class Store(Protocol):
    """Keeps images under names that come from their content."""

    #: Absolute path, as text.
    root: str

    def create(self) -> None:
        """Make the store where it does not exist; for the coordinator, who alone knows that it is new."""

    def spool(self, session: str) -> Path:
        """Return the folder for the downloads of *session*, made where it does not exist."""

    def keep(self, path: Path, sha256: str, format: str) -> str:
        """
        Turn a spool file into a durable image. May be called from several threads, and again for the same content.

        Args:
            path: The spool file; gone when this returns, still there when it raises.
            sha256: Of its content, 64 hexadecimal digits.
            format: A key of `EXTENSIONS`.

        Returns:
            The image's path relative to the store. It is durable.

        Raises:
            FetchError: With DISK_FULL where there is no room, INTERNAL where the spool file is gone.
            StorageFailed: The disk failed; what it was told last may be lost.
        """

    def prove(self, session: str, nonce: str) -> None:
        """Write *nonce* where `proof` finds it; raises OSError where the store cannot be written."""

    def proof(self, session: str) -> str | None:
        """Return the nonce that *session* wrote, None where there is none."""

    def sweep(self, session: str) -> None:
        """Remove the downloads of *session*."""

    def spools(self) -> list[str]:
        """Return the sessions that have a spool, sorted."""

    def tidy(self) -> None:
        """Remove what is empty when no session is left."""

    def walk(self) -> Iterator[Found]:
        """Yield every image, and what is left of one that was not finished, by path; no other file."""

    def size(self, path: str) -> int | None:
        """Return the size of the image at *path*, also where somebody put a link to it there; None without one."""

    def digest(self, path: str) -> str:
        """Return the SHA-256 of the image at *path*; raises OSError where it cannot be read."""

    def remove(self, path: str) -> None:
        """Remove what `walk` found at *path*; raises OSError where that is not possible."""


class DirectoryStore:
    """
    A store that is a directory; of several machines' where its file system is.

    Args:
        root: The directory; see `create`.
    """

    def __init__(self, root: Path) -> None:
        #: Absolute path, as text.
        self.root = str(root.absolute())
        self._spool = Path(self.root, ".spool")
        self._lock = threading.Lock()
        #: Folders whose own names are durable.
        self._folders: set[str] = set()
        #: Images that are durable, last used last.
        self._durable: OrderedDict[str, None] = OrderedDict()

    def create(self) -> None:
        """Make the directory, and those above it, durably; raises OSError where that is not possible."""
        root = Path(self.root)
        missing = [folder for folder in (root, *root.parents) if not folder.exists()]
        for folder in reversed(missing):
            folder.mkdir(exist_ok=True)
            _sync(folder.parent)

    def spool(self, session: str) -> Path:
        """Return the folder for the downloads of *session*; only this user may look inside."""
        folder = self._folder_of(session)
        for made in (self._spool, folder):
            made.mkdir(mode=0o700, exist_ok=True)
        return folder

    def keep(self, path: Path, sha256: str, format: str) -> str:
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
                _sync(path)
                self._ensure_folder(folder)
                _move(path, target)
                self._sync_entry(folder, relative)
        return relative

    def prove(self, session: str, nonce: str) -> None:
        """Write *nonce* into the spool of *session*, durably and at once."""
        folder = self.spool(session)
        partial = folder / "nonce.partial"
        partial.write_text(nonce, encoding="utf-8")
        _sync(partial)
        partial.replace(folder / "nonce")
        for changed in (folder, self._spool, Path(self.root)):
            _sync(changed)

    def proof(self, session: str) -> str | None:
        """Return the nonce that *session* wrote, None where there is none that can be read."""
        try:
            with (self._folder_of(session) / "nonce").open(encoding="utf-8") as file:
                return file.read(MAX_NONCE)
        except (OSError, UnicodeDecodeError):
            return None

    def sweep(self, session: str) -> None:
        """Remove the spool of *session*; what cannot be removed is left, and said."""
        try:
            shutil.rmtree(self._folder_of(session))
        except FileNotFoundError:
            pass
        except OSError as error:
            log.warning("cannot remove the spool of session %s: %s", session, error)

    def spools(self) -> list[str]:
        """Return the sessions that have a spool, sorted."""
        try:
            return sorted(entry.name for entry in os.scandir(self._spool) if entry.is_dir(follow_symlinks=False))
        except FileNotFoundError:
            return []

    def tidy(self) -> None:
        """Remove the folder of spools where it is empty."""
        with contextlib.suppress(OSError):
            self._spool.rmdir()

    def walk(self) -> Iterator[Found]:
        """Yield what this store has made: see `Store.walk`. In memory is one folder of it at a time."""
        for folder in _names(self.root):
            if _FOLDER.fullmatch(folder):
                yield from self._walk(folder)

    def _walk(self, folder: str) -> Iterator[Found]:
        for name in _names(f"{self.root}/{folder}"):
            if (_IMAGE.fullmatch(name) or _PARTIAL.fullmatch(name)) and name.lstrip(".").startswith(folder):
                found = _regular(f"{self.root}/{folder}/{name}", links=False)
                if found is not None:
                    yield Found(f"{folder}/{name}", found.st_size)

    def size(self, path: str) -> int | None:
        """Return the size of an image, None where there is none: see `Store.size`."""
        found = _regular(f"{self.root}/{path}", links=True)
        return None if found is None else found.st_size

    def digest(self, path: str) -> str:
        """Return the SHA-256 of an image: see `Store.digest`."""
        with open(f"{self.root}/{path}", "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def remove(self, path: str) -> None:
        """Remove a file: see `Store.remove`. Its folder stays: others may be about to put something there."""
        os.unlink(f"{self.root}/{path}")

    def _folder_of(self, session: str) -> Path:
        # Sessions come over the wire: none may name another folder.
        if not (session.isascii() and session.isalnum()):
            raise ValueError(f"{session[:80]!r} is no session")
        return self._spool / session

    def _ensure_durable(self, folder: str, relative: str) -> None:
        """Make an image durable that is there, perhaps from somebody who died before he had done so."""
        with self._lock:
            if relative in self._durable:
                self._durable.move_to_end(relative)
                return
        _sync(f"{self.root}/{relative}")
        self._ensure_folder(folder)
        self._sync_entry(folder, relative)

    def _ensure_folder(self, folder: str) -> None:
        """Make *folder* with a durable name. Somebody else may have made it a moment ago and not be that far."""
        with self._lock:
            if folder in self._folders:
                return
        Path(self.root, folder).mkdir(exist_ok=True)
        _sync_folder(self.root)
        with self._lock:
            self._folders.add(folder)

    def _sync_entry(self, folder: str, relative: str) -> None:
        """Make an image's name durable, and remember it as such."""
        _sync_folder(f"{self.root}/{folder}")
        with self._lock:
            self._durable[relative] = None
            while len(self._durable) > REMEMBERED:
                self._durable.popitem(last=False)

    @contextlib.contextmanager
    def _translated(self, path: Path) -> Iterator[None]:
        """Turn what the system says about storing *path* into crawler's errors: the only place that does."""
        try:
            yield
        except OSError as error:
            # 1. No room: may pass.
            if error.errno in _FULL:
                raise FetchError(Reason.DISK_FULL, str(error)) from error
            # 2. The download was swept under our hands, or this process has reached a limit; the store itself is well.
            is_swept = isinstance(error, FileNotFoundError) and os.path.isdir(self.root) and not path.exists()
            if is_swept or error.errno in _OWN_LIMITS:
                raise FetchError(Reason.INTERNAL, f"cannot store: {error}") from error
            # 3. The store is gone or failed. Asking again would not tell what was lost.
            raise StorageFailed(f"cannot store in {self.root}: {error}") from error


def _names(folder: str) -> list[str]:
    """Return the names in *folder*, sorted; none where it is no folder."""
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _is_kept(target: str, size: int) -> bool:
    """Tell whether *target* is there, whole. Its content was durable before it got its name."""
    found = _regular(target, links=False)
    return found is not None and found.st_size == size


def _regular(path: str, *, links: bool) -> os.stat_result | None:
    """Return the facts about a file, *links* to it followed if that is said; None where there is none."""
    try:
        found = os.stat(path, follow_symlinks=links)
    except FileNotFoundError:
        return None
    return found if stat.S_ISREG(found.st_mode) else None


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
            _sync(partial)
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
        path.unlink()


def _sync_folder(path: str) -> None:
    """Make the names in *path* durable."""
    try:
        _sync(path)
    except OSError as error:
        # Names that were changed cannot be given up, as a file can: whatever the reason, the disk failed.
        raise StorageFailed(f"cannot make {path} durable: {error}") from error


def _sync(path: Path | str) -> None:
    """Make the content of a file, or the names in a folder, durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
