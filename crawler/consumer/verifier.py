"""
Child process of a consumer: the only place where Pillow meets foreign bytes.

It gets descriptors, not paths, and answers with typed verdicts. Whatever an image does to it is felt by its parent as
a closed pipe only.
"""

from __future__ import annotations

import contextlib
import copy  # noqa: F401  (a decoder loads it late, and nothing can be loaded in the sandbox)
import errno
import io
import os
import sys
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from multiprocessing.reduction import recvfds

import msgspec

from crawler.child import socket_of
from crawler.consumer import sandbox
from crawler.consumer.image import treat
from crawler.consumer.messages import (
    Accepted,
    Ready,
    Refused,
    Setup,
    Verdict,
    decode_orders,
    decode_setup,
    encode,
)
from crawler.consumer.transform import warm_up as warm_up_transform
from crawler.descriptors import write_all
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


def warm_up(setup: Setup) -> None:
    """Have Pillow load what it loads at the first image."""
    with contextlib.suppress(ImageRefused):
        treat(io.BytesIO(b"BM, but no bitmap"), Limits(), setup.treatment)
    if setup.treatment.transform:
        warm_up_transform(setup.treatment.transform)


def hush() -> None:
    """Keep what libraries below Pillow print about foreign bytes off the terminal; Python's own errors still show."""
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, encoding="utf-8", errors="backslashreplace")
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    os.close(nothing)


def serve(connection: Connection, setup: bytes) -> None:
    """
    Answer orders until the pipe is closed, or this verifier is worn.

    Args:
        connection: Pipe to the consumer; descriptors follow the orders.
        setup: Encoded `Setup`.

    Raises:
        EOFError: The consumer closed the pipe.
    """
    told = decode_setup(setup)
    is_making = told.treatment.transform is not None
    room = sandbox.room_for(told.limits.max_pixels, are_used=is_making or "phash" in told.treatment.facts)
    hush()
    warm_up(told)
    wear = Wear(room)
    missing = sandbox.confine(room, file_size=told.limits.max_bytes if is_making else 0)
    connection.send_bytes(encode(Ready(missing=missing)))
    while True:
        numbers = decode_orders(connection.recv_bytes()).numbers
        for number, files in zip(numbers, _receive_files(connection, len(numbers), 2 if is_making else 1), strict=True):
            sandbox.allow_cpu(CPU_SECONDS)
            verdict = msgspec.structs.replace(_judge(number, *files, setup=told), is_worn=wear.count())
            connection.send_bytes(encode(verdict))
            if verdict.is_worn:
                return


def _receive_files(connection: Connection, count: int, each: int) -> Iterator[tuple[int, ...]]:
    """Receive *each* descriptors for every one of *count* images."""
    with socket_of(connection) as pipe:
        descriptors = iter(recvfds(pipe, count * each))
    return zip(*[descriptors] * each, strict=True)


def _judge(number: int, descriptor: int, output: int | None = None, *, setup: Setup) -> Verdict:
    """Verify the image in *descriptor*, write what is made of it to *output*, and close both."""
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(open(descriptor, "rb"))
        made_file = stack.enter_context(open(output, "wb", buffering=0)) if output is not None else None
        try:
            began = time.perf_counter()
            made = treat(file, setup.limits, setup.treatment)
            if made_file is not None and made.data is not None:
                _write(made_file, made.data)
            facts = made.facts
            if facts is not None and "image" in setup.treatment.facts:
                facts = msgspec.structs.replace(facts, decode_seconds=round(time.perf_counter() - began, 4))
            return Accepted(number=number, image=made.image, facts=facts)
        except ImageRefused as error:
            reason, detail = _blame(error)
            return Refused(number=number, reason=reason, detail=detail[:MAX_DETAIL])


def _write(file: io.FileIO, data: bytes) -> None:
    """Write all of *data*, or refuse what is larger than this process may write."""
    try:
        write_all(file, data)
    except OSError as error:
        if error.errno != errno.EFBIG:
            raise
        raise ImageRefused(Reason.TOO_LARGE, f"{len(data)} bytes after its transform") from error


def _blame(error: ImageRefused) -> tuple[Reason, str]:
    """Return reason and detail, where the sandbox is the cause also that."""
    # No bytes make Pillow ask for more than it may, so this is a defect of ours, such as something not loaded before.
    if isinstance(error.__cause__, PermissionError):
        return Reason.INTERNAL, f"refused by the sandbox: {error.detail}"
    return error.reason, error.detail


if __name__ == "__main__":
    child_main(serve)
