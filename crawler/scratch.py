"""
Folders for temporary files that nobody else may look into, and that go with the process that made them.

    TMPDIR/crawler-XXXXXXXX/.scratch   locked (flock) for as long as that process lives

What a kill leaves is removed when the next folder is made, by whichever process. Only the lock tells whether an owner
lives: the kernel takes it back however it ended, while a process number may be another's by then, and the folder of a
long run is old.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

log = logging.getLogger(__name__)

PREFIX = "crawler-"
#: The file that makes a folder one of ours, and is locked.
LOCK = ".scratch"


class Scratch:
    """
    A folder for temporary files, until `close`; a context manager.

    Raises:
        OSError: It cannot be made.
    """

    def __init__(self) -> None:
        _sweep()
        #: The folder.
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX))
        try:
            self._lock = _hold(self.path)
        except BaseException:
            shutil.rmtree(self.path, ignore_errors=True)
            raise

    def close(self) -> None:
        """Remove the folder with all that is in it. May be called again."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> Path:
        return self.path

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _hold(folder: Path) -> int:
    """Put a lock into *folder* and hold it; no sweep sees one that is not held yet. Returns its descriptor."""
    new = folder / f"{LOCK}-new"
    descriptor = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        # Where a file system has no locks, its folders are never swept.
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        new.rename(folder / LOCK)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _sweep() -> None:
    """Remove the folders whose process is dead."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError), _taken(folder):
            log.info("removing %s, which a process left that was killed", folder)
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _taken(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder of this user's; raises OSError where it is none, or its owner lives."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise PermissionError(f"{folder} is not ours")
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)
