"""-v and -q, before or after the name of a command."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import click

from crawler.logs import speak

F = TypeVar("F", bound=Callable[..., Any])

_LEVELS = ("WARNING", "INFO", "DEBUG")


def loudness(command: F) -> F:
    """Give a command the options -v and -q."""
    say_more = "Say more: each completion; twice: what goes on inside."
    verbose = click.option("-v", "--verbose", count=True, help=say_more, expose_value=False, callback=_verbose)
    quiet = click.option("-q", "--quiet", is_flag=True, help="Say only errors.", expose_value=False, callback=_quiet)
    return verbose(quiet(command))


def is_quiet(context: click.Context) -> bool:
    """Tell whether -q was given."""
    return bool(context.find_root().meta.get("quiet"))


def _verbose(context: click.Context, parameter: click.Parameter, value: int) -> None:
    if value or context.parent is None:
        _set(_LEVELS[min(value, 2)])


def _quiet(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        context.find_root().meta["quiet"] = True
        _set("ERROR")


def _set(level: str) -> None:
    os.environ["CRAWLER_LOG"] = level  # local workers speak as loud
    speak(level)
