"""Options of `crawler seed` about its lists: what they are, and what is taken of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from crawler.cli.common import with_options

_COUNT = click.IntRange(min=0)
_SHARE = click.FloatRange(min=0, max=1, min_open=True)
_FORMATS = click.Choice(["txt", "csv", "tsv", "jsonl", "json", "parquet"])


def _names(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[str, ...]:
    names = tuple(name.strip() for name in value.split(",")) if value is not None else ()
    if "" in names or ("*" in names and len(names) > 1):
        raise click.BadParameter("give names as a,b or * for all; a name with a comma only comes with *")
    return names


list_options = with_options(
    click.option("--list-format", type=_FORMATS, help="What the lists are. [by their names]"),
    click.option("--url-column", metavar="NAME", help="Column of the URLs. [url]"),
    click.option("--columns", metavar="a,b|*", callback=_names, help="Columns to carry through; * for all."),
    click.option("--digest-column", metavar="NAME", help="Column of the MD5 or SHA-256 that images must have."),
    click.option("--skip", type=_COUNT, default=0, show_default=True, help="Pass over so many rows at first."),
    click.option("--limit", type=_COUNT, metavar="N", help="Take only so many rows. [all]"),
    click.option("--sample", type=_SHARE, default=1.0, show_default=True, help="Take this part of the rows."),
    click.option("--sample-seed", type=int, default=0, show_default=True, help="Chooses another sample."),
)


def read_lists(paths: tuple[str, ...], options: dict[str, Any]) -> Any:
    """
    Return the lists that are named, taking what is about them out of *options*.

    Raises:
        CrawlerError: One is not there, or is none.
    """
    from crawler.producer import Picks, from_paths

    picks = Picks(
        url_column=options.pop("url_column"),
        columns=options.pop("columns"),
        digest_column=options.pop("digest_column"),
        skip=options.pop("skip"),
        sample=options.pop("sample"),
        sample_seed=options.pop("sample_seed"),
    )
    return from_paths(paths, picks, options.pop("list_format"), options.pop("limit"))


def beside(path: str) -> Path:
    """Return the folder of a crawl whose first list is *path*: beside it, or here where that is not on this machine."""
    from crawler.producer.files import is_address
    from crawler.producer.formats import read_name

    if path == "-":
        return Path("stdin.crawl")
    folder = f"{read_name(path.rstrip('/')).stem or 'list'}.crawl"
    return Path(folder) if is_address(path) else Path(path).parent / folder
