"""
Shards get their final names: what is in one that is closed is held against the ledger, and what is not recorded there
is left out.

A part is taken when nothing more can be recorded in it: its session has closed it and holds none of its tasks any more,
or its session is over, or the run is finished.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable

from crawler.broker.ledger import Ledger
from crawler.broker.local import LocalTaskQueue
from crawler.broker.sessions import LOCAL
from crawler.broker.state import OWN
from crawler.consumer.store.opening import Sharded
from crawler.consumer.store.shards import Part
from crawler.consumer.store.tar import Sample
from crawler.errors import StorageFailed

log = logging.getLogger(__name__)

#: Tasks looked up at a time.
BATCH = 500
#: Under which the ledger keeps the last recording for which shards were looked through.
CHECKED = "shards_checked"
#: Seconds for the thread to end, beside what it is at.
END_WAIT = 60.0


class Publisher:
    """
    Publish the shards of a crawl, from a thread of its own.

    Args:
        store: Where they are.
        queue: Knows which shards are open, and which sessions are over.
        ledger: What was recorded.
        prefix: What goes before the path of an image in its record.
    """

    def __init__(self, store: Sharded, queue: LocalTaskQueue, ledger: Ledger, prefix: str) -> None:
        self._store = store
        self._queue = queue
        self._ledger = ledger
        self._view = ledger.view
        self._prefix = prefix
        self._is_troubled = False
        #: Tasks in parts that their sessions have closed, by number.
        self._tasks: dict[int, set[int]] = {}
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)

    def start(self) -> None:
        """Publish what an earlier run has left, and go on."""
        self._store.clear()
        self._thread.start()

    def close(self, finished: bool) -> None:
        """
        Publish what can be at the end of a run.

        Args:
            finished: Whether every task has its record: nothing more can come then, whoever is still there.

        Raises:
            StorageFailed: There is no room for a shard; the next run publishes it.
        """
        self._closing.set()
        if self._thread.ident is not None:
            self._thread.join(END_WAIT)
        try:
            for _ in range(2):  # a worker may close its part under our eyes
                self._publish(lambda session: finished or session.startswith((OWN, LOCAL)))
            if finished:
                self._store.clear()
                self._take_out_former()
        except OSError as error:
            raise StorageFailed(
                f"a shard in {self._store.root} cannot be published: {error}; make room, and start the same command "
                "again"
            ) from error

    def _run(self) -> None:
        while True:
            try:
                self._publish(lambda session: False)
                self._tell_end()
            except OSError as error:
                self._tell(error)
            except Exception:  # a defect here must not end what others do
                log.exception("unforeseen while publishing shards")
            if self._closing.wait(self._store.pause):
                return

    def _publish(self, is_over: Callable[[str], bool]) -> None:
        parts = self._store.parts()
        alive = self._queue.alive()
        for part in parts:
            owner = self._queue.shards.owner(part.number)
            if owner is None or is_over(owner) or owner not in alive or self._is_settled(part, owner):
                self._queue.shards.close(part.number)
                with contextlib.suppress(FileNotFoundError):  # closed by its worker just now, and has another name
                    self._store.publish(part, self._recorded(part, self._store.look(part)))
                    self._tasks.pop(part.number, None)

    def _is_settled(self, part: Part, owner: str) -> bool:
        """Tell whether a session has closed a part, and has been told of all its images."""
        if not part.sealed:
            return False
        if part.number not in self._tasks:
            self._tasks[part.number] = {sample.task_id for sample in self._store.look(part)}
        return self._tasks[part.number].isdisjoint(self._queue.shards.leased(owner))

    def _recorded(self, part: Part, samples: list[Sample]) -> list[Sample]:
        """Return the samples that are recorded in this shard, one for each task."""
        by_task: dict[int, list[Sample]] = {}
        for sample in samples:
            by_task.setdefault(sample.task_id, []).append(sample)
        kept = []
        for task, (path, sha256) in self._kept(list(by_task)).items():
            fitting = [one for one in by_task[task] if path == f"{self._prefix}{self._store.path_of(part, one)}"]
            if len(fitting) > 1:  # it was refused, came again, and was taken
                fitting = [one for one in fitting if self._store.digest_of(part, one) == sha256]
            kept += fitting[-1:]
        return sorted(kept, key=lambda sample: sample.offset)

    def _take_out_former(self) -> None:
        """Take images out of their shards whose tasks have another image by now; a task that failed keeps its own."""
        seq = self._view.last_seq()
        if self._view.meta(CHECKED) == seq or not self._view.has_former():
            return
        for shard in self._store.published():
            images = {int(name.partition(".")[0]): name for name in self._store.images(shard)}
            kept = self._kept(list(images))
            gone = {
                name
                for task, name in images.items()
                if task in kept and kept[task][0] != f"{self._prefix}{shard}/{name}"
            }
            if gone:
                log.info("%s: %d images were stored anew, and are taken out", shard, len(gone))
                self._store.take_out(shard, gone)
        self._ledger.change(lambda changes: changes.set_meta(CHECKED, seq))

    def _kept(self, ids: list[int]) -> dict[int, tuple[str, str]]:
        """Return (path, SHA-256) of the images recorded last for tasks."""
        found: dict[int, tuple[str, str]] = {}
        for start in range(0, len(ids), BATCH):
            found |= self._view.kept(ids[start : start + BATCH])
        self._ledger.await_sync()  # what is left out is gone, so the record that says so must last
        return found

    def _tell(self, error: OSError) -> None:
        if not self._is_troubled:
            self._is_troubled = True
            log.warning("a shard in %s cannot be published yet: %s", self._store.root, error)

    def _tell_end(self) -> None:
        if self._is_troubled:
            self._is_troubled = False
            log.warning("shards are published again")
