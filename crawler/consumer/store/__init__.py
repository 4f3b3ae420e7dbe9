"""
Where images end: what a store does.

`files.py` keeps each image as a file, `shards.py` many in one; `directory.py` is what both have in common.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import NamedTuple, Protocol

from crawler.facts import Facts
from crawler.model import Download, Image

#: Ending of a file's name for each format, by Pillow's name of it.
EXTENSIONS = {
    "JPEG": "jpg",
    "PNG": "png",
    "GIF": "gif",
    "WEBP": "webp",
    "AVIF": "avif",
    "BMP": "bmp",
    "TIFF": "tiff",
}


class Found(NamedTuple):
    """A file of a store."""

    #: Relative to the store's root.
    path: str
    size: int


class About(NamedTuple):
    """What there is to say about an image beside its bytes."""

    download: Download
    image: Image
    #: What is known beside the record, None where nothing is wanted.
    facts: Facts | None = None


class Store(Protocol):
    """Keeps images."""

    #: Absolute path, as text.
    root: str

    def create(self) -> None:
        """Make the store where it does not exist; for the coordinator, who alone knows that it is new."""

    def spool(self, session: str) -> Path:
        """Return the folder for the downloads of *session*, made where it does not exist."""

    def keep(self, path: Path, sha256: str, format: str, about: About) -> str | Future[str]:
        """
        Turn a spool file into a durable image. May be called from several threads, and again for the same content.

        Args:
            path: The spool file; gone when this returns, still there when it raises.
            sha256: Of its content, 64 hexadecimal digits.
            format: A key of `EXTENSIONS`.
            about: What else is kept, by stores that do.

        Returns:
            The image's path relative to the store; it is durable. Or its future, where many are made durable
            together: it has the path when the image is durable, and raises as this does.

        Raises:
            FetchError: With DISK_FULL where there is no room, INTERNAL where the spool file is gone.
            StorageFailed: The disk failed; what it was told last may be lost.
        """

    def prove(self, session: str, nonce: str) -> None:
        """Write *nonce* where `proof` finds it; raises OSError where the store cannot be written."""

    def proof(self, session: str) -> str | None:
        """Return the nonce that *session* wrote, None where there is none."""

    def sweep(self, session: str) -> None:
        """Remove the downloads of *session*."""

    def spools(self) -> list[str]:
        """Return the sessions that have a spool, sorted."""

    def tidy(self) -> None:
        """Remove what is empty when no session is left."""

    def walk(self) -> Iterator[Found]:
        """Yield every image, and what is left of one that was not finished, by path; no other file."""

    def size(self, path: str) -> int | None:
        """Return the size of the image at *path*, also where somebody put a link to it there; None without one."""

    def digest(self, path: str) -> str:
        """Return the SHA-256 of the image at *path*; raises OSError where it cannot be read."""

    def remove(self, paths: list[str]) -> None:
        """
        Remove what `walk` found at *paths*, which are in one folder or one shard; nothing may be kept meanwhile.

        Raises OSError where that is not possible.
        """

    def roll(self) -> None:
        """Put nothing more into what is open: the coordinator may have closed it. May be called from any thread."""

    def close(self) -> None:
        """End this process's part in the store; nothing is kept after it. May be called again."""
