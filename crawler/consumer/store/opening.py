"""Which store is made for what was asked, now or when a crawl was begun."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import msgspec

from crawler.consumer.store.files import FileStore
from crawler.consumer.store.named import NamedFileStore
from crawler.consumer.store.remote import is_address
from crawler.consumer.store.remote_files import RemoteFileStore
from crawler.consumer.store.remote_shards import RemoteShardStore
from crawler.consumer.store.shards import ShardStore
from crawler.errors import OutUnusable, UsageError
from crawler.storage import Format, Naming, Storage

#: Any store.
AnyStore = FileStore | ShardStore | RemoteFileStore | RemoteShardStore
#: Those with many images in a file.
Sharded = ShardStore | RemoteShardStore


class Kept(Protocol):
    """A ledger that can be asked."""

    def meta(self, name: str) -> Any:
        """Return the value kept under *name*, None where there is none."""


def open_store(place: str | Path, storage: Storage) -> AnyStore:
    """
    Return the store in a directory or at an address, which need not exist.

    Raises:
        UsageError: A library for it is not installed, or it cannot be as it is asked for.
    """
    _check_library(storage)
    if isinstance(place, str) and is_address(place):
        return RemoteShardStore(place, storage) if storage.is_sharded else RemoteFileStore(place, storage.name)
    root = Path(place)
    if storage.is_sharded:
        return ShardStore(root, storage)
    return FileStore(root) if storage.name is Naming.DIGEST else NamedFileStore(root, storage.name)


def holding_of(store: AnyStore | None) -> int:
    """Return how many tasks a store holds at most that are not recorded yet."""
    return store.holding if isinstance(store, RemoteShardStore) else 0


def reopen_store(ledger: Kept, otherwise: Path) -> AnyStore:
    """
    Return the store of a crawl; *otherwise* is where one is that was never named.

    Raises:
        OutUnusable: It is not there.
        UsageError: A library for it is not installed.
    """
    place = str(ledger.meta("store") or otherwise)
    if not is_address(place) and not Path(place).is_dir():
        raise OutUnusable(f"the store {place} is not there: is its disk mounted?")
    return open_store(place, storage_in(ledger))


def _check_library(storage: Storage) -> None:
    """Check that what writes and reads shards is installed."""
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
