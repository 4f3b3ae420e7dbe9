"""`crawler retry`: failed tasks go back to the queue."""

from __future__ import annotations

import time

import click

from crawler.cli.common import Served, find, key_option
from crawler.cli.loudness import loudness
from crawler.out import Out
from crawler.reasons import Reason


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
@loudness
def command(target: str, key: str | None, reasons: tuple[str, ...]) -> None:
    """
    Put failed tasks back to READY, with all their attempts.

    Of a crawl that runs, they are fetched again at once; of one that has ended, by the next `crawler seed`.
    Lines that are no URL stay failed.
    """
    out, served = find(target, key)
    if served is not None:
        count = _ask(served, list(reasons))
        click.echo(f"{count:,} tasks wait for another try")
    elif out is not None:
        count = _write(out, list(reasons))
        click.echo(f"{count:,} tasks wait for another try: run the same `crawler seed` command again")


def _ask(served: Served, reasons: list[str]) -> int:
    from crawler.join import connect, greet
    from crawler.model import Role

    client = connect(served.address, str(served.key), 30.0)
    try:
        queue = client.proxy("task_queue")
        client.session = queue.hello(greet(Role.OBSERVER)).session
        count: int = queue.revive(client.session, reasons)
        queue.leave(client.session)
        return count
    finally:
        client.close()


def _write(out: Out, reasons: list[str]) -> int:
    from crawler.broker.ledger import Ledger

    with out.hold():
        ledger = Ledger(out.ledger, 0.0, lambda error: None)
        try:
            counts = ledger.change(lambda changes: changes.revive(reasons, time.time()))
        finally:
            ledger.close()
    return sum(counts.values())
