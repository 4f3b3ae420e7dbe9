"""The headers of requests: those of every one, and those that only some hosts get."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import requests.structures
import requests.utils

from crawler.errors import UsageError
from crawler.model import Task
from crawler.settings import Access, HostRule
from crawler.worker.answers import host_of

Headers = requests.structures.CaseInsensitiveDict[str]


class RequestHeaders:
    """
    Find the headers for a URL.

    Args:
        access: What every host gets.
        rules: What some get besides; only they do, wherever a redirect leads.

    Raises:
        UsageError: One of them cannot be sent; the message has its name and not its value, which may be secret.
    """

    def __init__(self, access: Access, rules: Sequence[HostRule]) -> None:
        self._base = Headers({"Accept": "image/*,*/*;q=0.5"})
        self._base.update(_checked((("User-Agent", access.user_agent), *access.headers)))
        self._base["Accept-Encoding"] = "identity"
        self._rules = [(rule, dict(_checked(rule.headers))) for rule in rules if rule.headers]

    def of(self, url: str, task: Task | None = None) -> Headers:
        """Return the headers of a request for *url*, not to be changed; of a *task* that is stored: if it changed."""
        is_conditional = task is not None and is_stored(task)
        if not (self._rules or is_conditional):
            return self._base
        name = host_of(url)
        headers = self._base.copy()
        for rule, more in reversed(self._rules):  # the first rule that says something counts
            if rule.fits(name):
                headers.update(more)
        headers["Accept-Encoding"] = "identity"
        if task is not None and task.etag:
            headers["If-None-Match"] = task.etag
        if task is not None and task.last_modified:
            headers["If-Modified-Since"] = task.last_modified
        return headers


def is_stored(task: Task) -> bool:
    """Tell whether the image of *task* is stored, and its host can tell whether it has changed."""
    return bool(task.etag or task.last_modified)


def _checked(headers: Iterable[tuple[str, str]]) -> Iterable[tuple[str, str]]:
    for name, value in headers:
        try:
            name.encode("ascii")
            requests.utils.check_header_validity((name, value))
        except (requests.RequestException, UnicodeEncodeError):
            raise UsageError(f"a request cannot have the header {name!r}, or not with its value") from None
        # Characters become bytes as latin-1 further down, and this lets any name of a person through.
        yield name, value.encode().decode("latin-1")
