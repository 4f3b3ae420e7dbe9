"""The Python API: a crawl as a call, with child processes or on threads of this process."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path

from crawler import cores
from crawler.consumer import Consumer
from crawler.consumer.store.opening import Sharded, holding_of
from crawler.coordinator import Opening
from crawler.errors import CrawlerError
from crawler.join import greet
from crawler.model import Role
from crawler.out import Out
from crawler.producer import Item, Source, from_path, from_urls
from crawler.progress import Watch
from crawler.run import END_WAIT, THREADS, Conductor, Hands, Run, Stop, seed
from crawler.settings import Politeness, Settings
from crawler.summary import Summary
from crawler.worker import Plan, Worker
from crawler.worker.inline import InlineDownloaders
from crawler.worker.outbox import unforeseen
from crawler.worker.sink import Ends, Sink


def crawl(
    urls: Iterable[Item] | Source | str | Path,
    out: str | Path,
    *,
    inline: bool = False,
    store: str | Path | None = None,
    threads: int = THREADS,
    settings: Settings | None = None,
    watch: Watch | None = None,
) -> Summary:
    """
    Crawl a list and return what it came to.

    Args:
        urls: URLs, or mappings with a URL as `url` and columns that are carried through; or the path of a list; or a
            list with what is taken of it, as `crawler.producer.from_path` and `from_urls` return it.
        out: Folder of the crawl. One that exists is gone on with; the same URLs must come first again.
        inline: Fetch on threads of this process, so that HTTP can be mocked; robots.txt is ignored unless *settings*
            say otherwise. Verifiers are child processes all the same.
        store: Where images go, OUT/images by default.
        threads: Fetches at a time, of each process.
        settings: Limits, politeness, retries and access; see `crawler.settings.Settings`.
        watch: Told how it stands.

    Returns:
        The summary, with an iterator over the records.

    Raises:
        CrawlerError: It cannot begin or go on; the error says why.
    """
    source = _source(urls)
    opening = Opening(store, settings or _defaults(inline))
    run = Run([source], Out(Path(out)), opening, hands=Hands(workers=0 if inline else 1, threads=threads))
    return seed(run, Stop(), watch or Watch(), _Inline if inline else Conductor)


def _source(urls: Iterable[Item] | Source | str | Path) -> Source:
    """Return the list that is meant; where there is none at a path, say so before a folder is made for it."""
    if not isinstance(urls, str | Path):
        return urls if isinstance(urls, Source) else from_urls(urls)
    source = from_path(str(urls))
    source.open()[0].close()
    return source


def _defaults(inline: bool) -> Settings:
    return Settings(politeness=Politeness(robots=not inline))


class _Inline(Conductor):
    """A run without a server, fetching on threads of this process."""

    _working: threading.Thread | None = None

    def begin(self) -> None:
        """Open the lists and start a worker on a thread."""
        readings = self._open_lists()
        self._producer = threading.Thread(target=self._produce, args=(readings,), name="producer", daemon=True)
        self._producer.start()
        session = self._queue.hello(greet(Role.WORKER, local=True)).session
        self._queue.attached(session)
        store, opening, threads = self._coordinator.store, self._run.opening, self._run.hands.threads
        if isinstance(store, Sharded):
            store.begin(lambda: self._queue.open_shard(session))

        def make_sink(ends: Ends) -> Sink:
            settings = opening.settings
            consumer = Consumer(store, settings.limits, cores.count(), ends.ended, settings.treatment)
            consumer.on_failed = ends.fail
            return consumer

        downloaders = InlineDownloaders(opening.settings, store.spool(session), threads)
        plan = Plan(threads, 60.0, self._run.grace, holding_of(store))
        self._worker = Worker(self._queue, session, downloaders, plan, make_sink)
        self._working = threading.Thread(target=self._work, name="worker", daemon=True)
        self._working.start()

    def _work(self) -> None:
        try:
            self._worker.run()
        except Exception as error:  # without this thread the run would wait for ever
            self._fail(error if isinstance(error, CrawlerError) else unforeseen(error))

    def close(self) -> None:
        """End the worker, then the queues."""
        if self._working is not None:
            self._worker.stop()
            self._working.join(END_WAIT)
        self._coordinator.store.close()
        super().close()
