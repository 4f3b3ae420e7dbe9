"""
Disks that fill up, fail or cannot be written, and limits of this machine: what a run says and how it goes on.

Real file systems in memory, mounted for each test (root). What only a failing disk does is done to `os.fsync`.
"""

from __future__ import annotations

import errno
import io
import os
import resource
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from crawler import descriptors
from crawler.broker.ledger import Ledger
from crawler.errors import Stopped, StorageFailed, UsageError
from crawler.room import RoomWatch, await_room
from tests.command import LIMIT, LOCAL, command, records, run, running, served, status, write_list
from tests.conftest import missing, wait_until
from tests.site import Site

#: It says nothing about the Python that it runs on.
pytestmark = pytest.mark.once

#: Bytes of the file systems that are filled.
DISK = 24_000_000
#: Raise an error whenever something below a folder named `images` is made durable.
FAILING = """
import os
real = os.fsync
def fsync(descriptor):
    if "/images/" in os.readlink(f"/proc/self/fd/{descriptor}"):
        raise OSError(%d, os.strerror(%d))
    real(descriptor)
os.fsync = fsync
"""

Mount = Callable[..., Path]


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Return what mounts a file system in memory, with further options."""
    made: list[Path] = []

    def mounted(name: str, *options: str, size: int = DISK) -> Path:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        words = ["mount", "-t", "tmpfs", "-o", ",".join([f"size={size}", *options]), "crawler-test", str(folder)]
        if os.getuid() != 0 or subprocess.run(words, capture_output=True, check=False, timeout=20).returncode != 0:
            missing("nothing can be mounted: that needs root")
        made.append(folder)
        return folder

    yield mounted
    for folder in made:
        subprocess.run(["umount", "--lazy", str(folder)], check=True, timeout=20)


def fill(disk: Path, leave: int = 0) -> Path:
    """Fill a file system but for *leave* bytes; return the file that does."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        while (room := _free(disk) - leave) > 0:
            try:
                os.posix_fallocate(file.fileno(), 0, room)
            except OSError as error:
                if error.errno != errno.ENOSPC:  # a run took some of it a moment ago
                    raise
            else:
                break
    return filler


def _free(disk: Path) -> int:
    found = os.statvfs(disk)
    return found.f_bavail * found.f_frsize


def write_photos(folder: Path, site: Site, count: int, path: str = "/photo") -> None:
    """Write a list of *count* photos."""
    write_list(folder, *(site.url(f"{path}/{number}.jpg") for number in range(count)))


def attempts(folder: Path, out: str) -> list[int]:
    """Return the attempts of all records, which must be one for each task."""
    found = records(folder, out)
    assert [record["outcome"] for record in found] == ["stored"] * len(found)
    assert len({record["id"] for record in found}) == len(found)
    return [record["attempts"] for record in found]


# ------------------------------------------------------------------ full


def test_a_run_waits_for_room_and_goes_on(tmp_path: Path, site: Site, mount: Mount) -> None:
    """The store's disk fills up in the middle: one line, nobody is charged an attempt, and all of it ends well."""
    write_photos(tmp_path, site, 120, "/slow/0.2/photo")
    disk = mount("disk")
    with running(tmp_path, "seed", "urls.txt", *LOCAL, "--store", "disk/images", "--min-free", "0") as seed:
        served(tmp_path, "urls.crawl")
        wait_until(lambda: status(tmp_path, "urls.crawl").get("stored", 0) > 8)
        filler = fill(disk)
        wait_until(lambda: status(tmp_path, "urls.crawl").get("trouble"))
        filler.unlink()
        said = seed.communicate(timeout=LIMIT)[1]
        assert seed.returncode == 0, said
    assert "nothing can be stored" in said and "images can be stored again" in said
    assert attempts(tmp_path, "urls.crawl") == [1] * 120


def test_a_disk_that_stays_full_is_74_and_resumed(tmp_path: Path, site: Site, mount: Mount) -> None:
    """With OUT itself on it: after the limit the run ends; with room the same command goes on."""
    write_photos(tmp_path, site, 60, "/slow/0.2/photo")
    disk = mount("disk")
    seed = ("seed", "urls.txt", "-o", "disk/out", *LOCAL, "--min-free", "0", "--pause-limit", "1")
    with running(tmp_path, *seed) as process:
        served(tmp_path, "disk/out")
        wait_until(lambda: status(tmp_path, "disk/out").get("stored", 0) > 8)
        filler = fill(disk)
        said = process.communicate(timeout=LIMIT)[1]
        assert process.returncode == 74, said
    assert "Traceback" not in said
    filler.unlink()
    done = run(tmp_path, *seed)
    assert done.returncode == 0, done.stderr
    assert attempts(tmp_path, "disk/out") == [1] * 60


