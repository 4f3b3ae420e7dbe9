"""
A store at an address with many images in each object.

    ADDRESS/.open/00017.index    what is in the part, its samples: there first, so that it need not be read for them
    ADDRESS/.open/00017.sealed   the part, uploaded whole by its worker, before its tasks are recorded
    ADDRESS/.index/00017         what is in the shard
    ADDRESS/00017.tar            the shard: the part, copied where it is, or what is left of it written anew

Nothing can be appended to an object, so the open part is a file on the worker's machine, and its tasks are held until
it is uploaded. It is closed early: when it has `HELD` images, and when nothing has come for a while.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import msgspec

from crawler.consumer.store import About, Found
from crawler.consumer.store.remote import Remote, translated
from crawler.consumer.store.shards import Part, copy_samples, opened
from crawler.consumer.store.tar import END, Sample, samples
from crawler.consumer.store.writer import Item, Writer, shard_name
from crawler.errors import StorageFailed
from crawler.scratch import Scratch
from crawler.storage import Format, Storage

log = logging.getLogger(__name__)

#: Images in one shard, at most: their leases are kept alive until it is uploaded.
HELD = 5_000
#: Seconds without another image after which a part is closed: there may be none left.
IDLE = 5.0
#: Seconds for which an upload is tried again.
UPLOAD_LIMIT = 600.0
#: Longest pause between two tries, in seconds.
MAX_PAUSE = 30.0

_SEALED = re.compile(r"(\d{5,})\.sealed")

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Sample]).decode


class HoldingWriter(Writer):
    """
    Append images to parts on this machine; what was appended is told when the part is uploaded.

    Args:
        folder: Where parts are.
        storage: When a shard is full, and what goes into it.
        next_number: Returns the number for a new shard.
        upload: Uploads a part, by its number; raises OSError where that did not work.
    """

    def __init__(
        self, folder: Path, storage: Storage, next_number: Callable[[], int], upload: Callable[[int, Path], None]
    ) -> None:
        self._upload = upload
        self._held: list[tuple[Item, str]] = []
        self._closing = threading.Event()
        self._last = time.monotonic()
        super().__init__(folder, storage, lambda path: translated(str(folder)), next_number)

    def close(self) -> None:
        """Give up what was not uploaded: nobody waits for it any more."""
        self._closing.set()
        super().close()

    def _make_durable(self, group: list[tuple[Item, str]]) -> None:
        if group:
            self._last = time.monotonic()
        for item, _ in group:
            item.path.unlink(missing_ok=True)
        self._held += group
        group.clear()

    def _is_due(self) -> bool:
        return super()._is_due() or time.monotonic() - self._last >= IDLE

    def _end(self, group: list[tuple[Item, str]]) -> None:
        self._make_durable(group)
        part, self._part = self._part, None
        held, self._held = self._held, []
        if part is None:
            return
        part.finish(END)
        error = self._try(part.number, part.path) if held else None
        part.path.unlink(missing_ok=True)
        self._last = time.monotonic()
        if error is not None:
            self._failed = error
        for item, path in held:
            if error is None:
                item.future.set_result(path)
            else:
                item.future.set_exception(error)

    def _try(self, number: int, path: Path) -> StorageFailed | None:
        """Upload a part, again and again within the limit; return why it could not be."""
        give_up = time.monotonic() + UPLOAD_LIMIT
        for count in itertools.count():
            if self._closing.is_set():
                return StorageFailed("closed before the upload")
            try:
                self._upload(number, path)
            except OSError as error:
                if time.monotonic() > give_up:
                    return StorageFailed(f"a shard cannot be uploaded: {error}")
                if count == 0:
                    log.warning("a shard cannot be uploaded: %s; trying again for %.0f s", error, UPLOAD_LIMIT)
                self._closing.wait(min(MAX_PAUSE, 2.0**count))
                continue
            if count:
                log.warning("the shard was uploaded")
            return None
        raise AssertionError("counting has no end")


class RemoteShardStore(Remote):
    """
    A store at an address with many images in each object.

    Args:
        address: As s3://bucket/prefix; see `create`.
        storage: What shards are, and when they are full.

    Raises:
        UsageError: The address cannot be used.
    """

    def __init__(self, address: str, storage: Storage) -> None:
        super().__init__(address)
        self._storage = msgspec.structs.replace(storage, shard_count=min(storage.shard_count, HELD))
        self._shard = re.compile(rf"(\d{{5,}}){re.escape(storage.format.ending)}")
        self._writer: HoldingWriter | None = None
        self._scratch: Scratch | None = None
        #: What was looked up last.
        self._known: tuple[str, dict[str, Sample]] = ("", {})

    #: Seconds between two looks for parts to publish; each one is a request.
    pause = 5.0

    @property
    def holding(self) -> int:
        """Return how many tasks are held at most until their shards are uploaded: one filled, one on its way."""
        return 2 * self._storage.shard_count

    # ------------------------------------------------------------ keeping images

    def begin(self, next_number: Callable[[], int]) -> None:
        """Let images be kept: see `ShardStore.begin`."""
        self._scratch = Scratch()
        self._writer = HoldingWriter(self._scratch.path, self._storage, next_number, self._upload)

    def keep(self, path: Path, sha256: str, format: str, about: About) -> Future[str]:
        """Append an image to the open part: see `Store.keep`."""
        if self._writer is None:
            raise StorageFailed(f"nothing was to be kept in {self.root}")
        return self._writer.keep(path, sha256, format, about)

    def roll(self) -> None:
        """Put what comes from now on into another shard: see `Store.roll`."""
        if self._writer is not None:
            self._writer.roll()

    def close(self) -> None:
        """End this process's part in the store: see `Store.close`."""
        if self._writer is not None:
            self._writer.close()
        if self._scratch is not None:
            self._scratch.close()

    def _upload(self, number: int, path: Path) -> None:
        self._put(f".open/{number:05}.index", _index(path))
        self._put_file(f".open/{number:05}.sealed", path)

    # ------------------------------------------------------------ publishing, for the coordinator alone

    def clear(self) -> None:
        """
        Remove what is listed of parts that are not there: they are published, or their worker was killed.

        Where one is just being uploaded, it is read for its samples later.
        """
        names = {name for name, _ in self._list(".open")}
        for name in names:
            if name.endswith(".index") and name.replace(".index", ".sealed") not in names:
                self._drop(f".open/{name}")

    def parts(self) -> list[Part]:
        """Return the parts that are uploaded and not published, by their numbers."""
        found = [match for name, _ in self._list(".open") if (match := _SEALED.fullmatch(name))]
        return [Part(int(match[1]), Path(f".open/{match[0]}"), True) for match in found]

    def look(self, part: Part) -> list[Sample]:
        """Return the samples of a part."""
        return self._listed(str(part.path.with_suffix(".index")), str(part.path))

    def path_of(self, part: Part, sample: Sample) -> str:
        """Return the path of an image in a part, relative to the store."""
        return f"{shard_name(part.number, self._storage)}/{sample.image.name}"

    def digest_of(self, part: Part, sample: Sample) -> str:
        """Return the SHA-256 of the image of a sample."""
        return self._digest_in(str(part.path), sample)

    def publish(self, part: Part, kept: list[Sample]) -> None:
        """Give a part its final name, with the samples *kept* and no others: see `ShardStore.publish`."""
        sealed, shard = str(part.path), shard_name(part.number, self._storage)
        if kept and not self._is_published(part.number):
            is_whole = kept == self.look(part)
            if is_whole and self._storage.format is Format.WEBDATASET:
                self._put(_index_of(shard), _encode(kept))
                with self._plainly(), self._named(shard) as target:
                    self._fs.cp_file(self._at(sealed), target)
            else:
                self._write_anew(sealed, shard, kept)
        self._drop(sealed)
        self._drop(str(part.path.with_suffix(".index")))

    def _is_published(self, number: int) -> bool:
        return self.size_of(shard_name(number, self._storage)) is not None

    def _write_anew(self, source: str, shard: str, kept: list[Sample]) -> None:
        """Make a shard of some samples of a tar."""
        with Scratch() as folder:
            old, new = folder / "old", folder / "new"
            with self._plainly():
                self._fs.get_file(self._at(source), str(old))
            if self._storage.format is Format.PARQUET:
                from crawler.consumer.store.parquet import write

                write(old, kept, new)
            else:
                copy_samples(old, kept, new)
                self._put(_index_of(shard), _index(new))
            self._put_file(shard, new)

    def published(self) -> list[str]:
        """Return the names of the shards that are published, sorted."""
        return [name for name, size in self._list("") if size is not None and self._shard.fullmatch(name)]

    def images(self, shard: str) -> list[str]:
        """Return the names of the images in a published shard."""
        return list(self._sizes(shard))

    def take_out(self, shard: str, gone: set[str]) -> None:
        """Write a published shard anew, without some of its images: see `ShardStore.take_out`."""
        self._known = ("", {})
        if gone.issuperset(self.images(shard)):
            self._drop(shard)
            self._drop(_index_of(shard))
        elif self._storage.format is Format.PARQUET:
            from crawler.consumer.store.parquet import copy

            with Scratch() as folder:
                new = folder / "new"
                copy(io.BytesIO(self._get(shard)), gone, new)
                self._put_file(shard, new)
        else:
            kept = [sample for name, sample in self._samples(shard).items() if name not in gone]
            self._write_anew(shard, shard, kept)

    # ------------------------------------------------------------ looking

    def walk(self) -> Iterator[Found]:
        """Yield what is in the shards: see `Store.walk`. In memory is what one shard lists."""
        shards = {*self.published(), *(shard_name(part.number, self._storage) for part in self.parts())}
        for shard in sorted(shards):
            yield from (Found(f"{shard}/{name}", size) for name, size in sorted(self._sizes(shard).items()))

    def size(self, path: str) -> int | None:
        """Return the size of an image, None where there is none: see `Store.size`."""
        shard, _, name = path.rpartition("/")
        return self._sizes(shard).get(name)

    def digest(self, path: str) -> str:
        """Return the SHA-256 of an image: see `Store.digest`."""
        shard, _, name = path.rpartition("/")
        if self._storage.format is Format.PARQUET and self.size_of(shard) is not None:
            return str(self._rows(shard).digest(name))
        found = self._samples(shard).get(name)
        if found is None:
            raise FileNotFoundError(f"there is no {path}")
        is_there = self.size_of(shard) is not None
        return self._digest_in(shard if is_there else f".open/{shard.partition('.')[0]}.sealed", found)

    def remove(self, paths: list[str]) -> None:
        """Take images out of their shard, which is published: see `Store.remove`."""
        self.take_out(paths[0].rpartition("/")[0], {path.rpartition("/")[2] for path in paths})

    def _sizes(self, shard: str) -> dict[str, int]:
        if self._storage.format is Format.PARQUET and self.size_of(shard) is not None:
            sizes: dict[str, int] = self._rows(shard).sizes()
            return sizes
        return {name: sample.image.size for name, sample in self._samples(shard).items()}

    def _rows(self, shard: str) -> Any:
        from crawler.consumer.store.parquet import ParquetContents

        with self._plainly():
            return ParquetContents(self._fs.open(self._at(shard), "rb"))

    def _samples(self, shard: str) -> dict[str, Sample]:
        """Return the samples of a shard or of its part by the names of their images; none where there is neither."""
        if self._known[0] != shard:
            part = f".open/{shard.partition('.')[0]}"
            found: list[Sample] = []
            with contextlib.suppress(FileNotFoundError):
                if self.size_of(shard) is not None:
                    found = self._listed(_index_of(shard), shard)
                else:
                    found = self._listed(f"{part}.index", f"{part}.sealed")
            self._known = (shard, {sample.image.name: sample for sample in found})
        return self._known[1]

    def _listed(self, index: str, tar: str) -> list[Sample]:
        """Return the samples of a tar: as they are listed, or read from it where its list is lost."""
        with contextlib.suppress(FileNotFoundError):
            return _decode(self._get(index))
        with Scratch() as folder:
            copy = folder / "copy"
            with self._plainly():
                self._fs.get_file(self._at(tar), str(copy))
            return _decode(_index(copy))

    def _digest_in(self, name: str, sample: Sample) -> str:
        with self._plainly():
            start = sample.image.offset
            content = self._fs.cat_file(self._at(name), start=start, end=start + sample.image.size)
        return hashlib.sha256(content).hexdigest()


def _index_of(shard: str) -> str:
    """Return the name under which it is kept what is in a published shard."""
    return f".index/{shard.partition('.')[0]}"


def _index(path: Path) -> bytes:
    with opened(path) as descriptor:
        return _encode(list(samples(descriptor)))
