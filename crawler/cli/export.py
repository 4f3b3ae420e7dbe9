"""`crawler export`: one row for each line of the lists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from crawler.cli.common import host_patterns
from crawler.cli.loudness import loudness
from crawler.cli.terminal import say
from crawler.errors import UsageError
from crawler.out import Out
from crawler.reasons import Reason

_OUTCOME = click.Choice(["stored", "failed"])
_REASON = click.Choice([reason.value for reason in Reason])


@click.command(short_help="Write one row for each line of the lists.")
@click.argument("out", metavar="OUT")
@click.argument("file", metavar="FILE")
@click.option("--outcome", type=_OUTCOME, help="Only what is stored, or only what failed. [all]")
@click.option("--reason", "reasons", multiple=True, type=_REASON, metavar="REASON", help="Only these (repeatable).")
@click.option(
    "--host", "hosts", multiple=True, metavar="NAME", callback=host_patterns, help="Only of this host, or *.NAME."
)
@click.option("--columns", metavar="a,b", help="Only these columns, in this order. [all]")
@click.option("--failed", is_flag=True, help="Write a list of what failed, for another crawl.")
@loudness
def command(out: str, file: str, outcome: str | None, columns: str | None, failed: bool, **choice: Any) -> None:
    """
    Write FILE, a .parquet, .csv or .jsonl, with a row for each entry: its list and line, URL, and what became of it.

    Then come the columns that the list brought along (`crawler seed --columns`). Lines with the same URL have the same
    outcome; an entry whose task has no record yet has an empty one. Works while a crawl runs, too. A .csv or .jsonl may
    be compressed: .csv.gz, .jsonl.zst. A .txt has the URLs only.

    \b
    crawler export urls.crawl all.parquet
    crawler export urls.crawl failed.csv --failed      then: crawler seed failed.csv
    """
    from crawler.export import Choice, export
    from crawler.model import Outcome

    if failed and outcome == "stored":
        raise UsageError("--failed and --outcome stored leave nothing")
    folder = Out(Path(out))
    folder.require()
    names = tuple(name.strip() for name in columns.split(",")) if columns is not None else ()
    wanted = Choice(Outcome(outcome) if outcome else None, columns=names, is_list=failed, **choice)
    count = export(folder, Path(file), wanted)
    say(f"{count:,} rows written to {file}", err=True)
