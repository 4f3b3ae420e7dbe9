"""
Take away from a process what decoding images does not need; for verifiers, once their decoders are loaded.

Limits bound what it can use up: address space, CPU time, open files, files it writes, processes, core dumps. On Linux
a filter on system calls bounds what it can reach: it works with the descriptors it has and those its parent sends, and
opens, connects, starts and signals nothing. What a system does not offer is named by `confine`, and the rest holds.
"""

from __future__ import annotations

import ctypes
import errno
import math
import os
import platform
import resource
import struct
import sys
from collections.abc import Iterator
from typing import NamedTuple

#: Address space for one image beyond what is mapped before the first one.
ROOM = 512 * 1024 * 1024
#: Address space for each pixel an image may have: four bytes of pixels, and as much again for a decoder's own copy.
ROOM_PER_PIXEL = 8
#: The same where pixels are used: the next picture is made while there is the last one.
ROOM_PER_PIXEL_USED = 12
#: Descriptors that may be open: standard ones, pipe, the images of two jobs, and some to spare.
MAX_FILES = 32

#: Options of prctl. Source: linux/prctl.h, linux/seccomp.h.
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
#: What a filter returns. Source: linux/seccomp.h.
ALLOW, FAIL, KILL = 0x7FFF0000, 0x00050000, 0x80000000
#: Instructions of a filter. Source: linux/bpf_common.h.
LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
#: Where a filter finds the number of a call, the machine's kind and the lower half of the first argument.
NUMBER_AT, KIND_AT, ARGUMENT_AT = 0, 4, 16
#: From this number on all machines count alike, and what is newer than the C library's own calls has a fallback.
FIRST_COMMON = 424

#: Commands of ioctl: is this a terminal; close on exec. Others can type into one. Source: asm-generic/ioctls.h.
TCGETS, FIOCLEX = 0x5401, 0x5451
#: Memory that is code. Source: linux/mman.h.
PROT_EXEC = 4


class Machine(NamedTuple):
    """How one kind of machine numbers system calls. Source: the kernel's asm/unistd_64.h and asm-generic/unistd.h."""

    #: How filters see the kind. Source: linux/audit.h.
    kind: int
    #: Calls that are allowed whatever their arguments, the frequent ones first.
    plain: dict[str, int]
    ioctl: int
    mmap: int
    mprotect: int
    prlimit64: int


# fmt: off
MACHINES = {
    "x86_64": Machine(
        0xC000003E,
        {
            "read": 0, "lseek": 8, "munmap": 11, "brk": 12, "write": 1, "fstat": 5, "newfstatat": 262, "close": 3,
            "getrusage": 98, "mremap": 25, "madvise": 28, "futex": 202, "recvmsg": 47, "getsockname": 51,
            "getsockopt": 55, "fcntl": 72, "dup": 32, "pread64": 17, "readv": 19, "writev": 20, "poll": 7,
            "ppoll": 271, "clock_gettime": 228, "clock_nanosleep": 230, "nanosleep": 35, "gettimeofday": 96,
            "time": 201, "getrandom": 318, "rt_sigaction": 13, "rt_sigprocmask": 14, "rt_sigreturn": 15,
            "sigaltstack": 131, "restart_syscall": 219, "sched_yield": 24, "sched_getaffinity": 204, "getpid": 39,
            "gettid": 186, "sysinfo": 99, "uname": 63, "membarrier": 324, "rseq": 334, "exit": 60, "exit_group": 231,
        },
        ioctl=16, mmap=9, mprotect=10, prlimit64=302,
    ),
    "aarch64": Machine(
        0xC00000B7,
        {
            "read": 63, "lseek": 62, "munmap": 215, "brk": 214, "write": 64, "fstat": 80, "newfstatat": 79, "close": 57,
            "getrusage": 165, "mremap": 216, "madvise": 233, "futex": 98, "recvmsg": 212, "getsockname": 204,
            "getsockopt": 209, "fcntl": 25, "dup": 23, "pread64": 67, "readv": 65, "writev": 66,
            "ppoll": 73, "clock_gettime": 113, "clock_nanosleep": 115, "nanosleep": 101, "gettimeofday": 169,
            "getrandom": 278, "rt_sigaction": 134, "rt_sigprocmask": 135, "rt_sigreturn": 139,
            "sigaltstack": 132, "restart_syscall": 128, "sched_yield": 124, "sched_getaffinity": 123, "getpid": 172,
            "gettid": 178, "sysinfo": 179, "uname": 160, "membarrier": 283, "rseq": 293, "exit": 93, "exit_group": 94,
        },
        ioctl=29, mmap=222, mprotect=226, prlimit64=261,
    ),
}
# fmt: on


def room_for(max_pixels: int, are_used: bool = False) -> int:
    """
    Return the address space in bytes that verifying one image may take: `ROOM`, or 8 bytes a pixel where that is more.

    At the default of 64 million pixels both are the same; who allows more pixels allows more memory. Where pixels
    *are_used*, for a transform or a hash, it is 12 bytes.
    """
    return max(ROOM, (ROOM_PER_PIXEL_USED if are_used else ROOM_PER_PIXEL) * max_pixels)


