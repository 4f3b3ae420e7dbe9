"""What the fetcher makes of responses: downloads, reasons, redirects. HTTP is mocked; test_servers has real sockets."""

from __future__ import annotations

import errno
import hashlib
import http.client
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
import responses
import urllib3.exceptions

from crawler.errors import FetchError, UsageError
from crawler.model import Lease, Task
from crawler.reasons import Reason
from crawler.settings import Access, Limits, Politeness, Settings
from crawler.worker.answers import MAX_RETRY_AFTER
from crawler.worker.faults import translate
from crawler.worker.fetch import Fetcher
from crawler.worker.watchdog import Watch

BODY = b"not really an image" * 1000
#: A host that no resolver knows: what reaches one fails.
HOST = "http://images.invalid"
URL = f"{HOST}/a.jpg"


@pytest.fixture
def mocked() -> Iterator[responses.RequestsMock]:
    """Answer in place of the network; what was not told is refused."""
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        yield mock


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Fetcher]]:
    """Return what makes a fetcher that ignores robots.txt and has its spool in `tmp_path`."""
    made: list[Fetcher] = []

    def make_one(limits: Limits | None = None, access: Access | None = None) -> Fetcher:
        settings = Settings(limits=limits or Limits(), access=access or Access(), politeness=Politeness(robots=False))
        made.append(Fetcher(settings, tmp_path, threads=4))
        return made[-1]

    yield make_one
    for fetcher in made:
        fetcher.close()


@pytest.fixture
def fetcher(make: Callable[..., Fetcher]) -> Fetcher:
    """Return a fetcher with the usual limits."""
    return make()


def lease(url: str = URL, target: str | None = None, hops: int = 0) -> Lease:
    """Return a lease of *url* with token 7."""
    return Lease(token=7, task=Task(id=3, url=url, target=target, hops=hops))


def refusal(fetcher: Fetcher, what: Lease | None = None) -> FetchError:
    """Return the error that fetching *what* ends in."""
    with pytest.raises(FetchError) as caught:
        fetcher.fetch(what or lease())
    return caught.value


# ------------------------------------------------------------------ downloads


def test_download(fetcher: Fetcher, mocked: responses.RequestsMock, tmp_path: Path) -> None:
    """A 200 brings a spool file of exactly its bytes, and facts about them and the response."""
    headers = {"ETag": '"1"', "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}
    mocked.get(URL, BODY, content_type="image/jpeg", headers=headers)
    done = fetcher.fetch(lease())
    assert Path(done.path).read_bytes() == BODY
    assert Path(done.path).parent == tmp_path
    assert (done.token, done.task.id, done.size) == (7, 3, len(BODY))
    assert done.sha256 == hashlib.sha256(BODY).hexdigest()
    facts = done.response
    assert (facts.http_status, facts.final_url, facts.content_type) == (200, URL, "image/jpeg")
    assert (facts.etag, facts.last_modified) == ('"1"', "Thu, 01 Jan 2026 00:00:00 GMT")


def test_target_is_asked(fetcher: Fetcher, mocked: responses.RequestsMock) -> None:
    """A task that moved to another host is asked for there, and there only."""
    mocked.get("http://other.invalid/b.jpg", BODY)
    assert fetcher.fetch(lease(target="http://other.invalid/b.jpg")).response.final_url == "http://other.invalid/b.jpg"


def test_request_headers(make: Callable[..., Fetcher], mocked: responses.RequestsMock) -> None:
    """A request says who asks, wants images as they are, and carries the headers of the run."""
    mocked.get(URL, BODY)
    make(access=Access(user_agent="crawler/1 (me)", headers=(("X-One", "1"), ("Referer", "ü")))).fetch(lease())
    sent = mocked.calls[0].request.headers
    assert sent["User-Agent"] == "crawler/1 (me)"
    assert sent["Accept"].startswith("image/*")
    assert sent["Accept-Encoding"] == "identity"
    assert (sent["X-One"], sent["Referer"]) == ("1", "ü".encode().decode("latin-1"))


@pytest.mark.parametrize(
    "access",
    [
        Access(user_agent="a\r\nHost: b"),
        Access(headers=(("X-A", "b\nc"),)),
        Access(headers=(("X:A", "b"),)),
        Access(headers=(("Ä", "b"),)),
        Access(allow_net=("10.0.0.0/33",)),
        Access(ca_bundle="no certificate"),
    ],
)
def test_unusable_access(make: Callable[..., Fetcher], access: Access) -> None:
    """A header, a network or authorities that cannot be used are refused when the fetcher is made."""
    with pytest.raises(UsageError):
        make(access=access)


# ------------------------------------------------------------------ statuses


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (404, Reason.HTTP_NOT_FOUND),
        (410, Reason.HTTP_NOT_FOUND),
        (401, Reason.HTTP_FORBIDDEN),
        (403, Reason.HTTP_FORBIDDEN),
        (451, Reason.HTTP_FORBIDDEN),
        (429, Reason.HTTP_TOO_MANY),
        (500, Reason.HTTP_SERVER_ERROR),
        (503, Reason.HTTP_SERVER_ERROR),
        (599, Reason.HTTP_SERVER_ERROR),
        (204, Reason.HTTP_STATUS),
        (206, Reason.HTTP_STATUS),
        (300, Reason.HTTP_STATUS),
        (304, Reason.HTTP_STATUS),
        (400, Reason.HTTP_STATUS),
        (999, Reason.HTTP_STATUS),
    ],
)
def test_status(fetcher: Fetcher, mocked: responses.RequestsMock, tmp_path: Path, status: int, reason: Reason) -> None:
    """Only 200 counts; each other status has its reason, is told, and leaves no file."""
    mocked.get(URL, BODY, status=status)
    error = refusal(fetcher)
    assert (error.reason, error.http_status, error.retry_after) == (reason, status, None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("status", "value", "wait"),
    [
        (429, "17", 17.0),
        (503, " 0 ", 0.0),
        (503, "99999999999", MAX_RETRY_AFTER),
        (429, "Fri, 31 Dec 9999 23:59:59 GMT", MAX_RETRY_AFTER),
        (429, "Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        (429, "soon", None),
        (429, "-5", None),
        (429, "²", None),
        (404, "17", None),
        (500, "17", None),
    ],
)
def test_retry_after(
    fetcher: Fetcher, mocked: responses.RequestsMock, status: int, value: str, wait: float | None
) -> None:
    """Retry-After counts for 429 and 503, as seconds or as a date, within bounds."""
    mocked.get(URL, status=status, headers={"Retry-After": value})
    assert refusal(fetcher).retry_after == wait


# ------------------------------------------------------------------ bodies


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Encoding": "gzip"},
        {"Content-Encoding": "identity, br"},
        {"Transfer-Encoding": "gzip, chunked"},
        {"Content-Length": "-1"},
        {"Content-Length": "12x"},
        {"Content-Length": "1" * 40},
    ],
)
def test_bad_head(fetcher: Fetcher, mocked: responses.RequestsMock, headers: dict[str, str]) -> None:
    """A coding that was not asked for and a length that is none are refused."""
    mocked.get(URL, BODY, headers=headers, auto_calculate_content_length=False)
    assert refusal(fetcher).reason is Reason.BAD_RESPONSE


