"""The coordinator's side of one run: ledger, queues, server, and the consumer for those who cannot write the store."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import msgspec

from crawler import __version__, cores
from crawler.broker import ResultQueue, TaskQueue, keys
from crawler.broker.address import format_address
from crawler.broker.completions import CompletionLog
from crawler.broker.durability import Durability
from crawler.broker.ledger import Ledger
from crawler.broker.local import LocalTaskQueue
from crawler.broker.manager import QueueServer, Service
from crawler.broker.results import LocalResultQueue
from crawler.broker.revival import refresh
from crawler.broker.sessions import LOCAL
from crawler.broker.state import OWN
from crawler.broker.terms import Terms
from crawler.consumer import Consumer
from crawler.consumer.store.opening import Sharded
from crawler.errors import CrawlerError, UsageError
from crawler.model import Download, Welcome
from crawler.out import Out
from crawler.publisher import Publisher
from crawler.room import RoomWatch
from crawler.settings import Settings
from crawler.storing import open_for, place_of, written_by
from crawler.treatment import Transform, describe
from crawler.worker.outbox import Outbox

log = logging.getLogger(__name__)

#: Seconds that a lease lives.
LEASE_LIFE = 60.0
#: Seconds for connections, verifiers and threads to end.
END_WAIT = 5.0


class Opening(NamedTuple):
    """How a run is opened."""

    #: Root of the store, or its address as text; None for OUT/images.
    store: str | Path | None
    settings: Settings
    #: Whether to go on waiting for lists when all are read.
    keep_open: bool = False
    #: Seconds to wait for room on a full disk.
    pause_limit: float = 600.0
    #: Whether images that are stored are asked for again, if they have changed.
    refresh: bool = False
    #: Bytes that must be free on the disks of OUT and of the store. 0 is no such limit.
    min_free: int = 0
    #: When the ledger is synced.
    durability: Durability = Durability.FULL


class Serving(NamedTuple):
    """Where the queues are served."""

    address: tuple[str, int] = ("127.0.0.1", 0)
    #: Folder of the key; None makes a fresh one, for loopback.
    key: Path | None = None


class Coordinator:
    """
    The queues of one OUT.

    Args:
        out: The folder; this process has taken it.
        opening: Store, settings, and how long to wait.
        fail: Called, from any thread, with what makes going on impossible.

    Raises:
        UsageError: OUT was made with another store or another transform.
        OutUnusable: OUT or the store cannot be used.
    """

    def __init__(self, out: Out, opening: Opening, fail: Callable[[CrawlerError], None]) -> None:
        self._out = out
        self._opening = opening
        self._fail = fail
        #: Absolute path, or an address as text.
        self.images = place_of(out, opening.store)
        self.ledger = Ledger(out.ledger, opening.pause_limit, fail, opening.durability)
        try:
            self._keep_transform()
            self.store = open_for(out, self.ledger, self.images, opening.settings.storage)
            if opening.refresh:
                self.ledger.change(lambda changes: refresh(changes.db))
            self.queue = LocalTaskQueue(self.ledger, self._terms())
            self._completions = CompletionLog(out.completions, self.ledger)
            # A session of another machine may be alive without a lease: its spool stays until the end.
            self._sweep(lambda session: session.startswith((OWN, LOCAL)))
        except BaseException:
            self.ledger.close()
            raise
        self._room = RoomWatch(written_by(out, self.images), opening.min_free, self.queue.block)
        self._room.start()
        self._publisher = self._make_publisher()
        self._completions.start()
        self._server: QueueServer | None = None
        self._consumer: Consumer | None = None
        self._consuming = threading.Lock()
        self._results = LocalResultQueue(self.queue, lambda: self.store.spool(OWN), self._consume)
        self._outbox = Outbox(self.queue, OWN, self._dealt_with, fail)

    def _keep_transform(self) -> None:
        """Refuse another transform than that with which OUT was begun: its images would be of two kinds."""
        asked = self._opening.settings.treatment.transform
        known = self.ledger.view.meta("transform")
        begun = msgspec.json.decode(known, type=Transform | None) if known else None
        is_new = known is None and not self.ledger.view.tasks()
        if begun != asked and not is_new:
            raise UsageError(
                f"{self._out.path} was begun with {describe(begun)}, not with {describe(asked)}: give the same "
                "options, or choose another OUT with -o"
            )
        if known is None:
            text = msgspec.json.encode(asked).decode()
            self.ledger.change(lambda changes: changes.set_meta("transform", text))

    def _make_publisher(self) -> Publisher | None:
        if not isinstance(self.store, Sharded):
            return None
        publisher = Publisher(self.store, self.queue, self.ledger, self._prefix())
        publisher.start()
        return publisher

    def _terms(self) -> Terms:
        base = Welcome(
            session="",
            version=__version__,
            lease_life=LEASE_LIFE,
            store=str(self.images),
            nonce="",
            settings=self._told(),
        )
        opening = self._opening
        return Terms(base, self.store.proof, self._prefix(), opening.keep_open, opening.pause_limit, self._fail)

    def _told(self) -> Settings:
        settings = self._opening.settings
        with_columns = settings.with_columns or settings.storage.is_sharded
        return msgspec.structs.replace(settings, with_columns=with_columns)

    def _prefix(self) -> str:
        return "images/" if self.images == self._out.images else ""

    # ------------------------------------------------------------ serving

    def serve(self, serving: Serving) -> str:
        """
        Serve the queues, and leave address and key in OUT/run for commands on this machine.

        Returns:
            HOST:PORT.

        Raises:
            UsageError: The address cannot be listened at, or is beyond loopback and there is no key.
            KeyRefused: The key lies open to others.
        """
        key = keys.load(serving.key) if serving.key else keys.fresh(self._out.run)
        if serving.key:
            keys.copy(key, self._out.run)
        services = (
            Service("task_queue", TaskQueue, self.queue),
            Service("result_queue", ResultQueue, self._results),
        )
        try:
            self._server = QueueServer(services, serving.address, key, self.queue)
        except OSError as error:
            where = format_address(serving.address)
            raise UsageError(f"--listen {where}: {error.strerror or error}") from error
        self._server.start()
        address = format_address(self._server.address)
        self._out.address.write_text(f"{address}\n")
        return address

    # ------------------------------------------------------------ the consumer for the result queue

    def _consume(self, download: Download) -> None:
        with self._consuming:
            if self._consumer is None:
                self._consumer = self._start_consumer()
        self._consumer.take(download)

    def _start_consumer(self) -> Consumer:
        settings = self._opening.settings
        if isinstance(self.store, Sharded):
            self.store.begin(lambda: self.queue.open_shard(OWN))
        consumer = Consumer(self.store, settings.limits, cores.count(), self._outbox.put, settings.treatment)
        consumer.on_failed = self._fail
        try:
            consumer.start()
        except CrawlerError as error:
            self._fail(error)
            raise
        self._outbox.start()
        return consumer

    def _dealt_with(self, tokens: list[int]) -> None:
        for token in tokens:
            self._results.done(token)

    # ------------------------------------------------------------ the end

    def close(self, wait: float = END_WAIT) -> None:
        """
        End everything; what was acknowledged is on disk.

        Args:
            wait: Seconds for connections and for the consumer to end what is under way.
        """
        self.ledger.hurry()
        with ExitStack() as stack:  # in reverse; whatever one step meets, the others follow
            stack.callback(self.ledger.close)
            stack.callback(self._completions.close)
            stack.callback(self._sweep_left)
            stack.callback(self.queue.close)
            stack.callback(self._room.close)
            if self._publisher is not None:
                is_finished = self.queue.wait_for_end(0)
                stack.callback(self._publisher.close, is_finished)
            if self._consumer is not None:
                stack.callback(self._outbox.close)
                stack.callback(self._outbox.flush, wait)
                stack.callback(self.store.close)
                stack.callback(self._consumer.close, wait)
            if self._server is not None:
                stack.callback(self._server.close, wait)

    def _sweep_left(self) -> None:
        alive = self.queue.alive() - {OWN}
        self._sweep(lambda session: session not in alive)

    def _sweep(self, over: Callable[[str], bool]) -> None:
        """Remove the spools of sessions that are *over*."""
        for session in filter(over, self.store.spools()):
            self.store.sweep(session)
        self.store.tidy()
