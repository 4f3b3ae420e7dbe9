"""
A store with many images in each file.

    ROOT/00017.tar            a shard: published whole, under its final name, when no more can come into it
    ROOT/.open/00017.part     one that is not; see `writer.py`
    ROOT/.open/00017.sealed
    ROOT/.open/00017.new      a shard on its way from its part to its name

An image's path is that of its shard and its name in it: 00017.tar/000000123.jpg, from before it is published on.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import NamedTuple, Protocol

from crawler.consumer.store import About, Found
from crawler.consumer.store.directory import Directory, names, sync, sync_folder
from crawler.consumer.store.tar import END, Sample, samples
from crawler.consumer.store.writer import CHUNK, Writer, shard_name
from crawler.errors import StorageFailed
from crawler.storage import Format, Storage

#: Shards whose contents are remembered, for those who ask for images in the order of their tasks.
REMEMBERED = 16

_NEW = re.compile(r"\d{5,}\.new")
_PART = re.compile(r"(\d{5,})\.(part|sealed)")


class Part(NamedTuple):
    """A shard that is not published."""

    number: int
    path: Path
    #: Whether its session has closed it.
    sealed: bool


class Contents(Protocol):
    """What is in one shard, or in a part."""

    def sizes(self) -> dict[str, int]:
        """Return the size of each image by its name, the last of a name."""

    def digest(self, name: str) -> str:
        """Return the SHA-256 of an image; raises FileNotFoundError where there is none."""


class TarContents:
    """
    What is in a tar, or in a part.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with opened(path) as descriptor:
            self._images = {sample.image.name: sample.image for sample in samples(descriptor)}

    def sizes(self) -> dict[str, int]:
        """Return the size of each image: see `Contents.sizes`."""
        return {name: image.size for name, image in self._images.items()}

    def digest(self, name: str) -> str:
        """Return the SHA-256 of an image: see `Contents.digest`."""
        if name not in self._images:
            raise FileNotFoundError(f"{self._path} has no {name}")
        with opened(self._path) as descriptor:
            found = hashlib.sha256()
            for chunk in _chunks(descriptor, self._images[name].offset, self._images[name].size):
                found.update(chunk)
        return found.hexdigest()


