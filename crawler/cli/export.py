"""`crawler export`: one row for each line of the lists."""

from __future__ import annotations

from pathlib import Path

import click

from crawler.cli.loudness import loudness
from crawler.out import Out


@click.command(short_help="Write one row for each line of the lists.")
@click.argument("out", metavar="OUT")
@click.argument("file", metavar="FILE")
@loudness
def command(out: str, file: str) -> None:
    """
    Write FILE, a .jsonl or .csv, with a row for each entry: its list and line, its URL, and what became of it.

    Lines with the same URL have the same outcome; an entry whose task has no record yet has an empty one. Works
    while a crawl runs, too.
    """
    from crawler.export import export

    folder = Out(Path(out))
    folder.require()
    count = export(folder, Path(file))
    click.echo(f"{count:,} rows written to {file}", err=True)
