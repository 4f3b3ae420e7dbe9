"""What the robots.txt of a host lets us fetch. Source: RFC 9309."""

from __future__ import annotations

import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import urlsplit

from protego import Protego

from crawler.errors import FetchError
from crawler.reasons import Reason

#: Seconds for which rules are used again. Source: RFC 9309, 2.4.
LIFE = 24 * 3600.0
#: Origins remembered.
MAX_ORIGINS = 1_000
#: Redirects followed, across hosts too. Source: RFC 9309, 2.3.1.2.
MAX_REDIRECTS = 5
#: Failures that say about the host what fetching the image itself would say.
OF_THE_HOST = frozenset(
    {
        Reason.BAD_URL,
        Reason.NAME_NOT_FOUND,
        Reason.RESOLVER_FAILED,
        Reason.ADDRESS_REFUSED,
        Reason.CONNECT_FAILED,
        Reason.CONNECT_TIMEOUT,
        Reason.TLS_FAILED,
    }
)


class Answer(NamedTuple):
    """What a server said when asked for a robots.txt."""

    status: int
    #: Absolute URL to ask in its place, None where there is none.
    target: str | None = None
    text: str = ""


class _Rules:
    """The rules of one origin, or the wait for them; both None and no failure means that all is allowed."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.expires = time.monotonic() + LIFE
        self.parsed: Protego | None = None
        self.failure: tuple[Reason, str] | None = None


class Robots:
    """
    Fetch each origin's robots.txt once, by the first thread that needs it, and hold URLs against it.

    Args:
        ask: Fetches a URL without following redirects; raises FetchError.
        user_agent: Value of the User-Agent header; rules are looked up for the product named first in it.
    """

    def __init__(self, ask: Callable[[str], Answer], user_agent: str) -> None:
        self._ask = ask
        self._product = re.split(r"[/\s]", user_agent.strip(), maxsplit=1)[0] or "crawler"
        self._lock = threading.Lock()
        self._rules: OrderedDict[str, _Rules] = OrderedDict()

    def check(self, url: str, wait: float) -> None:
        """
        Return if *url* may be fetched.

        Args:
            url: Absolute http or https URL.
            wait: Seconds to wait at most for another thread that is fetching the rules.

        Raises:
            FetchError: ROBOTS_DISALLOWED; ROBOTS_UNREACHABLE where the rules cannot be had; or what went wrong with
                the host itself. The detail names the robots.txt.
        """
        parts = urlsplit(url)
        where = f"{parts.scheme}://{parts.netloc}/robots.txt"
        rules, is_ours = self._find(where)
        if is_ours:
            self._learn(where, rules)
        elif not rules.done.wait(wait):
            raise FetchError(Reason.ROBOTS_UNREACHABLE, f"{where}: no answer in time")
        if rules.failure is not None:
            raise FetchError(*rules.failure)
        if rules.parsed is not None and not rules.parsed.can_fetch(url, self._product):
            raise FetchError(Reason.ROBOTS_DISALLOWED, where)

    def _find(self, where: str) -> tuple[_Rules, bool]:
        """Return the rules and whether the caller is the one to fetch them."""
        with self._lock:
            rules = self._rules.get(where)
            if rules is not None and rules.expires > time.monotonic():
                self._rules.move_to_end(where)
                return rules, False
            rules = self._rules[where] = _Rules()
            if len(self._rules) > MAX_ORIGINS:
                self._rules.popitem(last=False)
            return rules, True

    def _learn(self, where: str, rules: _Rules) -> None:
        try:
            rules.parsed = self._fetch(where)
        except FetchError as error:
            rules.failure = (error.reason, error.detail)
        except BaseException:
            rules.failure = (Reason.ROBOTS_UNREACHABLE, f"{where}: the fetch was broken off")
            raise
        finally:
            if rules.failure is not None:
                # Those who wait now share the failure; whoever comes later tries again.
                with self._lock:
                    self._rules.pop(where, None)
            rules.done.set()

    def _fetch(self, where: str) -> Protego | None:
        """Return the rules at *where*, None where all is allowed."""
        url = where
        for hop in range(MAX_REDIRECTS + 1):
            try:
                answer = self._ask(url)
            except FetchError as error:
                reason = error.reason if hop == 0 and error.reason in OF_THE_HOST else Reason.ROBOTS_UNREACHABLE
                raise FetchError(reason, f"{where}: {error}") from error
            if answer.status >= 500:
                raise FetchError(Reason.ROBOTS_UNREACHABLE, f"{where}: status {answer.status}")
            if answer.target is None:
                return Protego.parse(answer.text) if answer.status == 200 and answer.text else None
            url = answer.target
        # More redirects than must be followed count like a file that is not there. Source: RFC 9309, 2.3.1.2.
        return None
