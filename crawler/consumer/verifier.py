"""
Child process of a consumer: the only place where Pillow meets foreign bytes.

It gets descriptors, not paths, and answers with typed verdicts. Whatever an image does to it is felt by its parent as
a closed pipe only.
"""

from __future__ import annotations

import contextlib
import copy  # noqa: F401  (a decoder loads it late, and nothing can be loaded in the sandbox)
import io
import os
import sys
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle

import msgspec

from crawler.consumer import sandbox
from crawler.consumer.image import verify
from crawler.consumer.messages import Accepted, Order, Ready, Refused, Verdict, decode_limits, decode_order, encode
from crawler.errors import ImageRefused
from crawler.processes import child_main
from crawler.reasons import Reason
from crawler.settings import Limits

#: Longest detail sent to the parent, in characters.
MAX_DETAIL = 300
#: Seconds of CPU time for one image; its parent, which keeps the wall clock, is faster unless it is stuck.
CPU_SECONDS = 10
#: Images after which a verifier is replaced.
MAX_IMAGES = 10_000


class Wear:
    """
    How used up this verifier is.

    Args:
        room: Bytes of address space for one image; when half of it stays taken between two, the verifier is worn.
    """

    def __init__(self, room: int) -> None:
        self._statm = sandbox.Statm.open()
        self._largest = sandbox.mapped(self._statm) + room // 2
        self._images = 0

    def count(self) -> bool:
        """Count an image, and tell whether this verifier should be replaced."""
        self._images += 1
        return self._images >= MAX_IMAGES or sandbox.mapped(self._statm) > self._largest


def warm_up() -> None:
    """Have Pillow load what it loads at the first image."""
    with contextlib.suppress(ImageRefused):
        verify(io.BytesIO(b"BM, but no bitmap"), Limits())


def hush() -> None:
    """Keep what libraries below Pillow print about foreign bytes off the terminal; Python's own errors still show."""
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, encoding="utf-8", errors="backslashreplace")
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    os.close(nothing)


def serve(connection: Connection, setup: bytes) -> None:
    """
    Answer orders until the pipe is closed.

    Args:
        connection: Pipe to the consumer; a descriptor follows each order.
        setup: Encoded `Limits`.

    Raises:
        EOFError: The consumer closed the pipe.
    """
    limits = decode_limits(setup)
    room = sandbox.room_for(limits.max_pixels)
    hush()
    warm_up()
    wear = Wear(room)
    connection.send_bytes(encode(Ready(missing=sandbox.confine(room))))
    while True:
        order = decode_order(connection.recv_bytes())
        descriptor = recv_handle(connection)
        sandbox.allow_cpu(CPU_SECONDS)
        verdict = _judge(order, descriptor, limits)
        connection.send_bytes(encode(msgspec.structs.replace(verdict, is_worn=wear.count())))


def _judge(order: Order, descriptor: int, limits: Limits) -> Verdict:
    """Verify the image in *descriptor* and close it."""
    with open(descriptor, "rb") as file:
        try:
            return Accepted(number=order.number, image=verify(file, limits))
        except ImageRefused as error:
            reason, detail = _blame(error)
            return Refused(number=order.number, reason=reason, detail=detail[:MAX_DETAIL])


def _blame(error: ImageRefused) -> tuple[Reason, str]:
    """Return reason and detail, where the sandbox is the cause also that."""
    # Formats differ in how many copies they make, so an image within the limit of pixels may still not fit.
    if isinstance(error.__cause__, MemoryError):
        return Reason.TOO_MANY_PIXELS, "more than the verifier's memory holds"
    # No bytes make Pillow ask for more than it may, so this is a defect of ours, such as something not loaded before.
    if isinstance(error.__cause__, PermissionError):
        return Reason.INTERNAL, f"refused by the sandbox: {error.detail}"
    return error.reason, error.detail


if __name__ == "__main__":
    child_main(serve)