class ShardStore(Directory):
    """
    A store with many images in each file.

    Args:
        root: The directory; see `create`.
        storage: What shards are, and when they are full.
    """

    #: Seconds between two looks for parts to publish.
    pause = 1.0

    def __init__(self, root: Path, storage: Storage) -> None:
        super().__init__(root)
        self._storage = storage
        self._open = Path(self.root, ".open")
        self._shard = re.compile(rf"\d{{5,}}{re.escape(storage.format.ending)}")
        self._writer: Writer | None = None
        #: What is in the shards that were asked for last, by path and size: parts grow.
        self._known: OrderedDict[tuple[Path, int], Contents] = OrderedDict()

    # ------------------------------------------------------------ keeping images

    def begin(self, next_number: Callable[[], int]) -> None:
        """
        Let images be kept.

        Args:
            next_number: Returns the number for a new shard, that no other shard of the store has; it may wait.
        """
        self._writer = Writer(self._open, self._storage, self._translated, next_number)

    def keep(self, path: Path, sha256: str, format: str, about: About) -> Future[str]:
        """Append an image to the open shard: see `Store.keep`."""
        if self._writer is None:
            raise StorageFailed(f"nothing was to be kept in {self.root}")
        return self._writer.keep(path, sha256, format, about)

    def roll(self) -> None:
        """Put what comes from now on into another shard: see `Store.roll`."""
        if self._writer is not None:
            self._writer.roll()

    def close(self) -> None:
        """Close the open shard: see `Store.close`."""
        if self._writer is not None:
            self._writer.close()

    # ------------------------------------------------------------ publishing, for the coordinator alone

    def parts(self) -> list[Part]:
        """Return the shards that are not published, by their numbers."""
        found = [(match, self._open / match[0]) for name in names(self._open) if (match := _PART.fullmatch(name))]
        return sorted(Part(int(match[1]), path, match[2] == "sealed") for match, path in found)

    def look(self, part: Part) -> list[Sample]:
        """Return the whole samples of a part."""
        with opened(part.path) as descriptor:
            return list(samples(descriptor))

    def path_of(self, part: Part, sample: Sample) -> str:
        """Return the path of an image in a part, relative to the store."""
        return f"{shard_name(part.number, self._storage)}/{sample.image.name}"

    def digest_of(self, part: Part, sample: Sample) -> str:
        """Return the SHA-256 of the image of a sample."""
        with opened(part.path) as descriptor:
            found = hashlib.sha256()
            for chunk in _chunks(descriptor, sample.image.offset, sample.image.size):
                found.update(chunk)
            return found.hexdigest()

    def publish(self, part: Part, kept: list[Sample]) -> None:
        """
        Give a part its final name, durably, with the samples *kept* and no others; without any it goes.

        It can be done again where it was cut off. Raises OSError where it cannot be done.
        """
        final = Path(self.root, shard_name(part.number, self._storage))
        new = part.path.with_suffix(".new")
        if kept and not final.exists():
            # 1. What nobody can write to any more, and is complete, gets its end and its name.
            if part.sealed and self._storage.format is Format.WEBDATASET and _is_all(part.path, kept):
                _finish(part.path, kept[-1].offset + kept[-1].size)
                part.path.replace(final)
            # 2. Else it is written anew: a worker that was given up may still write to a part.
            else:
                self._write(part.path, kept, new)
                new.replace(final)
            sync_folder(self.root)
        for left in (part.path, new):
            left.unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove what was on its way to its name when somebody was cut off."""
        for name in names(self._open):
            if _NEW.fullmatch(name):
                Path(self._open, name).unlink(missing_ok=True)

    def published(self) -> list[str]:
        """Return the names of the shards that are published, sorted."""
        return [name for name in names(self.root) if self._shard.fullmatch(name)]

    def images(self, shard: str) -> list[str]:
        """Return the names of the images in a published shard."""
        return list(self._remembered(Path(self.root, shard)).sizes())

    def take_out(self, shard: str, gone: set[str]) -> None:
        """Write a published shard anew, without some of its images, durably; without any it goes."""
        path, new = Path(self.root, shard), self._open / f"{shard.partition('.')[0]}.new"
        if gone.issuperset(self.images(shard)):
            path.unlink()
        else:
            self._open.mkdir(exist_ok=True)
            if self._storage.format is Format.PARQUET:
                from crawler.consumer.store.parquet import copy

                copy(path, gone, new)
            else:
                with opened(path) as descriptor:
                    kept = [sample for sample in samples(descriptor) if sample.image.name not in gone]
                copy_samples(path, kept, new)
            sync(new)
            new.replace(path)
        sync_folder(self.root)

    def tidy(self) -> None:
        """Remove the folders of spools and parts where they are empty."""
        super().tidy()
        with contextlib.suppress(OSError):
            self._open.rmdir()

    def _write(self, path: Path, kept: list[Sample], new: Path) -> None:
        if self._storage.format is Format.PARQUET:
            from crawler.consumer.store.parquet import write

            write(path, kept, new)
        else:
            copy_samples(path, kept, new)
        sync(new)

    # ------------------------------------------------------------ looking

    def walk(self) -> Iterator[Found]:
        """Yield what is in the shards: see `Store.walk`. In memory is what one shard lists."""
        shards = set(self.published())
        shards |= {shard_name(part.number, self._storage) for part in self.parts()}
        for shard in sorted(shards):
            contents = self._contents(shard)
            sizes = {} if contents is None else contents.sizes()
            yield from (Found(f"{shard}/{name}", size) for name, size in sorted(sizes.items()))

    def size(self, path: str) -> int | None:
        """Return the size of an image, None where there is none: see `Store.size`."""
        shard, _, name = path.rpartition("/")
        contents = self._contents(shard)
        return None if contents is None else contents.sizes().get(name)

    def digest(self, path: str) -> str:
        """Return the SHA-256 of an image: see `Store.digest`."""
        shard, _, name = path.rpartition("/")
        for _ in range(2):  # it may be published under our eyes
            contents = self._contents(shard)
            with contextlib.suppress(FileNotFoundError):
                if contents is not None:
                    return contents.digest(name)
        raise FileNotFoundError(f"there is no {path}")

    def remove(self, paths: list[str]) -> None:
        """Take images out of their shard, or its part, which is written anew: see `Store.remove`."""
        shard = paths[0].rpartition("/")[0]
        gone = {path.rpartition("/")[2] for path in paths}
        for part in self.parts():
            if shard_name(part.number, self._storage) == shard:
                kept = [sample for sample in self.look(part) if sample.image.name not in gone]
                new = part.path.with_suffix(".new")
                copy_samples(part.path, kept, new, b"")
                sync(new)
                new.replace(part.path)
                sync_folder(self._open)
                return
        self.take_out(shard, gone)
        self.tidy()

    def _contents(self, shard: str) -> Contents | None:
        """Return what is in a shard, or in its part where it is not published; None where there is neither."""
        number = shard.partition(".")[0]
        places = (self._open / f"{number}.part", self._open / f"{number}.sealed", Path(self.root, shard))
        for path in places:  # in the order in which it moves
            with contextlib.suppress(FileNotFoundError):
                return self._remembered(path)
        return None

    def _remembered(self, path: Path) -> Contents:
        key = (path, path.stat().st_size)
        contents = self._known.pop(key, None) or self._read(path)
        self._known[key] = contents
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return contents

    def _read(self, path: Path) -> Contents:
        if path.suffix == ".parquet":
            from crawler.consumer.store.parquet import ParquetContents

            return ParquetContents(path)
        return TarContents(path)


def _is_all(path: Path, kept: list[Sample]) -> bool:
    """Tell whether a part has no other samples, nor anything between them."""
    with opened(path) as descriptor:
        found = list(samples(descriptor))
    return found == kept and sum(sample.size for sample in kept) == kept[-1].offset + kept[-1].size


def _finish(path: Path, size: int) -> None:
    """Cut a part at *size* and write the end of a tar there, durably."""
    with open(path, "r+b", buffering=0) as file:
        file.truncate(size)
        file.seek(size)
        file.write(END)
        os.fsync(file.fileno())


def copy_samples(path: Path, kept: list[Sample], new: Path, end: bytes = END) -> None:
    """Write some samples of a tar into another one, which ends with *end*."""
    with opened(path) as descriptor, open(new, "wb") as file:
        for sample in kept:
            for chunk in _chunks(descriptor, sample.offset, sample.size):
                file.write(chunk)
        file.write(end)


def _chunks(descriptor: int, offset: int, size: int) -> Iterator[bytes]:
    end = offset + size
    while offset < end and (chunk := os.pread(descriptor, min(CHUNK, end - offset), offset)):
        yield chunk
        offset += len(chunk)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[int]:
    """Open a file for reading; yields its descriptor."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
