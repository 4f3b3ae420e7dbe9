"""One run from its lists to its summary, with local workers as children."""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from crawler import cores, descriptors
from crawler.consumer.store.opening import open_store
from crawler.coordinator import Coordinator, Opening, Serving
from crawler.errors import CrawlerError, Stopped, UsageError
from crawler.join import Ended, Joining, greet
from crawler.model import Role
from crawler.out import Hold, Out
from crawler.processes import Crew
from crawler.producer import Reading, Source
from crawler.progress import Watch
from crawler.room import await_room
from crawler.stats import Stats
from crawler.storing import place_of, written_by
from crawler.summary import Summary
from crawler.worker.outbox import unforeseen

log = logging.getLogger(__name__)

#: Seconds between two looks at how the run stands.
TICK = 0.2
#: Seconds that the coordinator stays for its workers to hear that all is done, and to leave.
LINGER = 5.0
#: Seconds for children to end.
END_WAIT = 5.0
#: Threads in each downloader.
THREADS = 32
#: Lists that are opened before the run begins, so that what is wrong with one is told at once; others in their turn.
EARLY = 16
#: Names of lists that are shown.
SHOWN = 3


class Hands(NamedTuple):
    """Who fetches on this machine."""

    #: Local workers; 0 leaves the work to others.
    workers: int = 1
    #: Downloaders of each worker, 0 for one per core shared among the workers.
    processes: int = 0
    #: Threads of each downloader.
    threads: int = THREADS


class Run(NamedTuple):
    """What `seed` is asked to do."""

    sources: Sequence[Source]
    out: Out
    opening: Opening
    serving: Serving = Serving()
    hands: Hands = Hands()
    #: Seconds to end what is in hand when stopped.
    grace: float = 25.0


