"""
Check the pixels of a PNG without making them.

What can be wrong with them is what their compressed data, their number and the filter of each row say; undoing the
filters cannot fail, and takes more than half of a full decode.
Source: PNG, third edition, 4.6 to 4.9, 7.2, 9.2 and 11.2.1.
"""

from __future__ import annotations

import itertools
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from crawler.errors import ImageRefused
from crawler.reasons import Reason

#: Samples of a pixel by colour type, and the bit depths that go with it.
SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
DEPTHS = {0: {1, 2, 4, 8, 16}, 2: {8, 16}, 3: {1, 2, 4, 8}, 4: {8, 16}, 6: {8, 16}}
#: Bytes of the signature and the first chunk, whose name, dimensions and method stand at 12.
HEAD_SIZE = 33
#: Bytes that are inflated at a time.
PIECE = 256 * 1024
#: Largest number of a filter.
MAX_FILTER = 4


class Layout(NamedTuple):
    """How the pixels of an image that is not interlaced lie in its data."""

    #: Bytes of a row, its filter included.
    stride: int
    rows: int


def read_layout(file: BinaryIO) -> Layout | None:
    """Return how the pixels lie; None where that is not simple: interlaced, or against the rules."""
    file.seek(0)
    head = file.read(HEAD_SIZE)
    if len(head) < HEAD_SIZE or head[8:16] != b"\0\0\0\rIHDR":
        return None
    width, height, depth, colour, *methods = struct.unpack(">IIBBBBB", head[16:29])
    if methods != [0, 0, 0] or depth not in DEPTHS.get(colour, ()):
        return None
    return Layout(1 + (width * SAMPLES[colour] * depth + 7) // 8, height)


def check_pixels(file: BinaryIO, layout: Layout) -> None:
    """
    Return if every row is there and can be made.

    Args:
        file: A PNG; it can seek.
        layout: Of its pixels.

    Raises:
        ImageRefused: IMAGE_TRUNCATED where rows are missing, IMAGE_BROKEN where one has a filter that does not exist.
        OSError: The data cannot be inflated.
    """
    done, size = 0, layout.stride * layout.rows
    try:
        for piece in _inflated(file, size):
            if max(piece[-done % layout.stride :: layout.stride], default=0) > MAX_FILTER:
                raise ImageRefused(Reason.IMAGE_BROKEN, "a row has an unknown filter")
            done += len(piece)
    except zlib.error as error:
        raise OSError(f"its pixels cannot be inflated: {error}") from error
    if done < size:
        raise ImageRefused(Reason.IMAGE_TRUNCATED, f"{done // layout.stride} of {layout.rows} rows")


def _inflated(file: BinaryIO, size: int) -> Iterator[bytes]:
    """Yield the data of all rows, *size* bytes if they are there, a bounded piece at a time; never an empty one."""
    inflater = zlib.decompressobj()
    # An empty one at the end brings out what the inflater still holds.
    for data in itertools.chain(_compressed(file), itertools.repeat(b"", 1)):
        rest = data
        while size and not inflater.eof:
            piece = inflater.decompress(rest, min(PIECE, size))
            rest = inflater.unconsumed_tail
            size -= len(piece)
            if piece:
                yield piece
            elif not rest:
                break


def _compressed(file: BinaryIO) -> Iterator[bytes]:
    """Yield the content of the chunks with pixels, which follow one another, a bounded piece at a time."""
    file.seek(8)
    found = False
    while len(head := file.read(8)) == 8:
        length, name = struct.unpack(">I4s", head)
        if name == b"IDAT":
            found = True
            while length and (data := file.read(min(length, PIECE))):
                length -= len(data)
                yield data
            file.seek(4, 1)
        elif found:
            return
        else:
            file.seek(length + 4, 1)
