"""From downloads to durable images and completions, with real verifiers."""

from __future__ import annotations

import errno
import hashlib
import io
import itertools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import PIL.Image as Pillow
import pytest

import crawler.consumer
from crawler.consumer import Consumer
from crawler.consumer.store.files import FileStore
from crawler.errors import CrawlerError, StorageFailed
from crawler.model import Completion, Download, Failure, Outcome, Response, Task
from crawler.reasons import Reason
from crawler.settings import Limits
from crawler.treatment import Transform, Treatment
from tests.conftest import ROOT, wait_until

SESSION = "0123456789abcdef0123456789abcdef"


def picture(color: int = 0) -> bytes:
    """Return a small PNG; another for each color."""
    file = io.BytesIO()
    Pillow.new("L", (20, 10), color).save(file, "PNG")
    return file.getvalue()


class Bench:
    """A store, a consumer on it, and what it said."""

    def __init__(self, root: Path) -> None:
        self.store = FileStore(root)
        self.store.create()
        self.results: list[Completion | Failure] = []
        #: Paths of stored images that were not there when their completion came.
        self.missing: list[str] = []
        self.is_defective = False
        self.consumer: Consumer
        self._ids = itertools.count(1)

    def done(self, result: Completion | Failure) -> None:
        """Take a result as a worker does."""
        if isinstance(result, Completion) and result.path and not Path(self.store.root, result.path).is_file():
            self.missing.append(result.path)
        self.results.append(result)
        if self.is_defective:
            raise ZeroDivisionError

    def start(self, verifiers: int = 1, limits: Limits | None = None, treatment: Treatment | None = None) -> None:
        """Start a consumer."""
        self.consumer = Consumer(self.store, limits or Limits(), verifiers, self.done, treatment)
        self.consumer.start()

    def download(self, content: bytes | None) -> Download:
        """Return a download of *content*; for None one that holds its verifier, a pipe that nobody writes to."""
        number = next(self._ids)
        path = self.store.spool(SESSION) / str(number)
        if content is None:
            os.mkfifo(path)
        else:
            path.write_bytes(content)
        return Download(
            token=1000 + number,
            task=Task(id=number, url=f"http://127.0.0.1/{number}"),
            path=str(path),
            size=len(content or b""),
            sha256=hashlib.sha256(content or b"").hexdigest(),
            response=Response(http_status=200, final_url=f"http://127.0.0.1/{number}"),
        )

    def take(self, content: bytes | None) -> Download:
        """Give the consumer a download."""
        download = self.download(content)
        self.consumer.take(download)
        return download

    def wait(self, count: int) -> dict[int, Completion | Failure]:
        """Return the results by task, when there are *count*."""
        wait_until(lambda: len(self.results) >= count)
        assert len(self.results) == count
        return {result.task_id: result for result in self.results}

    def spool_files(self) -> list[str]:
        """Return what is left in the spool."""
        return sorted(os.listdir(self.store.spool(SESSION)))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """Return a bench, and close its consumer in the end."""
    made = Bench(tmp_path / "images")
    yield made
    if hasattr(made, "consumer"):
        made.consumer.close(0)


@pytest.fixture
def held() -> Iterator[Callable[[Download], None]]:
    """Keep pipes open, so that whoever reads one waits."""
    opened: list[int] = []
    yield lambda download: opened.append(os.open(download.path, os.O_RDWR))
    for descriptor in opened:
        os.close(descriptor)


