"""`crawler status --verify`: whether the store holds what was recorded, in words."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click

from crawler.broker.audit import AuditView, Fault, Finding, end_leases, examine
from crawler.broker.ledger import Ledger
from crawler.consumer.store.opening import AnyStore, Sharded, reopen_store
from crawler.consumer.store.remote_shards import RemoteShardStore
from crawler.errors import OutUnusable, StorageFailed, UsageError
from crawler.out import Out
from crawler.storing import place_of

log = logging.getLogger(__name__)

#: What is wrong, in the order in which it is told.
WORDS = {
    Fault.MISSING: "the file is gone",
    Fault.OTHER_SIZE: "the file has another size",
    Fault.OTHER_DIGEST: "the file has other bytes",
    Fault.UNREADABLE: "the file cannot be read",
}
#: Paths that are named for each fault; -v names all.
MAX_NAMED = 3


class Verified(NamedTuple):
    """What a look at the store has shown."""

    #: Path of the store.
    store: str
    #: Records whose image is in the store, or should be.
    records: int
    #: Of these, by fault.
    faults: Counter[Fault]
    #: Some paths for each fault.
    named: dict[Fault, list[str]]
    orphans: int
    #: Bytes of the orphans.
    orphan_bytes: int
    #: Whether the orphans were removed.
    swept: bool
    #: Whether the crawl was running.
    running: bool

    @property
    def is_sound(self) -> bool:
        """Tell whether every record has its file."""
        return not self.faults.total()

    def facts(self) -> dict[str, Any]:
        """Return it for JSON."""
        counts = {fault.value: self.faults[fault] for fault in WORDS}
        facts = {"store": self.store, "records": self.records, **counts, "orphans": self.orphans}
        return {**facts, "orphan_bytes": self.orphan_bytes, "swept": self.swept}

    def lines(self, out: Path) -> list[str]:
        """Return it as text."""
        good = self.records - self.faults.total()
        lines = ["", f"Store {self.store}: {good:,} of {self.records:,} records have their file"]
        for fault in filter(self.faults.__getitem__, WORDS):
            lines.append(f"  {self.faults[fault]:>9,}  {WORDS[fault]}")
            lines += [f"             e.g. {path}" for path in self.named[fault]]
        return [*lines, *self._orphans(out), *self._advice(out)]

    def _orphans(self, out: Path) -> list[str]:
        if not self.orphans:
            return []
        size = f"{self.orphans:,} {'file' if self.orphans == 1 else 'files'} without a record"
        size += f" ({self.orphan_bytes / 1e6:,.1f} MB)"
        if self.swept:
            return [f"{size} removed"]
        if self.running:
            return [f"{size}: just stored, or left by a crash"]
        return [f"{size}, left by a crash, or dropped: used when the same bytes come again; --sweep removes them"]

    def _advice(self, out: Path) -> list[str]:
        lines = []
        if self.faults[Fault.MISSING] == self.records > 0:
            lines.append("None of the files is there: is this the store, and is its disk mounted?")
        elif self.faults[Fault.MISSING] or self.faults[Fault.OTHER_SIZE]:
            lines.append(f"Fetch what is gone:     crawler retry {out} --missing")
        if self.faults[Fault.OTHER_DIGEST]:
            lines.append("Fetch what was changed: remove these files (-v names all), then the same with --missing")
        if self.faults[Fault.UNREADABLE]:
            lines.append("What cannot be read:    look at its owner and mode, and at the disk (-v names all)")
        return lines


def verify(out: Out, running: bool, quiet: bool) -> Verified:
    """
    Look at the store of a crawl and change nothing.

    Raises:
        OutUnusable: The store is not there.
    """
    with contextlib.closing(AuditView(out.ledger)) as view:
        return _look(view, _store(view, out), running, quiet, sweep=False)


def sweep(out: Out, store: str | None, quiet: bool) -> Verified:
    """
    Look at the store of a crawl on which nothing runs, and remove its orphans.

    Args:
        out: The crawl.
        store: Path of its store, if that is not in OUT: says that no other crawl's images are in it.
        quiet: Whether to show no progress.

    Raises:
        OutUnusable: It runs, or a worker elsewhere may still have something in hand; or the store is not there.
        UsageError: The store is not in OUT, and not named.
    """
    with out.hold(), contextlib.closing(AuditView(out.ledger)) as view:
        files = _store(view, out)
        _check_sole(out, files, store)
        _check_leases(out)
        _check_parts(out, files)
        return _look(view, files, False, quiet, sweep=True)


def _store(view: AuditView, out: Out) -> AnyStore:
    return reopen_store(view, out.images)


def _check_sole(out: Out, files: AnyStore, named: str | None) -> None:
    if Path(files.root) == out.images or (named is not None and str(place_of(out, named)) == files.root):
        return
    raise UsageError(
        f"the store {files.root} may hold images of other crawls, which --sweep would remove: if it holds those of "
        f"{out.path} alone, add --store {files.root}"
    )


def _check_leases(out: Out) -> None:
    now = time.time()
    ledger = Ledger(out.ledger, 0.0, lambda error: None)
    try:
        last = ledger.change(lambda changes: end_leases(changes.db, now))
    finally:
        ledger.close()
    if last is not None:
        raise OutUnusable(
            f"workers may still store images for {out.path}: what they hold runs out in {max(1, round(last - now))} s; "
            "sweep then"
        )


def _check_parts(out: Out, files: AnyStore) -> None:
    """Refuse to sweep objects that cannot be written anew as one; remove what was on its way when somebody died."""
    if isinstance(files, Sharded):
        files.clear()
    if isinstance(files, RemoteShardStore) and files.parts():
        raise OutUnusable(
            f"{files.root} has shards that are not published yet: the `crawler seed` command of {out.path} once more "
            "publishes them, without what is not recorded; sweep then"
        )


def _look(view: AuditView, files: AnyStore, running: bool, quiet: bool, *, sweep: bool) -> Verified:
    faults: Counter[Fault] = Counter()
    named: dict[Fault, list[str]] = {fault: [] for fault in Fault}
    records = orphans = orphan_bytes = 0
    #: Orphans in one folder or shard, which is written anew but once.
    gone: list[str] = []
    try:
        for item in _shown(examine(view, files), view.stored(), quiet):
            records += item.records
            if item.fault is Fault.ORPHAN:
                orphans, orphan_bytes = orphans + 1, orphan_bytes + item.size
                if sweep:
                    gone = _removed(files, gone, item.path)
            elif item.fault is not None:
                faults[item.fault] += item.records
                named[item.fault] += [item.path] if len(named[item.fault]) < MAX_NAMED else []
            if item.fault is not None:
                log.info("%s: %s", item.path, WORDS.get(item.fault, "no record names it"))
        if gone:
            files.remove(gone)
    except OSError as error:
        raise StorageFailed(f"the store {files.root} cannot be read, or swept: {error}") from error
    return Verified(files.root, records, faults, named, orphans, orphan_bytes, sweep, running)


def _removed(files: AnyStore, gone: list[str], path: str) -> list[str]:
    """Remove the orphans *gone* where *path*, the next one, lies elsewhere; return those that are left to remove."""
    if gone and gone[0].rpartition("/")[0] != path.rpartition("/")[0]:
        files.remove(gone)
        gone = []
    gone.append(path)
    return gone


def _shown(findings: Iterator[Finding], records: int, quiet: bool) -> Iterator[Finding]:
    """Pass *findings* on; on a terminal, show how far they are."""
    if quiet or not sys.stderr.isatty():
        yield from findings
        return
    with click.progressbar(length=records, label="verifying", file=sys.stderr) as bar:
        for item in findings:
            bar.update(item.records)
            yield item