def test_a_run_that_is_started_on_a_full_disk_waits(tmp_path: Path, site: Site, mount: Mount) -> None:
    """It says so in one line, makes nothing, and begins when there is room; an OUT that was begun, too."""
    write_photos(tmp_path, site, 5)
    disk = mount("disk")
    for count in (5, 8):
        write_photos(tmp_path, site, count)
        filler = fill(disk)
        with running(tmp_path, "seed", "urls.txt", "-o", "disk/out", *LOCAL, "--min-free", "0") as process:
            assert process.stderr is not None
            assert "no room in" in process.stderr.readline()
            filler.unlink()
            assert process.wait(LIMIT) == 0
        assert attempts(tmp_path, "disk/out") == [1] * count


@pytest.mark.parametrize(("limit", "expected"), [("0.1", 74), ("60", 75)])
def test_that_wait_has_an_end(tmp_path: Path, site: Site, mount: Mount, limit: str, expected: int) -> None:
    """After the limit with 74; at once with 75 when it is stopped."""
    write_photos(tmp_path, site, 1)
    fill(mount("disk"))
    with running(tmp_path, "seed", "urls.txt", "-o", "disk/out", *LOCAL, "--pause-limit", limit) as process:
        assert process.stderr is not None
        assert "no room in" in process.stderr.readline()
        if expected == 75:
            process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT) == expected
        said = process.stderr.read()
    assert len(said.splitlines()) == 1 and "no room in" in said
    assert not (tmp_path / "disk" / "out").exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_quota_is_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """What is free says nothing of a quota: it is found by writing."""
    calls = iter([OSError(number, "full"), OSError(number, "full"), None])

    def fsync(descriptor: int) -> None:
        if error := next(calls):
            raise error

    monkeypatch.setattr(os, "fsync", fsync)
    waits: list[float] = []
    await_room([tmp_path / "out"], 60.0, lambda seconds: bool(waits.append(seconds)))
    assert len(waits) == 2
    assert list(tmp_path.iterdir()) == []


