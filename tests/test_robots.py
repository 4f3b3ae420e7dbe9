"""robots.txt: which rules apply, where they come from, and how often they are asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import responses

from crawler.errors import FetchError
from crawler.model import Lease, Task
from crawler.reasons import Reason
from crawler.settings import Access, Politeness, Settings
from crawler.worker import robots
from crawler.worker.fetch import ROBOTS_SIZE, Fetcher
from crawler.worker.robots import Answer, Robots
from tests.conftest import wait_until

HOST = "http://images.invalid"
ROBOTS = f"{HOST}/robots.txt"


@pytest.fixture
def mocked() -> Iterator[responses.RequestsMock]:
    """Answer in place of the network; what was not told is refused."""
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        for path in ("/a.jpg", "/b.jpg", "/private/a.jpg"):
            mock.get(HOST + path, b"image")
        yield mock


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Fetcher]]:
    """Return what makes a fetcher that obeys robots.txt, or does not."""
    made: list[Fetcher] = []

    def make_one(user_agent: str = "crawler/0.1 (+contact)", obeys: bool = True) -> Fetcher:
        settings = Settings(politeness=Politeness(robots=obeys), access=Access(user_agent=user_agent))
        made.append(Fetcher(settings, tmp_path, threads=4))
        return made[-1]

    yield make_one
    for fetcher in made:
        fetcher.close()


@pytest.fixture
def fetcher(make: Callable[..., Fetcher]) -> Fetcher:
    """Return a fetcher that obeys robots.txt."""
    return make()


def fetch(fetcher: Fetcher, url: str) -> Reason | None:
    """Fetch *url*; return why that failed, None where it did not."""
    try:
        fetcher.fetch(Lease(token=1, task=Task(id=1, url=url)))
    except FetchError as error:
        return error.reason
    return None


def asked(mocked: responses.RequestsMock) -> list[str]:
    """Return the URLs asked for so far."""
    return [str(call.request.url) for call in mocked.calls]


def test_disallowed(fetcher: Fetcher, mocked: responses.RequestsMock) -> None:
    """What robots.txt disallows is not asked for, and the failure names the file."""
    mocked.get(ROBOTS, "User-agent: *\nDisallow: /private/")
    with pytest.raises(FetchError) as caught:
        fetcher.fetch(Lease(token=1, task=Task(id=1, url=f"{HOST}/private/a.jpg")))
    assert (caught.value.reason, caught.value.detail) == (Reason.ROBOTS_DISALLOWED, ROBOTS)
    assert asked(mocked) == [ROBOTS]


def test_asked_once(fetcher: Fetcher, mocked: responses.RequestsMock) -> None:
    """The rules of an origin are asked for once, before its first URL."""
    mocked.get(ROBOTS, "User-agent: *\nDisallow: /private/")
    results = [fetch(fetcher, HOST + path) for path in ("/a.jpg", "/private/a.jpg", "/b.jpg")]
    assert results == [None, Reason.ROBOTS_DISALLOWED, None]
    assert asked(mocked) == [ROBOTS, f"{HOST}/a.jpg", f"{HOST}/b.jpg"]


def test_asked_again(fetcher: Fetcher, mocked: responses.RequestsMock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rules whose time is over are asked for again."""
    monkeypatch.setattr(robots, "LIFE", 0.0)
    mocked.get(ROBOTS, "")
    assert [fetch(fetcher, f"{HOST}/a.jpg") for _ in range(2)] == [None, None]
    assert asked(mocked).count(ROBOTS) == 2


def test_each_origin_has_its_own(fetcher: Fetcher, mocked: responses.RequestsMock) -> None:
    """Rules of one port or scheme say nothing about another."""
    mocked.get(ROBOTS, "")
    mocked.get("http://images.invalid:8080/robots.txt", "User-agent: *\nDisallow: /")
    mocked.get("https://images.invalid/robots.txt", "User-agent: *\nDisallow: /")
    assert fetch(fetcher, f"{HOST}/a.jpg") is None
    assert fetch(fetcher, "http://images.invalid:8080/a.jpg") is Reason.ROBOTS_DISALLOWED
    assert fetch(fetcher, "https://images.invalid/a.jpg") is Reason.ROBOTS_DISALLOWED


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_absent(fetcher: Fetcher, mocked: responses.RequestsMock, status: int) -> None:
    """Where there is no robots.txt for us, all is allowed, whatever the body says."""
    mocked.get(ROBOTS, "User-agent: *\nDisallow: /", status=status)
    assert fetch(fetcher, f"{HOST}/a.jpg") is None


@pytest.mark.parametrize("status", [500, 502, 503])
def test_unreachable(fetcher: Fetcher, mocked: responses.RequestsMock, status: int) -> None:
    """A host that fails to tell its rules is not asked for anything, until it tells them."""
    failing = mocked.get(ROBOTS, status=status)
    assert fetch(fetcher, f"{HOST}/a.jpg") is Reason.ROBOTS_UNREACHABLE
    assert asked(mocked) == [ROBOTS]
    mocked.remove(failing)
    mocked.get(ROBOTS, "")
    assert fetch(fetcher, f"{HOST}/a.jpg") is None


def test_lost(fetcher: Fetcher, mocked: responses.RequestsMock) -> None:
    """A connection that is lost on the way is no permission."""
    mocked.get(ROBOTS, body=ConnectionResetError("lost"))
    assert fetch(fetcher, f"{HOST}/a.jpg") is Reason.ROBOTS_UNREACHABLE


