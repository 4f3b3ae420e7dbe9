"""What the head of a response says about what may be done with its body; kept, and judged by nobody here."""

from __future__ import annotations

import re
from collections.abc import Mapping

#: Characters of a header that are kept.
MAX_TEXT = 300
#: Headers that are kept. Source: Robots meta tag and X-Robots-Tag specification; TDM Reservation Protocol, 6.2; IETF
#: draft-ietf-aipref-attach.
HEADERS = ("x-robots-tag", "tdm-reservation", "tdm-policy", "content-usage")
#: A link to a licence among the links of a response. Source: RFC 8288; RFC 4946 for the relation.
_LICENCE = re.compile(r'<([^<>]*)>[^<>,]*;\s*rel\s*=\s*"?(?:[^"<>,;]*\s)?licen[sc]e\b', re.IGNORECASE)


def find_licence(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers of `HEADERS` that a response has, by lower-case name, and `license`: what Link calls so."""
    found = {name: _clean(headers[name]) for name in HEADERS if name in headers}
    link = _LICENCE.search(headers.get("link", "")[:8192])
    if link:
        found["license"] = _clean(link[1])
    return found


def _clean(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text[:MAX_TEXT]).strip()
