"""`crawler retry`: failed tasks go back to the queue."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any

import click

from crawler.cli.common import Served, find, host_patterns, key_option
from crawler.cli.loudness import loudness
from crawler.errors import OutUnusable, UsageError
from crawler.out import Out
from crawler.reasons import TABLE, Class, Reason

#: Tasks asked for at a time by their ids.
BATCH = 500
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}


class Age(click.ParamType[float]):
    """A duration as 90s, 30m, 2h, 3d or 1w, in seconds."""

    name = "AGE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the seconds."""
        match = re.fullmatch(r"([0-9]{1,9})([smhdw])", str(value))
        if match is None:
            self.fail(f"{value!r} is no age: give it as 90s, 30m, 2h, 3d or 1w", param, ctx)
        return float(int(match[1]) * UNITS[match[2]])


@click.command(short_help="Put failed tasks back into the queue.")
@click.argument("target", metavar="OUT|HOST:PORT")
@key_option
@click.option(
    "--reason",
    "reasons",
    multiple=True,
    type=click.Choice([reason.value for reason in Reason if reason is not Reason.BAD_URL]),
    metavar="REASON",
    help="Only those that failed for this reason (repeatable). [all]",
)
@click.option(
    "--class",
    "kinds",
    multiple=True,
    type=click.Choice([kind.value for kind in Class]),
    help="Only those whose reason is of this class (repeatable).",
)
@click.option(
    "--host", "hosts", multiple=True, metavar="NAME", callback=host_patterns, help="Only of this host, or *.NAME."
)
@click.option("--http-status", "statuses", multiple=True, type=click.IntRange(100, 599), help="Only with this status.")
@click.option("--older-than", "age", type=Age(), help="Only those that failed longer ago than 90s, 30m, 2h, 3d, 1w.")
@click.option("--missing", is_flag=True, help="In place of failed ones: stored ones whose file is gone or was cut.")
@click.option("--dry-run", is_flag=True, help="Only count them.")
@loudness
def command(target: str, key: str | None, missing: bool, **filters: Any) -> None:
    """
    Put failed tasks back to READY, with all their attempts.

    Of a crawl that runs, they are fetched again at once; of one that has ended, by the next `crawler seed`. What is
    said narrows the choice; lines that are no URL stay failed.

    \b
    crawler retry urls.crawl --class transient           what may have passed by itself
    crawler retry urls.crawl --http-status 503 --dry-run
    crawler retry urls.crawl --host '*.example.com' --older-than 1d
    """
    out, served = find(target, key)
    if missing and (out is None or any(filters[name] for name in ("reasons", "kinds", "hosts", "statuses", "age"))):
        raise UsageError("--missing looks into the store of an OUT on this machine, and goes with --dry-run only")
    choices = _missing(out, filters["dry_run"]) if missing and out is not None else iter([_choice(filters)])
    counts: Counter[str] = Counter()
    _revive(out, served, lambda revive: [counts.update(revive(choice)) for choice in choices])
    click.echo("\n".join(_told(counts, filters["dry_run"], served is not None)))


def _choice(filters: dict[str, Any]) -> Any:
    from crawler.model import Choice

    reasons = {str(reason) for reason in filters["reasons"]}
    if filters["kinds"]:
        of_kind = {str(reason) for reason, facts in TABLE.items() if facts.kind in filters["kinds"]}
        reasons = reasons & of_kind if reasons else of_kind
        if not reasons:
            raise UsageError("no --reason is of that --class: see the table of reasons in README")
    return Choice(
        reasons=tuple(sorted(reasons)),
        hosts=filters["hosts"],
        http_statuses=filters["statuses"],
        before=None if filters["age"] is None else time.time() - filters["age"],
        dry_run=filters["dry_run"],
    )


def _missing(out: Out, dry_run: bool) -> Iterator[Any]:
    """Yield choices of the stored tasks whose file is not there, or has another size."""
    from crawler.broker.views import View
    from crawler.consumer.store.opening import reopen_store
    from crawler.model import Choice

    view = View(out.ledger)
    try:
        store = reopen_store(view, out.images)
        # A path is relative to OUT where the store is in it.
        prefix = "images/" if store.root == str(out.images.absolute()) else ""
        paths = ((item, item.path.removeprefix(prefix)) for item in view.current() if item.path)
        gone = (item.id for item, path in paths if not _is_whole(store, path, item.bytes))
        while ids := tuple(islice(gone, BATCH)):
            yield Choice(ids=ids, dry_run=dry_run)
    finally:
        view.close()


def _is_whole(store: Any, path: str, size: int | None) -> bool:
    try:
        return bool(store.size(path) == size)
    except OSError as error:
        raise OutUnusable(f"{path} cannot be looked at: {error.strerror or error}") from error


def _revive(out: Out | None, served: Served | None, work: Callable[[Callable[[Any], Mapping[str, int]]], Any]) -> None:
    """Have *work* done with what revives a choice: a running queue, or the ledger of a crawl that has ended."""
    if served is not None:
        from crawler.join import connect, greet
        from crawler.model import Role

        client = connect(served.address, str(served.key), 30.0)
        try:
            queue = client.proxy("task_queue")
            client.session = queue.hello(greet(Role.OBSERVER)).session
            work(lambda choice: queue.revive(client.session, choice))
            queue.leave(client.session)
        finally:
            client.close()
    elif out is not None:
        from crawler.broker.ledger import Ledger
        from crawler.broker.revival import revive

        with out.hold():
            ledger = Ledger(out.ledger, 0.0, lambda error: None)
            try:
                work(lambda choice: ledger.change(lambda changes: revive(changes.db, choice, time.time())).counts)
            finally:
                ledger.close()


def _told(counts: Counter[str], dry_run: bool, runs: bool) -> list[str]:
    total = counts.total()
    tasks = "task" if total == 1 else "tasks"
    if dry_run:
        lines = [f"{total:,} {tasks} would wait for another try"]
    else:
        lines = [f"{total:,} {tasks} {'waits' if total == 1 else 'wait'} for another try"]
        if total and not runs:
            lines[0] += ": run the same `crawler seed` command again"
    return lines + [f"  {n:>9,}  {reason}" for reason, n in counts.most_common() if n]
