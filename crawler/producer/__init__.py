"""Lists into entries and tasks, streamed."""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO

from crawler.broker import TaskQueue
from crawler.errors import UsageError
from crawler.model import Batch, ListState, Row
from crawler.producer.formats import Opened
from crawler.producer.picks import Cut, Picks
from crawler.producer.sources import Item, Source, from_path, from_paths, from_urls

__all__ = ["Item", "Picks", "Reading", "Source", "from_path", "from_paths", "from_urls"]

#: Rows put at a time.
BATCH = 2_000
#: Bytes put at a time, about: a message to a queue on another machine has a limit.
BATCH_SIZE = 1 << 20


class Reading:
    """
    One list on its way into a queue.

    Args:
        queue: Where it goes.
        session: Session of this producer; the caller keeps it alive.
        source: The list.
        stop: Tells whether to stop early.
    """

    def __init__(self, queue: TaskQueue, session: str, source: Source, stop: Callable[[], bool]) -> None:
        self._queue = queue
        self._session = session
        self._source = source
        self._stop = stop
        self._rows: _Rows | None = None

    def prepare(self, state: ListState, is_later: bool = False) -> None:
        """
        Open the list and pass over what was read before.

        Args:
            state: What the queue said when the list was opened there.
            is_later: Whether that is left to `run`, because there are many lists.

        Raises:
            ListUnreadable: It can no longer be read.
            UsageError: What was read before is not the beginning of this list, or it lacks a column.
        """
        self._state = state
        # Standard input may be silent for long.
        if not is_later and not (self._source.is_input and not state.offset):
            self._begin()

    def run(self) -> bool:
        """
        Read the list from where it stands to its end, and seal it.

        Returns:
            Whether the end was reached; False after *stop*.

        Raises:
            ListUnreadable: It can no longer be read.
            UsageError: As `prepare`.
        """
        rows = self._rows or self._begin()
        try:
            while batch := rows.batch():
                if self._stop():
                    return False
                self._put(batch)
        finally:
            rows.close()
        self._queue.seal(self._session, self._state.id)
        return True

    def _begin(self) -> _Rows:
        file, size = self._source.open()
        try:
            self._rows = _Rows(file, self._source.read(file, size), self._source, self._state)
        except BaseException:
            file.close()
            raise
        return self._rows

    def _put(self, batch: Batch) -> None:
        following = self._queue.put(self._session, self._state.id, batch)
        if following != batch.next_line:
            raise UsageError(
                f"{self._source.path}: the queue expects row {following}, not {batch.first_line}: somebody else reads "
                "this list into the same queue"
            )


class _Rows:
    """The rows of an open list on their way into batches."""

    def __init__(self, file: BinaryIO, opened: Opened, source: Source, state: ListState) -> None:
        self._file = file
        self._opened = opened
        self._source = source
        self._cut = source.cut or Cut()
        opened.begin(state)
        self._next = state.next_line

    def close(self) -> None:
        """Close the list; the next one is counted from where it stands."""
        self._cut.end(self._next - 1)
        self._file.close()

    def batch(self) -> Batch | None:
        """Return the next rows, None at the end."""
        first, rows, size = self._next, list[Row](), 0
        last = self._cut.last
        end = first + BATCH if last is None else min(first + BATCH, last + 1)
        while self._next < end and size < BATCH_SIZE:
            raw = self._opened.next()
            if raw is None:
                break
            if self._is_taken(self._next) and (row := self._opened.entry(self._next, raw)) is not None:
                rows.append(row)
                size += len(row.url) + len(row.columns or b"")
            self._next += 1
        if self._next == first:
            return None
        mark = self._opened.mark()
        return Batch(
            first_line=first,
            next_line=self._next,
            offset=mark.offset,
            digest=mark.digest,
            total_bytes=mark.total,
            rows=rows,
        )

    def _is_taken(self, number: int) -> bool:
        return number >= self._cut.first and self._source.picks.takes(self._source.name, number)
