"""
Samples in tar format: an image, its caption and its facts in a row, as the parts of shards hold them.

A sample is whole where its facts, which come last, are. Headers are plain ustar, so that they can be read one by one.
"""

from __future__ import annotations

import os
import tarfile
import time
from collections.abc import Iterator
from typing import NamedTuple

#: Bytes of a header; contents are filled up to a multiple of it.
BLOCK = 512
#: What comes after the last sample. Source: POSIX.1-1988, ustar: two blocks of zeros.
END = bytes(2 * BLOCK)
#: Ending of the facts.
FACTS = "json"
#: Ending of the caption.
CAPTION = "txt"


class Member(NamedTuple):
    """One file in a tar."""

    name: str
    #: Where its content begins.
    offset: int
    size: int


class Sample(NamedTuple):
    """An image with its facts."""

    #: Number of its task, filled up with zeros.
    key: str
    #: Where its first header begins.
    offset: int
    #: Up to the next sample's.
    size: int
    image: Member
    facts: Member
    caption: Member | None

    @property
    def task_id(self) -> int:
        """Return the number of its task."""
        return int(self.key)


def key_of(task_id: int) -> str:
    """Return the key of a sample: it sorts by task, and no other of the crawl has it."""
    return f"{task_id:09}"


def header(name: str, size: int) -> bytes:
    """Return the header of a member."""
    info = tarfile.TarInfo(name)
    info.size = size
    info.mtime = int(time.time())
    return info.tobuf(tarfile.USTAR_FORMAT)


def padding(size: int) -> bytes:
    """Return what fills a content of *size* up."""
    return bytes(-size % BLOCK)


def member(name: str, content: bytes) -> bytes:
    """Return a whole member."""
    return header(name, len(content)) + content + padding(len(content))


def samples(descriptor: int) -> Iterator[Sample]:
    """
    Yield the whole samples of a tar or of a part of one, in order.

    It ends at the first thing that is none: the end of the file, blocks of zeros, or what a power cut left.
    """
    start = end = 0
    found: list[Member] = []
    for one, after in _members(descriptor):
        key, _, ending = one.name.partition(".")
        if found and found[0].name.partition(".")[0] != key:  # no facts came: left by somebody who was cut off
            start, found = end, []
        found.append(one)
        end = after
        if ending == FACTS:
            if key.isdecimal() and len(found) > 1:
                yield _sample(key, start, end, found)
            start, found = end, []


def _sample(key: str, start: int, end: int, found: list[Member]) -> Sample:
    caption = next((one for one in found if one.name.endswith(f".{CAPTION}")), None)
    return Sample(key, start, end - start, found[0], found[-1], caption)


def _members(descriptor: int) -> Iterator[tuple[Member, int]]:
    """Yield whole members, each with where the next begins."""
    size, position = os.fstat(descriptor).st_size, 0
    while position + BLOCK <= size:
        block = os.pread(descriptor, BLOCK, position)
        if not _is_header(block):
            return
        one = Member(block[:100].rstrip(b"\0").decode("ascii", "replace"), position + BLOCK, int(block[124:135], 8))
        position = one.offset + one.size + -one.size % BLOCK
        if position > size:
            return
        yield one, position


def _is_header(block: bytes) -> bool:
    """Tell whether a block is a header, by its checksum, in which its own field counts as blanks."""
    if len(block) < BLOCK or block[257:262] != b"ustar":
        return False
    try:
        return int(block[148:154], 8) == sum(block) - sum(block[148:156]) + 8 * 0x20 and int(block[124:135], 8) >= 0
    except ValueError:
        return False
