"""robots.txt: where the rules come from, and which apply; how often they are asked for is shown in test_politeness."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import responses

from crawler.broker.origins import Origin, origin_of, parse
from crawler.errors import FetchError
from crawler.model import Lease, Task
from crawler.reasons import Reason
from crawler.settings import Access, Settings
from crawler.worker.fetch import RULES_SIZE, Fetcher

HOST = "http://images.invalid"
ROBOTS = f"{HOST}/robots.txt"


@pytest.fixture
def mocked() -> Iterator[responses.RequestsMock]:
    """Answer in place of the network; what was not told is refused."""
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        for path in ("/a.jpg", "/b.jpg", "/private/a.jpg"):
            mock.get(HOST + path, b"image")
        yield mock


class Obedient:
    """A fetcher that does as the queue would have it: rules first, and only what they allow."""

    def __init__(self, fetcher: Obedient, user_agent: str) -> None:
        self.fetcher = fetcher
        self.product = Access(user_agent=user_agent).product

    def fetch(self, url: str) -> Reason | None:
        """Fetch *url*; return why that failed, None where it did not."""
        origin = Origin(origin_of(url), self.product)
        try:
            found = self.fetcher.fetch_rules(Lease(token=1, task=Task(id=0, url=origin.url), robots=True))
            origin.learn(parse(found.text, self.product, origin.url), float("inf"))
            if (refusal := origin.judge(url)) is not None:
                return refusal.reason
            self.fetcher.fetch(Lease(token=2, task=Task(id=1, url=url), follow=False))
        except FetchError as error:
            return error.reason
        return None


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Obedient]]:
    """Return what makes a fetcher that obeys robots.txt."""
    made: list[Fetcher] = []

    def make_one(user_agent: str = "crawler/0.1 (+contact)") -> Obedient:
        made.append(Fetcher(Settings(access=Access(user_agent=user_agent)), tmp_path, threads=4))
        return Obedient(made[-1], user_agent)

    yield make_one
    for fetcher in made:
        fetcher.close()


@pytest.fixture
def fetcher(make: Callable[..., Obedient]) -> Obedient:
    """Return a fetcher that obeys robots.txt."""
    return make()


def asked(mocked: responses.RequestsMock) -> list[str]:
    """Return the URLs asked for so far."""
    return [str(call.request.url) for call in mocked.calls]


def test_disallowed(fetcher: Obedient, mocked: responses.RequestsMock) -> None:
    """What robots.txt disallows is not asked for."""
    mocked.get(ROBOTS, "User-agent: *\nDisallow: /private/")
    results = [fetcher.fetch(HOST + path) for path in ("/a.jpg", "/private/a.jpg")]
    assert results == [None, Reason.ROBOTS_DISALLOWED]
    assert asked(mocked) == [ROBOTS, f"{HOST}/a.jpg", ROBOTS]


def test_each_origin_has_its_own(fetcher: Obedient, mocked: responses.RequestsMock) -> None:
    """Rules of one port or scheme say nothing about another."""
    mocked.get(ROBOTS, "")
    mocked.get("http://images.invalid:8080/robots.txt", "User-agent: *\nDisallow: /")
    mocked.get("https://images.invalid/robots.txt", "User-agent: *\nDisallow: /")
    assert fetcher.fetch(f"{HOST}/a.jpg") is None
    assert fetcher.fetch("http://images.invalid:8080/a.jpg") is Reason.ROBOTS_DISALLOWED
    assert fetcher.fetch("https://images.invalid/a.jpg") is Reason.ROBOTS_DISALLOWED


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_absent(fetcher: Obedient, mocked: responses.RequestsMock, status: int) -> None:
    """Where there is no robots.txt for us, all is allowed, whatever the body says."""
    mocked.get(ROBOTS, "User-agent: *\nDisallow: /", status=status)
    assert fetcher.fetch(f"{HOST}/a.jpg") is None


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_unreachable(fetcher: Obedient, mocked: responses.RequestsMock, status: int) -> None:
    """A host that fails to tell its rules is not asked for anything, until it tells them."""
    failing = mocked.get(ROBOTS, status=status)
    assert fetcher.fetch(f"{HOST}/a.jpg") is Reason.ROBOTS_UNREACHABLE
    assert asked(mocked) == [ROBOTS]
    mocked.remove(failing)
    mocked.get(ROBOTS, "")
    assert fetcher.fetch(f"{HOST}/a.jpg") is None


def test_lost(fetcher: Obedient, mocked: responses.RequestsMock) -> None:
    """A connection that is lost on the way is no permission."""
    mocked.get(ROBOTS, body=ConnectionResetError("lost"))
    assert fetcher.fetch(f"{HOST}/a.jpg") is Reason.CONNECTION_LOST


def test_redirected(fetcher: Obedient, mocked: responses.RequestsMock) -> None:
    """The rules are followed to another host."""
    mocked.get(ROBOTS, status=301, headers={"Location": "https://other.invalid/rules"})
    mocked.get("https://other.invalid/rules", "User-agent: *\nDisallow: /private/")
    assert fetcher.fetch(f"{HOST}/private/a.jpg") is Reason.ROBOTS_DISALLOWED
    assert fetcher.fetch(f"{HOST}/a.jpg") is None


def test_redirected_for_ever(fetcher: Obedient, mocked: responses.RequestsMock) -> None:
    """After five redirects the rules count as absent."""
    mocked.get(ROBOTS, status=302, headers={"Location": "/robots.txt"})
    assert fetcher.fetch(f"{HOST}/a.jpg") is None
    assert asked(mocked).count(ROBOTS) == 6


@pytest.mark.parametrize(
    ("user_agent", "reason"),
    [
        ("crawler/0.1 (+contact)", Reason.ROBOTS_DISALLOWED),
        ("crawler", Reason.ROBOTS_DISALLOWED),
        ("somebot/2 crawler", None),
    ],
)
def test_product(
    make: Callable[..., Obedient], mocked: responses.RequestsMock, user_agent: str, reason: Reason | None
) -> None:
    """The group of the product that the User-Agent header names first applies."""
    mocked.get(ROBOTS, "User-agent: crawler\nDisallow: /\n\nUser-agent: *\nDisallow:\n")
    assert make(user_agent).fetch(f"{HOST}/a.jpg") is reason


def test_bounded(fetcher: Obedient, mocked: responses.RequestsMock) -> None:
    """Of a very long robots.txt the first part counts."""
    first, rest = "User-agent: *\nDisallow: /private/\n", "Disallow: /\n"
    mocked.get(ROBOTS, first + "#" * (RULES_SIZE - len(first)) + "\n" + rest)
    assert fetcher.fetch(f"{HOST}/private/a.jpg") is Reason.ROBOTS_DISALLOWED
    assert fetcher.fetch(f"{HOST}/a.jpg") is None


def test_broken_text(fetcher: Obedient, mocked: responses.RequestsMock) -> None:
    """Bytes that are no text are passed over, the rules among them are not."""
    mocked.get(ROBOTS, b"\xff\xfe\x00\n\xf0\x28\nUser-agent: *\nDisallow: /private/\nCrawl-delay: soon\n")
    assert fetcher.fetch(f"{HOST}/private/a.jpg") is Reason.ROBOTS_DISALLOWED


def test_a_host_that_asks_to_wait(fetcher: Obedient, mocked: responses.RequestsMock) -> None:
    """The queue is told for how long."""
    mocked.get(ROBOTS, status=503, headers={"Retry-After": "7"})
    with pytest.raises(FetchError) as caught:
        fetcher.fetcher.fetch_rules(Lease(token=1, task=Task(id=0, url=ROBOTS), robots=True))
    assert (caught.value.reason, caught.value.http_status, caught.value.retry_after) == (
        Reason.ROBOTS_UNREACHABLE,
        503,
        7.0,
    )


def test_an_answer_that_cannot_be_read(fetcher: Obedient, mocked: responses.RequestsMock) -> None:
    """Is no permission either, and says nothing against the host's images."""
    mocked.get(ROBOTS, status=302, headers={"Location": "ftp://other.invalid/"})
    assert fetcher.fetch(f"{HOST}/a.jpg") is Reason.ROBOTS_UNREACHABLE


