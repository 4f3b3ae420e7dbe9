"""The store that keeps many images in a file: parts, what is made of them, and what a crash leaves."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import msgspec
import pyarrow.parquet as pq
import pytest

from crawler.consumer.store import About
from crawler.consumer.store.shards import Part, ShardStore
from crawler.consumer.store.tar import END
from crawler.errors import FetchError, StorageFailed
from crawler.model import Download, Image, Response, Task
from crawler.reasons import Reason
from crawler.storage import Format, Storage
from tests.shards import listed, read_webdataset

SESSION = "0123456789abcdef0123456789abcdef"
#: Seconds to wait for what a thread does.
WAIT = 20


def content(task: int) -> bytes:
    """Return what stands for the image of a task; of no round size."""
    return b"image %d " % task * (task % 200 + 1)


class Bench:
    """A store, and images for it."""

    def __init__(self, root: Path, storage: Storage) -> None:
        self.store = ShardStore(root, storage)
        self.store.create()
        self._numbers = itertools.count()
        self._spooled = itertools.count()
        self.store.begin(lambda: next(self._numbers))

    def about(self, task: int, path: Path, columns: dict[str, object] | None = None) -> About:
        """Return what there is to say about the image of a task."""
        url = f"http://a.example/{task}.jpg"
        data = content(task)
        return About(
            Download(
                token=task,
                task=Task(id=task, url=url, columns=None if columns is None else msgspec.msgpack.encode(columns)),
                path=str(path),
                size=len(data),
                sha256=hashlib.sha256(data).hexdigest(),
                response=Response(http_status=200, final_url=url, content_type="image/jpeg"),
            ),
            Image(format="JPEG", width=10, height=20),
        )

    def put(self, task: int, columns: dict[str, object] | None = None) -> Future[str]:
        """Give the store an image."""
        path = self.store.spool(SESSION) / str(next(self._spooled))
        path.write_bytes(content(task))
        about = self.about(task, path, columns)
        return self.store.keep(path, about.download.sha256, "JPEG", about)

    def keep(self, *tasks: int) -> list[str]:
        """Keep images one after the other; return their paths."""
        return [self.put(task).result(WAIT) for task in tasks]

    def publish(self, *, only: Callable[[int], bool] = lambda task: True) -> None:
        """Publish all parts, with the tasks for which *only* holds."""
        for part in self.store.parts():
            self.store.publish(part, [sample for sample in self.store.look(part) if only(sample.task_id)])

    def walked(self) -> dict[str, int]:
        """Return the sizes of all images by path."""
        return dict(self.store.walk())


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """Return a bench for tars of at most five images."""
    made = Bench(tmp_path / "images", Storage(format=Format.WEBDATASET, shard_count=5, caption_column="text"))
    yield made
    made.store.close()


def names(folder: Path) -> list[str]:
    """Return what is in a folder, sorted."""
    return sorted(path.name for path in folder.iterdir())


def test_an_image_is_in_the_part_when_it_is_told(bench: Bench) -> None:
    """With its bytes, under the path that it will have; its download is gone."""
    [path] = bench.keep(7)
    assert path == "00000.tar/000000007.jpg"
    assert bench.walked() == {path: len(content(7))}
    assert bench.store.digest(path) == hashlib.sha256(content(7)).hexdigest()
    assert names(Path(bench.store.root, ".open")) == ["00000.part"]
    assert names(bench.store.spool(SESSION)) == []


def test_a_full_part_is_closed_and_the_next_begins(bench: Bench) -> None:
    """By count; the last one is closed with the store."""
    futures = [bench.put(task) for task in range(1, 13)]
    paths = [future.result(WAIT) for future in futures]
    assert [path.split("/")[0] for path in paths] == ["00000.tar"] * 5 + ["00001.tar"] * 5 + ["00002.tar"] * 2
    bench.store.close()
    assert names(Path(bench.store.root, ".open")) == ["00000.sealed", "00001.sealed", "00002.sealed"]


def test_a_part_is_closed_by_size(tmp_path: Path) -> None:
    """As soon as it has as many bytes."""
    bench = Bench(tmp_path / "images", Storage(format=Format.WEBDATASET, shard_size=4000))
    assert [path[:5] for path in bench.keep(1, 2, 3, 4, 5)] == ["00000", "00000", "00001", "00001", "00002"]
    bench.store.close()


def test_a_published_tar_is_read_by_tar_and_webdataset(bench: Bench) -> None:
    """Images, captions and facts, in the order in which they came."""
    bench.put(1, {"text": "a röse", "licence": "CC0", "width": "other"}).result(WAIT)
    bench.put(2, {"licence": None}).result(WAIT)
    bench.store.close()
    bench.publish()
    tar = Path(bench.store.root, "00000.tar")
    assert listed(tar) == [
        "000000001.jpg",
        "000000001.txt",
        "000000001.json",
        "000000002.jpg",
        "000000002.json",
    ]
    first, second = read_webdataset([tar])
    assert (first["__key__"], first["jpg"], first["txt"].decode()) == ("000000001", content(1), "a röse")
    assert json.loads(first["json"]) == {
        "text": "a röse",
        "list_licence": "CC0",
        "list_width": "other",
        "key": "000000001",
        "url": "http://a.example/1.jpg",
        "sha256": hashlib.sha256(content(1)).hexdigest(),
        "bytes": len(content(1)),
        "width": 10,
        "height": 20,
        "format": "JPEG",
        "http_status": 200,
        "final_url": "http://a.example/1.jpg",
        "content_type": "image/jpeg",
        "etag": None,
        "last_modified": None,
    }
    assert second["jpg"] == content(2)
    assert json.loads(second["json"])["list_licence"] is None


def test_what_is_not_recorded_is_left_out(bench: Bench) -> None:
    """The others keep their bytes, also where the part was left open; without any there is no shard."""
    bench.keep(*range(1, 9))
    bench.publish(only=lambda task: task in (2, 4, 5))
    assert names(Path(bench.store.root, ".open")) == []
    assert {sample["__key__"]: sample["jpg"] for sample in read_webdataset([Path(bench.store.root, "00000.tar")])} == {
        f"{task:09}": content(task) for task in (2, 4, 5)
    }
    assert not Path(bench.store.root, "00001.tar").exists()


@pytest.mark.parametrize("garbage", [b"", bytes(3000), b"\xff" * 3000], ids=["nothing", "zeros", "garbage"])
def test_what_a_power_cut_leaves_is_cut(bench: Bench, garbage: bytes) -> None:
    """Wherever a part was torn, and whatever is behind: the samples before are found, and those recorded make a tar."""
    bench.keep(1, 2, 3)
    [part] = bench.store.parts()
    whole = part.path.read_bytes()
    ends = [sample.offset + sample.size for sample in bench.store.look(part)]
    assert ends[-1] == len(whole)
    for cut in [*range(0, len(whole), 100), *ends]:
        part.path.write_bytes(whole[:cut] + garbage)
        found = bench.store.look(part)
        count = sum(end <= cut for end in ends)
        expected = list(zip([1, 2, 3], ends, strict=True))[:count]
        assert [(sample.task_id, sample.offset + sample.size) for sample in found[:count]] == expected
        # Of the sample that was torn the headers may be whole. It is not recorded: it was not durable.
        assert len(found) <= count + 1
    part.path.write_bytes(whole[: ends[1] + 700] + garbage)
    bench.publish(only=lambda task: task < 3)
    tar = Path(bench.store.root, "00000.tar")
    assert tar.read_bytes() == whole[: ends[1]] + END
    assert len(listed(tar)) == 4


def test_publishing_can_be_cut_off_anywhere(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Done again it comes to the same, and no file under a final name is ever unfinished."""
    bench.keep(*range(1, 6))
    bench.store.close()
    [part] = bench.store.parts()
    assert part.sealed
    samples = bench.store.look(part)
    whole = part.path.read_bytes() + END
    tar = Path(bench.store.root, "00000.tar")
    cuts = 0
    for name, kept in itertools.product(["fsync", "replace", "unlink"], [samples, samples[1:]]):
        tar.unlink(missing_ok=True)
        part.path.write_bytes(whole[: -len(END)])
        expected = whole[kept[0].offset :]
        for stop in itertools.count():
            done = _cut_off(monkeypatch, name, stop, lambda kept=kept: bench.store.publish(part, kept))
            assert not tar.exists() or tar.read_bytes() == expected, (name, stop)
            if done:
                break
            cuts += 1
        assert tar.read_bytes() == expected
        assert names(Path(bench.store.root, ".open")) == []
    assert cuts >= 7


