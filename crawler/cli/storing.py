"""The options of `crawler seed` about how images are kept."""

from __future__ import annotations

from typing import Any

import click

from crawler.cli.common import Seconds, with_options
from crawler.errors import UsageError

_COUNT = click.IntRange(min=1)
_FORMAT_HELP = "A file for each image; or shards: tars that `webdataset` reads, or parquet that `datasets` reads."
_NAME_HELP = "What files are called: by content, by number of the task, or by URL."

storing = with_options(
    click.option(
        "--format",
        type=click.Choice(["files", "webdataset", "parquet"]),
        default="files",
        show_default=True,
        help=_FORMAT_HELP,
    ),
    click.option("--name", type=click.Choice(["digest", "index", "url"]), help=f"{_NAME_HELP} [digest]"),
    click.option("--shard-count", type=_COUNT, help="Images after which a shard is full. [10000]"),
    click.option("--shard-size", type=_COUNT, metavar="BYTES", help="Bytes after which one is full. [1000000000]"),
    click.option("--shard-age", type=Seconds(min=0, min_open=True), help="Seconds after which one is closed. [3600]"),
    click.option("--caption-column", metavar="NAME", help="Column of the lists that goes beside images as text."),
)


def storage_of(options: dict[str, Any]) -> Any:
    """
    Return how images are kept.

    Raises:
        UsageError: An option does not go with the format.
    """
    from crawler.storage import Format, Naming, Storage

    names = ("shard_count", "shard_size", "shard_age", "caption_column")
    said = {name: options[name] for name in names if options[name] is not None}
    storage = Storage(format=Format(options["format"]), name=Naming(options["name"] or "digest"), **said)
    if said and not storage.is_sharded:
        option = next(iter(said)).replace("_", "-")
        raise UsageError(f"--{option} goes with shards: add --format webdataset, or --format parquet")
    if options["name"] is not None and storage.is_sharded:
        raise UsageError("--name is for files: in shards images are called by the number of their task")
    return storage