@pytest.mark.parametrize("announced", [True, False])
def test_too_large(
    make: Callable[..., Fetcher], mocked: responses.RequestsMock, tmp_path: Path, announced: bool
) -> None:
    """A body over the limit is refused, announced or not, and leaves no file."""
    mocked.get(URL, BODY, auto_calculate_content_length=announced)
    assert refusal(make(Limits(max_bytes=len(BODY) - 1))).reason is Reason.TOO_LARGE
    assert list(tmp_path.iterdir()) == []


def test_largest(make: Callable[..., Fetcher], mocked: responses.RequestsMock) -> None:
    """A body of exactly the limit is taken."""
    mocked.get(URL, BODY, auto_calculate_content_length=True)
    assert make(Limits(max_bytes=len(BODY))).fetch(lease()).size == len(BODY)


def test_empty(fetcher: Fetcher, mocked: responses.RequestsMock, tmp_path: Path) -> None:
    """An empty body is no download."""
    mocked.get(URL, b"")
    error = refusal(fetcher)
    assert (error.reason, error.http_status) == (Reason.EMPTY, 200)
    assert list(tmp_path.iterdir()) == []


def test_disk_full(fetcher: Fetcher, mocked: responses.RequestsMock, tmp_path: Path) -> None:
    """A full disk is told from what servers do, and leaves no file."""
    (tmp_path / "7").symlink_to("/dev/full")
    mocked.get(URL, BODY)
    assert refusal(fetcher).reason is Reason.DISK_FULL
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------ redirects


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("location", ["/b.jpg", "b.jpg#top", f"{HOST}:8080/b.jpg", "https://Images.Invalid/b.jpg"])
def test_redirect_within_host(fetcher: Fetcher, mocked: responses.RequestsMock, status: int, location: str) -> None:
    """A redirect within a host is followed, to another scheme or port too; the URL that answered is told."""
    final = {f"{HOST}:8080/b.jpg": location, "https://Images.Invalid/b.jpg": "https://images.invalid/b.jpg"}
    mocked.get(URL, status=status, headers={"Location": location})
    mocked.get(final.get(location, f"{HOST}/b.jpg"), BODY)
    assert fetcher.fetch(lease()).response.final_url == final.get(location, f"{HOST}/b.jpg")


def test_redirect_is_encoded(fetcher: Fetcher, mocked: responses.RequestsMock) -> None:
    """A Location with other characters than a URL may have becomes one, byte by byte, and nothing is encoded twice."""
    mocked.get(URL, status=302, headers={"Location": "/ü b%20c.jpg?q=é".encode().decode("latin-1")})
    mocked.get(f"{HOST}/%C3%BC%20b%20c.jpg?q=%C3%A9", BODY)
    assert fetcher.fetch(lease()).response.final_url == f"{HOST}/%C3%BC%20b%20c.jpg?q=%C3%A9"


