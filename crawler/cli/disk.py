"""Options of `crawler seed` about disks that fill up or lose what was not synced."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

import click

from crawler.cli.common import Seconds

F = TypeVar("F", bound=Callable[..., Any])

#: Bytes that a unit stands for.
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,3})?)([kmgt]?)b?", re.IGNORECASE | re.ASCII)


def _size(context: click.Context, parameter: click.Parameter, value: str) -> int:
    """Return a number of bytes."""
    match = _SIZE.fullmatch(value)
    if match is None:
        raise click.BadParameter(f"{value!r} is no size: give it as 500M or 2G")
    return int(float(match[1]) * _UNITS[match[2].lower()])


def disk_options(command: F) -> F:
    """Give a command the options --min-free, --pause-limit and --durability."""
    free = "Pause while less is free on the disk of OUT or of the store; 0: never."
    min_free = click.option("--min-free", callback=_size, default="100M", show_default=True, metavar="SIZE", help=free)
    wait = "Seconds to wait on a full disk."
    limit = Seconds(min=0, min_open=True)
    pause_limit = click.option("--pause-limit", type=limit, default=600.0, show_default=True, help=wait)
    kept = "What a power cut may cost: nothing, the last second of records, or the ledger; a kill never costs anything."
    choice = click.Choice(["full", "batch", "none"])
    durability = click.option("--durability", type=choice, default="full", show_default=True, help=kept)
    return pause_limit(min_free(durability(command)))
