"""Which store is made for what was asked, now or when a crawl was begun."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import msgspec

from crawler.consumer.store.files import FileStore
from crawler.consumer.store.named import NamedFileStore
from crawler.consumer.store.shards import ShardStore
from crawler.errors import UsageError
from crawler.storage import Format, Naming, Storage

#: Any store.
AnyStore = FileStore | ShardStore


class Kept(Protocol):
    """A ledger that can be asked."""

    def meta(self, name: str) -> Any:
        """Return the value kept under *name*, None where there is none."""


def open_store(root: Path, storage: Storage) -> AnyStore:
    """Return the store at *root*, which need not exist."""
    if storage.is_sharded:
        return ShardStore(root, storage)
    return FileStore(root) if storage.name is Naming.DIGEST else NamedFileStore(root, storage.name)


def check_library(storage: Storage) -> None:
    """
    Check that what writes and reads shards is installed.

    Raises:
        UsageError: It is not.
    """
    if storage.format is not Format.PARQUET:
        return
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise UsageError("--format parquet needs pyarrow: pip install 'crawler[parquet]'") from error


def encode_storage(storage: Storage) -> str:
    """Return *storage* as a ledger keeps it."""
    return msgspec.json.encode(storage).decode()


def storage_in(ledger: Kept) -> Storage:
    """Return how the images of a crawl are kept."""
    kept = ledger.meta("storage")
    return Storage() if kept is None else msgspec.json.decode(kept, type=Storage)
