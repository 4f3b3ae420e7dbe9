"""The local site answers as its paths say: what other tests conclude from it rests on this."""

from __future__ import annotations

import contextlib
import http.client
import io
import threading

import pytest
from PIL import Image

from tests.conftest import wait_until
from tests.site import Answer, Request, Site, mixed, most_at_once, photo, photo_size


def get(site: Site, *paths: str, host: int = 1) -> list[tuple[int, bytes]]:
    """Fetch *paths* one after another over one connection; return status and body of each."""
    connection = http.client.HTTPConnection(f"127.0.0.{host}", site.port, timeout=20)
    answers = []
    try:
        for path in paths:
            connection.request("GET", path)
            response = connection.getresponse()
            answers.append((response.status, response.read()))
    finally:
        connection.close()
    return answers


def test_photos_differ_and_decode() -> None:
    """Photos are images of the size foretold, the same at each call, and no two numbers bring the same bytes."""
    numbers = range(200)
    for number in numbers:
        with Image.open(io.BytesIO(photo(number))) as image:
            image.load()
            assert (image.format, image.size) == ("JPEG", photo_size(number))
    assert len({photo(number) for number in [*numbers, *numbers]}) == len(numbers)


def test_photo_and_recorded_requests(site: Site) -> None:
    """A photo is served over a kept connection, and each request is recorded with its host."""
    assert get(site, "/photo/3.jpg", "/photo/4.jpg?x=1") == [(200, photo(3)), (200, photo(4))]
    assert [(r.path, r.host) for r in site.requests] == [
        ("/photo/3.jpg", f"127.0.0.1:{site.port}"),
        ("/photo/4.jpg?x=1", f"127.0.0.1:{site.port}"),
    ]
    assert all(r.start <= r.end for r in site.requests)
    assert site.count("/photo/3.jpg") == 1


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        ("/missing/1", 404, b""),
        ("/nowhere", 404, b""),
        ("/status/503", 503, b""),
        ("/cut/1.jpg", 200, photo(1)[: len(photo(1)) // 2]),
        ("/slow/0.01/photo/5.jpg", 200, photo(5)),
        ("/fixtures/empty.jpg", 200, b""),
        ("/fixtures/..%2fpyproject.toml", 404, b""),
        ("/robots.txt", 404, b""),
    ],
)
def test_answers(site: Site, path: str, status: int, body: bytes) -> None:
    """Each path brings the status and the body that it names."""
    assert get(site, path) == [(status, body)]


def test_page(site: Site) -> None:
    """A page is served with 200, as a web page."""
    ((status, body),) = get(site, "/html/7")
    assert (status, body[:15]) == (200, b"<!DOCTYPE html>")


def test_robots_can_be_set(site: Site) -> None:
    """What is set as robots.txt is served."""
    site.robots = Answer(200, b"User-agent: *\nDisallow: /\n")
    assert get(site, "/robots.txt") == [(200, b"User-agent: *\nDisallow: /\n")]


def test_truncated_body_ends_early(site: Site) -> None:
    """A truncated body is shorter than announced."""
    with pytest.raises(http.client.IncompleteRead) as caught:
        get(site, "/truncated/2")
    assert len(caught.value.partial) + (caught.value.expected or 0) == len(photo(2))


@pytest.mark.parametrize(
    ("path", "name", "value"),
    [
        ("/redirect/302?to=http%3A%2F%2F127.0.0.2%2Fx%3Fy", "Location", "http://127.0.0.2/x?y"),
        ("/redirect/302", "Location", None),
        ("/slow/0.01/redirect/307?to=/a", "Location", "/a"),
        ("/retry-after/7/1/2.jpg", "Retry-After", "7"),
        ("/photo/1.jpg", "Content-Type", "image/jpeg"),
    ],
)
def test_headers(site: Site, path: str, name: str, value: str | None) -> None:
    """Each path brings the header that it names."""
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=20)
    connection.request("GET", path)
    assert connection.getresponse().getheader(name) == value
    connection.close()


def test_flaky_succeeds_at_last(site: Site) -> None:
    """A flaky path fails as often as it says, another one counts for itself."""
    flaky, later = "/flaky/2/1.jpg", "/retry-after/1/1/2.jpg"
    assert [status for status, _ in get(site, flaky, flaky, flaky, later, later)] == [503, 503, 200, 429, 200]


def test_several_hosts() -> None:
    """Further loopback addresses are further hosts with the same port and one record of requests."""
    with Site(addresses=3) as site:
        for host in (1, 2, 3):
            assert get(site, "/photo/1.jpg", host=host) == [(200, photo(1))]
        assert [r.host for r in site.requests] == [f"127.0.0.{host}:{site.port}" for host in (1, 2, 3)]


def test_most_at_once() -> None:
    """Requests in progress at a time are counted; one that starts when another ends does not overlap it."""
    times = [(0.0, 2.0), (1.0, 3.0), (2.0, 4.0), (2.5, 2.6), (5.0, 5.0)]
    assert most_at_once([Request("/x", "h", {}, start, end) for start, end in times]) == 3
    assert most_at_once([]) == 0


def test_closing_ends_what_is_in_progress() -> None:
    """Leaving the site cuts short the wait of a slow answer, and leaves no thread behind."""

    def ask() -> None:
        # Answered or cut off: which of them wins is of no interest here.
        with contextlib.suppress(OSError, http.client.HTTPException):
            get(site, "/slow/50/photo/1.jpg")

    before = threading.active_count()
    with Site() as site:
        client = threading.Thread(target=ask)
        client.start()
        wait_until(lambda: threading.active_count() >= before + 3)
    client.join(20)
    assert not client.is_alive()
    wait_until(lambda: threading.active_count() == before)


def test_mixed_list() -> None:
    """A mixed list has 10 % missing, 2 % pages and 2 % truncated."""
    first = [mixed(number).split("/")[1] for number in range(1000)]
    assert {kind: first.count(kind) for kind in sorted(set(first))} == {
        "html": 20,
        "missing": 100,
        "photo": 860,
        "truncated": 20,
    }
