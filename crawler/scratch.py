"""
Folders for temporary files that nobody else may look into, and that go with the process that made them.

    TMPDIR/crawler-XXXXXXXX/.scratch   locked (flock) for as long as that process lives
    TMPDIR/crawler-XXXXXXXX/files/     the folder

What a kill leaves is removed when the next process makes its first folder. Only the lock tells whether an owner lives:
the kernel takes it back however it ended, while a process number may be another's by then, and the folder of a long run
is old. The lock goes last: children outlive a killed parent for a moment, and what they write while its folder is being
removed would otherwise be nobody's for ever.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
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
#: What is in a folder beside it.
FILES = "files"


class Scratch:
    """
    A folder for temporary files, until `close`; a context manager.

    Raises:
        OSError: It cannot be made.
    """

    def __init__(self) -> None:
        _sweep(tempfile.gettempdir())
        self._whole = Path(tempfile.mkdtemp(prefix=PREFIX))
        #: The folder.
        self.path = self._whole / FILES
        try:
            self._lock = _hold(self._whole)
            self.path.mkdir()
        except BaseException:
            shutil.rmtree(self._whole, ignore_errors=True)
            raise

    def close(self) -> None:
        """Remove the folder with all in it; what cannot go now, the next process removes. May be called again."""
        _remove(self._whole)
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


def _remove(whole: Path) -> None:
    shutil.rmtree(whole / FILES, ignore_errors=True)
    if not (whole / FILES).exists():
        shutil.rmtree(whole, ignore_errors=True)


@functools.cache  # shards pass through a folder each: one look in a process is enough
def _sweep(parent: str) -> None:
    """Remove the folders in *parent* whose process is dead."""
    for whole in Path(parent).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError), _taken(whole):
            log.info("removing %s, which a process left that was killed", whole)
            _remove(whole)


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