def verifiers() -> list[int]:
    """Return the processes that are verifiers of this process."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if parent == os.getpid() and b"crawler.consumer.verifier" in command:
            found.append(int(folder.name))
    return found


def working_on(path: str) -> int | None:
    """Return the verifier that has *path* open, None where none has."""
    for pid in verifiers():
        try:
            links = [os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()]
        except OSError:
            continue
        if path in links:
            return pid
    return None


def kill_working_on(path: str, not_this: int | None = None) -> int:
    """Kill the verifier that has *path* open, once it has, and return its process."""
    wait_until(lambda: working_on(path) not in (None, not_this))
    pid = working_on(path)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    return pid


def reason_of(result: Completion | Failure) -> Reason | None:
    """Return why it failed."""
    return result.reason


def test_stored(bench: Bench) -> None:
    """A good image is completed with exact facts; the file is there then, byte for byte, and the spool is empty."""
    content = (ROOT / "fixtures/ImageUrl_0.jpg").read_bytes()
    with Pillow.open(io.BytesIO(content)) as opened:
        width, height = opened.size
    bench.start()
    download = bench.take(content)
    digest = hashlib.sha256(content).hexdigest()
    path = f"{digest[:2]}/{digest}.jpg"
    result = bench.wait(1)[1]
    assert isinstance(result, Completion)
    assert result.facts is not None
    assert msgspec.structs.replace(result, facts=None) == Completion(
        token=download.token,
        task_id=1,
        outcome=Outcome.STORED,
        http_status=200,
        path=path,
        sha256=digest,
        bytes=len(content),
        width=width,
        height=height,
        format="JPEG",
    )
    assert Path(bench.store.root, path).read_bytes() == content
    assert bench.missing == []
    assert bench.spool_files() == []


def test_fixtures(bench: Bench) -> None:
    """Every fixture ends in its completion, whatever came before it; nothing is left in the spool."""
    rows = [line.split("\t") for line in (ROOT / "fixtures/MANIFEST.tsv").read_text().splitlines()[1:]]
    bench.start(2)
    for row in rows:
        bench.take((ROOT / "fixtures" / row[0]).read_bytes())
    results = bench.wait(len(rows))
    told = [results[number + 1] for number in range(len(rows))]
    assert [result.reason or result.outcome for result in told if isinstance(result, Completion)] == [
        row[2] for row in rows
    ]
    assert {result.http_status for result in told} == {200}
    assert bench.missing == []
    assert bench.spool_files() == []


def test_same_bytes(bench: Bench) -> None:
    """Downloads of the same bytes leave one file and a completion each."""
    bench.start(2)
    for _ in range(10):
        bench.take(picture())
    paths = {result.path for result in bench.wait(10).values() if isinstance(result, Completion)}
    assert len(paths) == 1
    assert len(list(Path(bench.store.root).glob("[!.]*/*"))) == 1


def test_limits(bench: Bench) -> None:
    """Verifiers get the limits."""
    bench.start(limits=Limits(max_pixels=199))
    bench.take(picture())
    assert reason_of(bench.wait(1)[1]) is Reason.TOO_MANY_PIXELS


def test_verifier_killed(bench: Bench, held: Callable[[Download], None]) -> None:
    """An image whose verifier is killed is tried once more in a fresh one, and stored."""
    bench.start()
    download = bench.download(None)
    held(download)
    bench.consumer.take(download)
    wait_until(lambda: working_on(download.path))
    good = bench.download(picture())
    os.replace(good.path, download.path)
    # The path is another file by now, so look for the verifier itself.
    (pid,) = verifiers()
    os.kill(pid, signal.SIGKILL)
    result = bench.wait(1)[download.task.id]
    assert isinstance(result, Completion)
    assert result.outcome is Outcome.STORED
    assert verifiers() != [pid]


def test_verifier_killed_twice(bench: Bench, held: Callable[[Download], None]) -> None:
    """An image over which two verifiers die is given up; one that was queued behind it is not charged and stored."""
    bench.start()
    download = bench.download(None)
    held(download)
    bench.consumer.take(download)
    wait_until(lambda: working_on(download.path))
    innocent = bench.take(picture())
    first = kill_working_on(download.path)
    kill_working_on(download.path, not_this=first)
    results = bench.wait(2)
    assert reason_of(results[download.task.id]) is Reason.VERIFIER_DIED
    assert results[innocent.task.id].reason is None
    assert bench.spool_files() == []


def test_too_slow(bench: Bench, held: Callable[[Download], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """An image that takes too long is given up at once; others are stored."""
    monkeypatch.setattr(crawler.consumer, "IMAGE_WAIT", 0.3)
    bench.start()
    download = bench.download(None)
    held(download)
    bench.consumer.take(download)
    wait_until(lambda: bench.results)
    assert reason_of(bench.results[0]) is Reason.VERIFIER_TIMEOUT
    assert "another try" in str(bench.results[0].detail)
    assert bench.spool_files() == []
    monkeypatch.setattr(crawler.consumer, "IMAGE_WAIT", 30.0)
    other = bench.take(picture())
    assert bench.wait(2)[other.task.id].reason is None


def test_spool_file_gone(bench: Bench) -> None:
    """A download whose file is gone can be tried again."""
    bench.start()
    download = bench.download(picture())
    os.unlink(download.path)
    bench.consumer.take(download)
    result = bench.wait(1)[1]
    assert isinstance(result, Failure)
    assert result.reason is Reason.INTERNAL
    assert bench.consumer.pending() == 0


def fail_fsync(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Let every fsync of this process fail."""

    def fsync(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)


