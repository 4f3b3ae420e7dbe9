"""
The key of a coordinator: a secret that both sides prove to have, and the certificate that workers pin.

A folder holds ``key`` (hexadecimal digits), ``cert.pem`` and, where queues are served, ``cert-key.pem``. The secret
alone is enough on loopback; beyond it the certificate is needed too.
"""

from __future__ import annotations

import datetime
import os
import secrets
import stat
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from crawler.errors import KeyRefused, UsageError

#: Shortest secret in bytes.
MIN_SECRET = 32
#: Years that a certificate is good for. It is pinned, so that ending its life early would protect nobody.
YEARS = 30

_SECRET, _CERTIFICATE, _PRIVATE = "key", "cert.pem", "cert-key.pem"
#: Largest file that is read.
_MAX_FILE = 64 << 10


@dataclass(frozen=True)
class Key:
    """
    What one side of a connection has to show.

    Raises:
        KeyRefused: The secret is shorter than 32 bytes.
    """

    #: Known to both sides, never sent.
    secret: bytes = field(repr=False)
    #: The coordinator's certificate, None where only the secret is used (on loopback).
    certificate: Path | None = None
    #: The certificate's private key, None on machines that only connect.
    private: Path | None = None

    def __post_init__(self) -> None:
        if len(self.secret) < MIN_SECRET:
            raise KeyRefused(f"a key of {len(self.secret)} bytes is too short: it needs at least {MIN_SECRET}")


def generate(folder: Path) -> None:
    """
    Make a key, a certificate and its private key in *folder*, which only its owner may enter.

    Raises:
        UsageError: The folder holds a key already, or cannot be written.
    """
    for name in (_SECRET, _CERTIFICATE, _PRIVATE):
        if os.path.lexists(folder / name):
            raise UsageError(f"{folder / name} exists: name another folder, or remove it if no run uses it any more")
    certificate, private = _certify()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write(folder / _PRIVATE, private)
        _write(folder / _CERTIFICATE, certificate)
        # Last: a folder with a secret is a whole one.
        _write(folder / _SECRET, _digits(secrets.token_bytes(MIN_SECRET)))
    except OSError as error:
        raise UsageError(f"{folder}: cannot be written: {error.strerror}") from error


def fresh(folder: Path) -> Key:
    """Put a new random secret into *folder*, in place of any key there, and return it: a key for loopback."""
    key = Key(secrets.token_bytes(MIN_SECRET))
    copy(key, folder)
    return key


def copy(key: Key, folder: Path) -> None:
    """
    Put what is needed for connecting with *key* into *folder*, in place of any key there.

    The private key is left where it is: commands on the same machine only connect.

    Raises:
        OSError: The folder cannot be written.
    """
    certificate = key.certificate.read_bytes() if key.certificate else None
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if certificate is None:
        # One left by an earlier run would make clients ask for TLS.
        (folder / _CERTIFICATE).unlink(missing_ok=True)
    else:
        _write(folder / _CERTIFICATE, certificate)
    _write(folder / _SECRET, _digits(key.secret))


def load(folder: Path) -> Key:
    """
    Read the key in *folder*.

    Returns:
        The key; without certificate or private key where the folder has none.

    Raises:
        UsageError: There is no key.
        KeyRefused: The key is too short or damaged, or a file that must be secret is open to others.
    """
    text = _read_secret(folder / _SECRET)
    if text is None:
        raise UsageError(f"{folder}: there is no key here. `crawler keygen {folder}` makes one")
    certificate, private = folder / _CERTIFICATE, folder / _PRIVATE
    has_private = _read_secret(private) is not None
    try:
        secret = bytes.fromhex(text.decode("ascii"))
    except ValueError:
        raise KeyRefused(f"{folder / _SECRET}: not a key: it must be hexadecimal digits") from None
    if len(secret) < MIN_SECRET:
        raise KeyRefused(f"{folder / _SECRET}: {len(secret)} bytes are too short for a key: at least {MIN_SECRET}")
    has_certificate = certificate.exists()
    return Key(secret, certificate if has_certificate else None, private if has_certificate and has_private else None)


def _read_secret(file: Path) -> bytes | None:
    """Read a file that only its owner may read, None where there is none."""
    try:
        with file.open("rb") as opened:
            # Asked of the open file: what is judged is what is read.
            if os.fstat(opened.fileno()).st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise KeyRefused(f"{file} is open to other users of this machine: chmod 600 {file}")
            return opened.read(_MAX_FILE)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError(f"{file}: cannot be read: {error.strerror}") from error


def _digits(secret: bytes) -> bytes:
    return secret.hex().encode() + b"\n"


def _write(file: Path, content: bytes) -> None:
    """Put a file in place whole, for its owner only."""
    # mkstemp opens with 0600: at no moment can others read it.
    handle, temporary = tempfile.mkstemp(prefix=f".{file.name}-", dir=file.parent)
    try:
        with os.fdopen(handle, "wb") as opened:
            opened.write(content)
            opened.flush()
            os.fsync(opened.fileno())
        os.replace(temporary, file)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _certify() -> tuple[bytes, bytes]:
    """Return a self-signed certificate and its private key, both PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "crawler coordinator")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        # A day back: clocks of machines differ.
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=365 * YEARS))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(private, hashes.SHA256())
    )
    return (
        certificate.public_bytes(serialization.Encoding.PEM),
        private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
    )