def test_moved(fetcher: Fetcher, mocked: responses.RequestsMock) -> None:
    """A redirect to another host is not followed: the URL and the number of redirects so far are told."""
    mocked.get(URL, status=302, headers={"Location": "/b.jpg"})
    mocked.get(f"{HOST}/b.jpg", status=302, headers={"Location": "//Other.invalid/c.jpg#x"})
    error = refusal(fetcher, lease(hops=2))
    assert (error.moved_to, error.hops) == ("http://other.invalid/c.jpg", 4)
    assert len(mocked.calls) == 2


@pytest.mark.parametrize(("hops", "followed"), [(0, 5), (3, 2), (5, 0)])
def test_redirect_loop(fetcher: Fetcher, mocked: responses.RequestsMock, hops: int, followed: int) -> None:
    """Five redirects are followed in all, those on earlier hosts counted."""
    mocked.get(URL, status=302, headers={"Location": URL})
    assert refusal(fetcher, lease(hops=hops)).reason is Reason.TOO_MANY_REDIRECTS
    assert len(mocked.calls) == followed + 1


@pytest.mark.parametrize(
    "location",
    [
        None,
        "ftp://images.invalid/a",
        "file:///etc/passwd",
        "javascript:1",
        "http://user:secret@images.invalid/",
        "http://[::bad/x.jpg",
        "https:///x.jpg",
        "http://images.invalid:99999/",
        "http://images.invalid%00.other.invalid/",
        "http://ü.invalid/",
        "/a\x01b",
        "/a\tb",
    ],
)
def test_bad_redirect(fetcher: Fetcher, mocked: responses.RequestsMock, location: str | None) -> None:
    """A redirect that leads to no plain http or https URL, or nowhere, is refused."""
    mocked.get(URL, status=302, headers={} if location is None else {"Location": location})
    error = refusal(fetcher)
    assert (error.reason, error.moved_to) == (Reason.BAD_REDIRECT, None)
    assert len(mocked.calls) == 1


# ------------------------------------------------------------------ errors of others


@pytest.mark.parametrize("url", ["http://[::bad/x.jpg", "http:///x.jpg", "ftp://a.invalid/", "http://a.invalid:x/"])
def test_bad_url(fetcher: Fetcher, url: str) -> None:
    """A URL that cannot be asked for is a failure like others."""
    assert refusal(fetcher, lease(url)).reason is Reason.BAD_URL


CERTIFICATE = ssl.SSLCertVerificationError("expired")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (requests.exceptions.SSLError(urllib3.exceptions.SSLError(CERTIFICATE)), Reason.TLS_FAILED),
        (ssl.SSLEOFError("cut"), Reason.CONNECTION_LOST),
        (requests.ConnectTimeout("slow"), Reason.CONNECT_TIMEOUT),
        (requests.ReadTimeout("slow"), Reason.TIMEOUT),
        (requests.ConnectionError("lost"), Reason.CONNECTION_LOST),
        (requests.ConnectionError(ConnectionResetError("lost")), Reason.CONNECTION_LOST),
        (requests.ConnectionError(http.client.BadStatusLine("??")), Reason.BAD_RESPONSE),
        (requests.exceptions.InvalidHeader("two lengths"), Reason.BAD_RESPONSE),
        (urllib3.exceptions.ProtocolError("x", http.client.IncompleteRead(b"", 5)), Reason.TRUNCATED),
        (urllib3.exceptions.LocationParseError("a..b"), Reason.BAD_URL),
        (requests.ConnectionError(OSError(errno.EDQUOT, "quota")), Reason.DISK_FULL),
        (KeyError("unforeseen"), Reason.INTERNAL),
    ],
)
def test_translation(fetcher: Fetcher, mocked: responses.RequestsMock, error: Exception, reason: Reason) -> None:
    """Each error of requests, urllib3, ssl and the system is one of the closed list."""
    mocked.get(URL, body=error)
    assert refusal(fetcher).reason is reason


def test_unforeseen_is_named(fetcher: Fetcher, mocked: responses.RequestsMock) -> None:
    """What nobody foresaw says its type, and is cut."""
    mocked.get(URL, body=RuntimeError("x" * 10_000))
    error = refusal(fetcher)
    assert error.detail.startswith("RuntimeError: xxx")
    assert len(error.detail) < 500


@pytest.mark.parametrize(("fired", "cancelled", "reason"), [(1, 0, Reason.TIMEOUT), (0, 1, Reason.CONNECTION_LOST)])
def test_cut_counts_first(fired: bool, cancelled: bool, reason: Reason) -> None:
    """Whatever is seen after a fetch was cut, that it was cut is the reason."""
    watch = Watch(float("inf"))
    watch.fired, watch.cancelled = bool(fired), bool(cancelled)
    for error in (ConnectionResetError("reset"), FetchError(Reason.EMPTY), KeyError("x")):
        assert translate(error, watch, 200).reason is reason
