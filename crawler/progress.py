"""A live bar from Stats, or plain lines where the output is no terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from crawler.stats import Stats

#: Seconds between plain lines.
PLAIN_PAUSE = 10.0


class Watch:
    """Who is told how a run stands; does nothing unless overridden."""

    def serving(self, address: str) -> None:
        """The queues are served at *address*."""

    def stats(self, stats: Stats) -> None:
        """So the queue stands now; called some times a second."""


class Bar(Watch):
    """
    Progress for people, on standard error; a context manager.

    Args:
        quiet: Show nothing.
        how_to_join: Returns what to say when the queues are served at an address.
    """

    def __init__(self, quiet: bool, how_to_join: Callable[[str], str]) -> None:
        self._quiet = quiet
        self._how_to_join = how_to_join
        #: tqdm's, which is loaded where there is something to draw.
        self._bar: Any = None
        self._live = sys.stderr.isatty() and not quiet
        self._began = time.monotonic()
        self._at_first: int | None = None
        self._next_line = self._began + PLAIN_PAUSE

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._showing():
            if self._bar is not None:
                self._bar.close()

    @contextmanager
    def _showing(self) -> Iterator[None]:
        """Show nothing more where nobody can see it: a run does not end because its terminal or pipe is gone."""
        try:
            yield
        except OSError:
            self._quiet, self._live, self._bar = True, False, None

    def serving(self, address: str) -> None:
        """Say how others can join."""
        with self._showing():
            self._say(self._how_to_join(address))

    def _say(self, text: str) -> None:
        if not self._quiet:
            print(text, file=sys.stderr, flush=True)

    def stats(self, stats: Stats) -> None:
        """Show how the queue stands."""
        if self._at_first is None:
            self._at_first = stats.stored + stats.failed
        with self._showing():
            if self._live:
                self._draw(stats)
            elif time.monotonic() >= self._next_line:
                self._next_line = time.monotonic() + PLAIN_PAUSE
                self._say(line(stats, self._eta(stats)))

    def _draw(self, stats: Stats) -> None:
        if self._bar is None:
            from tqdm import tqdm

            shape = "{percentage:3.0f}%|{bar:20}| {n_fmt}/{total_fmt}{postfix}"
            self._bar = tqdm(total=0, bar_format=shape, dynamic_ncols=True, file=sys.stderr)
        self._bar.total = stats.total
        self._bar.n = stats.stored + stats.failed
        self._bar.set_postfix_str(_details(stats, self._eta(stats)), refresh=False)
        self._bar.refresh()

    def _eta(self, stats: Stats) -> float | None:
        """Return the seconds left, None while that cannot be told."""
        done = stats.stored + stats.failed - (self._at_first or 0)
        if not stats.lists_read or done <= 0:
            return None
        left = stats.total - stats.stored - stats.failed
        return left * (time.monotonic() - self._began) / done


def line(stats: Stats, eta: float | None) -> str:
    """Return how the queue stands, on one line."""
    done = stats.stored + stats.failed
    share = f" {100 * done / stats.total:.0f} %" if stats.total else ""
    return f"{done:,}/{stats.total:,}{share} {_details(stats, eta)}"


def _details(stats: Stats, eta: float | None) -> str:
    machines = len({worker.machine for worker in stats.workers})
    parts = [
        f"{stats.stored:,} stored",
        f"{stats.failed:,} failed",
        f"{stats.leased:,} in flight",
        f"{stats.stored_per_second:.1f} images/s",
        f"{stats.bytes_per_second / 1e6:.1f} MB/s",
        f"{machines} machine{'' if machines == 1 else 's'}",
    ]
    if eta is not None:
        from tqdm import tqdm

        parts.append(f"ETA {tqdm.format_interval(eta)}")
    if not stats.lists_read:
        read = "" if stats.lists_part is None else f" {100 * stats.lists_part:.0f} %"
        parts.append(f"lists read{read or ' …'}")
    if stats.trouble:
        parts.append(f"paused: {stats.trouble}")
    if stats.status == "draining":
        parts.append("stopping")
    return ", ".join(parts)