def confine(room: int, file_size: int = 0) -> list[str]:
    """
    Give up for good what decoding does not need; to be called in a process with one thread.

    Args:
        room: Bytes of address space beyond what is mapped now.
        file_size: Largest size that a file which it is sent may get by its writing.

    Returns:
        What is not in force because this system does not offer it, in words for people; mostly nothing.
    """
    space = mapped(Statm.open())
    wanted = [
        ("memory", "RLIMIT_AS", space + room if space else None),
        ("open files", "RLIMIT_NOFILE", MAX_FILES),
        ("writing files", "RLIMIT_FSIZE", file_size),
        ("processes", "RLIMIT_NPROC", 0),
        ("core dumps", "RLIMIT_CORE", 0),
    ]
    missing = [f"limit on {what}" for what, name, value in wanted if not _limit(name, value)]
    if not _filter_calls():
        missing.append("filter on system calls")
    return missing


class Statm(NamedTuple):
    """The kernel's page on this process's memory, held open: no file can be opened later."""

    #: Descriptor, -1 where the system has no such page.
    descriptor: int

    @classmethod
    def open(cls) -> Statm:
        """Open it."""
        try:
            return cls(os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC))
        except OSError:
            return cls(-1)


def mapped(statm: Statm) -> int:
    """Return the address space of this process in bytes, 0 where that cannot be told."""
    if statm.descriptor < 0:
        return 0
    return int(os.pread(statm.descriptor, 100, 0).split()[0]) * resource.getpagesize()


def allow_cpu(seconds: int) -> None:
    """Let this process use up to *seconds*, at most one more, of CPU time from now on; then the kernel ends it."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    limit = math.ceil(usage.ru_utime + usage.ru_stime) + seconds
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (limit if hard < 0 else min(limit, hard), hard))


def _limit(name: str, value: int | None) -> bool:
    """Set a limit, unless it is lower already; tell whether it is in force."""
    number = getattr(resource, name, None)
    if number is None or value is None:
        return False
    try:
        _, hard = resource.getrlimit(number)
        lowest = value if hard < 0 else min(value, hard)
        resource.setrlimit(number, (lowest, lowest))
    except (OSError, ValueError):
        return False
    return True


# ------------------------------------------------------------------ the filter on system calls


def _filter_calls() -> bool:
    """Install the filter; tell whether it is in force."""
    machine = MACHINES.get(platform.machine())
    if sys.platform != "linux" or machine is None or sys.maxsize < 1 << 32:
        return False
    instructions = [*_program(machine)]
    program = ctypes.create_string_buffer(b"".join(instructions))
    pointer = ctypes.create_string_buffer(struct.pack("@HP", len(instructions), ctypes.addressof(program)))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
    if prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or prctl(
        PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(pointer), 0, 0
    ):
        return False
    # Believe what is seen: emulators have been known to accept filters and pass them over.
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        return True
    return False


def _program(machine: Machine) -> Iterator[bytes]:
    """Yield the filter: what is allowed goes through, all else fails as if this user were not permitted."""
    yield _code(LOAD, KIND_AT)
    yield _code(EQUAL, machine.kind, 1, 0)
    yield _code(RETURN, KILL)
    yield _code(LOAD, NUMBER_AT)
    for number in machine.plain.values():
        yield from _allow(number)
    # Memory may be had, but not to run what an image brought.
    yield from _allow(machine.mmap, _without(2, PROT_EXEC))
    yield from _allow(machine.mprotect, _without(2, PROT_EXEC))
    yield from _allow(machine.ioctl, _one_of(1, TCGETS, FIOCLEX))
    # For `allow_cpu`: this process, and this limit.
    yield from _allow(machine.prlimit64, _one_of(0, 0) + _one_of(1, resource.RLIMIT_CPU))
    # The C library falls back to older calls where a newer one does not exist, not where it is forbidden.
    yield _code(AT_LEAST, FIRST_COMMON, 0, 1)
    yield _code(RETURN, FAIL | errno.ENOSYS)
    yield _code(RETURN, FAIL | errno.EPERM)


def _code(operation: int, value: int, skip_if: int = 0, skip_else: int = 0) -> bytes:
    """Return one instruction; a test skips so many of the next ones. Source: struct sock_filter in linux/filter.h."""
    return struct.pack("=HBBI", operation, skip_if, skip_else, value)


def _allow(number: int, checks: list[bytes] | None = None) -> Iterator[bytes]:
    """Yield instructions that allow a call whose arguments pass *checks*."""
    body = [*(checks or ()), _code(RETURN, ALLOW)]
    yield _code(EQUAL, number, 0, len(body))
    yield from body


def _one_of(argument: int, *values: int) -> list[bytes]:
    """Return instructions that fail a call unless an argument, counted from 0, is one of *values*."""
    tests = [_code(EQUAL, value, len(values) - place, 0) for place, value in enumerate(values)]
    return [_code(LOAD, ARGUMENT_AT + 8 * argument), *tests, _code(RETURN, FAIL | errno.EPERM)]


def _without(argument: int, bits: int) -> list[bytes]:
    """Return instructions that fail a call where an argument, counted from 0, has one of *bits*."""
    load = _code(LOAD, ARGUMENT_AT + 8 * argument)
    return [load, _code(ANY_BIT, bits, 0, 1), _code(RETURN, FAIL | errno.EPERM)]
