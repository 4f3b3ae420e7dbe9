"""OUT: the folder of one crawl on the coordinator's disk, and who may use it."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import time
from pathlib import Path
from types import TracebackType

from crawler.errors import OutUnusable

#: Seconds within which whoever only looks whether OUT is served has let go of its lock.
GLANCE = 0.5
#: Seconds between two tries to lock it.
LOOK = 0.02


class Out:
    """
    The paths in OUT.

    Args:
        path: The folder; need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.ledger = self.path / "ledger.db"
        self.completions = self.path / "completions.jsonl"
        self.images = self.path / "images"
        self.run = self.path / "run"
        self.address = self.run / "address"
        self._lock_path = self.path / ".lock"

    def is_made(self) -> bool:
        """Tell whether there is a crawl in it."""
        return self.ledger.is_file()

    def served_at(self) -> str | None:
        """Return HOST:PORT of the coordinator that runs on it, None where none does."""
        try:
            with self._lock_path.open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return self.address.read_text().strip() if self.address.exists() else None
        except OSError:
            return None
        return None

    def require(self) -> None:
        """
        Check that there is a crawl in it.

        Raises:
            OutUnusable: There is none.
        """
        if not self.is_made():
            raise OutUnusable(f"{self.path} holds no crawl: name the OUT of a `crawler seed`")

    def hold(self) -> Hold:
        """
        Make the folder and take it for this process.

        Raises:
            OutUnusable: It cannot be made, or another process has it; names that process.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.run.mkdir(mode=0o700, exist_ok=True)
            self.run.chmod(0o700)
            descriptor = os.open(self._lock_path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            where = "choose another folder with -o, or see to it that this user may write here"
            raise OutUnusable(f"{self.path} cannot be used: {error.strerror}; {where}") from error
        try:
            _lock(descriptor)
        except OSError as error:
            holder = os.read(descriptor, 64).decode("ascii", "replace").strip()
            os.close(descriptor)
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise OutUnusable(f"{self.path} cannot be locked: {error.strerror}") from error
            raise OutUnusable(
                f"{self.path} is in use by process {holder or 'unknown'}: wait for it, or add lists to it with "
                f"`crawler seed LIST --to {self.path}`"
            ) from error
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        return Hold(self, descriptor)


def _lock(descriptor: int) -> None:
    """Lock the file; `served_at` of another process has it for an instant only, and is no reason to give up."""
    give_up = time.monotonic() + GLANCE
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > give_up:
                raise
        time.sleep(LOOK)


class Hold:
    """OUT, taken by this process; a context manager."""

    def __init__(self, out: Out, descriptor: int) -> None:
        self._out = out
        self._descriptor = descriptor

    def __enter__(self) -> Out:
        return self._out

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self._out.run, ignore_errors=True)
        os.close(self._descriptor)
