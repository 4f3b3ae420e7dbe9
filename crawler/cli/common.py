"""What several commands share: naming a crawl, and signals."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import click

from crawler.cli.terminal import let_go
from crawler.errors import OutUnusable, UsageError
from crawler.out import Out

_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^/:\s]+):[0-9]{1,5}")

key_option = click.option(
    "--key", metavar="DIR", help="Folder of the key, made by `crawler keygen`; goes with every HOST:PORT."
)

F = TypeVar("F", bound=Callable[..., Any])


def with_options(*some: Callable[[F], F]) -> Callable[[F], F]:
    """Return a decorator that gives a command *some* options, which are shown in this order."""

    def add(command: F) -> F:
        for option in reversed(some):
            command = option(command)
        return command

    return add


#: Most seconds that an option takes: a year. Of much longer waits, and of infinite ones, the system knows nothing.
MAX_SECONDS = 31_536_000.0


class Seconds(click.FloatRange):
    """A number of seconds."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return it, or tell that it is none; "nan" is neither above nor below any limit."""
        seconds = float(super().convert(value, param, ctx))
        if not seconds <= MAX_SECONDS:
            self.fail(f"{value} is no number of seconds up to {MAX_SECONDS:.0f}.", param, ctx)
        return seconds


class Served(NamedTuple):
    """A queue that is being served."""

    address: str
    #: Folder of its key.
    key: Path


def find(target: str, key: str | None) -> tuple[Out | None, Served | None]:
    """
    Tell what a command's OUT or HOST:PORT names.

    Returns:
        (OUT, None where HOST:PORT was named; where it is served, None where nothing runs on OUT).

    Raises:
        UsageError: HOST:PORT without a key.
        OutUnusable: No crawl is there.
    """
    if _ADDRESS.fullmatch(target) and not Path(target).is_dir():
        if key is None:
            raise UsageError(f"{target}: name the folder of the key with --key DIR (`crawler keygen DIR` makes one)")
        return None, Served(target, Path(key))
    out = Out(Path(target))
    out.require()
    address = out.served_at()
    return out, Served(address, out.run) if address else None


def require_served(target: str, key: str | None) -> Served:
    """
    Return where OUT or HOST:PORT is served.

    Raises:
        OutUnusable: Nothing runs on OUT.
    """
    _, served = find(target, key)
    if served is None:
        raise OutUnusable(f"nothing runs on {target}: start it with `crawler seed LIST -o {target}`")
    return served


def on_stop_signals(ask: Callable[[], None]) -> None:
    """Call *ask* on SIGINT, SIGTERM, and when the terminal is closed, unless that is to be ignored (`nohup`)."""
    terminals = [number for number in range(3) if os.isatty(number)]

    def hang_up() -> None:
        # Of what is written to a terminal that is gone each line would be an error.
        for number in terminals:
            let_go(number)
        ask()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ask())
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: hang_up())


def host_patterns(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    """Check names of hosts, each a name or `*.NAME`."""
    for value in values:
        if not re.fullmatch(r"(\*\.)?[^*/:\s]+", value):
            raise click.BadParameter(f"{value!r} is no host: give a name as a.example, or *.a.example for all below it")
    return tuple(value.lower() for value in values)
