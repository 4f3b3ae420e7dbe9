"""The store of a crawl, as its coordinator opens it: the same in each run, and nobody else's where names could meet."""

from __future__ import annotations

import os
import secrets
import tempfile
from pathlib import Path

from crawler.broker.ledger import Ledger
from crawler.consumer.store.opening import AnyStore, encode_storage, open_store, storage_in
from crawler.consumer.store.remote import is_address
from crawler.errors import OutUnusable, UsageError
from crawler.out import Out
from crawler.storage import Storage


def place_of(out: Out, store: str | Path | None) -> str | Path:
    """Return where images go: an absolute path, or an address as text."""
    if isinstance(store, str) and is_address(store):
        return store.rstrip("/")
    return Path(store or out.images).absolute()


def written_by(out: Out, place: str | Path) -> tuple[Path, ...]:
    """Return the folders of this machine that a run writes to."""
    return (out.path, place if isinstance(place, Path) else Path(tempfile.gettempdir()))


def open_for(out: Out, ledger: Ledger, place: str | Path, storage: Storage) -> AnyStore:
    """
    Open the store of a crawl, made where it does not exist.

    Raises:
        UsageError: The crawl was begun with another one, or it is another crawl's.
        OutUnusable: It cannot be used.
    """
    known = ledger.view.meta("store")
    if known is not None and known != str(place):
        raise UsageError(
            f"{out.path} stores its images in {known}, not in {place}: name the same --store, "
            "or choose another OUT with -o"
        )
    is_directory = isinstance(place, Path)
    if known is not None and is_directory and ledger.view.counters().get("stored") and not Path(place).is_dir():
        raise OutUnusable(f"the store {place} is not there, with the images in it: is its disk mounted?")
    store = open_store(place, storage)
    _check_layout(out, ledger, storage, is_new=known is None)
    try:
        store.create()
        _claim(ledger, store, storage)
    except OSError as error:
        why = error.strerror or error
        raise OutUnusable(f"the store {place} cannot be made: {why}; name another with --store") from error
    if is_directory and not os.access(place, os.W_OK | os.X_OK):
        raise OutUnusable(f"the store {place} cannot be written: name another with --store, or change whose it is")
    ledger.change(lambda changes: changes.set_meta("store", str(place)))
    return store


def _check_layout(out: Out, ledger: Ledger, storage: Storage, *, is_new: bool) -> None:
    """Refuse to keep images in another way than the crawl has begun to."""
    begun = storage if is_new else storage_in(ledger.view)
    if begun.layout() != storage.layout():
        raise UsageError(f"{out.path} was begun with {begun.layout()}: name the same, or choose another OUT with -o")
    ledger.change(lambda changes: changes.set_meta("storage", encode_storage(storage)))


def _claim(ledger: Ledger, store: AnyStore, storage: Storage) -> None:
    if not storage.is_owned:
        return
    crawl = ledger.view.meta("crawl") or secrets.token_hex(16)
    ledger.change(lambda changes: changes.set_meta("crawl", crawl))
    if not store.claim(crawl):
        raise UsageError(
            f"{store.root} holds images of another crawl, called by numbers that this one would give again: "
            "choose another --store"
        )
