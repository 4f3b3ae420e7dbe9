"""What goes through a proxy that was asked for, and what is refused even so."""

from __future__ import annotations

import base64
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from crawler.cli.seed import command as seed
from crawler.errors import UsageError
from crawler.reasons import Reason
from crawler.settings import Access
from crawler.worker.fetch import Fetcher
from tests.command import records, run, write_list
from tests.conftest import ROOT, free_port
from tests.fetching import fetch, fetchers, serving
from tests.raw import RawServer, Talk, ok
from tests.test_tls import Authority


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Fetcher]]:
    """Return what makes a fetcher."""
    with fetchers(tmp_path) as make_one:
        yield make_one


class Proxy:
    """Pass requests on: those in http are answered, tunnels lead to *inner*. Keeps the heads of what it was asked."""

    def __init__(self, inner: int | None = None, refusal: bytes = b"", answer: bytes = ok(b"image")) -> None:
        self.heads: list[bytes] = []
        self._inner = inner
        self._refusal = refusal
        self._answer = answer

    def __call__(self, talk: Talk) -> None:
        """Serve one connection."""
        while head := read_head(talk):
            self.heads.append(head)
            if self._refusal:
                talk.say(self._refusal)
            elif head.startswith(b"CONNECT"):
                talk.say(b"HTTP/1.1 200 Connection established\r\n\r\n")
                self._join(talk.sock)
                return
            else:
                talk.say(self._answer)

    def _join(self, client: socket.socket) -> None:
        with socket.create_connection(("127.0.0.1", self._inner or 0)) as server:
            back = threading.Thread(target=copy, args=(server, client), daemon=True)
            back.start()
            copy(client, server)
            back.join(10)


def read_head(talk: Talk) -> bytes:
    """Read the head of a request without a byte more, b"" where the client went away."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = talk.sock.recv(1)
        if not byte:
            return b""
        head += byte
    return head


def copy(source: socket.socket, target: socket.socket) -> None:
    """Copy what comes from *source* till it ends."""
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


def test_http_goes_through_the_proxy(make: Callable[..., Fetcher]) -> None:
    """The proxy is asked for the whole URL and resolves the name; one connection serves all hosts."""
    proxy = Proxy()
    with RawServer(proxy) as server:
        fetcher = make(proxy=server.base)
        assert fetch(fetcher, "http://a.invalid/x.jpg?y=1") is None
        assert fetch(fetcher, "http://b.invalid:8080/") is None
        assert server.connections == 1
    assert [head.split(b"\r\n")[0] for head in proxy.heads] == [
        b"GET http://a.invalid/x.jpg?y=1 HTTP/1.1",
        b"GET http://b.invalid:8080/ HTTP/1.1",
    ]
    assert [b"\r\nHost: a.invalid\r\n" in proxy.heads[0], b"\r\nHost: b.invalid:8080\r\n" in proxy.heads[1]] == [
        True
    ] * 2


def test_https_goes_through_a_tunnel(make: Callable[..., Fetcher], tmp_path: Path) -> None:
    """The certificate is the host's, and is verified by the host's name."""
    authority = Authority()
    with RawServer(serving, authority.context(tmp_path)) as inner, RawServer(proxy := Proxy(inner.port)) as server:
        fetcher = make(proxy=server.base, ca_bundle=authority.pem)
        assert fetch(fetcher, "https://a.test/x.jpg") is None
        assert fetch(fetcher, "https://a.test/y.jpg") is None
        assert fetch(fetcher, "https://d.test/") is Reason.TLS_FAILED
    tunnels = [head.split(b" HTTP/")[0] for head in proxy.heads]
    assert tunnels == [b"CONNECT a.test:443", b"CONNECT d.test:443"]


def test_login(make: Callable[..., Fetcher]) -> None:
    """Name and password of the proxy's URL are told to the proxy."""
    with RawServer(proxy := Proxy()) as server:
        assert fetch(make(proxy=f"http://me:p%40ss%E2%82%AC@127.0.0.1:{server.port}"), "http://a.invalid/") is None
    login = base64.b64encode("me:p@ss€".encode())
    assert b"\r\nproxy-authorization: Basic %s\r\n" % login in proxy.heads[0]


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "169.254.169.254",
        "[::1]",
        "[::ffff:10.0.0.1]",
        "1.1.1.1:22",
        "a.invalid:22",
    ],
)
def test_refused_without_asking_the_proxy(make: Callable[..., Fetcher], host: str) -> None:
    """What can be judged without resolving is not even asked for: numeric addresses, and ports."""
    with RawServer(proxy := Proxy()) as server:
        fetcher = make(proxy=server.base)
        for scheme in ("http", "https"):
            assert fetch(fetcher, f"{scheme}://{host}/") is Reason.ADDRESS_REFUSED
        assert (proxy.heads, server.connections) == ([], 0)


def test_allowed_network_through_the_proxy(make: Callable[..., Fetcher]) -> None:
    """An address of an allowed network is asked for, on any port."""
    with RawServer(Proxy()) as server:
        assert fetch(make(proxy=server.base, allow_net=("10.0.0.0/8",)), "http://10.0.0.1:22/") is None


def test_proxy_that_is_away(make: Callable[..., Fetcher]) -> None:
    """Without the proxy nothing is fetched, and above all not past it."""
    with RawServer(serving) as server:
        fetcher = make(proxy=f"http://127.0.0.1:{free_port()}", allow_net=("127.0.0.0/8",))
        assert fetch(fetcher, server.base) is Reason.CONNECT_FAILED
        assert fetch(fetcher, f"https://127.0.0.1:{server.port}/") is Reason.CONNECT_FAILED
        assert server.connections == 0


def test_refused_tunnel(make: Callable[..., Fetcher]) -> None:
    """A proxy that opens no tunnel costs the task an attempt."""
    with RawServer(Proxy(refusal=b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")) as server:
        assert fetch(make(proxy=server.base), "https://a.invalid/") is Reason.CONNECTION_LOST


@pytest.mark.parametrize("url", ["socks5://127.0.0.1:1080", "https://127.0.0.1:3128", "127.0.0.1:3128", ""])
def test_kinds_that_are_not_spoken(make: Callable[..., Fetcher], url: str) -> None:
    """Another kind of proxy is an error at the start, not one for each URL."""
    with pytest.raises(UsageError, match="--proxy"):
        make(proxy=url)


def test_a_run_through_the_proxy(tmp_path: Path) -> None:
    """`--proxy` and `--ports` reach the downloaders."""
    image = (ROOT / "fixtures" / "ImageUrl_2.png").read_bytes()
    script = Proxy(answer=ok(image))
    urls = ["http://a.invalid/1.png", "http://a.invalid:9000/2.png", "http://a.invalid:81/3.png"]
    with RawServer(script) as server:
        write_list(tmp_path, *urls)
        done = run(tmp_path, "seed", "urls.txt", "--robots", "ignore", "--proxy", server.base, "--ports", "80-90,443")
    assert done.returncode == 0, done.stderr
    ended = {record["url"]: record["reason"] for record in records(tmp_path, "urls.crawl")}
    assert ended == {urls[0]: None, urls[1]: "address_refused", urls[2]: None}
    assert len(script.heads) == 2


def test_default_ports() -> None:
    """Where nothing is said, the same ports are open at the command line and in Python."""
    with seed.make_context("seed", ["urls.txt"]) as context:
        assert context.params["ports"] == Access().ports
        assert context.params["proxy"] is Access().proxy is None