def test_disk_full(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk makes a failure that charges nobody, frees the room, and does not end the consumer."""
    bench.start()
    fail_fsync(monkeypatch, errno.ENOSPC)
    download = bench.take(picture())
    result = bench.wait(1)[1]
    assert isinstance(result, Failure)
    assert (result.token, result.reason) == (download.token, Reason.DISK_FULL)
    assert bench.consumer.failed is None
    assert bench.spool_files() == []


def test_disk_failed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fails is told once, and nothing is done any more: nobody may record what may be lost."""
    told: list[CrawlerError] = []
    bench.start(2)
    bench.consumer.on_failed = told.append
    fail_fsync(monkeypatch, errno.EIO)
    for color in range(20):
        bench.take(picture(color))
    wait_until(lambda: told)
    bench.consumer.close(20)
    assert [type(error) for error in told] == [StorageFailed]
    assert bench.consumer.failed is told[0]
    assert bench.results == []
    assert bench.consumer.pending() == 20


def test_stays_failed(bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """After a disk has failed nothing is done, even if it seems to be well again."""
    bench.start()
    with monkeypatch.context() as failing:
        fail_fsync(failing, errno.EIO)
        bench.take(picture())
        wait_until(lambda: bench.consumer.failed)
    caplog.set_level("DEBUG", "crawler.consumer")
    later = bench.take(picture(1))
    wait_until(lambda: f"task {later.task.id} is left as it is" in caplog.messages)
    assert bench.results == []


def test_no_verifiers(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Verifiers that cannot be started are told with the reason, and cost no task an attempt."""
    (tmp_path / "broken" / "PIL").mkdir(parents=True)
    (tmp_path / "broken" / "PIL" / "__init__.py").write_text("raise ImportError('no libjpeg here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "broken"))
    told: list[CrawlerError] = []
    bench.start()
    bench.consumer.on_failed = told.append
    bench.take(picture())
    wait_until(lambda: bench.consumer.failed)
    assert "no libjpeg here" in str(bench.consumer.failed)
    assert told == [bench.consumer.failed]
    assert bench.results == []


def test_done_fails(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """A defect in what is told about results ends no thread: more come than there are threads."""
    bench.is_defective = True
    bench.start()
    count = 2 * crawler.consumer.KEEPERS
    for color in range(count):
        bench.take(picture(color))
    bench.wait(count)
    wait_until(lambda: bench.consumer.pending() == 0)
    assert "ZeroDivisionError" in caplog.text


def test_close_finishes(bench: Bench) -> None:
    """Closing finishes what is in hand."""
    bench.start(2)
    for color in range(50):
        bench.take(picture(color))
    bench.consumer.close(30)
    assert len(bench.results) == 50
    assert bench.consumer.pending() == 0


def test_close_gives_up(bench: Bench, held: Callable[[Download], None]) -> None:
    """What is not finished in time is never done, and its file stays for the sweep."""
    bench.start()
    download = bench.download(None)
    held(download)
    bench.consumer.take(download)
    wait_until(lambda: working_on(download.path))
    bench.consumer.close(0)
    bench.consumer.close(0)
    assert verifiers() == []
    assert bench.results == []
    assert bench.consumer.pending() == 1
    assert bench.spool_files() == ["1"]


def test_nothing_left(bench: Bench) -> None:
    """A consumer, a death of a verifier included, leaves no process, descriptor or thread."""
    before = set(os.listdir("/proc/self/fd")), threading.active_count()
    bench.start(2)
    bench.take(picture())
    bench.wait(1)
    pids = verifiers()
    os.kill(pids[0], signal.SIGKILL)
    wait_until(lambda: len(verifiers()) == 2 and pids[0] not in verifiers())
    for color in range(20):
        bench.take(picture(color))
    bench.consumer.close(30)
    assert len(bench.results) == 21
    assert verifiers() == []
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert (set(os.listdir("/proc/self/fd")), threading.active_count()) == before


def test_parent_without_pillow(bench: Bench) -> None:
    """A consumer's own process does not load what decodes foreign bytes."""
    root = str(Path(crawler.consumer.__file__).parents[2])
    script = "import sys, crawler.consumer, crawler.consumer.store; print('PIL' in sys.modules)"
    paths = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run([sys.executable, "-c", script], check=True, env=environment, capture_output=True, text=True)
    assert done.stdout == "False\n"


# ------------------------------------------------------------------ transforms


RESIZED = Treatment(transform=Transform(size=50, format="PNG"))


def test_transformed(bench: Bench) -> None:
    """What a verifier makes is stored under its own digest; the original is told, and gone; nothing is left open."""
    before = set(os.listdir("/proc/self/fd"))
    content = (ROOT / "fixtures/ImageUrl_0.jpg").read_bytes()
    bench.start(2, treatment=RESIZED)
    for _ in range(5):
        bench.take(content)
    results = list(bench.wait(5).values())
    [(path, sha256, size)] = {(one.path, one.sha256, one.bytes) for one in results if isinstance(one, Completion)}
    assert path is not None
    kept = Path(bench.store.root, path).read_bytes()
    assert (hashlib.sha256(kept).hexdigest(), len(kept)) == (sha256, size)
    assert path == f"{str(sha256)[:2]}/{sha256}.png"
    for one in results:
        assert isinstance(one, Completion)
        assert one.facts is not None
        assert one.facts.original_sha256 == hashlib.sha256(content).hexdigest()
        assert one.facts.original_bytes == len(content)
    assert bench.spool_files() == []
    assert len(list(Path(bench.store.root).glob("[!.]*/*"))) == 1
    bench.consumer.close(30)
    assert set(os.listdir("/proc/self/fd")) == before


#: A verifier of which the first one stops when it has written half of an image.
HALTING = """
import pathlib, time
import crawler.consumer.verifier as verifier
from crawler.processes import child_main

begun = pathlib.Path({begun!r})
if not begun.exists():
    begun.touch()
    def halt(file, data):
        file.write(data[: len(data) // 2])
        time.sleep(3600)
    verifier._write = halt
if __name__ == "__main__":
    child_main(verifier.serve)
"""


def test_verifier_killed_in_a_transform(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of what it made is nowhere; the download is whole, and the next verifier makes all of it."""
    (tmp_path / "halting.py").write_text(HALTING.format(begun=str(tmp_path / "begun")))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")])))
    monkeypatch.setattr(crawler.consumer, "VERIFIER", "halting")
    bench.start(treatment=RESIZED)
    content = (ROOT / "fixtures/ImageUrl_0.jpg").read_bytes()
    download = bench.take(content)
    outputs = bench.consumer._outputs._files
    wait_until(lambda: any(os.fstat(output).st_size for output in outputs.values()))
    assert Path(download.path).read_bytes() == content
    assert bench.spool_files() == [str(download.task.id)]
    assert list(Path(bench.store.root).glob("[!.]*/*")) == []
    bench.consumer._crew.kill(1)
    [result] = bench.wait(1).values()
    assert isinstance(result, Completion)
    assert result.path is not None
    with Pillow.open(Path(bench.store.root, result.path)) as opened:
        opened.load()
        assert min(opened.size) == 50
    assert bench.spool_files() == []
    assert bench.consumer._outputs._files == {}


def test_disk_full_after_a_transform(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """No room for what was made is no room: charged to nobody, and nothing of it is left."""
    bench.start(treatment=RESIZED)

    def pread(*_: int) -> bytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as full:
        full.setattr(os, "pread", pread)
        bench.take((ROOT / "fixtures/ImageUrl_0.jpg").read_bytes())
        assert reason_of(bench.wait(1)[1]) is Reason.DISK_FULL
    assert bench.spool_files() == []
    assert bench.consumer._outputs._files == {}


@pytest.mark.once
@pytest.mark.parametrize(
    ("mode", "format"),
    [("I;16", "PNG"), ("F", "TIFF"), ("I", "TIFF"), ("CMYK", "JPEG"), ("CMYK", "TIFF"), ("LA", "PNG")],
)
def test_the_largest_picture_costs_no_neighbour(bench: Bench, mode: str, format: str) -> None:
    """Of 64 million pixels, of any kind, it is resized within a verifier's limits, as those before and after it are."""
    file = io.BytesIO()
    Pillow.new(mode, (8000, 8000)).save(file, format, compression="tiff_lzw")
    bench.start(treatment=Treatment(transform=Transform(size=64)))
    for content in (picture(1), file.getvalue(), picture(2)):
        bench.take(content)
    wait_until(lambda: len(bench.results) == 3, 60)
    assert [(one.reason, isinstance(one, Completion)) for one in bench.results] == [(None, True)] * 3
