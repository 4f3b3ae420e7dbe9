"""The one form under which a URL is known."""

from __future__ import annotations

import re
from urllib.parse import quote, urlsplit, urlunsplit

import idna

#: Largest port.
MAX_PORT = 65_535

# What needs no further look: a lower-case name with a dot, nothing to be quoted, no user information.
_PLAIN = re.compile(
    r"https?://((?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)"
    r"(?::([1-9][0-9]{0,4}))?/(?:[A-Za-z0-9._~!$&'()*+,;=:@/?-]|%[0-9A-Fa-f]{2})*",
)
_REFUSED = re.compile(r"[\x00-\x20\x7f\\]")
#: Characters that stay as they are where a URL has to be quoted; "%" because it may be quoted already.
_SAFE = "!#$%&'()*+,/:;=?@[]~"


def canonical(text: str) -> tuple[str, str]:
    """
    Bring a URL into the one form under which it is known.

    Args:
        text: A URL without white space at its ends.

    Returns:
        (URL in ASCII, without fragment, scheme and name in lower case; name of the host).

    Raises:
        ValueError: It is no absolute http or https URL that can be asked for; the message says why.
    """
    plain = _PLAIN.fullmatch(text)
    if plain and int(plain[2] or 80) <= MAX_PORT:
        return text, plain[1]
    if _REFUSED.search(text):
        raise ValueError("it has a space, a control character or a backslash")
    parts = urlsplit(text)
    if parts.scheme.lower() not in ("http", "https"):
        raise ValueError("it is no http or https URL")
    if "@" in parts.netloc:
        raise ValueError("it has user information")
    host = _host(parts.hostname or "")
    netloc = f"[{host}]" if ":" in host else host
    if parts.port is not None:  # raises ValueError where it is none
        netloc += f":{parts.port}"
    if parts.port == 0:
        raise ValueError("port 0 cannot be asked")
    path = quote(parts.path or "/", safe=_SAFE)
    return urlunsplit((parts.scheme.lower(), netloc, path, quote(parts.query, safe=_SAFE), "")), host


def _host(name: str) -> str:
    if not name:
        raise ValueError("it names no host")
    if ":" in name:
        return name.lower()
    if name.isascii():
        lower = name.lower()
        if not re.fullmatch(r"[a-z0-9_.-]+", lower) or ".." in lower or lower.startswith("."):
            raise ValueError("its host's name is not one")
        return lower
    try:
        return idna.encode(name, uts46=True).decode()
    except idna.IDNAError as error:
        raise ValueError(f"its host's name is not one: {error}") from error