def test_redirected(fetcher: Fetcher, mocked: responses.RequestsMock) -> None:
    """The rules are followed to another host."""
    mocked.get(ROBOTS, status=301, headers={"Location": "https://other.invalid/rules"})
    mocked.get("https://other.invalid/rules", "User-agent: *\nDisallow: /private/")
    assert fetch(fetcher, f"{HOST}/private/a.jpg") is Reason.ROBOTS_DISALLOWED
    assert fetch(fetcher, f"{HOST}/a.jpg") is None


def test_redirected_for_ever(fetcher: Fetcher, mocked: responses.RequestsMock) -> None:
    """After five redirects the rules count as absent."""
    mocked.get(ROBOTS, status=302, headers={"Location": "/robots.txt"})
    assert fetch(fetcher, f"{HOST}/a.jpg") is None
    assert asked(mocked).count(ROBOTS) == 6


def test_redirect_target_is_judged(fetcher: Fetcher, mocked: responses.RequestsMock) -> None:
    """A redirect within the host leads nowhere that is disallowed."""
    mocked.get(ROBOTS, "User-agent: *\nDisallow: /private/")
    mocked.get(f"{HOST}/moved.jpg", status=302, headers={"Location": "/private/a.jpg"})
    assert fetch(fetcher, f"{HOST}/moved.jpg") is Reason.ROBOTS_DISALLOWED
    assert asked(mocked) == [ROBOTS, f"{HOST}/moved.jpg"]


@pytest.mark.parametrize(
    ("user_agent", "reason"),
    [
        ("crawler/0.1 (+contact)", Reason.ROBOTS_DISALLOWED),
        ("crawler", Reason.ROBOTS_DISALLOWED),
        ("somebot/2 crawler", None),
    ],
)
def test_product(
    make: Callable[..., Fetcher], mocked: responses.RequestsMock, user_agent: str, reason: Reason | None
) -> None:
    """The group of the product that the User-Agent header names first applies."""
    mocked.get(ROBOTS, "User-agent: crawler\nDisallow: /\n\nUser-agent: *\nDisallow:\n")
    assert fetch(make(user_agent), f"{HOST}/a.jpg") is reason


def test_ignored(make: Callable[..., Fetcher], mocked: responses.RequestsMock) -> None:
    """A fetcher that is told to ignore robots.txt does not ask for it."""
    assert fetch(make(obeys=False), f"{HOST}/a.jpg") is None
    assert asked(mocked) == [f"{HOST}/a.jpg"]


def test_bounded(fetcher: Fetcher, mocked: responses.RequestsMock) -> None:
    """Of a very long robots.txt the first part counts."""
    first, rest = "User-agent: *\nDisallow: /private/\n", "Disallow: /\n"
    mocked.get(ROBOTS, first + "#" * (ROBOTS_SIZE - len(first)) + "\n" + rest)
    assert fetch(fetcher, f"{HOST}/private/a.jpg") is Reason.ROBOTS_DISALLOWED
    assert fetch(fetcher, f"{HOST}/a.jpg") is None


def test_broken_text(fetcher: Fetcher, mocked: responses.RequestsMock) -> None:
    """Bytes that are no text are passed over, the rules among them are not."""
    mocked.get(ROBOTS, b"\xff\xfe\x00\n\xf0\x28\nUser-agent: *\nDisallow: /private/\nCrawl-delay: soon\n")
    assert fetch(fetcher, f"{HOST}/private/a.jpg") is Reason.ROBOTS_DISALLOWED


def test_single_flight() -> None:
    """Threads that need the same rules at a time wait for the one that asks for them."""
    calls: list[str] = []
    released, together = threading.Event(), threading.Barrier(4)

    def ask(url: str) -> Answer:
        calls.append(url)
        released.wait(20)
        return Answer(404)

    rules = Robots(ask, "crawler")
    ended: list[None] = []

    def check() -> None:
        together.wait(20)
        ended.append(rules.check(f"{HOST}/a.jpg", 20))

    threads = [threading.Thread(target=check, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    together.wait(20)
    wait_until(lambda: calls)
    released.set()
    for thread in threads:
        thread.join(20)
    assert (calls, len(ended)) == ([ROBOTS], 3)


def test_wait_is_limited() -> None:
    """A thread that waits for another's answer gives up at its own limit."""
    asking, released = threading.Event(), threading.Event()

    def ask(_: str) -> Answer:
        asking.set()
        released.wait(20)
        return Answer(404)

    rules = Robots(ask, "crawler")
    other = threading.Thread(target=rules.check, args=(f"{HOST}/a.jpg", 20), daemon=True)
    other.start()
    assert asking.wait(20)
    with pytest.raises(FetchError) as caught:
        rules.check(f"{HOST}/b.jpg", 0.01)
    released.set()
    other.join(20)
    assert caught.value.reason is Reason.ROBOTS_UNREACHABLE


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many origins the ones used last are remembered."""
    monkeypatch.setattr(robots, "MAX_ORIGINS", 2)
    calls: list[str] = []

    def ask(url: str) -> Answer:
        calls.append(url)
        return Answer(404)

    rules = Robots(ask, "crawler")
    for host in ("a", "b", "a", "c", "a", "b"):
        rules.check(f"http://{host}.invalid/", 20)
    assert [url[7] for url in calls] == ["a", "b", "c", "b"]
