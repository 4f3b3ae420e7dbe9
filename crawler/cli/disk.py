"""Options of `crawler seed` about disks that fill up or lose what was not synced."""

from __future__ import annotations

import re

import click

from crawler.cli.common import Seconds, with_options

#: Bytes that a unit stands for.
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,3})?)([kmgt]?)b?", re.IGNORECASE | re.ASCII)


def _size(context: click.Context, parameter: click.Parameter, value: str) -> int:
    """Return a number of bytes."""
    match = _SIZE.fullmatch(value)
    if match is None:
        raise click.BadParameter(f"{value!r} is no size: give it as 500M or 2G")
    return int(float(match[1]) * _UNITS[match[2].lower()])


_FREE = "Pause while less is free on the disk of OUT or of the store; 0: never."
_KEPT = "What a power cut may cost: nothing, the last second of records, or the ledger; a kill never costs anything."
_POSITIVE = Seconds(min=0, min_open=True)
_WAIT = "Seconds to wait on a full disk."

disk_options = with_options(
    click.option("--pause-limit", type=_POSITIVE, default=600.0, show_default=True, help=_WAIT),
    click.option("--min-free", callback=_size, default="100M", show_default=True, metavar="SIZE", help=_FREE),
    click.option(
        "--durability",
        type=click.Choice(["full", "batch", "none"]),
        default="full",
        show_default=True,
        help=_KEPT,
    ),
)
