"""
What every store at an address has: what it takes to reach it, spools on this machine, and the nonce.

    ADDRESS/.spool/SESSION/nonce   shows that this session's machine writes to the same store as the coordinator

Who may write there is said as the library for it wants it said: by its environment and its files, never by us.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import posixpath
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from crawler.consumer.store import Found
from crawler.errors import FetchError, UsageError
from crawler.reasons import Reason
from crawler.scratch import Scratch

log = logging.getLogger(__name__)

#: Protocols of stores in which an object is there whole or not at all, and which know no folders.
OBJECTS = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oss"})
#: What is installed for a protocol, by the name that pip takes in brackets.
EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "az": "az", "abfs": "az", "abfss": "az"}
#: Bytes sent in one request; larger ones go in parts, which become an object when the last is there.
ONE_REQUEST = 50_000_000
#: Longest nonce that is read, in bytes.
MAX_NONCE = 1024

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


def is_address(place: str) -> bool:
    """Tell whether a store is at an address, and not in a directory of this machine."""
    return _ADDRESS.match(place) is not None


class Remote:
    """
    An address at which a store is.

    Args:
        address: As s3://bucket/prefix; see `create`.

    Raises:
        UsageError: No library for it is here, or the address holds what does not belong into one.
    """

    def __init__(self, address: str) -> None:
        #: The address, as text.
        self.root = address.rstrip("/")
        self._fs, self._path = _reach(self.root)
        protocols = (self._fs.protocol,) if isinstance(self._fs.protocol, str) else tuple(self._fs.protocol)
        self._is_atomic = not OBJECTS.isdisjoint(protocols)
        self._spools: dict[str, Scratch] = {}

    def create(self) -> None:
        """Show that something can be written there and read back; raises OSError where it cannot."""
        probe = f".probe-{uuid.uuid4().hex}"
        self._put(probe, b"crawler")
        try:
            if self._get(probe) != b"crawler":
                raise OSError(f"what is written to {self.root} is not what is read there")
        finally:
            self._drop(probe)

    def claim(self, crawl: str) -> bool:
        """Let nobody but *crawl* keep images here whose names count its tasks: see `Directory.claim`."""
        try:
            return self._get(".crawl") == crawl.encode()
        except FileNotFoundError:
            self._put(".crawl", crawl.encode())
            return self._get(".crawl") == crawl.encode()

    def spool(self, session: str) -> Path:
        """Return the folder for the downloads of *session*, on this machine; only this user may look inside."""
        if session not in self._spools:
            self._spools[session] = Scratch()
        return self._spools[session].path

    def prove(self, session: str, nonce: str) -> None:
        """Write *nonce* where `proof` finds it."""
        self._put(_nonce(session), nonce.encode())

    def proof(self, session: str) -> str | None:
        """Return the nonce that *session* wrote, None where there is none that can be read."""
        try:
            return self._get(_nonce(session))[:MAX_NONCE].decode()
        except (OSError, UnicodeDecodeError) as error:
            log.debug("no nonce of session %s: %s", session, error)
            return None

    def sweep(self, session: str) -> None:
        """Remove the spool of *session*; what cannot be removed is left, and said."""
        if (spool := self._spools.pop(session, None)) is not None:
            spool.close()
        try:
            self._drop(_nonce(session))
        except OSError as error:
            log.warning("cannot remove the nonce of session %s: %s", session, error)

    def spools(self) -> list[str]:
        """Return the sessions that have a spool or a nonce, sorted."""
        return sorted({*self._spools, *(name for name, _ in self._list(".spool"))})

    def tidy(self) -> None:
        """Do nothing: where there are no folders, none is left empty."""

    def size(self, path: str) -> int | None:
        """Return the size of an image, None where there is none: see `Store.size`."""
        return self.size_of(path)

    def size_of(self, path: str) -> int | None:
        """Return the size of an object, None where there is none."""
        with self._plainly():
            try:
                return int(self._fs.info(self._at(path))["size"])
            except FileNotFoundError:
                return None

    def digest(self, path: str) -> str:
        """Return the SHA-256 of an image: see `Store.digest`."""
        with self._plainly(), self._fs.open(self._at(path), "rb", cache_type="readahead") as file:
            found = hashlib.sha256()
            while chunk := file.read(1 << 20):
                found.update(chunk)
            return found.hexdigest()

    def remove(self, paths: list[str]) -> None:
        """Remove what `walk` found: see `Store.remove`."""
        for path in paths:
            with self._plainly():
                self._fs.rm_file(self._at(path))

    # ------------------------------------------------------------ objects, by their names in the store

    def _at(self, name: str) -> str:
        return posixpath.join(self._path, name)

    def _put(self, name: str, content: bytes) -> None:
        with self._plainly(), self._named(name) as target:
            self._fs.pipe_file(target, content)

    def _put_file(self, name: str, path: Path) -> None:
        """Put a file; under its name it is there whole or not at all."""
        with self._plainly(), self._named(name) as target:
            self._fs.put_file(str(path), target)

    @contextlib.contextmanager
    def _named(self, name: str) -> Iterator[str]:
        """Give what is written to the path that this yields the name *name*, when it is written."""
        target = self._at(name)
        if self._is_atomic:
            yield target
            return
        folder, base = posixpath.split(target)
        partial = posixpath.join(folder, f".{base}.{uuid.uuid4().hex}")
        self._fs.makedirs(folder, exist_ok=True)
        yield partial
        self._fs.mv(partial, target)

    def _get(self, name: str) -> bytes:
        with self._plainly():
            content: bytes = self._fs.cat_file(self._at(name))
            return content

    def _drop(self, name: str) -> None:
        with self._plainly(), contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self._at(name))

    def _list(self, folder: str) -> list[tuple[str, int | None]]:
        """Return (name, size) of what is directly below *folder*, sorted; no size for what is a folder itself."""
        path = self._at(folder).rstrip("/")
        with self._plainly():
            self._fs.invalidate_cache()
            try:
                found = self._fs.ls(path, detail=True)
            except FileNotFoundError:
                return []
        entries = [
            (str(item["name"]).rstrip("/").rpartition("/")[2], item["size"] if item["type"] == "file" else None)
            for item in found
            if str(item["name"]).rstrip("/") != path
        ]
        return sorted(entries, key=lambda entry: entry[0] if entry[1] is not None else f"{entry[0]}/")

    def _found(self, folder: str, pattern: re.Pattern[str]) -> Iterator[Found]:
        for name, size in self._list(folder):
            if size is not None and pattern.fullmatch(name):
                yield Found(f"{folder}/{name}", size)

    @contextlib.contextmanager
    def _plainly(self) -> Iterator[None]:
        """Turn whatever a library for another's storage raises into OSError."""
        try:
            yield
        except OSError:
            raise
        except Exception as error:
            raise OSError(f"{type(error).__name__}: {error}") from error


