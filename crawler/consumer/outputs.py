"""Files in memory into which verifiers write the images they made, until these are copied to where downloads are."""

from __future__ import annotations

import hashlib
import os

import msgspec

from crawler.errors import FULL, FetchError
from crawler.model import Download
from crawler.reasons import Reason

#: Bytes copied at a time.
CHUNK = 1 << 20


class Outputs:
    """
    One file for each job that is at a verifier, by the job's number; may be used by several threads.

    Args:
        are_wanted: Whether verifiers make images; where not, nothing is ever opened.
    """

    def __init__(self, are_wanted: bool) -> None:
        self._are_wanted = are_wanted
        self._files: dict[int, int] = {}

    def open(self, number: int) -> tuple[int, ...]:
        """Return the descriptor of a new, empty file for a job, in place of one it had; none where none is wanted."""
        if not self._are_wanted:
            return ()
        self.drop(number)
        self._files[number] = os.memfd_create("image", os.MFD_CLOEXEC)
        return (self._files[number],)

    def take(self, number: int, download: Download) -> Download:
        """
        Put what the verifier made into the spool file, in place of what was downloaded.

        The bytes are copied, and the digest is that of the copy: a verifier may have its descriptor still.

        Returns:
            The download as it is now; *download* itself where nothing was to be made.

        Raises:
            FetchError: With DISK_FULL where there is no room, LOCAL_FAULT where the disk fails otherwise, INTERNAL
                where the verifier made nothing.
        """
        if not self._are_wanted:
            return download
        size, digest = 0, hashlib.sha256()
        try:
            with open(download.path, "wb") as spool:
                while data := os.pread(self._files[number], CHUNK, size):
                    spool.write(data)
                    size += len(data)
                    digest.update(data)
        except OSError as error:
            reason = Reason.DISK_FULL if error.errno in FULL else Reason.LOCAL_FAULT
            raise FetchError(reason, f"cannot write {download.path}: {error.strerror}") from error
        finally:
            self.drop(number)
        if not size:
            raise FetchError(Reason.INTERNAL, "the verifier wrote nothing")
        return msgspec.structs.replace(download, size=size, sha256=digest.hexdigest())

    def drop(self, number: int) -> None:
        """Forget the file of a job; one that has none is passed over."""
        file = self._files.pop(number, None)
        if file is not None:
            os.close(file)

    def close(self) -> None:
        """Forget all."""
        for number in list(self._files):
            self.drop(number)
