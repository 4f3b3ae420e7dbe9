"""What a robots.txt lets us fetch: the examples of RFC 9309 and Google's, whose rules count, and for how long."""

from __future__ import annotations

import pytest

from crawler.broker.origins import MAX_CRAWL_DELAY, Origin, Refusal, origin_of, parse
from crawler.reasons import Reason
from crawler.settings import Access
from tests.robots_vectors import GOOGLE, HOST, RFC_9309, Vector


def learned(text: str, product: str = "crawler", expires: float = 100.0) -> Origin:
    """Return an origin whose robots.txt is *text*."""
    origin = Origin(HOST, product)
    origin.learn(parse(text, product, origin.url), expires)
    return origin


# ------------------------------------------------------------------ what specifications show


@pytest.mark.parametrize("vector", RFC_9309 + GOOGLE, ids=lambda vector: vector.source)
def test_examples_of_the_specifications(vector: Vector) -> None:
    """Each URL is judged as the specification says; what is refused names the file."""
    origin = learned(vector.text, vector.product)
    refused = Refusal(Reason.ROBOTS_DISALLOWED, f"{HOST}/robots.txt")
    expected = dict.fromkeys(vector.allowed) | dict.fromkeys(vector.disallowed, refused)
    assert expected
    assert {path: origin.judge(HOST + path) for path in expected} == expected


def test_reserved_characters_of_a_query_may_be_escaped_or_not() -> None:
    """RFC 9309, 2.2.2: a rule with a URL in its query means that URL in either form, and no other."""
    origin = learned("User-agent: *\nDisallow: /foo/bar?baz=https://foo.bar\n")
    assert origin.judge(f"{HOST}/foo/bar?baz=https%3A%2F%2Ffoo.bar")
    assert origin.judge(f"{HOST}/foo/bar?baz=https://foo.bar")
    assert origin.judge(f"{HOST}/foo/bar?baz=https%3A%2F%2Ffoo.baz") is None


# ------------------------------------------------------------------ whose rules


@pytest.mark.parametrize(
    ("user_agent", "product"),
    [
        ("crawler/0.1 (+https://a.example/bot)", "crawler"),
        ("crawler", "crawler"),
        ("flowers-bot v2", "flowers-bot"),
        ("Mozilla/5.0 (compatible; crawler/0.1)", "Mozilla"),
        (" crawler/1", "crawler"),
        ("", "crawler"),
    ],
)
def test_the_product_is_what_the_user_agent_names_first(user_agent: str, product: str) -> None:
    """Without its version, as hosts write it in their rules."""
    assert Access(user_agent=user_agent).product == product


def test_a_group_of_another_product_is_not_ours() -> None:
    """Not even where its name is a part of our own."""
    text = "User-agent: bot\nDisallow:\n\nUser-agent: *\nDisallow: /\n"
    assert learned(text, "flowerbot").judge(f"{HOST}/x") is not None
    assert learned(text, "bot").judge(f"{HOST}/x") is None


# ------------------------------------------------------------------ origins


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("http://a.example/", "http://a.example"),
        ("http://a.example/b/c?d=/e", "http://a.example"),
        ("http://a.example", "http://a.example"),
        ("http://a.example?b=/c", "http://a.example"),
        ("https://a.example:8443/b", "https://a.example:8443"),
        ("http://[::1]:8080/b", "http://[::1]:8080"),
    ],
)
def test_an_origin_is_scheme_name_and_port(url: str, origin: str) -> None:
    """Rules of one say nothing about another; each has its file at one place."""
    assert origin_of(url) == origin
    assert Origin(origin, "crawler").url == f"{origin}/robots.txt"


# ------------------------------------------------------------------ what is known


def test_nothing_is_known_at_first() -> None:
    """Until the rules were learned, and after their time."""
    origin = Origin(HOST, "crawler")
    assert not origin.is_known(0.0)
    origin.learn(parse("", "crawler", origin.url), 100.0)
    assert [origin.is_known(now) for now in (0.0, 99.9, 100.0)] == [True, True, False]
    origin.learn(parse("", "crawler", origin.url), 200.0)
    origin.forget()
    assert not origin.is_known(0.0)


def test_rules_that_cannot_be_had_refuse_all() -> None:
    """For the reason that is given, until they are learned after all."""
    origin = learned("User-agent: *\nCrawl-delay: 2\n")
    refusal = Refusal(Reason.ROBOTS_UNREACHABLE, f"{HOST}/robots.txt: status 503")
    origin.attempts = 3
    origin.refuse(refusal, 300.0)
    assert (origin.judge(f"{HOST}/x"), origin.crawl_delay) == (refusal, 0.0)
    assert (origin.is_known(299.0), origin.attempts) == (True, 0)
    origin.learn(parse("User-agent: *\nDisallow: /private/\n", "crawler", origin.url), 400.0)
    assert origin.judge(f"{HOST}/x") is None
    assert origin.judge(f"{HOST}/private/x") == Refusal(Reason.ROBOTS_DISALLOWED, f"{HOST}/robots.txt")


def test_new_rules_take_the_place_of_old_ones() -> None:
    """All of them, those for the pace included."""
    origin = learned("User-agent: *\nDisallow: /\nCrawl-delay: 2\n")
    assert (origin.judge(f"{HOST}/x") is None, origin.crawl_delay) == (False, 2.0)
    origin.learn(parse("", "crawler", origin.url), 200.0)
    assert (origin.judge(f"{HOST}/x"), origin.crawl_delay) == (None, 0.0)


@pytest.mark.parametrize(
    ("text", "delay"),
    [
        ("User-agent: *\nCrawl-delay: 5\n", 5.0),
        ("User-agent: *\ncrawl-delay: 0.5\n", 0.5),
        ("User-agent: *\nCrawl-delay: 2\n\nUser-agent: crawler\nCrawl-delay: 7\n", 7.0),
        ("User-agent: otherbot\nCrawl-delay: 5\n", 0.0),
        ("User-agent: *\nCrawl-delay: 99999\n", MAX_CRAWL_DELAY),
        ("User-agent: *\nCrawl-delay: -3\n", 0.0),
        ("User-agent: *\nCrawl-delay: soon\n", 0.0),
        ("User-agent: *\nCrawl-delay: nan\n", 0.0),
        ("User-agent: *\nCrawl-delay: inf\n", 0.0),
        ("User-agent: *\nDisallow: /x\n", 0.0),
    ],
)
def test_crawl_delay(text: str, delay: float) -> None:
    """The one of our group counts, within a bound; what is no number of seconds is none."""
    assert learned(text).crawl_delay == delay