class _Cut(BaseException):
    """Stands for the end of the process."""


def _cut_off(monkeypatch: pytest.MonkeyPatch, name: str, stop: int, work: Callable[[], None]) -> bool:
    """Do *work*, and have it cut off before call number *stop* of a function; tell whether it was not."""
    calls = itertools.count()
    real = getattr(os, name)

    def cut(*args: object, **kwds: object) -> object:
        if next(calls) == stop:
            raise _Cut
        return real(*args, **kwds)

    with monkeypatch.context() as patch:
        patch.setattr(os, name, cut)
        try:
            work()
        except _Cut:
            return False
        return True


def test_somebody_may_still_write_to_a_part_that_is_published(bench: Bench) -> None:
    """A worker that was given up: what it appends is in no shard."""
    bench.keep(1, 2)
    bench.publish()
    before = Path(bench.store.root, "00000.tar").read_bytes()
    bench.keep(3)
    bench.store.close()
    assert Path(bench.store.root, "00000.tar").read_bytes() == before
    assert bench.store.parts() == []


def test_after_a_roll_another_shard_is_filled(bench: Bench) -> None:
    """The coordinator may have closed the one that was open."""
    first = bench.keep(1)
    bench.store.roll()
    assert [*first, *bench.keep(2)] == ["00000.tar/000000001.jpg", "00001.tar/000000002.jpg"]


