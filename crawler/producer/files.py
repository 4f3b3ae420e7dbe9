"""The files of lists: on this machine, on standard input, or at an address that fsspec knows."""

from __future__ import annotations

import glob
import io
import os
import re
import sys
from pathlib import Path
from typing import Any, BinaryIO

from crawler.errors import ListUnreadable, UsageError

#: Standard input.
STANDARD_INPUT = "-"
#: An address, and not a path: two letters at least, or it could be a drive.
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+(://|::)", re.IGNORECASE)
#: What makes a path a pattern.
_PATTERN = re.compile(r"[*?\[]")
#: Bytes that are read ahead.
BUFFER = 1 << 20


def is_address(path: str) -> bool:
    """Tell whether *path* is for fsspec."""
    return _ADDRESS.match(path) is not None


def is_many(path: str) -> bool:
    """Tell whether *path* is a folder or a pattern, and no file."""
    if path == STANDARD_INPUT:
        return False
    if is_address(path):
        # A web server has no folders, and `?` begins a query there.
        is_web = path.lower().startswith(("http://", "https://"))
        return not is_web and (path.endswith("/") or _PATTERN.search(path) is not None)
    return Path(path).is_dir() or (_PATTERN.search(path) is not None and not Path(path).exists())


def find(path: str) -> list[str]:
    """
    Return the files in the folder *path*, or that fit the pattern *path*, in the order of their names.

    Those are left out whose own name, or that of a folder below *path*, begins with a dot or an underscore.
    """
    if is_address(path):
        return _find_remote(path)
    if Path(path).is_dir():
        found = [str(file) for file in Path(path).rglob("*") if file.is_file() and not _is_hidden(file, Path(path))]
    else:
        found = [file for file in glob.glob(path, recursive=True) if Path(file).is_file()]
    return sorted(found)


def _is_hidden(file: Path, folder: Path) -> bool:
    return any(part.startswith((".", "_")) for part in file.relative_to(folder).parts)


def _find_remote(path: str) -> list[str]:
    try:
        system, inner = _fsspec().core.url_to_fs(path)
        found = system.glob(inner) if _PATTERN.search(inner) else system.find(inner)
        files = [name for name in found if not name.rpartition("/")[2].startswith((".", "_"))]
        return sorted(str(system.unstrip_protocol(name)) for name in files)
    except UsageError:
        raise
    except Exception as error:  # whatever a library for another's storage raises
        raise _remote_error(path, error) from error


def open_file(path: str) -> tuple[BinaryIO, int | None]:
    """
    Open a file at its beginning.

    Returns:
        (file with `peek`, its size in bytes or None where that is not known).

    Raises:
        ListUnreadable: There is no such file, or it cannot be read; names it.
        UsageError: What reads such an address is not installed; names it.
    """
    if is_address(path):
        return _open_remote(path)
    try:
        file = _open_here(path)
        return file, _size(file)
    except OSError as error:
        raise ListUnreadable(f"the list {path} cannot be read: {error.strerror}") from error


def _open_here(path: str) -> BinaryIO:
    if path == STANDARD_INPUT:
        return open(sys.stdin.fileno(), "rb", closefd=False)
    return open(path, "rb", buffering=BUFFER)


def _open_remote(path: str) -> tuple[BinaryIO, int | None]:
    try:
        file: Any = _fsspec().open(path, "rb", compression=None).open()
        size = getattr(file, "size", None)
    except UsageError:
        raise
    except Exception as error:  # whatever a library for another's storage raises
        raise _remote_error(path, error) from error
    return io.BufferedReader(file, BUFFER), size if isinstance(size, int) else None


def _fsspec() -> Any:
    try:
        import fsspec
    except ImportError as error:
        raise UsageError("lists that are not on this machine need fsspec: pip install 'crawler[remote]'") from error
    return fsspec


def _remote_error(path: str, error: Exception) -> Exception:
    if isinstance(error, ImportError | ValueError) and not isinstance(error, UnicodeError):
        # It names the package to install, or says that it does not know the protocol.
        return UsageError(f"{path} cannot be read: {error}")
    return ListUnreadable(f"the list {path} cannot be read: {type(error).__name__}: {error}")


def _size(file: BinaryIO) -> int | None:
    """Return the size of a regular file that is not empty."""
    try:
        return os.fstat(file.fileno()).st_size or None if file.seekable() else None
    except OSError:
        return None
