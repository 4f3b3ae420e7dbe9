"""What the head of a response says against use by machines: the examples of the specifications, row by row."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import responses

from crawler.errors import FetchError
from crawler.model import Lease, Task
from crawler.reasons import Reason
from crawler.settings import Access, HostRule, Politeness, Settings
from crawler.worker.fetch import Fetcher
from crawler.worker.optout import find_opt_out

URL = "http://images.invalid/a.jpg"
X = "X-Robots-Tag"


@pytest.mark.parametrize(
    ("headers", "is_against"),
    [
        # Google Search Central: the examples of its page, and the syntax it describes.
        ([(X, "noindex")], True),
        ([(X, "noarchive"), (X, "unavailable_after: 25 Jun 2010 15:00:00 PST")], True),
        ([(X, "noarchive"), (X, "unavailable_after: 25 Jun 2999 15:00:00 PST")], False),
        ([(X, "googlebot: nofollow"), (X, "otherbot: noindex, nofollow")], False),
        ([(X, "noindex, nofollow")], True),
        ([(X, "BadBot: noindex, nofollow, googlebot: nofollow")], False),
        ([(X, "googlebot: noindex, crawler: nofollow")], False),
        ([(X, "googlebot: nofollow, crawler: noindex")], True),
        ([(X, "all")], False),
        ([(X, "none")], True),
        ([(X, "nofollow")], False),
        ([(X, "nosnippet")], False),
        ([(X, "max-snippet: 20")], False),
        ([(X, "max-image-preview: standard")], False),
        ([(X, "max-snippet:20, noindex")], True),
        ([(X, "noimageindex")], False),
        # MDN: the date is past by now, and of rules for all and for one agent both count.
        ([(X, "noimageindex"), (X, "unavailable_after: Wed, 03 Dec 2025 13:09:53 GMT")], True),
        ([(X, "nofollow"), (X, "crawler: noindex")], True),
        ([(X, "nofollow"), (X, "googlebot: noindex")], False),
        ([(X, "otherbot: unavailable_after: Fri, 25 Jun 2010 15:00:00 GMT")], False),
        ([(X, "crawler: unavailable_after: 25 Jun 2010 15:00:00 PST")], True),
        ([(X, "unavailable_after: Wed, 25 Jun 2999 15:00:00 GMT, otherbot: noindex")], False),
        ([(X, "unavailable_after: 2010-06-25T15:00:00+02:00")], True),
        ([(X, "unavailable_after: 99999999999999999999")], False),
        ([(X, "unavailable_after:")], False),
        ([(X, "notranslate")], False),
        ([(X, "unavailable_after: Wednesday, 25-Jun-10 15:00:00 UTC")], True),
        ([(X, "unavailable_after: Wed, 25 Jun 2010 15:00:00 GMT, nofollow")], True),
        ([(X, "unavailable_after: Wed, 25 Jun 2999 15:00:00 GMT, noindex")], True),
        ([(X, "unavailable_after: 2010-06-25")], True),
        ([(X, "unavailable_after: some day")], False),
        ([(X, "  NoIndex ")], True),
        ([("x-robots-tag", "NOAI")], True),
        # noai and noimageai.
        ([(X, "noai")], True),
        ([(X, "noimageai")], True),
        ([(X, "noai, noimageai")], True),
        ([(X, "crawler: noai")], True),
        ([(X, "Crawler: noai")], True),
        ([(X, "otherbot: noai")], False),
        # TDM Reservation Protocol: 1 reserves, 0 does not, anything else is no value; a policy alone reserves nothing.
        ([("tdm-reservation", "1")], True),
        ([("TDM-Reservation", " 1 ")], True),
        ([("tdm-reservation", "0")], False),
        ([("tdm-reservation", "true")], False),
        ([("tdm-reservation", "2")], False),
        ([("tdm-reservation", "10")], False),
        ([("tdm-reservation", "0"), ("tdm-policy", "https://provider.com/policies/policy.json")], False),
        # Contradictions, on lines of their own or joined on the way: the strictest counts.
        ([("tdm-reservation", "1"), ("tdm-reservation", "0")], True),
        ([("tdm-reservation", "0"), ("tdm-reservation", "1")], True),
        ([("tdm-reservation", "0, 1")], True),
        ([("tdm-reservation", "1"), (X, "all")], True),
        ([("tdm-reservation", "1"), ("tdm-policy", "https://provider.com/policies/policy.json")], True),
        ([("tdm-policy", "https://provider.com/policies/policy.json")], False),
        # What is no header of this kind, or none at all.
        ([], False),
        ([(X, "")], False),
        ([(X, ",,,")], False),
        ([(X, ":")], False),
        ([("X-Other", "noindex")], False),
    ],
)
def test_headers(headers: list[tuple[str, str]], is_against: bool) -> None:
    """Each row says whether the image is kept out."""
    assert (find_opt_out(headers, "crawler") is not None) is is_against


def test_what_said_so_is_told() -> None:
    """The header's line, cut; with a policy where there is one."""
    assert find_opt_out([(X, "noai")], "crawler") == "X-Robots-Tag: noai"
    reserved = [("tdm-policy", "https://a.example/p.json"), ("tdm-reservation", "1")]
    assert find_opt_out(reserved, "crawler") == "tdm-reservation: 1, tdm-policy: https://a.example/p.json"
    assert len(find_opt_out([(X, "noai" + "," * 5000)], "crawler") or "") == 200


