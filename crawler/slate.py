"""
Numbers that a child notes where its parent reads them after its death.

What a child is about to do it could say in a message, but messages are gathered, and one that dies has not sent its
last. A note is in memory that both share: it costs no system call, and it is there whatever becomes of the child.
"""

from __future__ import annotations

import mmap
import os
import struct
import sys
import tempfile

_NUMBER = struct.Struct("@Q")


class Slate:
    """
    Some places, each with a number from 0 to 2^64 - 1, at first 0.

    Args:
        descriptor: Of the memory; it can be closed when this returns.
        places: How many places it has.
    """

    def __init__(self, descriptor: int, places: int) -> None:
        self._memory = mmap.mmap(descriptor, places * _NUMBER.size)

    def note(self, place: int, number: int) -> None:
        """Put *number* at *place*, counted from 0."""
        _NUMBER.pack_into(self._memory, place * _NUMBER.size, number)

    def read(self) -> set[int]:
        """Return the numbers noted, without 0."""
        return {number for (number,) in _NUMBER.iter_unpack(self._memory[:])} - {0}

    def close(self) -> None:
        """Let go of the memory."""
        self._memory.close()


def share(places: int) -> int:
    """Return a descriptor of memory with *places* places, to be inherited and then closed."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("slate")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.truncate(descriptor, places * _NUMBER.size)
    return descriptor


def mine() -> Slate:
    """Return the slate that the parent of this child made, its descriptor and places named after the pipe's."""
    descriptor, places = map(int, sys.argv[2:4])
    slate = Slate(descriptor, places)
    os.close(descriptor)
    return slate
