"""Which connections are kept, and for whom."""

from __future__ import annotations

import ssl
from collections.abc import Iterator

import pytest
import requests
import urllib3

from crawler.settings import Access
from crawler.worker.guard import Guard
from crawler.worker.pools import GuardedAdapter
from tests.site import Site

#: Connections kept for one host.
KEPT = 2


@pytest.fixture
def adapter() -> Iterator[GuardedAdapter]:
    """Return an adapter that may connect to this machine."""
    guard = Guard(Access(allow_net=("127.0.0.0/8",), ports=((1, 65535),)), 5.0, threads=4)
    made = GuardedAdapter(guard, ssl.create_default_context(), per_host=KEPT)
    yield made
    made.close()
    guard.cancel()


def pool_of(adapter: GuardedAdapter, url: str) -> urllib3.HTTPConnectionPool:
    """Return the pool that a request for *url* goes to."""
    request = requests.PreparedRequest()
    request.url = url
    return adapter.get_connection_with_tls_context(request)


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("http://a.test/1.jpg", "http://a.test/2.jpg", True),
        ("http://a.test/1.jpg", "http://A.test:80/1.jpg", True),
        ("http://a.test/1.jpg", "http://a.test:81/1.jpg", False),
        ("http://a.test/1.jpg", "http://b.test/1.jpg", False),
        ("http://a.test/1.jpg", "https://a.test/1.jpg", False),
        ("http://a.test:443/1.jpg", "https://a.test/1.jpg", False),
        ("https://a.test:443/1.jpg", "https://a.test/1.jpg", True),
    ],
)
def test_a_pool_is_for_scheme_host_and_port(adapter: GuardedAdapter, one: str, other: str, is_same: bool) -> None:
    """TLS never meets a pool without it."""
    assert (pool_of(adapter, one) is pool_of(adapter, other)) is is_same
    assert pool_of(adapter, one).scheme == one.partition(":")[0]


def test_the_last_that_was_put_is_taken_first(adapter: GuardedAdapter, site: Site) -> None:
    """It is the least likely to have been closed meanwhile; what has no place is closed, none is had twice."""
    pool = pool_of(adapter, site.url("/photo/1.jpg"))
    with adapter._guard.watching(5.0):
        connections = [pool._get_conn() for _ in range(KEPT + 1)]
        for connection in connections:
            connection.connect()
        for connection in connections:
            pool._put_conn(connection)
        assert [connection.is_closed for connection in connections] == [False] * KEPT + [True]
        assert [pool._get_conn() for _ in range(KEPT)] == connections[KEPT - 1 :: -1]
        assert pool._get_conn() not in connections
        for connection in connections:
            connection.close()


def test_who_has_lost_a_connection_takes_no_place(adapter: GuardedAdapter, site: Site) -> None:
    """A fetch that failed puts nothing back."""
    pool = pool_of(adapter, site.url("/photo/1.jpg"))
    with adapter._guard.watching(5.0):
        kept = pool._get_conn()
        kept.connect()
        for _ in range(2 * KEPT):
            pool._put_conn(None)
        pool._put_conn(kept)
        assert not kept.is_closed
        assert pool._get_conn() is kept
        kept.close()