def test_redirects_go_back_to_the_queue(fetcher: Obedient, mocked: responses.RequestsMock) -> None:
    """Also within the host: the next URL must be held against the rules."""
    mocked.get(f"{HOST}/moved.jpg", status=302, headers={"Location": "/private/a.jpg"})
    with pytest.raises(FetchError) as caught:
        fetcher.fetcher.fetch(Lease(token=2, task=Task(id=1, url=f"{HOST}/moved.jpg"), follow=False))
    assert (caught.value.moved_to, caught.value.hops) == (f"{HOST}/private/a.jpg", 1)
    assert asked(mocked) == [f"{HOST}/moved.jpg"]


def test_hostile_patterns_cost_no_time() -> None:
    """Many wildcards against a long URL are judged at once."""
    origin = Origin(HOST, "crawler")
    text = "User-agent: *\nDisallow: /" + "*a" * 40 + "b\n" + "Disallow: /*.php$\n"
    origin.learn(parse(text, "crawler", ROBOTS), float("inf"))
    assert origin.judge(f"{HOST}/{'a' * 2000}") is None
    assert origin.judge(f"{HOST}/x.php") is not None


def test_rules_that_multiply_are_not_read() -> None:
    """Each rule counts for each agent of its group: a text that makes millions of them disallows all."""
    agents, rules = "".join(f"User-agent: a{n}\n" for n in range(5000)), "".join(f"Allow: /{n}\n" for n in range(5000))
    origin = Origin(HOST, "crawler")
    origin.learn(parse(agents + rules, "crawler", ROBOTS), float("inf"))
    refusal = origin.judge(f"{HOST}/1")
    assert refusal is not None
    assert (refusal.reason, ROBOTS in refusal.detail) == (Reason.ROBOTS_UNREACHABLE, True)