@pytest.fixture
def mocked() -> Iterator[responses.RequestsMock]:
    """Answer in place of the network."""
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        yield mock


def fetch(folder: Path, settings: Settings, url: str = URL) -> tuple[Reason | None, str]:
    """Fetch *url*; return (reason, detail), (None, "") where it is stored."""
    fetcher = Fetcher(settings, folder, threads=1)
    try:
        fetcher.fetch(Lease(token=1, task=Task(id=1, url=url)))
    except FetchError as error:
        return error.reason, error.detail
    finally:
        fetcher.close()
    return None, ""


def test_the_body_is_not_kept(tmp_path: Path, mocked: responses.RequestsMock) -> None:
    """The fetch ends at the head, with what said so."""
    mocked.get(URL, b"image", headers={X: "noai"})
    assert fetch(tmp_path, Settings()) == (Reason.OPTED_OUT, "X-Robots-Tag: noai")
    assert list(tmp_path.iterdir()) == []


def test_ignored_by_choice(tmp_path: Path, mocked: responses.RequestsMock) -> None:
    """Whoever says so gets the image."""
    mocked.get(URL, b"image", headers={X: "noai"})
    assert fetch(tmp_path, Settings(politeness=Politeness(opt_out=False))) == (None, "")


def test_only_an_image_can_be_reserved(tmp_path: Path, mocked: responses.RequestsMock) -> None:
    """A page that says it is not there stays not there."""
    mocked.get(URL, status=404, headers={X: "noindex"})
    assert fetch(tmp_path, Settings())[0] is Reason.HTTP_NOT_FOUND


def test_the_product_is_ours(tmp_path: Path, mocked: responses.RequestsMock) -> None:
    """Rules for the name in our User-Agent count."""
    mocked.get(URL, b"image", headers={X: "mybot: noai"})
    assert fetch(tmp_path, Settings(access=Access(user_agent="mybot/2 (+x)")))[0] is Reason.OPTED_OUT
    assert fetch(tmp_path, Settings())[0] is None


def test_headers_of_a_rule_go_to_its_hosts_only(tmp_path: Path, mocked: responses.RequestsMock) -> None:
    """A secret for one host is not sent to another, and an earlier rule counts before a later one."""
    rules = (
        HostRule(pattern="images.invalid", headers=(("Authorization", "first"),)),
        HostRule(pattern="*", headers=(("Authorization", "second"), ("X-All", "yes"))),
    )
    mocked.get(URL, b"image")
    mocked.get("http://other.invalid/a.jpg", b"image")
    settings = Settings(politeness=Politeness(hosts=rules))
    assert fetch(tmp_path, settings) == (None, "")
    assert fetch(tmp_path, settings, "http://other.invalid/a.jpg") == (None, "")
    sent = [(call.request.headers["Authorization"], call.request.headers["X-All"]) for call in mocked.calls]
    assert sent == [("first", "yes"), ("second", "yes")]
