"""
Take downloads, have them verified, store them, say how their tasks ended.

    take ─▶ Jobs ─▶ feeder ─▶ verifier (child) ─▶ crew's thread ─▶ keepers (threads) ─▶ done
                      └ jobs + open descriptors       └ verdict         └ store, or remove
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from crawler.consumer.about import complete
from crawler.consumer.jobs import Job, Jobs
from crawler.consumer.messages import Accepted, Orders, Ready, Refused, Setup, Verdict, decode_answer, encode
from crawler.consumer.outputs import Outputs
from crawler.consumer.store import EXTENSIONS, About, Store
from crawler.errors import CrawlerError, FetchError, StorageFailed
from crawler.model import Completion, Download, Failure, Outcome
from crawler.processes import Crew
from crawler.reasons import Reason
from crawler.settings import Limits
from crawler.treatment import Treatment

log = logging.getLogger(__name__)

#: Threads that store; they mostly wait for the disk.
KEEPERS = 8
#: What verifiers run.
VERIFIER = "crawler.consumer.verifier"
#: Seconds that a verifier may take for one image; with a tick it is judged within ten.
IMAGE_WAIT = 9.0
#: What is said of an image that took longer.
TOO_SLOW = f"took over {IMAGE_WAIT:.0f} s; worth another try where the machine was busy: --reason verifier_timeout"
#: Seconds between two looks at the clocks of verifiers.
TICK = 0.5
#: Seconds that threads have to end in `close`, beside its own wait.
END_WAIT = 5.0
#: Longest detail of a failure, in characters.
MAX_DETAIL = 500


class Consumer:
    """
    Verify and store downloads.

    Args:
        store: Where images go.
        limits: What an image may be.
        verifiers: Number of verifier processes, at least 1.
        done: Called once for each download, from several threads: with a completion, or with a failure where the
            task can be tried again. Its spool file is gone, and the image of a stored one is durable.
        treatment: What is made of an image.
    """

    def __init__(
        self,
        store: Store,
        limits: Limits,
        verifiers: int,
        done: Callable[[Completion | Failure], None],
        treatment: Treatment | None = None,
    ) -> None:
        #: Why nothing can be stored any more, None while all is well. Downloads in hand are not done then.
        self.failed: CrawlerError | None = None
        #: Called once with `failed` when it is set, from any thread.
        self.on_failed: Callable[[CrawlerError], None] | None = None
        self._store = store
        self._done = done
        self._jobs = Jobs()
        setup = Setup(limits=limits, treatment=treatment or Treatment())
        #: Formats that a verdict may name.
        self._formats = (setup.treatment.transform.format,) if setup.treatment.transform else tuple(EXTENSIONS)
        self._facts = setup.treatment.facts
        self._outputs = Outputs(setup.treatment.transform is not None)
        self._crew = Crew(VERIFIER, encode(setup), verifiers, self._on_message, self._on_death)
        self._changed = threading.Condition()
        self._pending = 0
        self._is_news = False
        self._is_closed = False
        self._is_warned = False
        self._outcomes: queue.SimpleQueue[tuple[Job, Verdict] | None] = queue.SimpleQueue()
        self._feeder = threading.Thread(target=self._feed_all, name="feeder", daemon=True)
        self._keepers = [threading.Thread(target=self._keep_all, name="keeper", daemon=True) for _ in range(KEEPERS)]

    def start(self) -> None:
        """
        Start verifiers and threads.

        Raises:
            CrawlerError: The verifiers cannot be started.
        """
        self._crew.start()
        for thread in (self._feeder, *self._keepers):
            thread.start()

    def take(self, download: Download) -> None:
        """Take a download; never blocks. How many are in hand is bounded by leases."""
        self._jobs.take(download)
        with self._changed:
            self._pending += 1
        self._wake_feeder()

    def pending(self) -> int:
        """Return the number of downloads taken and not done."""
        with self._changed:
            return self._pending

    def close(self, wait: float) -> None:
        """
        Finish what is in hand, then end verifiers and threads. May be called again.

        Args:
            wait: Seconds to finish; what is not done then never will be, and its spool files stay.
        """
        end_by = time.monotonic() + wait
        with self._changed:
            self._changed.wait_for(lambda: not self._pending or self.failed, wait)
            self._is_closed = True
            self._changed.notify_all()
        self._crew.close(max(0.0, end_by - time.monotonic()))
        for _ in self._keepers:
            self._outcomes.put(None)
        end_by = max(end_by, time.monotonic()) + END_WAIT
        for thread in (self._feeder, *self._keepers):
            if thread.ident is not None:
                thread.join(max(0.0, end_by - time.monotonic()))
        self._outputs.close()

    # ------------------------------------------------------------ feeding: one thread, so that jobs keep their order

    def _feed_all(self) -> None:
        while self._wait_for_news():
            while (assigned := self._jobs.assign()) is not None:
                self._send(*assigned)
            for verifier in self._jobs.overdue(IMAGE_WAIT):
                self._crew.kill(verifier)
            if self._crew.hopeless:
                self._fail(CrawlerError(f"verifiers cannot be started: {self._crew.why}"))

    def _wait_for_news(self) -> bool:
        """Wait until something can be done, or a tick; False when closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_news or self._is_closed, TICK)
            self._is_news = False
            return not self._is_closed

    def _wake_feeder(self) -> None:
        if self._jobs.is_movable():
            with self._changed:
                self._is_news = True
                self._changed.notify_all()

    def _send(self, verifier: int, jobs: list[Job]) -> None:
        """Send jobs; where the verifier is dead, its death gives them back."""
        numbers, descriptors = [], []
        with contextlib.ExitStack() as opened:
            for job in jobs:
                descriptor = self._open(verifier, job)
                if descriptor is not None:
                    opened.callback(os.close, descriptor)
                    numbers.append(job.number)
                    descriptors += [descriptor, *self._outputs.open(job.number)]
            if numbers:
                self._crew.send(verifier, encode(Orders(numbers=numbers)), *descriptors)

    def _open(self, verifier: int, job: Job) -> int | None:
        """Return a descriptor of a job's download; where it cannot be read, None, and the job is over."""
        try:
            return os.open(job.download.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            if error.errno == errno.EIO:
                self._fail(StorageFailed(f"cannot read {job.download.path}: {error}"))
            if self._jobs.withdraw(verifier, job.number) is not None:
                detail = f"cannot read the spool file: {error}"
                self._outcomes.put((job, Refused(number=job.number, reason=Reason.INTERNAL, detail=detail)))
            return None

    # ------------------------------------------------------------ what verifiers say: the crew's thread

    def _on_message(self, verifier: int, message: bytes) -> None:
        try:
            answer = decode_answer(message)
        except ValueError as error:
            log.warning("verifier %d is not to be trusted: %s", verifier, error)
            self._crew.kill(verifier)
            return
        if isinstance(answer, Ready):
            self._warn(answer.missing)
            self._jobs.add_verifier(verifier)
        else:
            self._on_verdict(verifier, answer)
        self._wake_feeder()

    def _warn(self, missing: list[str]) -> None:
        """Say once what confines verifiers less than it should."""
        if missing and not self._is_warned:
            self._is_warned = True
            log.warning("this system confines verifiers less than it should: no %s", ", no ".join(missing))

    def _on_verdict(self, verifier: int, verdict: Verdict) -> None:
        is_sound = isinstance(verdict, Refused) or verdict.image.format in self._formats
        job = self._jobs.judged(verifier, verdict.number) if is_sound else None
        if job is None:
            log.warning("verifier %d is not to be trusted: it judged what it was not asked", verifier)
            self._crew.kill(verifier)
            return
        if verdict.is_worn:
            log.info("verifier %d has done its share and is replaced", verifier)
            self._jobs.retire(verifier)
            self._crew.kill(verifier)
        self._outcomes.put((job, verdict))

    def _on_death(self, verifier: int, _: set[int]) -> None:
        lost = self._jobs.died(verifier)
        if lost is not None:
            job, reason = lost
            detail = TOO_SLOW if reason is Reason.VERIFIER_TIMEOUT else reason.facts.meaning
            self._outcomes.put((job, Refused(number=job.number, reason=reason, detail=detail)))
        self._wake_feeder()

    # ------------------------------------------------------------ storing: several threads

    def _keep_all(self) -> None:
        while (judged := self._outcomes.get()) is not None:
            job, verdict = judged
            try:
                result = self._settle(job, verdict)
            except StorageFailed as error:
                self._fail(error)
                continue
            except Exception as error:  # a defect may cost one task an attempt, never a thread
                log.exception("unforeseen while storing task %d", job.download.task.id)
                result = _failure(job.download, Reason.INTERNAL, f"{type(error).__name__}: {error}")
            self._report(result)

    def _settle(self, job: Job, verdict: Verdict) -> Completion | Failure | None:
        """Store or remove the download; None where nothing may be done any more."""
        download = job.download
        if self.failed is not None or self._is_closed:
            log.debug("task %d is left as it is", download.task.id)
            return None
        if isinstance(verdict, Refused):
            self._outputs.drop(job.number)
            _remove(download)
            if verdict.reason is Reason.INTERNAL:
                return _failure(download, verdict.reason, verdict.detail)
            return _refused(download, verdict)
        try:
            download = self._outputs.take(job.number, download)
            verdict = complete(verdict, job.download, download, self._facts)
            about = About(download, verdict.image, verdict.facts)
            kept = self._store.keep(Path(download.path), download.sha256, verdict.image.format, about)
            if isinstance(kept, Future):
                kept.add_done_callback(lambda future: self._kept(download, verdict, future))
                return None
        except FetchError as error:
            _remove(download)
            return _failure(download, error.reason, error.detail)
        return _stored(download, verdict, kept)

    def _kept(self, download: Download, verdict: Accepted, future: Future[str]) -> None:
        """Go on with a download whose store has made it durable, or has not; called from the store's thread."""
        error = future.exception()
        if error is None:
            self._report(_stored(download, verdict, future.result()))
        elif isinstance(error, FetchError):
            _remove(download)
            self._report(_failure(download, error.reason, error.detail))
        elif isinstance(error, CrawlerError):
            self._fail(error)
        else:
            log.error("unforeseen while storing task %d", download.task.id, exc_info=error)
            self._report(_failure(download, Reason.INTERNAL, f"{type(error).__name__}: {error}"))

    def _report(self, result: Completion | Failure | None) -> None:
        if result is None or self._is_closed:
            return
        _tell(self._done, result)
        with self._changed:
            self._pending -= 1
            if not self._pending:  # whoever closes waits for that only
                self._changed.notify_all()

    def _fail(self, error: CrawlerError) -> None:
        """Note that nothing can be stored any more, and say so once."""
        with self._changed:
            if self.failed is not None:
                return
            self.failed = error
            self._changed.notify_all()
        if self.on_failed is not None:
            _tell(self.on_failed, error)


def _tell(callback: Callable[[Any], None], news: Completion | Failure | CrawlerError) -> None:
    try:
        callback(news)
    except Exception:  # a defect elsewhere must not end a thread here
        log.exception("unforeseen in what follows %s", type(news).__name__)


def _remove(download: Download) -> None:
    with contextlib.suppress(OSError):  # the sweep of its session's spool will find it
        os.unlink(download.path)


def _refused(download: Download, verdict: Refused) -> Completion:
    return Completion(
        token=download.token,
        task_id=download.task.id,
        outcome=Outcome.FAILED,
        reason=verdict.reason,
        detail=verdict.detail[:MAX_DETAIL],
        http_status=download.response.http_status,
    )


def _stored(download: Download, verdict: Accepted, path: str) -> Completion:
    return Completion(
        token=download.token,
        task_id=download.task.id,
        outcome=Outcome.STORED,
        http_status=download.response.http_status,
        path=path,
        sha256=download.sha256,
        bytes=download.size,
        width=verdict.image.width,
        height=verdict.image.height,
        format=verdict.image.format,
        etag=download.response.etag,
        last_modified=download.response.last_modified,
        facts=verdict.facts,
    )


def _failure(download: Download, reason: Reason, detail: str) -> Failure:
    return Failure(
        token=download.token,
        task_id=download.task.id,
        reason=reason,
        detail=detail[:MAX_DETAIL],
        http_status=download.response.http_status,
    )
