"""Whom TLS trusts, what that costs, and the deadline over it."""

from __future__ import annotations

import datetime
import ipaddress
import os
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from crawler.reasons import Reason
from crawler.settings import Limits
from crawler.worker.fetch import Fetcher
from tests.fetching import LOOPBACK, Names, fetch, fetchers, replace_resolver, serving
from tests.raw import RawServer, Talk


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Fetcher]]:
    """Return what makes a fetcher."""
    with fetchers(tmp_path) as make_one:
        yield make_one


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> tuple[Names, list[str]]:
    """Return what the system's resolver knows, to be filled, and the names it was asked for."""
    return replace_resolver(monkeypatch)


class Authority:
    """A certificate authority for one test run."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a test's authority")])
        self._certificate = self._sign(self._name, self._key, x509.BasicConstraints(ca=True, path_length=None))
        self.pem = self._certificate.public_bytes(serialization.Encoding.PEM).decode()

    def _sign(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *extensions: Any) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = x509.CertificateBuilder(self._name, subject, key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(now - datetime.timedelta(days=1))
        builder = builder.not_valid_after(now + datetime.timedelta(days=1))
        for extension in extensions:
            builder = builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        return builder.sign(self._key, hashes.SHA256())

    def context(self, folder: Path) -> ssl.SSLContext:
        """Return the context of a server at 127.0.0.1 and a.test, b.test, c.test."""
        key = ec.generate_private_key(ec.SECP256R1())
        hosts = [x509.DNSName(f"{name}.test") for name in "abc"]
        names = x509.SubjectAlternativeName([*hosts, x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        certificate = self._sign(x509.Name([]), key, names)
        no_password = serialization.NoEncryption()
        file = folder / "server.pem"
        file.write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, no_password)
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context


@pytest.fixture(scope="module")
def authority() -> Authority:
    """Return an authority that nobody knows."""
    return Authority()


@pytest.fixture
def secure(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RawServer]:
    """Serve over TLS on 127.0.0.1."""
    with RawServer(serving, authority.context(tmp_path_factory.mktemp("tls"))) as server:
        yield server


def test_trusted(make: Callable[..., Fetcher], authority: Authority, secure: RawServer) -> None:
    """A host whose authority is in the bundle is fetched from, over one connection."""
    fetcher = make(allow_net=LOOPBACK, ca_bundle=authority.pem)
    assert [fetch(fetcher, secure.base) for _ in range(3)] == [None] * 3
    assert secure.connections == 1


def test_unknown_authority(make: Callable[..., Fetcher], secure: RawServer) -> None:
    """A host whose authority is unknown is refused."""
    assert fetch(make(allow_net=LOOPBACK), secure.base) is Reason.TLS_FAILED


def test_other_name(
    make: Callable[..., Fetcher], authority: Authority, secure: RawServer, names: tuple[Names, list[str]]
) -> None:
    """A certificate for another name is refused."""
    names[0]["d.test"] = ["127.0.0.1"]
    fetcher = make(allow_net=LOOPBACK, ca_bundle=authority.pem)
    assert fetch(fetcher, f"https://d.test:{secure.port}/") is Reason.TLS_FAILED


def test_not_verified(make: Callable[..., Fetcher], secure: RawServer) -> None:
    """Whoever asks for no verification gets it, without a warning for each connection."""
    assert fetch(make(allow_net=LOOPBACK, tls_verify=False), secure.base) is None


def test_authorities_are_read_once(
    make: Callable[..., Fetcher],
    authority: Authority,
    secure: RawServer,
    names: tuple[Names, list[str]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """SSL_CERT_FILE is read when the fetcher is made, and nothing of the kind for any of its connections."""
    bundle = tmp_path / "bundle.pem"
    bundle.write_text(authority.pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    fetcher = make(allow_net=LOOPBACK)
    os.unlink(bundle)
    loaded: list[str] = []
    for method in ("load_verify_locations", "load_default_certs", "set_default_verify_paths", "__new__"):
        original = getattr(ssl.SSLContext, method)

        def watched(*args: Any, _method: str = method, _original: Any = original, **kwargs: Any) -> Any:
            loaded.append(_method)
            return _original(*args, **kwargs)

        monkeypatch.setattr(ssl.SSLContext, method, watched)
    for name in ("a.test", "b.test", "c.test"):
        names[0][name] = ["127.0.0.1"]
        assert fetch(fetcher, f"https://{name}:{secure.port}/") is None
    assert (secure.connections, loaded) == (3, [])


@pytest.mark.parametrize("piece", [b"", b"\x16\x03\x03\x40\x00\x02"])
def test_silent_handshake(make: Callable[..., Fetcher], piece: bytes) -> None:
    """A handshake that does not end meets the deadline."""

    def script(talk: Talk) -> None:
        talk.say(piece)
        talk.wait()

    with RawServer(script) as server:
        url = f"https://127.0.0.1:{server.port}/"
        assert fetch(make(allow_net=LOOPBACK, limits=Limits(timeout=0.4)), url) is Reason.TIMEOUT


def test_plain_answer_to_tls(make: Callable[..., Fetcher]) -> None:
    """A server that does not speak TLS at all is told as that."""

    def script(talk: Talk) -> None:
        talk.say(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        talk.wait()

    with RawServer(script) as server:
        assert fetch(make(allow_net=LOOPBACK), f"https://127.0.0.1:{server.port}/") is Reason.TLS_FAILED


def test_drip_over_tls(make: Callable[..., Fetcher], authority: Authority, tmp_path: Path) -> None:
    """The deadline holds for what comes over TLS; what was cut is no download."""

    def script(talk: Talk) -> None:
        talk.request()
        talk.say(b"HTTP/1.1 200 OK\r\n\r\n")
        talk.drip(b"x")

    with RawServer(script, authority.context(tmp_path)) as server:
        fetcher = make(allow_net=LOOPBACK, ca_bundle=authority.pem, limits=Limits(timeout=0.5))
        assert fetch(fetcher, server.base) is Reason.TIMEOUT
