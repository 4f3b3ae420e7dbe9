"""
What the head of a response says against the use of an image by machines. Pure.

Source: "Robots meta tag, data-nosnippet, and X-Robots-Tag specifications", Google Search Central (syntax, `none`,
`unavailable_after`, rules for one agent); noai and noimageai as DeviantArt introduced them in 2022; TDM Reservation
Protocol, W3C Community Group Final Report, 2024, section on HTTP response headers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

#: Directives that keep an image out of data sets.
AGAINST = frozenset({"noai", "noimageai", "noindex", "none"})
#: Directives whose value follows a colon: no names of agents.
WITH_VALUE = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})
#: Characters of a header that are looked at, and of what is told of it.
MAX_VALUE = 4096
MAX_TOLD = 200
#: The rules of one header line up to the next that is for another agent.
_PART = re.compile(r"\s*([A-Za-z0-9_*.-]+)\s*:\s*")
_AFTER = re.compile(r"unavailable_after\s*:\s*(.*)", re.I)


def find_opt_out(headers: Iterable[tuple[str, str]], product: str) -> str | None:
    """
    Return what says that the image is not for machines, None where nothing does.

    Args:
        headers: (name, value) of each header line, repeated ones by themselves.
        product: Who we are, as in a robots.txt; rules for other agents do not count.
    """
    is_reserved, policy = False, ""
    for name, value in headers:
        match name.lower():
            case "x-robots-tag":
                if any(_is_against(rule) for rule in _rules(value[:MAX_VALUE], product.lower())):
                    return f"X-Robots-Tag: {value}"[:MAX_TOLD]
            case "tdm-reservation":
                # Of values that contradict one another the strictest counts, as with the rules above.
                is_reserved |= "1" in (part.strip() for part in value.split(","))
            case "tdm-policy":
                policy = value.strip()
    if is_reserved:
        return f"tdm-reservation: 1{f', tdm-policy: {policy}' if policy else ''}"[:MAX_TOLD]
    return None


def _rules(value: str, product: str) -> Iterator[str]:
    """Yield the rules of one header line that are for *product*, or for all."""
    is_ours = True
    for part in _split(value):
        agent, rule = _PART.match(part), part
        if agent is not None and agent[1].lower() not in WITH_VALUE:
            is_ours = agent[1].lower() in (product, "*")
            rule = part[agent.end() :]
        if is_ours:
            yield rule.strip().lower()


def _split(value: str) -> list[str]:
    """Return the rules of a header line; the date of `unavailable_after` may have a comma of its own."""
    parts = value.split(",")
    found: list[str] = []
    for part in parts:
        # "Wed, 25 Jun 2030 15:00:00 GMT": what follows the name of a day belongs to it.
        if found and re.search(r"unavailable_after\s*:\s*[a-z]{3,9}\s*$", found[-1], re.I):
            found[-1] += f",{part}"
        else:
            found.append(part)
    return found


def _is_against(rule: str) -> bool:
    if (after := _AFTER.match(rule)) is not None:
        return _is_past(after[1])
    return rule in AGAINST


def _is_past(text: str) -> bool:
    """Tell whether a date lies behind us; one that cannot be read says nothing."""
    moment = None
    for read in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            moment = read(text.strip().upper())
            break
        except (ValueError, TypeError, OverflowError):
            continue
    if moment is None:
        return False
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) <= datetime.now(UTC)
