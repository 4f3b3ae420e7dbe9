"""What a run came to, for people: counts, reasons with examples, hosts, and what to do next."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from crawler.broker.copies import exact_duplicates
from crawler.broker.views import View
from crawler.model import Record
from crawler.reasons import Class, Reason, advise

#: Reasons shown.
MAX_REASONS = 8
#: Hosts shown.
MAX_HOSTS = 10
#: Characters of an example that are shown.
MAX_SHOWN = 100


class ReasonCount(NamedTuple):
    """Failures for one reason."""

    reason: Reason
    tasks: int
    #: URL of one of them.
    example: str
    #: What was seen there.
    detail: str


class Summary:
    """
    The result of a run.

    Args:
        out: Folder of the crawl.
        images: Folder of the images, or their address.
        seconds: Duration of this run, None where it is not this run that is summed up.
    """

    def __init__(self, out: Path, images: str | Path, seconds: float | None) -> None:
        self.out = out
        self.images = images
        self.seconds = seconds
        self._ledger = out / "ledger.db"
        view = View(self._ledger)
        try:
            counters = view.counters()
            self.total = view.tasks()
            self.entries = counters.get("entries", 0)
            self.stored = counters.get("stored", 0)
            self.failed = counters.get("failed", 0)
            self.bytes = counters.get("bytes", 0)
            self.near_duplicates = counters.get("near_duplicates", 0)
            self.reasons = [
                ReasonCount(Reason(name), count, *view.example(name))
                for name, count in sorted(view.reasons().items(), key=lambda item: -item[1])
            ]
            self.worst_hosts = [(urlsplit(url).hostname or url, count) for url, count in view.worst_hosts(MAX_HOSTS)]
        finally:
            view.close()
        #: Names of lists that were not read to their end.
        self.incomplete: list[str] = []
        #: What hosts said that was ignored, by the user's choice.
        self.ignored: list[str] = []

    def __repr__(self) -> str:
        return f"<Summary {self.out}: {self.stored} stored, {self.failed} failed of {self.total}>"

    @property
    def left(self) -> int:
        """Return the number of tasks without a record."""
        return self.total - self.stored - self.failed

    @cached_property
    def exact_duplicates(self) -> int:
        """Return the number of stored images that have the same bytes as another one; counted when first asked."""
        return exact_duplicates(self._ledger)

    def records(self) -> Iterator[Record]:
        """Yield the current record of every task that has one, in the order of ids."""
        view = View(self._ledger)
        try:
            yield from view.current()
        finally:
            view.close()

    def lines(self) -> list[str]:
        """Return the summary as text."""
        return [*self._counts(), *self.reasons_and_hints()]

    def reasons_and_hints(self) -> list[str]:
        """Return what the summary says after its counts."""
        return [*self._failures(), *self._hosts(), *self._next()]

    def _counts(self) -> list[str]:
        lines = [f"{self.total:,} URLs from {self.entries:,} lines: {self.stored:,} stored, {self.failed:,} failed"]
        if self.left:
            lines[0] += f", {self.left:,} left"
        size = f"{self.bytes / 1e6:,.1f} MB"
        if self.seconds is not None:
            size += f" in {_duration(self.seconds)}"
        lines.append(f"{size}; images in {self.images}")
        if self.exact_duplicates:
            lines.append(f"{self.exact_duplicates:,} of the stored images have the same bytes as another of them")
        if self.near_duplicates:
            lines.append(f"{self.near_duplicates:,} of the stored images are nearly the same as another of them")
        if self.ignored:
            lines.append(f"{' and '.join(self.ignored)} were ignored, as asked")
        lines += [f"{name} was not read to its end: its producer fell silent" for name in self.incomplete]
        return lines

    def _failures(self) -> list[str]:
        lines = ["", "Failed because:"] if self.reasons else []
        for item in self.reasons[:MAX_REASONS]:
            share = 100 * item.tasks / max(1, self.total)
            lines.append(f"  {item.tasks:>9,}  {item.reason:<18} {share:4.1f} %  {item.reason.facts.meaning}")
            detail = f" ({_shown(item.detail)})" if item.detail else ""
            lines.append(f"             e.g. {_shown(item.example)}{detail}")
            if advice := advise(item.reason, item.tasks, self.total):
                lines.append(f"             {advice}")
        if len(self.reasons) > MAX_REASONS:
            lines.append(f"  and {len(self.reasons) - MAX_REASONS} reasons more: crawler status {self.out}")
        return lines

    def _hosts(self) -> list[str]:
        hosts = [f"  {count:>9,}  {host}" for host, count in self.worst_hosts]
        return ["", "Hosts with most failures:", *hosts] if hosts else []

    def _next(self) -> list[str]:
        lines = ["", f"Every line's outcome:   crawler export {self.out} results.csv"]
        again = any(item.reason.facts.kind is Class.TRANSIENT for item in self.reasons)
        if self.left:
            lines.append("Go on:                  the same `crawler seed` command again")
        if again:
            lines.append(f"Worth another try:      crawler retry {self.out} --class transient")
        return lines


def _shown(text: str) -> str:
    text = text.encode("unicode_escape").decode()
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 1] + "…"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