def test_a_full_disk_costs_the_one_image(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written of it is cut off again, and the next is in its place."""
    bench.keep(1)
    before = Path(bench.store.root, ".open", "00000.part").read_bytes()
    real = os.write

    def full(descriptor: int, data: bytes) -> int:
        if len(data) < 600:
            raise OSError(errno.ENOSPC, "injected")
        return real(descriptor, data[:600])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        future = bench.put(199)
        with pytest.raises(FetchError) as caught:
            future.result(WAIT)
    assert caught.value.reason is Reason.DISK_FULL
    assert Path(bench.store.root, ".open", "00000.part").read_bytes() == before
    bench.keep(2)
    bench.publish()
    assert len(listed(Path(bench.store.root, "00000.tar"))) == 4


def test_a_failed_sync_ends_it(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the group is told as kept, nor anything after it."""
    bench.keep(1)

    def failing(descriptor: int) -> None:
        raise OSError(errno.EIO, "injected")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing)
        with pytest.raises(StorageFailed):
            bench.put(2).result(WAIT)
    with pytest.raises(StorageFailed):
        bench.put(3).result(WAIT)


def test_a_download_that_is_gone_costs_its_task_only(bench: Bench) -> None:
    """It was swept under our hands."""
    path = bench.store.spool(SESSION) / "gone"
    future = bench.store.keep(path, "0" * 64, "JPEG", bench.about(1, path))
    with pytest.raises(FetchError) as caught:
        future.result(WAIT)
    assert caught.value.reason is Reason.INTERNAL
    assert bench.keep(2) == ["00000.tar/000000002.jpg"]


def test_the_walk_goes_by_path(bench: Bench) -> None:
    """Through shards and parts, whatever the order in which images came."""
    bench.keep(9, 3, 5, 4, 1, 8, 2)
    bench.store.publish(bench.store.parts()[0], bench.store.look(bench.store.parts()[0]))
    paths = [found.path for found in bench.store.walk()]
    assert paths == sorted(paths)
    assert [path[-7:-4] for path in paths] == ["001", "003", "004", "005", "009", "002", "008"]
    assert {path: bench.store.size(path) for path in paths} == bench.walked()
    assert bench.store.size("00000.tar/000000002.jpg") is None
    assert bench.store.size("00009.tar/000000002.jpg") is None


def test_parquet_has_bytes_and_columns(tmp_path: Path) -> None:
    """Rows are those that were recorded; what two lines say in different types becomes text."""
    bench = Bench(tmp_path / "images", Storage(format=Format.PARQUET, shard_count=300))
    for task in range(1, 251):
        bench.put(task, {"text": f"caption {task}", "mixed": task if task % 2 else "none", "empty": None})
    bench.store.close()
    bench.publish(only=lambda task: task != 13)
    path = Path(bench.store.root, "00000.parquet")
    table = pq.read_table(path)
    rows = {row["key"]: row for row in table.to_pylist()}
    assert sorted(rows) == [f"{task:09}" for task in range(1, 251) if task != 13]
    assert rows["000000007"]["image"] == {"bytes": content(7), "path": "000000007.jpg"}
    assert (rows["000000007"]["text"], rows["000000007"]["mixed"], rows["000000008"]["mixed"]) == (
        "caption 7",
        "7",
        "none",
    )
    assert rows["000000007"]["empty"] is None
    assert pq.ParquetFile(path).num_row_groups == 3
    walked = bench.walked()
    assert len(walked) == 249
    for task in (1, 120, 250):
        name = f"00000.parquet/{task:09}.jpg"
        assert walked[name] == len(content(task)) == bench.store.size(name)
        assert bench.store.digest(name) == hashlib.sha256(content(task)).hexdigest()
    with pytest.raises(FileNotFoundError):
        bench.store.digest("00000.parquet/000000013.jpg")


@pytest.mark.parametrize("format", [Format.WEBDATASET, Format.PARQUET])
def test_images_are_taken_out_of_a_shard(tmp_path: Path, format: Format) -> None:
    """The others stay as they are; when none is left, the shard is gone."""
    bench = Bench(tmp_path / "images", Storage(format=format, shard_count=250))
    for future in [bench.put(task, {"text": f"caption {task}"}) for task in range(1, 251)]:
        future.result(WAIT)
    bench.store.close()
    bench.publish()
    [shard] = bench.store.published()
    gone = {f"{task:09}.jpg" for task in (1, 120, 250)}
    bench.store.take_out(shard, gone)
    assert len(bench.walked()) == 247
    assert not gone & set(bench.store.images(shard))
    name = "000000121.jpg"
    assert bench.store.digest(f"{shard}/{name}") == hashlib.sha256(content(121)).hexdigest()
    bench.store.take_out(shard, set(bench.store.images(shard)))
    assert bench.store.published() == []


def test_a_part_is_known_by_its_name(bench: Bench) -> None:
    """Other files beside parts are left alone."""
    bench.keep(1)
    Path(bench.store.root, ".open", "00007.new").write_bytes(b"")
    Path(bench.store.root, ".open", "notes").write_bytes(b"")
    assert bench.store.parts() == [Part(0, Path(bench.store.root, ".open", "00000.part"), False)]
