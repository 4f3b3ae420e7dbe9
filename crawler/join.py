"""Put a worker together: connect, learn what the run was told, choose where downloads go, work to the end."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import msgspec

from crawler import __version__, descriptors
from crawler.broker import ResultQueue, TaskQueue
from crawler.broker.address import parse_address
from crawler.broker.keys import load
from crawler.broker.manager import QueueClient, Service
from crawler.consumer import Consumer
from crawler.consumer.store.opening import AnyStore, Sharded, holding_of, open_store
from crawler.consumer.store.remote import is_address
from crawler.errors import CrawlerError, UnknownSession, UsageError
from crawler.logs import speak
from crawler.model import PROTOCOL, Hello, QueueStatus, Role, Welcome
from crawler.processes import child_main
from crawler.scratch import Scratch
from crawler.worker import Plan, Worker
from crawler.worker.crew import DownloaderCrew
from crawler.worker.messages import Setup
from crawler.worker.sink import Ends, Sink
from crawler.worker.upload import Upload

log = logging.getLogger(__name__)

#: The objects that a coordinator serves.
SERVICES = (Service("task_queue", TaskQueue, None), Service("result_queue", ResultQueue, None))


class Joining(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker is started with."""

    #: HOST:PORT of the coordinator.
    address: str
    #: Folder of the key.
    key: str
    #: Where this machine sees the store; "none" sends downloads to the coordinator, None tries the coordinator's path.
    store: str | None = None
    processes: int
    #: In each process.
    threads: int
    #: Verifiers, where this machine can write the store.
    verifiers: int
    #: Seconds to end what is in hand when stopped.
    grace: float = 25.0
    #: Seconds to wait for a coordinator that is away.
    patience: float = 120.0
    #: Whether it is a child of the coordinator.
    local: bool = False


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """What a local worker tells its coordinator when it has ended."""

    #: As of the command line; 0 is well.
    exit_status: int
    message: str = ""


def greet(role: Role, session: str = "", holds: list[int] | None = None, local: bool = False) -> Hello:
    """Return the hello of this program on this machine."""
    return Hello(
        protocol=PROTOCOL,
        version=__version__,
        machine=socket.gethostname(),
        role=role,
        session=session,
        holds=holds or [],
        local=local,
    )


def connect(address: str, key: str, patience: float) -> QueueClient:
    """
    Return a client of the coordinator at *address*; nothing is sent yet.

    Raises:
        UsageError: The address or the key's folder is none.
        KeyRefused: The key lies open to others.
    """
    return QueueClient(parse_address(address), load(Path(key)), SERVICES, patience)


def work(joining: Joining, began: Callable[[Worker], None]) -> QueueStatus:
    """
    Join a coordinator and work to the end.

    Args:
        joining: Where and how.
        began: Called with the worker when it can be told to stop.

    Returns:
        What the queue said last.

    Raises:
        CrawlerError: It cannot go on; the error says why.
    """
    descriptors.require(joining.threads)
    client = connect(joining.address, joining.key, joining.patience)
    try:
        return _work(client, joining, began)
    finally:
        client.close()


def _work(client: QueueClient, joining: Joining, began: Callable[[Worker], None]) -> QueueStatus:
    queue: TaskQueue = client.proxy("task_queue")
    welcome, store = _meet(client, joining, queue)
    with _spool(store, welcome.session) as spool:
        worker = _assemble(client, joining, welcome, store, spool)
        client.renew = lambda: _renew(client, queue, worker, joining, store)
        worker.on_overdue = client.cancel
        began(worker)
        return worker.run()


def _meet(client: QueueClient, joining: Joining, queue: TaskQueue) -> tuple[Welcome, AnyStore | None]:
    """Say hello and choose where downloads go; anew where the coordinator was started anew in between."""
    while True:
        welcome = queue.hello(greet(Role.WORKER, local=joining.local))
        client.session = welcome.session
        try:
            store = _store(joining, queue, welcome)
            if isinstance(store, Sharded):
                store.begin(lambda: queue.open_shard(client.session))
            return welcome, store
        except UnknownSession:
            log.info("the coordinator was started anew: saying hello again")


