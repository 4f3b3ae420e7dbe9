"""
What the robots.txt of an origin (scheme, name, port) lets us fetch. Pure: the text comes from a worker.

Source: RFC 9309.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import unquote

from protego import Protego

from crawler.reasons import Reason

#: Seconds for which rules are used again. Source: RFC 9309, 2.4.
LIFE = 24 * 3600.0
#: Seconds after which rules that could not be had are asked for again.
FAILURE_LIFE = 3600.0
#: Reserved characters of a query that are escaped. Source: RFC 3986, 2.2.
_ESCAPED = re.compile(r"%(?:21|23|24|26|27|28|29|2A|2B|2C|2F|3A|3B|3D|3F|40|5B|5D)", re.I)
#: Rules times agents of a text that is read: a hundred times what large sites have.
MAX_PAIRS = 500_000
_AGENT = re.compile(r"^[ \t]*user[- ]?agent\b", re.I | re.M)
#: Largest Crawl-delay that is kept to; whoever asks for more would be served by no list's end.
MAX_CRAWL_DELAY = 300.0
#: A line that names a product, up to what counts for nothing: a version, as in crawler/1.0, or an asterisk.
#: Source: "How Google interprets the robots.txt specification", order of precedence for user agents.
_PRODUCT = re.compile(r"((?:^|[\r\n])[ \t]*user-agent[ \t]*:[ \t]*[^\s/*#]+)[/*][^\r\n]*", re.I)


class Refusal(NamedTuple):
    """Why a task fails without being fetched."""

    reason: Reason
    detail: str


class Rules(NamedTuple):
    """What a robots.txt comes to for us."""

    #: None where all is allowed.
    parsed: Protego | None = None
    #: Seconds between two starts.
    crawl_delay: float = 0.0
    #: Why all is disallowed whatever the rules say, None where they decide.
    refusal: Refusal | None = None


def parse(text: str, product: str, url: str) -> Rules:
    """
    Return what *text*, the robots.txt at *url*, says to *product*; "" allows all.

    This can take a second for a text of 500 KiB, so no lock may be held. Rules count once for each agent of their
    group, and a text that multiplies them without reason is not read: all is disallowed then.
    """
    if not text:
        return Rules()
    # With a byte order mark the first line would mean nothing, and the rules below it would be nobody's.
    text = _PRODUCT.sub(r"\1", text.removeprefix("\ufeff"))
    agents = len(_AGENT.findall(text))
    if agents * (len(text.splitlines()) - agents) > MAX_PAIRS:
        return Rules(refusal=Refusal(Reason.ROBOTS_UNREACHABLE, f"{url}: too many rules for too many agents"))
    parsed = Protego.parse(text)
    wanted = parsed.crawl_delay(product) or 0.0
    return Rules(parsed, min(MAX_CRAWL_DELAY, max(0.0, wanted)))


class SavedOrigin(NamedTuple):
    """What a ledger keeps of an origin."""

    host: int
    origin: str
    expires: float
    #: The robots.txt, "" where all is allowed, None where it could not be had.
    text: str | None
    refusal: Refusal | None = None
    #: What the text comes to, None where it was not parsed.
    rules: Rules | None = None


def origin_of(url: str) -> str:
    """Return scheme, name and port of a canonical URL, as in http://a.example:8080."""
    end = len(url)
    for mark in "/?":
        found = url.find(mark, 8)
        if found > 0:
            end = min(end, found)
    return url[:end]


def _forms(url: str) -> set[str]:
    """
    Return *url* as it is, and with the reserved characters of its query unescaped: a rule may have them either way.

    Source: RFC 9309, 2.2.2, whose table has a rule with https://foo.bar in its query match the escaped form.
    """
    path, mark, query = url.partition("?")
    return {url, f"{path}?{_ESCAPED.sub(lambda found: unquote(found[0]), query)}"} if mark and "%" in query else {url}


class Origin:
    """
    The rules of one origin, or that they are not known.

    Args:
        name: As `origin_of` returns it.
        product: Whose rules count.
    """

    __slots__ = ("_product", "_rules", "asked", "attempts", "crawl_delay", "expires", "losses", "name", "refusal")

    def __init__(self, name: str, product: str) -> None:
        self.name = name
        self._product = product
        self._rules: Protego | None = None
        #: Why nothing can be fetched here, None where the rules decide.
        self.refusal: Refusal | None = None
        #: Until when what is known counts.
        self.expires = 0.0
        #: Whether some session is fetching the rules.
        self.asked = False
        #: Fetches of the rules that failed in a row.
        self.attempts = 0
        #: Times the child that was fetching the rules died.
        self.losses = 0
        #: Seconds between two starts that the rules ask for.
        self.crawl_delay = 0.0

    @property
    def url(self) -> str:
        """Return where the rules are."""
        return f"{self.name}/robots.txt"

    def is_known(self, now: float) -> bool:
        """Tell whether it can be judged what may be fetched."""
        return now < self.expires

    def judge(self, url: str) -> Refusal | None:
        """Return why *url* may not be fetched, None where it may."""
        if self.refusal is not None:
            return self.refusal
        if self._rules is not None and not all(self._rules.can_fetch(form, self._product) for form in _forms(url)):
            return Refusal(Reason.ROBOTS_DISALLOWED, self.url)
        return None

    def learn(self, rules: Rules, expires: float) -> None:
        """Take the rules."""
        self._rules, self.crawl_delay, self.refusal = rules.parsed, rules.crawl_delay, rules.refusal
        self.expires, self.asked, self.attempts = expires, False, 0

    def refuse(self, refusal: Refusal, expires: float) -> None:
        """Let all fail: the rules cannot be had."""
        self._rules, self.crawl_delay = None, 0.0
        self.refusal, self.expires, self.asked, self.attempts = refusal, expires, False, 0

    def forget(self) -> None:
        """Ask again."""
        self.expires, self.attempts = 0.0, 0
