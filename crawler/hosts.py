"""The file of `--hosts`: what is different for some hosts."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from crawler.errors import UsageError
from crawler.producer.urls import canonical
from crawler.settings import HostRule

#: Largest file; one line for each of 10,000 hosts is far below.
MAX_SIZE = 10_000_000
KEYS = ("per_host", "delay", "headers", "skip")
#: Largest number of fetches at a time; far above what one machine could do.
MAX_PER_HOST = 1_000_000
#: What comes before a name, and the name; a numeric IPv6 address is in brackets, as in a URL.
_PATTERN = re.compile(r"(\*\.)?([^*/:@?#\[\]\s]+)|(\[[0-9A-Fa-f:.]+\])")
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def read_rules(path: Path) -> tuple[HostRule, ...]:
    """
    Return the rules of a TOML file: a table for each pattern, in the order of the file.

    Raises:
        UsageError: It cannot be read, or says something that cannot be meant; the message names file, table and key.
    """
    try:
        if path.stat().st_size > MAX_SIZE:
            raise UsageError(f"--hosts {path}: larger than {MAX_SIZE} bytes")
        tables = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--hosts {path} cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"--hosts {path} is no TOML: {error}") from error
    return tuple(_rule(f"--hosts {path}", pattern, table) for pattern, table in tables.items())


def _rule(where: str, pattern: str, table: Any) -> HostRule:
    if not isinstance(table, dict):
        raise UsageError(f'{where}: {pattern} is no table; write ["{pattern}.example"] above its keys, quoted')
    name = _name(where, pattern)
    where = f'{where}, ["{pattern}"]'
    if unknown := sorted(set(table).difference(KEYS)):
        hint = "; a name with dots must be quoted" if any(isinstance(table[key], dict) for key in unknown) else ""
        raise UsageError(f"{where}: {unknown[0]!r} is none of {', '.join(KEYS)}{hint}")
    return HostRule(
        pattern=name,
        per_host=_per_host(where, table.get("per_host")),
        delay=_delay(where, table.get("delay")),
        headers=_headers(where, table.get("headers", {})),
        skip=_skip(where, table.get("skip", False)),
    )


def _name(where: str, pattern: str) -> str:
    """Return *pattern* with its name as a queue knows it, in ASCII: otherwise it would never fit, and nobody told."""
    if pattern == "*":
        return pattern
    try:
        found = _PATTERN.fullmatch(pattern)
        if found is None or not (name := canonical(f"http://{found[2] or found[3]}/")[1].rstrip(".")):
            raise ValueError("it is not a name alone")
    except ValueError as error:
        hint = "write a.example, or *.a.example for all below it, or *"
        raise UsageError(f"{where}: {pattern!r} is no host ({error}): {hint}") from error
    return (found[1] or "") + name


def _per_host(where: str, value: Any) -> int | None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_PER_HOST):
        raise UsageError(f"{where}: per_host = {value!r} is no number of fetches from 1 to {MAX_PER_HOST}")
    return value


def _delay(where: str, value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 86_400:
        raise UsageError(f"{where}: delay = {value!r} is no number of seconds up to a day")
    return float(value)


def _skip(where: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise UsageError(f"{where}: skip = {value!r} is neither true nor false")
    return value


def _headers(where: str, table: Any) -> tuple[tuple[str, str], ...]:
    if not isinstance(table, dict):
        raise UsageError(f'{where}: headers is no table; write headers = {{ Name = "value" }}')
    known: set[str] = set()
    for name, value in table.items():
        if not _HEADER.fullmatch(name):
            raise UsageError(f"{where}: {name!r} is no name of a header")
        if name.lower() in known:
            raise UsageError(f"{where}: header {name} is there twice; upper and lower case are the same")
        known.add(name.lower())
        if not isinstance(value, str) or not value.isascii() or not value.isprintable():
            # Without the value, which may be secret.
            raise UsageError(f"{where}: the value of header {name} is no printable ASCII text")
    return tuple((name, value.strip()) for name, value in table.items())