def _assemble(client: QueueClient, joining: Joining, welcome: Welcome, store: AnyStore | None, spool: Path) -> Worker:
    setup = Setup(settings=welcome.settings, spool=str(spool), threads=joining.threads)

    def make_sink(ends: Ends) -> Sink:
        if store is None:
            results: ResultQueue = client.proxy("result_queue")
            return Upload(results, welcome.session, ends.forget, ends.ended, ends.fail)
        settings = welcome.settings
        consumer = Consumer(store, settings.limits, joining.verifiers, ends.ended, settings.treatment)
        consumer.on_failed = ends.fail
        return consumer

    plan = Plan(joining.processes * joining.threads, welcome.lease_life, joining.grace, holding_of(store))
    crew = DownloaderCrew(setup, joining.processes)
    return Worker(client.proxy("task_queue"), welcome.session, crew, plan, make_sink)


def _renew(client: QueueClient, queue: TaskQueue, worker: Worker, joining: Joining, store: AnyStore | None) -> None:
    """Say hello again to a coordinator that was started anew, or that took us for dead."""
    holds = worker.holds()
    welcome = queue.hello(greet(Role.WORKER, client.session, holds, joining.local))
    worker.forget(list(set(holds) - set(welcome.holds)))
    if store is not None:  # what was open may have been published in between
        store.roll()
    log.info("with the coordinator again, %d of %d leases still held", len(welcome.holds), len(holds))


def _store(joining: Joining, queue: TaskQueue, welcome: Welcome) -> AnyStore | None:
    """Return the store where this machine can write it, shown by a nonce that the coordinator reads back."""
    if joining.store == "none":
        return None
    place = joining.store or welcome.store
    why = _prove(place, queue, welcome)
    if not isinstance(why, str):
        return why
    if joining.store:
        raise UsageError(f"--store {place}: {why}")
    log.info("%s: %s; downloads go to the coordinator", place, why)
    return None


def _prove(place: str, queue: TaskQueue, welcome: Welcome) -> AnyStore | str:
    """Return the store at *place* where it is the coordinator's, or why it cannot be used."""
    if not is_address(place) and not Path(place).is_dir():
        return "there is no such folder here"
    try:
        store = open_store(place, welcome.settings.storage)
    except UsageError as error:
        return str(error)
    try:
        store.prove(welcome.session, welcome.nonce)
        if queue.prove(welcome.session):
            return store
        why = "it is not the coordinator's store"
    except OSError as error:
        why = f"it cannot be written: {error.strerror or error}"
    store.sweep(welcome.session)
    return why


@contextmanager
def _spool(store: AnyStore | None, session: str) -> Iterator[Path]:
    if store is not None:
        try:
            yield store.spool(session)
        finally:
            store.close()
            store.sweep(session)
        return
    with Scratch() as folder:
        yield folder


# ------------------------------------------------------------------ a worker as a child of its coordinator


def serve(connection: Connection, setup: bytes) -> None:
    """Work as the setup says; tell the parent how it ended; end with the pipe."""
    speak(os.environ.get("CRAWLER_LOG", "WARNING"))
    joining = msgspec.msgpack.decode(setup, type=Joining)
    threading.Thread(target=_end_with, args=(connection,), daemon=True).start()
    ended = Ended(exit_status=0)
    try:
        work(joining, lambda worker: None)
    except CrawlerError as error:
        ended = Ended(exit_status=error.exit_status, message=str(error))
    except Exception as error:  # a defect: another worker would meet it too
        log.exception("unforeseen in a local worker")
        ended = Ended(exit_status=1, message=f"{type(error).__name__}: {error}")
    connection.send_bytes(msgspec.msgpack.encode(ended))
    threading.Event().wait()


def _end_with(connection: Connection) -> None:
    try:
        while True:
            connection.recv_bytes()
    except (EOFError, OSError):
        os._exit(0)


if __name__ == "__main__":
    child_main(serve)
