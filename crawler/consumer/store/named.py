"""
A store with a file for each task, called by its number or its URL.

    ROOT/000000/000000123.jpg                    by number: a folder for each thousand
    ROOT/a.example/roses_red-000000123.jpg       by URL: its host, what of its path is safe in a name, the number

A name once given keeps its bytes, since a record may name it: what is stored anew and differs (`--refresh`, or a worker
whose lease was over and did not know) has the first digits of its digest in its name.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from crawler.consumer.store import EXTENSIONS, About, Found
from crawler.consumer.store.directory import names, regular, sync
from crawler.consumer.store.files import FileStore
from crawler.errors import StorageFailed
from crawler.model import Task
from crawler.storage import Naming

#: Tasks whose images share a folder.
IN_FOLDER = 1000
#: Longest part of a name that comes from a URL, in characters.
MAX_SLUG = 80
#: Digits of a digest that tell two images of a task apart.
DIGITS = 16

_ENDINGS = "|".join(EXTENSIONS.values())
#: What files are called.
NAMED = re.compile(rf"(?:.*-)?\d{{9,}}(?:-[0-9a-f]{{{DIGITS}}})?\.(?:{_ENDINGS})")
_PARTIAL = re.compile(rf"\.{NAMED.pattern}\.[0-9a-f]{{32}}")
#: Errors of file systems that know no second name for a file.
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


def stem(task: Task, naming: Naming) -> tuple[str, str]:
    """Return the folder of a task's image, and its name without ending; no two tasks have the same."""
    if naming is Naming.INDEX:
        return f"{task.id // IN_FOLDER:06}", f"{task.id:09}"
    url = urlsplit(task.url)
    folder = _safe(url.hostname or "", r"[^0-9a-z.-]") or "host"
    slug = _safe(os.path.splitext(unquote(url.path))[0], r"[^0-9A-Za-z._-]")
    return folder, f"{slug}-{task.id:09}" if slug else f"{task.id:09}"


def _safe(text: str, others: str) -> str:
    """Return what of *text* can be in a name, cut; it begins with a letter or a digit, or is empty."""
    return re.sub(others, "_", text).strip("._-")[:MAX_SLUG].rstrip("._-")


class NamedFileStore(FileStore):
    """
    A store with a file for each task.

    Args:
        root: The directory; see `create`.
        naming: How files are called.
    """

    def __init__(self, root: Path, naming: Naming) -> None:
        super().__init__(root)
        self._naming = naming

    def keep(self, path: Path, sha256: str, format: str, about: About | None = None) -> str:
        """Turn a spool file into a durable image: see `Store.keep`."""
        if about is None:
            raise StorageFailed(f"what is kept in {self.root} is called by its task, and there was none")
        folder, name = stem(about.download.task, self._naming)
        with self._translated(path):
            sync(path)
            self._ensure_folder(folder)
            for tried in (name, f"{name}-{sha256[:DIGITS]}"):
                relative = f"{folder}/{tried}.{EXTENSIONS[format]}"
                target = f"{self.root}/{relative}"
                if _give_name(path, target) or self._has(target, sha256):
                    self._sync_entry(folder, relative)
                    path.unlink(missing_ok=True)
                    return relative
        raise StorageFailed(f"{target} has other bytes than its name says: remove it, and start the same command again")

    def _has(self, target: str, sha256: str) -> bool:
        """Tell whether *target* has these bytes, and make them durable: its writer may not have come so far."""
        if regular(target, links=False) is None or self.digest(os.path.relpath(target, self.root)) != sha256:
            return False
        sync(target)
        return True

    def walk(self) -> Iterator[Found]:
        """Yield what this store has made: see `Store.walk`. In memory is one folder of it at a time."""
        for folder in sorted(names(self.root), key=lambda name: f"{name}/"):
            if not folder.startswith("."):
                yield from self._walk(folder)

    def _walk(self, folder: str) -> Iterator[Found]:
        for name in names(f"{self.root}/{folder}"):
            if NAMED.fullmatch(name) or _PARTIAL.fullmatch(name):
                found = regular(f"{self.root}/{folder}/{name}", links=False)
                if found is not None:
                    yield Found(f"{folder}/{name}", found.st_size)


def _give_name(path: Path, target: str) -> bool:
    """Give a durable file its name, also from another file system; False where the name is taken."""
    try:
        os.link(path, target)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno == errno.EXDEV:
            return _copy(path, target)
        if error.errno not in _NO_LINKS:
            raise
        if os.path.lexists(target):
            return False
        os.replace(path, target)
    return True


def _copy(path: Path, target: str) -> bool:
    folder, name = os.path.split(target)
    partial = Path(folder, f".{name}.{uuid.uuid4().hex}")
    try:
        shutil.copyfile(path, partial)
        sync(partial)
        return _give_name(partial, target)
    finally:
        with contextlib.suppress(FileNotFoundError):
            partial.unlink()