def test_a_ledger_waits_where_a_quota_is_used_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite says only that a write failed, as it does here; whether it was for want of room is found by writing."""
    monkeypatch.setattr("crawler.broker.ledger.FULL_PAUSE", 0.01)
    failed: list[StorageFailed] = []
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    is_used_up = [True]

    def fsync(descriptor: int) -> None:
        if is_used_up[0]:
            raise OSError(errno.EDQUOT, "quota")

    ledger = Ledger(tmp_path / "ledger.db", 60.0, failed.append)
    try:
        ledger.await_sync()
        monkeypatch.setattr(os, "fsync", fsync)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
        change = ledger.submit(lambda made: made.set_meta("large", "x" * 2_000_000))
        wait_until(lambda: ledger.paused)
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        change.result(20)
        assert (ledger.paused, failed) == (None, [])
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
        is_used_up[0] = False
        with pytest.raises(StorageFailed):
            ledger.change(lambda made: made.set_meta("large", "y" * 4_000_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        ledger.close()
    assert len(failed) == 1


def test_waiting_for_room_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its limit, or because it was stopped."""

    def fsync(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(StorageFailed, match="no room in"):
        await_room([tmp_path], 0.0, lambda seconds: False)
    with pytest.raises(Stopped, match="stopped before it began"):
        await_room([tmp_path], 60.0, lambda seconds: True)


# ------------------------------------------------------------------ nearly full


def test_a_run_pauses_before_the_disk_is_full(tmp_path: Path, site: Site, mount: Mount) -> None:
    """With --min-free nothing more is handed out while less is free, nothing fails, and it goes on by itself."""
    write_photos(tmp_path, site, 200, "/slow/0.2/photo")
    disk = mount("disk")
    seed = ("seed", "urls.txt", *LOCAL, "--store", "disk/images", "--min-free", "16M")
    with running(tmp_path, *seed) as process:
        served(tmp_path, "urls.crawl")
        wait_until(lambda: status(tmp_path, "urls.crawl").get("stored", 0) > 8)
        filler = fill(disk, leave=12_000_000)
        wait_until(lambda: "--min-free" in str(status(tmp_path, "urls.crawl").get("trouble")))
        wait_until(lambda: status(tmp_path, "urls.crawl")["leased"] == 0)
        asked = len(site.requests)
        paused = status(tmp_path, "urls.crawl")
        assert 0 < paused["stored"] == asked < 200
        filler.unlink()
        said = process.communicate(timeout=LIMIT)[1]
        assert process.returncode == 0, said
    assert said.count("less than 16 MB free") == 1 and said.count("there is room again") == 1
    assert attempts(tmp_path, "urls.crawl") == [1] * 200
    assert len(site.requests) == 200


def test_a_disk_that_stays_nearly_full_is_74(tmp_path: Path, site: Site, mount: Mount) -> None:
    """After --pause-limit, with the option's name; with a lower one the same command goes on."""
    write_photos(tmp_path, site, 5)
    mount("disk", size=4_000_000)
    seed = ("seed", "urls.txt", "-o", "disk/out", *LOCAL, "--pause-limit", "1")
    short = run(tmp_path, *seed, "--min-free", "8M")
    assert short.returncode == 74 and "--min-free" in short.stderr
    assert site.requests == []
    assert run(tmp_path, *seed, "--min-free", "1k").returncode == 0


@pytest.mark.parametrize("text", ["", "many", "-1", "1X", "1e9", "nan", "1 2"])
def test_what_is_no_size_is_2(tmp_path: Path, text: str) -> None:
    """With an example of one."""
    done = run(tmp_path, "seed", "urls.txt", "--min-free", text)
    assert done.returncode == 2 and "500M" in done.stderr


def test_room_is_told_when_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once when it is short, once when it is not; a disk that is away for a moment says nothing."""
    monkeypatch.setattr("crawler.room.TICK", 0.01)
    free, real = [10, 0], os.statvfs
    told: list[str | None] = []

    def statvfs(path: object) -> os.statvfs_result:
        if not free:
            raise OSError(errno.ENOENT, "away")
        found = list(real(tmp_path))
        found[4] = free[0]  # f_bavail; see os.statvfs_result
        return os.statvfs_result(found)

    monkeypatch.setattr(os, "statvfs", statvfs)
    least = 5 * real(tmp_path).f_frsize
    watch = RoomWatch([tmp_path], least, told.append)
    watch.start()
    assert told == []
    free[0] = 1
    wait_until(lambda: len(told) == 1)
    free[0] = 10
    wait_until(lambda: len(told) == 2)
    free.clear()
    watch.close()
    assert told[0] is not None and str(tmp_path) in told[0] and told[1:] == [None]


# ------------------------------------------------------------------ failing, read-only


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_a_failed_sync_ends_the_run_or_pauses_it(tmp_path: Path, site: Site, number: int) -> None:
    """EIO: 74 at once, nothing is recorded as stored. ENOSPC of a file: it waits, and ends by its limit."""
    write_photos(tmp_path, site, 40)
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "sitecustomize.py").write_text(FAILING % (number, number))
    words = command("seed", "urls.txt", *LOCAL, "--pause-limit", "60" if number == errno.EIO else "1")
    paths = [str(tmp_path / "more"), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 74, done.stderr
    assert "Traceback" not in done.stderr
    assert not any(record["outcome"] == "stored" for record in records(tmp_path, "urls.crawl"))
    again = run(tmp_path, "seed", "urls.txt", *LOCAL)
    assert again.returncode == 0, again.stderr
    assert len(attempts(tmp_path, "urls.crawl")) == 40


@pytest.mark.parametrize("what", ["out", "store"])
def test_a_read_only_disk_is_told_at_once(tmp_path: Path, site: Site, mount: Mount, what: str) -> None:
    """73 in one line that says what to do; nothing was fetched."""
    write_photos(tmp_path, site, 1)
    mount("disk", "ro")
    where = ("-o", "disk/out") if what == "out" else ("--store", "disk/images")
    done = run(tmp_path, "seed", "urls.txt", *LOCAL, *where)
    assert done.returncode == 73
    (line,) = done.stderr.splitlines()
    assert "disk/" in line and ("choose another" in line or "name another" in line)
    assert site.requests == []


def test_an_out_that_became_read_only_is_told_at_once(tmp_path: Path, site: Site, mount: Mount) -> None:
    """It has a crawl in it, which is left as it is."""
    write_photos(tmp_path, site, 3)
    disk = mount("disk")
    seed = ("seed", "urls.txt", "-o", "disk/out", *LOCAL, "--min-free", "0")
    assert run(tmp_path, *seed).returncode == 0
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True, timeout=20)
    done = run(tmp_path, *seed)
    assert (done.returncode, len(done.stderr.splitlines())) == (73, 1), done.stderr
    assert "Read-only" in done.stderr
    assert len(records(tmp_path, "disk/out")) == 3


@pytest.mark.parametrize("how", ["ended", "killed"])
def test_an_out_that_became_read_only_can_be_looked_at(tmp_path: Path, site: Site, mount: Mount, how: str) -> None:
    """Whether its log is in its file or, after kill -9, beside it; copies are counted, though that cannot be kept."""
    photos = [site.url(f"/photo/1.jpg?{number}") for number in range(3)]
    write_list(tmp_path, *photos, *([site.url("/slow/60/photo/2.jpg")] if how == "killed" else []))
    disk = mount("disk")
    with running(tmp_path, "seed", "urls.txt", "-o", "disk/out", *LOCAL, "--min-free", "0") as seed:
        wait_until(lambda: status(tmp_path, "disk/out").get("stored") == 3)
        if how == "killed":
            os.killpg(seed.pid, signal.SIGKILL)
        seed.wait(LIMIT)
    assert (disk / "out" / "ledger.db-wal").exists() == (how == "killed")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True, timeout=20)
    for _ in range(2):
        done = run(tmp_path, "status", "disk/out")
        assert (done.returncode, "3   of these 2 the same bytes as another" in done.stdout) == (0, True), done.stderr


# ------------------------------------------------------------------ open files


@pytest.mark.parametrize("how", ["seed", "worker"])
def test_too_few_open_files_are_told_at_once(tmp_path: Path, site: Site, how: str) -> None:
    """2, with both numbers and what to do; with as few threads as it says it works."""
    write_photos(tmp_path, site, 3)
    most = 128

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

    def limited(*words: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(  # noqa: PLW1509  (the child only sets its limit)
            command(*words), cwd=tmp_path, preexec_fn=limit, capture_output=True, text=True, timeout=50, check=False
        )

    options = ("--allow-net", "127.0.0.0/8", "--robots", "ignore")
    hands = ("--processes", "1", "--threads")
    if how == "seed":
        refused = limited("seed", "urls.txt", *options, *hands, "32")
        assert not (tmp_path / "urls.crawl").exists()
        works = limited("seed", "urls.txt", *options, *hands, "21")
    else:
        with running(tmp_path, "seed", "urls.txt", *options, "--workers", "0") as process:
            served(tmp_path, "urls.crawl")
            refused = limited("worker", "urls.crawl", *hands, "32")
            works = limited("worker", "urls.crawl", *hands, "21")
            assert process.wait(LIMIT) == 0
    assert refused.returncode == 2
    (line,) = refused.stderr.splitlines()
    assert "160" in line and "128" in line and "ulimit -Hn 160" in line and "--threads 21" in line
    assert works.returncode == 0, works.stderr
    assert attempts(tmp_path, "urls.crawl") == [1] * 3


def test_no_limit_of_open_files_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """RLIM_INFINITY is -1 on some systems: less than any number that is needed."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, resource.RLIM_INFINITY))
    descriptors.require(10_000)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (64, 160))
    descriptors.require(32)
    with pytest.raises(UsageError, match="ulimit"):
        descriptors.require(33)


def test_what_a_write_leaves_is_written_after_it(tmp_path: Path) -> None:
    """A system may take a part of what it is given; without a buffer nobody else looks after the rest."""

    class Reluctant(io.FileIO):
        def write(self, data: Any, /) -> int:
            return super().write(data[:3])

    with Reluctant(str(tmp_path / "file"), "w") as file:
        descriptors.write_all(file, b"0123456789")
    assert (tmp_path / "file").read_bytes() == b"0123456789"
