"""What workers say, and may not say: whoever holds the key can send anything."""

from __future__ import annotations

import math
import re
from typing import Any
from urllib.parse import urlsplit

import msgspec

from crawler.broker.ended import NOT_MODIFIED
from crawler.broker.hosts import Held
from crawler.errors import WireError
from crawler.model import Completion, Failure, Outcome
from crawler.reasons import Reason

#: What a path in a store looks like: no empty part, none that begins with a dot.
PATH = re.compile(r"[0-9A-Za-z_-][0-9A-Za-z._-]*(?:/[0-9A-Za-z_-][0-9A-Za-z._-]*)*")


def check_path(completion: Completion) -> None:
    """Return if a completion names a path as a store makes it, or none; raises WireError."""
    if completion.path is not None and not PATH.fullmatch(completion.path):
        raise WireError(f"{completion.path[:80]!r} is no path in a store")


def can_end(held: Held, completion: Completion) -> bool:
    """Tell whether a lease can end like this: no robots.txt is stored, nor an image without its path, if it is new."""
    is_new = not (held.task.etag or held.task.last_modified)
    has_path = completion.path is not None or completion.outcome is Outcome.FAILED
    return held.origin is None and (has_path or (completion.http_status == NOT_MODIFIED and not is_new))


def sound(failure: Failure, max_hops: int) -> Failure:
    """Return *failure* with nothing in it that no worker of ours says: what it says must not hold up a queue."""
    changes: dict[str, Any] = {"hops": min(max(failure.hops, 0), max_hops)}
    if failure.retry_after is not None and not 0 <= failure.retry_after < math.inf:
        changes["retry_after"] = None
    if failure.moved_to is not None and not _is_url(failure.moved_to):
        changes |= {"moved_to": None, "reason": Reason.BAD_REDIRECT, "detail": failure.moved_to[:200]}
    return msgspec.structs.replace(failure, **changes)


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
