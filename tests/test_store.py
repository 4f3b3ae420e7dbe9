"""The directory store: durable images under names from their content, spools, and the nonce."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from crawler.consumer.store import EXTENSIONS
from crawler.consumer.store.files import FileStore
from crawler.errors import FetchError, StorageFailed
from crawler.reasons import Reason

SESSION = "0123456789abcdef0123456789abcdef"
CONTENT = b"an image's bytes"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
NAME = f"{SHA256[:2]}/{SHA256}.jpg"


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    """Return a new store."""
    made = FileStore(tmp_path / "images")
    made.create()
    return made


def spooled(store: FileStore, name: str = "1", content: bytes = CONTENT) -> Path:
    """Put a download into the store's spool."""
    path = store.spool(SESSION) / name
    path.write_bytes(content)
    return path


def images(store: FileStore) -> list[str]:
    """Return the names of all files but spools."""
    root = Path(store.root)
    return sorted(str(path.relative_to(root)) for path in root.glob("[!.]*/*"))


class Calls:
    """Record what is made durable and what gets its name, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[tuple[str, str]] = []
        #: Error number with which the next fsync of a name that begins so fails.
        self.failing: dict[str, int] = {}
        self._fsync, self._replace, self._mkdir = os.fsync, os.replace, os.mkdir
        monkeypatch.setattr(os, "fsync", self.fsync)
        monkeypatch.setattr(os, "replace", self.replace)
        monkeypatch.setattr(os, "mkdir", self.mkdir)

    def fsync(self, descriptor: int) -> None:
        name = Path(os.readlink(f"/proc/self/fd/{descriptor}")).name
        if name in self.failing:
            raise OSError(self.failing[name], "injected")
        self.made.append(("fsync", name))
        self._fsync(descriptor)

    def replace(self, path: str | Path, target: str | Path) -> None:
        if "replace" in self.failing:
            raise OSError(self.failing.pop("replace"), "injected")
        self.made.append(("rename", Path(target).name))
        self._replace(path, target)

    def mkdir(self, path: str | Path, mode: int = 0o777) -> None:
        self._mkdir(path, mode)
        self.made.append(("mkdir", Path(path).name))


@pytest.fixture
def calls(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Record from when the store exists."""
    return Calls(monkeypatch)


def test_keep(store: FileStore) -> None:
    """A spool file becomes an image under its digest, once, with the content it had."""
    path = spooled(store)
    assert store.keep(path, SHA256, "JPEG") == NAME
    assert Path(store.root, NAME).read_bytes() == CONTENT
    assert images(store) == [NAME]
    assert not path.exists()


@pytest.mark.parametrize(("format", "extension"), EXTENSIONS.items())
def test_extension(store: FileStore, format: str, extension: str) -> None:
    """The file's ending comes from the format."""
    assert store.keep(spooled(store), SHA256, format).endswith(f"/{SHA256}.{extension}")


def test_order(store: FileStore, calls: Calls) -> None:
    """Content is durable before it has its name, and the names of image and folder before it is told."""
    path = spooled(store)
    calls.made.clear()
    store.keep(path, SHA256, "JPEG")
    folder, file = NAME.split("/")
    assert calls.made == [
        ("fsync", "1"),
        ("mkdir", folder),
        ("fsync", "images"),
        ("rename", file),
        ("fsync", folder),
    ]


def test_folder_of_another(store: FileStore, calls: Calls) -> None:
    """A folder that somebody else just made is made durable too, once."""
    folder = NAME[:2]
    Path(store.root, folder).mkdir()
    for number in range(2):
        content = CONTENT + bytes([number])
        store.keep(spooled(store, "x", content), SHA256[:2] + hashlib.sha256(content).hexdigest()[2:], "JPEG")
    assert calls.made.count(("fsync", "images")) == 1


def test_same_content(store: FileStore) -> None:
    """The same content again leaves one file, and drops the spool file."""
    paths = [spooled(store, name) for name in "abc"]
    assert {store.keep(path, SHA256, "JPEG") for path in paths} == {NAME}
    assert images(store) == [NAME]
    assert not any(path.exists() for path in paths)


def test_orphan(store: FileStore, calls: Calls) -> None:
    """An image left by somebody who died is used, but only after it has been made durable; that is done once."""
    Path(store.root, NAME).parent.mkdir()
    Path(store.root, NAME).write_bytes(CONTENT)
    calls.made.clear()
    folder, file = NAME.split("/")
    assert store.keep(spooled(store), SHA256, "JPEG") == NAME
    assert [call for call in calls.made if call[0] == "fsync"] == [
        ("fsync", file),
        ("fsync", "images"),
        ("fsync", folder),
    ]
    path = spooled(store)
    calls.made.clear()
    store.keep(path, SHA256, "JPEG")
    assert calls.made == []


def test_wrong_size(store: FileStore) -> None:
    """A file of another size under the image's name is replaced."""
    Path(store.root, NAME).parent.mkdir()
    Path(store.root, NAME).write_bytes(CONTENT[:5])
    store.keep(spooled(store), SHA256, "JPEG")
    assert Path(store.root, NAME).read_bytes() == CONTENT


def test_link_in_place(store: FileStore, tmp_path: Path) -> None:
    """A link under the image's name is replaced, not followed."""
    (tmp_path / "elsewhere").write_bytes(CONTENT)
    Path(store.root, NAME).parent.mkdir()
    Path(store.root, NAME).symlink_to(tmp_path / "elsewhere")
    store.keep(spooled(store), SHA256, "JPEG")
    assert not Path(store.root, NAME).is_symlink()


