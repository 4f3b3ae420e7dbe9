"""The bytes of a list that is read line by line: each is counted and digested once, when it is used."""

from __future__ import annotations

import hashlib
from collections import deque
from typing import BinaryIO, NamedTuple

from crawler.errors import ListUnreadable, UsageError
from crawler.model import ListState
from crawler.producer.entries import MAX_LINE


class Mark(NamedTuple):
    """How far a list has been read."""

    #: Bytes, or rows where a list has no bytes that could be counted.
    offset: int
    #: SHA-256 of what was read, 64 hexadecimal digits.
    digest: str
    #: All that there is of `offset`, None where that is not known.
    total: int | None


class Stream:
    """
    An open list.

    Args:
        file: Open at its beginning; not compressed, or no longer.
        path: How it is named to the user.
        seed: What the digest begins with.
        total: Bytes of the file in all, None where that is not known.
    """

    def __init__(self, file: BinaryIO, path: str, seed: bytes, total: int | None) -> None:
        self._file = file
        self._path = path
        self._digest = hashlib.sha256(seed)
        self._offset = 0
        self._total = total
        #: Lines that were read and not used.
        self._pending: deque[bytes] = deque()

    def mark(self) -> Mark:
        """Return how far the list has been used."""
        return Mark(self._offset, self._digest.copy().hexdigest(), self._total)

    @property
    def is_unused(self) -> bool:
        """Tell whether nothing of the list has been used."""
        return self._offset == 0

    def read(self, limit: int) -> bytes:
        """Return the next line with its end, or the next *limit* bytes of it; empty at the end. It is not used yet."""
        if self._pending:
            return self._pending.popleft()
        return self._read(limit, is_line=True)

    def use(self, piece: bytes) -> None:
        """Count and digest what was read, in the order in which it was."""
        self._digest.update(piece)
        self._offset += len(piece)

    def put_back(self, pieces: list[bytes]) -> None:
        """Have pieces read again, which were read last and not used."""
        self._pending.extendleft(reversed(pieces))

    def line(self, limit: int = MAX_LINE) -> bytes:
        """Use the next line and return it; of one of *limit* bytes or more the beginning, the rest is passed over."""
        line = self.read(limit)
        self.use(line)
        self.finish(line, limit)
        return line

    def finish(self, piece: bytes, limit: int) -> None:
        """Pass over the rest of the line that *piece* begins, where it was cut at *limit*."""
        while len(piece) == limit and not piece.endswith(b"\n"):
            piece = self.read(limit)
            self.use(piece)

    def pass_over(self, state: ListState) -> None:
        """
        Pass over what was read before.

        Raises:
            ListUnreadable: It cannot be read.
            UsageError: It is not the same, or its last line has grown.
        """
        tail = b""
        while self._offset < state.offset:
            data = self._read(min(1 << 20, state.offset - self._offset), is_line=False)
            if not data:
                break
            self.use(data)
            tail = data[-1:]
        if self._offset != state.offset or self._digest.hexdigest() != state.digest:
            raise other_list(self._path, f"its first {state.offset} bytes differ")
        if tail and tail != b"\n":
            self._check_torn(state.next_line - 1)

    def _check_torn(self, number: int) -> None:
        """Refuse a list whose last line, read before without its end, has grown."""
        rest = self._read(MAX_LINE, is_line=True)
        self.use(rest)
        if rest.strip(b"\r\n"):
            raise UsageError(
                f"{self._path}: line {number} was read before as the last one, without a line end, and has "
                "grown since: choose another OUT with -o"
            )

    def _read(self, size: int, is_line: bool) -> bytes:
        try:
            return self._file.readline(size) if is_line else self._file.read(size)
        except Exception as error:  # whatever a decompressor or a library for another's storage raises
            if isinstance(error, ListUnreadable):
                raise
            raise cannot_read(self._path, f"after {self._offset:,} bytes", error) from error


def other_list(path: str, why: str) -> UsageError:
    """Return the error for a list that is not the one that was read before."""
    return UsageError(
        f"{path} is not the list that was read before, or its columns or rows are chosen in another way ({why}): "
        "choose another OUT with -o, or bring the list and the options back"
    )


def cannot_read(path: str, where: str, error: Exception) -> ListUnreadable:
    """Return the error for a list that breaks off."""
    said = str(error) or type(error).__name__
    return ListUnreadable(f"{path} cannot be read on {where}: {said}")
