"""
Which 64-bit hashes are within some bits of another: an index that grows on disk, and misses none.

A hash is kept under each of its three chunks of 21 or 22 bits. Two hashes that differ in few bits differ in very few
within some chunk, so only what is under chunks that are as near as that is compared: multi-index hashing, with chunks
as long as the logarithm of some million hashes.
Source: Norouzi, Punjani, Fleet, Fast search in Hamming space with multi-index hashing, CVPR 2012.

Strangers can choose the hashes of their images. So the bits are shuffled first, each time in another order: hashes that
are not near one another cannot crowd under a chunk whose bits nobody knows, nor do those of pictures of one kind.

What is under one chunk is a chain of nodes, the newest first, in files that are mapped and have no name: their pages
are the system's to take back, so that the memory of this process stays as it is. The index is derived: who uses it
fills it at each start.
"""

from __future__ import annotations

import functools
import itertools
import mmap
import os
import random
import tempfile
from array import array
from collections.abc import Iterable
from operator import getitem
from pathlib import Path
from typing import NamedTuple

#: Largest distance that can be asked for: beyond, too many chunks are near.
MAX_DISTANCE = 11
#: Bits of the number of a node that count within its file: files of 16 MiB, nodes of two words.
BITS = 20


class _Chunk(NamedTuple):
    """Some bits of a hash."""

    #: The lowest one, and how many there are.
    shift: int
    width: int
    #: Where its values begin among those of all chunks.
    base: int


_CHUNKS = (_Chunk(0, 22, 0), _Chunk(22, 21, 1 << 22), _Chunk(43, 21, 3 << 21))
_VALUES = 1 << 23


class Likeness:
    """
    The hashes.

    Args:
        folder: Where the files are; nobody else sees them, and they are gone with this process.
        hashes: To begin with.

    Raises:
        OSError: There is no room.
    """

    def __init__(self, folder: Path, hashes: Iterable[int] = ()) -> None:
        self._folder = folder
        self._shuffle = _Shuffle()
        #: The newest node under each value of a chunk, 0 where there is none.
        self._newest = array("I", bytes(4 * _VALUES))
        #: Of each node the hash, and the number of the one before it.
        self._files: list[memoryview] = []
        self._next = 1
        for value in hashes:
            self.add(value)

    def add(self, value: int) -> None:
        """
        Take a hash, which should not be here: it would be compared twice.

        Raises:
            OSError: There is no room; nothing was done.
        """
        if self._next + len(_CHUNKS) > len(self._files) << BITS:
            self._files.append(_map(self._folder, 16 << BITS))
        value = self._shuffle.there(value)
        for shift, width, base in _CHUNKS:
            key = base + (value >> shift & (1 << width) - 1)
            number = self._next
            words, place = self._files[number >> BITS], 2 * (number & (1 << BITS) - 1)
            words[place], words[place + 1] = value, self._newest[key]
            self._newest[key] = number
            self._next += 1

    def find(self, value: int, distance: int) -> list[tuple[int, int]]:
        """
        Return (bits that differ, hash) of all hashes within *distance* bits of *value*, nearest first.

        Args:
            value: A hash, here or not.
            distance: 0 to `MAX_DISTANCE`.
        """
        value = self._shuffle.there(value)
        near: set[int] = set()
        newest, files, mask = self._newest, self._files, (1 << BITS) - 1
        for (shift, width, base), changes in zip(_CHUNKS, _probes(distance), strict=True):
            key = base + (value >> shift & (1 << width) - 1)
            for number in [node for change in changes if (node := newest[key ^ change])]:
                while number:
                    words, place = files[number >> BITS], 2 * (number & mask)
                    other = words[place]
                    if (other ^ value).bit_count() <= distance:
                        near.add(other)
                    number = words[place + 1]  # noqa: PLW2901  (on along the chain)
        return sorted(((other ^ value).bit_count(), self._shuffle.back(other)) for other in near)


class _Shuffle:
    """A change of the order of bits, by chance; it leaves distances as they are."""

    def __init__(self) -> None:
        order = list(range(64))
        random.SystemRandom().shuffle(order)
        self._there = _tables(order)
        self._back = _tables([order.index(bit) for bit in range(64)])

    def there(self, value: int) -> int:
        """Return a hash in the new order."""
        return sum(map(getitem, self._there, value.to_bytes(8, "little")))

    def back(self, value: int) -> int:
        """Return the hash that is *value* in the new order."""
        return sum(map(getitem, self._back, value.to_bytes(8, "little")))


def _tables(order: list[int]) -> list[list[int]]:
    """Return for each byte of a hash, the lowest first, what each of its values becomes; bit n becomes bit order[n]."""
    return [
        [sum(1 << order[first + bit] for bit in range(8) if byte >> bit & 1) for byte in range(256)]
        for first in range(0, 64, 8)
    ]


def _map(folder: Path, size: int) -> memoryview:
    """Return new words on disk; they have their room, so that no write meets a full disk, which would be a signal."""
    with tempfile.TemporaryFile(dir=folder) as file:
        os.posix_fallocate(file.fileno(), 0, size)
        return memoryview(mmap.mmap(file.fileno(), size)).cast("Q")


@functools.cache
def _probes(distance: int) -> list[list[int]]:
    """
    Return for each chunk the changes to it that are tried.

    With distance = 3 q + r, two hashes as near as that differ in at most q bits in one of the chunks 0 to r, or in at
    most q - 1 in one of the others: else they would differ in (r + 1) (q + 1) + (2 - r) q = distance + 1 bits or more.
    """
    most, left = divmod(distance, len(_CHUNKS))
    return [_changes(most if n <= left else most - 1, chunk.width) for n, chunk in enumerate(_CHUNKS)]


def _changes(bits: int, width: int) -> list[int]:
    """Return all changes of up to so many bits of a chunk, none for -1."""
    return [
        sum(1 << bit for bit in chosen)
        for count in range(bits + 1)
        for chosen in itertools.combinations(range(width), count)
    ]