def test_together(store: FileStore) -> None:
    """Several threads keep the same and different contents at once."""
    contents = [b"content %d" % (number % 20) for number in range(200)]
    todo = [(spooled(store, str(number), content), content) for number, content in enumerate(contents)]
    kept: list[str] = []

    def work(share: list[tuple[Path, bytes]]) -> None:
        for path, content in share:
            kept.append(store.keep(path, hashlib.sha256(content).hexdigest(), "PNG"))

    threads = [threading.Thread(target=work, args=(todo[number::8],)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(kept) == 200
    assert images(store) == sorted(set(kept))
    assert {Path(store.root, name).read_bytes() for name in kept} == set(contents)
    assert list(store.spool(SESSION).iterdir()) == []


def test_other_file_system(store: FileStore, calls: Calls) -> None:
    """A spool file on another file system is copied; the copy is durable before it has its name."""
    path = spooled(store)
    calls.failing["replace"] = errno.EXDEV
    calls.made.clear()
    assert store.keep(path, SHA256, "JPEG") == NAME
    assert images(store) == [NAME]
    assert Path(store.root, NAME).read_bytes() == CONTENT
    assert not path.exists()
    renamed = calls.made.index(("rename", NAME.split("/")[1]))
    assert calls.made[renamed - 1][1].startswith(f".{SHA256}")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_full(store: FileStore, calls: Calls, number: int) -> None:
    """A full disk is told as such, and the spool file is left."""
    path = spooled(store)
    calls.failing["1"] = number
    with pytest.raises(FetchError) as caught:
        store.keep(path, SHA256, "JPEG")
    assert caught.value.reason is Reason.DISK_FULL
    assert path.exists()
    assert images(store) == []


@pytest.mark.parametrize(("name", "number"), [("1", errno.EIO), (NAME[:2], errno.EIO), (NAME[:2], errno.ENOSPC)])
def test_failed_sync(store: FileStore, calls: Calls, name: str, number: int) -> None:
    """A failed fsync, of a folder for whatever reason, is a failure of the storage."""
    path = spooled(store)
    calls.failing[name] = number
    with pytest.raises(StorageFailed, match=r"images"):
        store.keep(path, SHA256, "JPEG")


def test_not_remembered_when_failed(store: FileStore, calls: Calls) -> None:
    """An image whose folder could not be made durable is not taken for durable afterwards."""
    path = spooled(store)
    calls.failing[NAME[:2]] = errno.EIO
    with pytest.raises(StorageFailed):
        store.keep(path, SHA256, "JPEG")
    with pytest.raises(StorageFailed):
        store.keep(spooled(store), SHA256, "JPEG")


def test_spool_file_gone(store: FileStore) -> None:
    """A download that is gone costs its task only."""
    with pytest.raises(FetchError) as caught:
        store.keep(store.spool(SESSION) / "gone", SHA256, "JPEG")
    assert caught.value.reason is Reason.INTERNAL


def test_store_gone(store: FileStore) -> None:
    """A store that is gone, such as an unmounted one, is a failure of the storage."""
    path = spooled(store)
    Path(store.root).rename(Path(store.root + ".away"))
    with pytest.raises(StorageFailed):
        store.keep(path, SHA256, "JPEG")


def test_create(tmp_path: Path, calls: Calls) -> None:
    """A new store is made with all folders above it, each durable; making it again changes nothing."""
    calls.made.clear()
    store = FileStore(tmp_path / "a" / "b")
    store.create()
    assert calls.made == [("mkdir", "a"), ("fsync", tmp_path.name), ("mkdir", "b"), ("fsync", "a")]
    store.create()
    assert len(calls.made) == 4


def test_not_made_by_looking(tmp_path: Path) -> None:
    """A path that is no store does not become one by asking for a spool, a proof or the sessions."""
    store = FileStore(tmp_path / "images")
    asked: list[Callable[[], object]] = [lambda: store.spool(SESSION), lambda: store.prove(SESSION, "nonce")]
    for ask in asked:
        with pytest.raises(FileNotFoundError):
            ask()
    assert store.proof(SESSION) is None
    assert store.spools() == []
    store.sweep(SESSION)
    store.tidy()
    assert list(tmp_path.iterdir()) == []


def test_modes(store: FileStore) -> None:
    """Spools are for their user only; an image has the mode with which its download was written."""
    path = spooled(store)
    mode = stat.S_IMODE(path.stat().st_mode)
    for folder in (path.parent, path.parent.parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    store.keep(path, SHA256, "JPEG")
    assert stat.S_IMODE(Path(store.root, NAME).stat().st_mode) == mode


def test_proof(store: FileStore) -> None:
    """What one machine writes to prove itself, another reads; each session has its own."""
    store.prove(SESSION, "a nonce")
    other = FileStore(Path(store.root))
    assert other.proof(SESSION) == "a nonce"
    assert other.proof("feed") is None
    assert sorted(path.name for path in store.spool(SESSION).iterdir()) == ["nonce"]


def test_sweep(store: FileStore) -> None:
    """Sweeping removes one session's downloads, tidying the empty folder of them."""
    spooled(store)
    store.prove("feed", "nonce")
    assert store.spools() == [SESSION, "feed"]
    store.sweep(SESSION)
    store.tidy()
    assert store.spools() == ["feed"]
    store.sweep("feed")
    store.sweep("feed")
    store.tidy()
    assert list(Path(store.root).iterdir()) == []


@pytest.mark.parametrize("session", ["", ".", "..", "../images", "a/b", "/tmp", "é"])
def test_no_session(store: FileStore, session: str) -> None:
    """A session that comes over the wire names no other folder."""
    for ask in (store.spool, store.sweep, store.proof):
        with pytest.raises(ValueError, match="no session"):
            ask(session)
