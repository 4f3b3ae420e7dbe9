"""Compressed lists, which are read as if they were not."""

from __future__ import annotations

import bz2
import gzip
from collections.abc import Callable
from typing import Any, BinaryIO

from crawler.errors import UsageError

#: Largest window of zstd, as a power of two: what memory a list can make us take. Source: the tool's own bound.
WINDOW_LOG = 27


def _gzip(file: BinaryIO) -> Any:
    return gzip.GzipFile(fileobj=file)


def _bz2(file: BinaryIO) -> Any:
    return bz2.BZ2File(file)


def _zstd(file: BinaryIO) -> Any:
    try:
        from backports import zstd
    except ImportError as error:
        raise UsageError("a list compressed with zstd needs backports.zstd: pip install 'crawler[zstd]'") from error
    return zstd.ZstdFile(file, options={zstd.DecompressionParameter.window_log_max: WINDOW_LOG})


#: How to read a compressed file, by the ending of its name.
BY_ENDING: dict[str, Callable[[BinaryIO], Any]] = {
    ".gz": _gzip,
    ".gzip": _gzip,
    ".bz2": _bz2,
    ".zst": _zstd,
    ".zstd": _zstd,
}
#: The same, by the first bytes of the file. Source: RFC 1952, RFC 8878, the format of bzip2.
BY_MAGIC: dict[bytes, Callable[[BinaryIO], Any]] = {
    b"\x1f\x8b\x08": _gzip,
    b"BZh": _bz2,
    b"\x28\xb5\x2f\xfd": _zstd,
}
