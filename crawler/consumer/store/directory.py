"""
What every store in a directory has: spools, the nonce, and what it takes to make things durable.

    ROOT/.spool/SESSION/       downloads of a session on their way; swept when its leases are over
    ROOT/.spool/SESSION/nonce  shows that this session's machine writes to the same store as the coordinator
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from crawler.errors import FULL, FetchError, StorageFailed
from crawler.reasons import Reason

log = logging.getLogger(__name__)

#: Longest nonce that is read, in characters.
MAX_NONCE = 1024
#: Errors that say: this process or machine has reached a limit.
_OWN_LIMITS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class Directory:
    """
    A directory in which a store is; several machines' where its file system is.

    Args:
        root: The directory; see `create`.
    """

    def __init__(self, root: Path) -> None:
        #: Absolute path, as text.
        self.root = str(root.absolute())
        self._spool = Path(self.root, ".spool")

    def create(self) -> None:
        """Make the directory, and those above it, durably; raises OSError where that is not possible."""
        root = Path(self.root)
        missing = [folder for folder in (root, *root.parents) if not folder.exists()]
        for folder in reversed(missing):
            folder.mkdir(exist_ok=True)
            sync(folder.parent)

    def claim(self, crawl: str) -> bool:
        """
        Let nobody but *crawl* keep images here whose names count its tasks.

        Returns:
            False where another crawl has done so.
        """
        mark, mine = Path(self.root, ".crawl"), Path(self.root, f".crawl.{crawl}")
        mine.write_text(crawl, encoding="ascii")
        sync(mine)
        with contextlib.suppress(FileExistsError):
            os.link(mine, mark)
        mine.unlink()
        sync(self.root)
        return mark.read_text(encoding="ascii") == crawl

    def spool(self, session: str) -> Path:
        """Return the folder for the downloads of *session*; only this user may look inside."""
        folder = self._folder_of(session)
        for made in (self._spool, folder):
            made.mkdir(mode=0o700, exist_ok=True)
        return folder

    def prove(self, session: str, nonce: str) -> None:
        """Write *nonce* into the spool of *session*, durably and at once."""
        folder = self.spool(session)
        partial = folder / "nonce.partial"
        partial.write_text(nonce, encoding="utf-8")
        sync(partial)
        partial.replace(folder / "nonce")
        for changed in (folder, self._spool, Path(self.root)):
            sync(changed)

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

    def _folder_of(self, session: str) -> Path:
        # Sessions come over the wire: none may name another folder.
        if not (session.isascii() and session.isalnum()):
            raise ValueError(f"{session[:80]!r} is no session")
        return self._spool / session

    @contextlib.contextmanager
    def _translated(self, path: Path) -> Iterator[None]:
        """Turn what the system says about storing *path* into crawler's errors: the only place that does."""
        try:
            yield
        except OSError as error:
            # 1. No room: may pass.
            if error.errno in FULL:
                raise FetchError(Reason.DISK_FULL, str(error)) from error
            # 2. The download was swept under our hands, or this process has reached a limit; the store itself is well.
            is_swept = isinstance(error, FileNotFoundError) and os.path.isdir(self.root) and not path.exists()
            if is_swept or error.errno in _OWN_LIMITS:
                raise FetchError(Reason.INTERNAL, f"cannot store: {error}") from error
            # 3. The store is gone or failed. Asking again would not tell what was lost.
            raise StorageFailed(f"cannot store in {self.root}: {error}") from error


def names(folder: str | Path) -> list[str]:
    """Return the names in *folder*, sorted; none where it is no folder."""
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []


def regular(path: str | Path, *, links: bool) -> os.stat_result | None:
    """Return the facts about a file, *links* to it followed if that is said; None where there is none."""
    try:
        found = os.stat(path, follow_symlinks=links)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found if stat.S_ISREG(found.st_mode) else None


def sync_folder(path: str | Path) -> None:
    """Make the names in *path* durable."""
    try:
        sync(path)
    except OSError as error:
        # Names that were changed cannot be given up, as a file can: whatever the reason, the disk failed.
        raise StorageFailed(f"cannot make {path} durable: {error}") from error


def sync(path: Path | str) -> None:
    """Make the content of a file, or the names in a folder, durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