class Stop:
    """A request to end: first gently, then at once."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.now = threading.Event()
        #: time.monotonic() when it was asked first: the grace counts from there, whatever was under way.
        self.at = math.inf

    def ask(self) -> None:
        """Ask; a second time means at once."""
        self.at = min(self.at, time.monotonic())
        (self.now if self.asked.is_set() else self.asked).set()


def seed(run: Run, stop: Stop, watch: Watch, kind: type[Conductor] | None = None) -> Summary:
    """
    Read lists, serve the queues, and run until every task has its record.

    Args:
        run: What to do.
        stop: Asked to end early.
        watch: Told how it stands.
        kind: Conducts it, None for `Conductor`.

    Returns:
        What it came to.

    Raises:
        Stopped: Ended early; the same call goes on.
        CrawlerError: It cannot begin or go on; the error says why. Nothing acknowledged is lost.
    """
    began = time.monotonic()
    with _take(run, stop):
        conductor = (kind or Conductor)(run, stop, watch)
        try:
            conductor.begin()
            conductor.conduct()
        finally:
            conductor.close()
        return conductor.summary(time.monotonic() - began)


def _take(run: Run, stop: Stop) -> Hold:
    """Take OUT for this process, when there is room to begin."""
    if run.hands.workers:
        descriptors.require(run.hands.threads)
    opening = run.opening
    place = place_of(run.out, opening.store)
    open_store(place, opening.settings.storage)  # a store that cannot be had is told before OUT is made for it
    if run.out.served_at() is None:
        await_room(written_by(run.out, place), opening.pause_limit, stop.asked.wait)
    return run.out.hold()


class Conductor:
    """One run under way."""

    def __init__(self, run: Run, stop: Stop, watch: Watch) -> None:
        self._run = run
        self._stop = stop
        self._watch = watch
        self._error: CrawlerError | None = None
        self._crew: Crew | None = None
        self._producer: threading.Thread | None = None
        self._stats: Stats | None = None
        #: time.monotonic() at which the grace is over, once it was stopped.
        self._end_by = math.inf
        self._coordinator = Coordinator(run.out, run.opening, self._fail)
        self._queue = self._coordinator.queue

    def _fail(self, error: CrawlerError) -> None:
        self._error = self._error or error

    # ------------------------------------------------------------ begin

    def begin(self) -> None:
        """Open the lists, then serve, then start what fetches: nobody may find the queue finished before its lists."""
        readings = self._open_lists()
        self._watch.serving(self._coordinator.serve(self._run.serving))
        self._producer = threading.Thread(target=self._produce, args=(readings,), name="producer", daemon=True)
        self._producer.start()
        self._start_workers()

    def _open_lists(self) -> list[Reading]:
        _check_lists(self._coordinator, self._run.sources)
        session = self._queue.hello(greet(Role.PRODUCER, local=True)).session
        self._queue.attached(session)
        readings = []
        for number, source in enumerate(self._run.sources):
            reading = Reading(self._queue, session, source, self._is_over)
            reading.prepare(self._queue.open_list(session, source.name, False), is_later=number >= EARLY)
            readings.append(reading)
        return readings

    def _produce(self, readings: list[Reading]) -> None:
        try:
            for reading in readings:
                if not reading.run():
                    return
        except Exception as error:  # without this thread the run would wait for ever
            self._fail(error if isinstance(error, CrawlerError) else unforeseen(error))

    def _start_workers(self) -> None:
        hands = self._run.hands
        if not hands.workers:
            return
        each = max(1, cores.count() // hands.workers)
        joining = Joining(
            address=self._run.out.address.read_text().strip(),
            key=str(self._run.out.run),
            processes=hands.processes or each,
            threads=hands.threads,
            verifiers=each,
            grace=self._run.grace,
            local=True,
        )
        setup = msgspec.msgpack.encode(joining)
        self._crew = Crew("crawler.join", setup, hands.workers, self._on_message, self._on_death)
        self._crew.start()

    def _on_message(self, child: int, message: bytes) -> None:
        if message:
            ended = msgspec.msgpack.decode(message, type=Ended)
            if ended.exit_status:
                error = CrawlerError(f"a local worker ended: {ended.message}")
                error.exit_status = ended.exit_status
                self._fail(error)

    def _on_death(self, child: int, _: set[int]) -> None:
        log.warning("a local worker died; another one takes its place")
        if self._crew is not None and self._crew.hopeless:
            self._fail(CrawlerError(f"local workers cannot be started: {self._crew.why}"))

    # ------------------------------------------------------------ conduct

    def _is_over(self) -> bool:
        return self._stop.asked.is_set() or self._error is not None

    def conduct(self) -> None:
        """Wait for the end, whichever comes first: all done, an error, or a request to stop."""
        while not self._queue.wait_for_end(TICK):
            self._tell()
            if self._error is not None:
                raise self._error
            if self._stop.asked.is_set():
                self._drain()
                self._wait_for_leaving()
                raise Stopped(self._how_far())
        self._tell()
        self._wait_for_leaving()

    def _left(self, most: float) -> float:
        """Return the seconds that a step of the end may take, at most *most*: the grace is for all of them."""
        return 0.0 if self._stop.now.is_set() else max(0.0, min(most, self._end_by - time.monotonic()))

    def _wait_for_leaving(self) -> None:
        self._queue.wait_for_workers(self._left(LINGER))

    def _how_far(self) -> str:
        stats = self._queue.stats()
        done = f"{stats.stored + stats.failed:,} of {stats.total:,}{'' if stats.lists_read else ' or more'} done"
        return f"stopped before the end, {done}; the same command goes on ({self._run.out.path})"

    def _tell(self) -> None:
        self._stats = self._queue.stats()
        self._watch.stats(self._stats)

    def _drain(self) -> None:
        """Let workers end or give back what they hold, and leave, within the grace."""
        self._end_by = self._stop.at + self._run.grace
        self._queue.drain(self._left(self._run.grace))
        while self._left(TICK) and self._error is None:
            if self._queue.wait_for_leases(TICK):
                return
            self._tell()

    def close(self) -> None:
        """End children, server and queues."""
        if self._crew is not None:
            self._crew.close(self._left(END_WAIT))
        self._error = self._error or Stopped("closing")
        if self._producer is not None:
            self._producer.join(max(TICK, self._left(END_WAIT)))
        self._coordinator.close(self._left(END_WAIT))

    def summary(self, seconds: float) -> Summary:
        """Sum up, after the end."""
        summary = Summary(self._run.out.path, self._coordinator.images, seconds)
        summary.incomplete = self._stats.incomplete_lists if self._stats else []
        politeness = self._run.opening.settings.politeness
        choices = {"robots.txt": politeness.robots, "opt-outs of hosts": politeness.opt_out}
        summary.ignored = [name for name, is_obeyed in choices.items() if not is_obeyed]
        return summary


def _check_lists(coordinator: Coordinator, sources: Sequence[Source]) -> None:
    """Refuse other lists than those with which OUT was begun."""
    names = [source.name for source in sources]
    known = coordinator.ledger.view.meta("lists")
    if known is not None and json.loads(known) != names:
        begun = _shown(json.loads(known))
        raise UsageError(
            f"OUT was begun with {begun}, not with {_shown(names)}: choose another OUT with -o; to add a list to "
            "a crawl that is running, use --to"
        )
    coordinator.ledger.change(lambda changes: changes.set_meta("lists", json.dumps(names)))


def _shown(names: list[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more:,} more" if more > 0 else "")
