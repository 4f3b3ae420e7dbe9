"""Keys: made, copied and read, and refused where others could read them."""

from __future__ import annotations

import ssl
import stat
from pathlib import Path

import pytest

from crawler.broker import keys
from crawler.errors import KeyRefused, UsageError


def mode(file: Path) -> int:
    """Return the permission bits of a file."""
    return stat.S_IMODE(file.stat().st_mode)


def test_generate_then_load(tmp_path: Path) -> None:
    """What keygen makes is read back whole, and TLS accepts it."""
    keys.generate(tmp_path / "key.d")
    key = keys.load(tmp_path / "key.d")
    assert len(key.secret) == 32
    assert key.certificate is not None
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(key.certificate, key.private)


def test_generated_files_are_the_owners_only(tmp_path: Path) -> None:
    """Folder and secret files are closed to others from the start."""
    keys.generate(tmp_path / "key.d")
    assert mode(tmp_path / "key.d") == 0o700
    assert [mode(tmp_path / "key.d" / name) for name in ("key", "cert-key.pem")] == [0o600, 0o600]
    assert sorted(file.name for file in (tmp_path / "key.d").iterdir()) == ["cert-key.pem", "cert.pem", "key"]


def test_two_keys_differ(tmp_path: Path) -> None:
    """No two keys have the same secret."""
    assert keys.fresh(tmp_path / "a").secret != keys.fresh(tmp_path / "b").secret


@pytest.mark.parametrize("name", ["key", "cert.pem", "cert-key.pem"])
def test_generate_never_overwrites(tmp_path: Path, name: str) -> None:
    """A folder with any part of a key is left as it is."""
    (tmp_path / name).write_text("mine")
    with pytest.raises(UsageError, match=name):
        keys.generate(tmp_path)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [(name, "mine")]


def test_generate_where_nothing_can_be_written(tmp_path: Path) -> None:
    """A folder that cannot be made is named."""
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="file"):
        keys.generate(tmp_path / "file" / "key.d")


def test_fresh_replaces_a_key_and_its_certificate(tmp_path: Path) -> None:
    """A key for loopback leaves no certificate of an earlier run behind, which clients would ask for."""
    keys.generate(tmp_path / "long")
    keys.copy(keys.load(tmp_path / "long"), tmp_path / "run")
    key = keys.fresh(tmp_path / "run")
    assert keys.load(tmp_path / "run") == key
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["key"]
    assert mode(tmp_path / "run" / "key") == 0o600


def test_copy_keeps_the_private_key_at_home(tmp_path: Path) -> None:
    """A copy can connect and cannot serve."""
    keys.generate(tmp_path / "key.d")
    key = keys.load(tmp_path / "key.d")
    keys.copy(key, tmp_path / "run")
    copied = keys.load(tmp_path / "run")
    assert copied.secret == key.secret
    assert copied.certificate is not None
    assert key.certificate is not None
    assert copied.certificate.read_bytes() == key.certificate.read_bytes()
    assert copied.private is None
    assert not (tmp_path / "run" / "cert-key.pem").exists()


@pytest.mark.parametrize("name", ["key", "cert-key.pem"])
@pytest.mark.parametrize("bits", [0o640, 0o604, 0o660])
def test_file_open_to_others(tmp_path: Path, name: str, bits: int) -> None:
    """A secret that others can read is refused, and the message says what to type."""
    keys.generate(tmp_path / "key.d")
    file = tmp_path / "key.d" / name
    file.chmod(bits)
    with pytest.raises(KeyRefused, match=f"chmod 600 {file}"):
        keys.load(tmp_path / "key.d")


@pytest.mark.parametrize("text", ["ab" * 31, "", "no digits at all, " * 5, "abc" * 33])
def test_damaged_key(tmp_path: Path, text: str) -> None:
    """A key that is too short or not hexadecimal is refused, and the file is named."""
    (tmp_path / "key").write_text(text)
    (tmp_path / "key").chmod(0o600)
    with pytest.raises(KeyRefused, match=str(tmp_path / "key")):
        keys.load(tmp_path)


def test_missing_key(tmp_path: Path) -> None:
    """Where there is no key the message says how to make one."""
    with pytest.raises(UsageError, match=f"crawler keygen {tmp_path}"):
        keys.load(tmp_path)


def test_short_secret() -> None:
    """No key can be made of fewer than 32 bytes."""
    with pytest.raises(KeyRefused, match="31"):
        keys.Key(b"x" * 31)


def test_repr_shows_no_secret(tmp_path: Path) -> None:
    """A key that gets into a log or a traceback gives nothing away."""
    key = keys.fresh(tmp_path)
    assert key.secret.hex() not in repr(key)
    assert repr(key.secret) not in repr(key)
