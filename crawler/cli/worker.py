"""`crawler worker`: join a crawl."""

from __future__ import annotations

import threading
from typing import Any

import click

from crawler.cli.common import Seconds, key_option, on_stop_signals, require_served
from crawler.cli.loudness import is_quiet, loudness
from crawler.cli.terminal import say


@click.command(short_help="Join a crawl from this or another machine.")
@click.argument("target", metavar="OUT|HOST:PORT")
@key_option
@click.option("--processes", type=click.IntRange(min=1), help="Downloader processes. [one per core]")
@click.option("--threads", type=click.IntRange(min=1), default=32, show_default=True, help="Threads of each.")
@click.option(
    "--store",
    metavar="PATH|ADDRESS|none",
    help="Where this machine sees the store; none sends downloads to the coordinator. [tries the coordinator's path]",
)
@click.option("--grace", type=Seconds(min=0), default=25.0, show_default=True, help="Seconds to end.")
@click.option(
    "--give-up",
    type=Seconds(min=0),
    default=120.0,
    show_default=True,
    help="Seconds to wait for a coordinator that cannot be reached.",
)
@loudness
@click.pass_context
def command(context: click.Context, /, target: str, key: str | None, **options: Any) -> None:
    """
    Lease tasks from a coordinator, download, verify, store, until there are none left.

    OUT names a crawl that runs on this machine. For another machine's, copy the folder of its key here:

    \b
    crawler worker coordinator.example:7700 --key key
    crawler worker coordinator.example:7700 --key key --store /mnt/shared/images

    Ctrl-C (or SIGTERM) ends what is in hand, or gives it back; nothing is lost either way.
    """
    from crawler import cores
    from crawler.errors import Stopped
    from crawler.join import Joining, work
    from crawler.model import QueueStatus
    from crawler.worker import Worker

    served = require_served(target, key)
    joining = Joining(
        address=served.address,
        key=str(served.key),
        store=options["store"],
        processes=options["processes"] or cores.count(),
        threads=options["threads"],
        verifiers=cores.count(),
        grace=options["grace"],
        patience=options["give_up"],
    )
    asked = threading.Event()
    workers: list[Worker] = []

    def ask() -> None:
        if asked.is_set():
            raise Stopped("stopped at once; what was in hand goes back to the queue when its leases run out")
        asked.set()
        for worker in workers:
            worker.stop()

    def began(worker: Worker) -> None:
        workers.append(worker)
        if asked.is_set():
            worker.stop()
        elif not is_quiet(context):
            say(f"working for {served.address}", err=True)

    on_stop_signals(ask)
    status = work(joining, began)
    if asked.is_set():
        raise Stopped("stopped; what was not done went back to the queue")
    if status is not QueueStatus.FINISHED:
        raise Stopped("the coordinator was stopped before the end; the same command joins it again")
    if not is_quiet(context):
        say("all done", err=True)
