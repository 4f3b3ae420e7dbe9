"""The options of `seed` about images that look like others."""

from __future__ import annotations

from typing import Any

import click

from crawler.cli.common import with_options
from crawler.errors import UsageError

#: Largest DISTANCE.
MAX_DISTANCE = 11
_DISTANCE_HELP = "Record which images differ in at most so many bits of their perceptual hashes from one before. [not]"

duplicate_options = with_options(
    click.option("--near-duplicates", type=click.IntRange(0, MAX_DISTANCE), metavar="DISTANCE", help=_DISTANCE_HELP),
    click.option("--drop-near-duplicates", is_flag=True, help="Do not keep them: their tasks fail."),
)


def read_duplicates(options: dict[str, Any]) -> Any:
    """
    Return what the options say, None where images are not compared.

    Raises:
        UsageError: What is to be dropped is not said.
    """
    from crawler.settings import NearDuplicates

    distance, drop = options["near_duplicates"], options["drop_near_duplicates"]
    if distance is None and drop:
        raise UsageError("--drop-near-duplicates goes with --near-duplicates DISTANCE")
    return None if distance is None else NearDuplicates(distance=distance, drop=drop)