@contextlib.contextmanager
def translated(root: str) -> Iterator[None]:
    """Turn what storing at *root* met into a failure of our own: it may pass, and charges nobody an attempt."""
    try:
        yield
    except OSError as error:
        raise FetchError(Reason.LOCAL_FAULT, f"cannot store in {root}: {error}") from error


def _nonce(session: str) -> str:
    # Sessions come over the wire: none may name another object.
    if not (session.isascii() and session.isalnum()):
        raise ValueError(f"{session[:80]!r} is no session")
    return f".spool/{session}/nonce"


def _reach(address: str) -> tuple[Any, str]:
    if "@" in address.partition("://")[2].partition("/")[0]:
        raise UsageError("a store's address holds no name or password: give them as the library for it wants them")
    try:
        import fsspec

        fs, path = fsspec.core.url_to_fs(address)
    except ImportError as error:  # it names the package to install
        extra = EXTRAS.get(address.partition("://")[0].lower())
        hint = f"; pip install 'crawler[{extra}]' is enough" if extra else ""
        raise UsageError(f"{address} cannot be reached: {error}{hint}") from error
    except ValueError as error:  # a protocol that is not known
        raise UsageError(f"{address} cannot be reached: {error}") from error
    if fs.protocol == "memory" or not path.strip("/"):
        raise UsageError(f"{address} is no place that other processes see: name one as s3://bucket/prefix")
    return fs, str(path)
