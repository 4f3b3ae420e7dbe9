"""
Who is on the other side of a connection: greeting, TLS, and the mutual proof of the key.

Both sides greet at once (magic, wire version, role, nonce), the client shows that it has the secret, then the server
does. What is shown is an HMAC over both nonces, the role of the one who shows it and the digest of the certificate that
TLS was made with: it is good for this connection only, and relaying it over another one is useless.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import socket
import ssl
import struct
from collections.abc import Callable
from typing import NamedTuple

from crawler.broker.address import format_address
from crawler.broker.keys import Key
from crawler.broker.wire import Connection
from crawler.errors import KeyRefused, UsageError, VersionMismatch, WireError

#: First bytes of every greeting, in all versions.
MAGIC = b"CRAWLER"
#: Version of what this module and `wire` put on a connection; both sides must have the same.
WIRE = 1
#: Seconds for connecting, and again for all that follows up to the mutual proof.
HANDSHAKE_LIMIT = 5.0
#: Largest frame before the other side has shown the key.
MAX_STRANGER_FRAME = 256

_CLIENT, _SERVER = b"C", b"S"
#: In place of a role, in the clear: a server that speaks TLS only, to a client that does not.
_TLS_ONLY = b"T"
_NONCE = 32
_OPENING = struct.Struct(f"!{len(MAGIC)}sH")
#: First bytes of TLS records: a handshake, an alert.
_TLS_RECORDS = (b"\x16\x03", b"\x15\x03")
_ACCEPTED, _REFUSED = b"+", b"-"


class Proof(NamedTuple):
    """What one side needs for showing and judging, made once from a key."""

    secret: bytes
    #: SHA-256 of the certificate, empty where there is none.
    binding: bytes
    #: None where TLS is not used.
    context: ssl.SSLContext | None


def server_proof(key: Key) -> Proof:
    """
    Return what a coordinator needs.

    Raises:
        UsageError: There is a certificate that cannot be used.
    """
    if key.certificate is None:
        return Proof(key.secret, b"", None)
    if key.private is None:
        raise UsageError(f"{key.certificate.parent} lacks cert-key.pem: name the folder made by `crawler keygen DIR`")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    binding = _digest(key)
    try:
        context.load_cert_chain(key.certificate, key.private)
    except (OSError, ValueError) as error:
        raise UsageError(f"{key.certificate}: cannot be used with its private key: {error}") from error
    return Proof(key.secret, binding, context)


def client_proof(key: Key) -> Proof:
    """
    Return what one who connects needs.

    Raises:
        UsageError: There is a certificate that cannot be used.
    """
    if key.certificate is None:
        return Proof(key.secret, b"", None)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # Exactly one certificate is good, whatever name the coordinator is reached by.
    context.check_hostname = False
    binding = _digest(key)
    try:
        context.load_verify_locations(cafile=key.certificate)
    except (OSError, ValueError) as error:
        raise UsageError(f"{key.certificate}: cannot be used: {error}") from error
    return Proof(key.secret, binding, context)


def admit(connection: Connection, proof: Proof) -> None:
    """
    Let a client show that it has the key, and show it in turn.

    Raises:
        KeyRefused: It has another key; it was told so.
        VersionMismatch: It speaks another version; it was told ours.
        WireError: It is no crawler.
        OSError: Connection or TLS failed, or time ran out (TimeoutError).
        EOFError: It ended before it said anything.
    """
    connection.until(HANDSHAKE_LIMIT)
    if proof.context:
        _secure_server(connection, proof.context)
    try:
        mine, theirs = _greet(connection, _SERVER), _hear(connection, _CLIENT)
        shown = connection.recv_bytes(MAX_STRANGER_FRAME)
    except VersionMismatch:
        # It learns our version from our greeting, if that is not lost now.
        connection.hang_up()
        raise
    except EOFError as error:
        if error.args:
            raise WireError("it ended within its greeting") from error
        raise
    if not hmac.compare_digest(shown, _tag(proof, _CLIENT, mine, theirs)):
        connection.send_bytes(_REFUSED + b"it has another key")
        raise KeyRefused("it has another key")
    connection.send_bytes(_ACCEPTED + _tag(proof, _SERVER, mine, theirs))


def _secure_server(connection: Connection, context: ssl.SSLContext) -> None:
    try:
        connection.secure(context, server_side=True)
    except ssl.SSLError as error:
        if error.reason == "WRONG_VERSION_NUMBER":
            # OpenSSL sends no alert here: without a word, a client that lacks cert.pem would try again and again.
            connection.hang_up(_OPENING.pack(MAGIC, WIRE) + _TLS_ONLY + bytes(_NONCE))
        raise


def dial(address: tuple[str, int], proof: Proof, opened: Callable[[Connection], object] | None = None) -> Connection:
    """
    Connect to a coordinator, each side showing the other that it has the key.

    Args:
        address: Host and port.
        proof: What `client_proof` returned.
        opened: Called as soon as there is a connection, before anything is sent.

    Returns:
        The connection, the mutual proof done.

    Raises:
        KeyRefused: The two sides have different keys or certificates.
        VersionMismatch: The coordinator speaks another version.
        WireError: There is no coordinator.
        OSError: It cannot be reached, or does not answer in time. Safe to try again.
        EOFError: It ended the connection. Safe to try again.
    """
    sock = socket.create_connection(address, HANDSHAKE_LIMIT)
    try:
        connection = Connection(sock)
    except OSError:
        sock.close()
        raise
    connection.until(HANDSHAKE_LIMIT)
    where = format_address(address)
    try:
        if opened:
            opened(connection)
        if proof.context:
            _secure(connection, proof.context, proof.binding, where)
        _show(connection, proof, where)
    except BaseException:
        connection.close()
        raise
    return connection


def _secure(connection: Connection, context: ssl.SSLContext, binding: bytes, where: str) -> None:
    """Go over to TLS with the one certificate that is good."""
    other = KeyRefused(
        f"{where} shows another certificate than that of the key: copy the coordinator's key and cert.pem"
    )
    try:
        connection.secure(context, server_side=False)
    except ssl.SSLCertVerificationError as error:
        raise other from error
    except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
        # It ended the connection, as one does that is just stopping.
        raise
    except ssl.SSLError as error:
        if error.reason == "TLSV1_ALERT_DECODE_ERROR":
            # What OpenSSL answers where our half of the handshake did not arrive whole: the network's fault.
            raise
        raise WireError(f"{where} is no coordinator with a certificate: {error.reason or error}") from error
    if hashlib.sha256(connection.certificate() or b"").digest() != binding:
        raise other


def _show(connection: Connection, proof: Proof, where: str) -> None:
    try:
        mine, theirs = _greet(connection, _CLIENT), _hear(connection, _SERVER)
    except (WireError, VersionMismatch, KeyRefused) as error:
        raise type(error)(f"{where}: {error}") from error
    connection.send_bytes(_tag(proof, _CLIENT, theirs, mine))
    answer = connection.recv_bytes(MAX_STRANGER_FRAME)
    if answer[:1] == _REFUSED:
        raise KeyRefused(f"{where} refused the key: {ascii(answer[1:].decode('latin-1'))[1:-1]}")
    if not hmac.compare_digest(answer, _ACCEPTED + _tag(proof, _SERVER, theirs, mine)):
        raise KeyRefused(f"{where} did not show that it has the key: it may be another coordinator")


def _greet(connection: Connection, role: bytes) -> bytes:
    """Greet, and return the nonce that the other side has to use."""
    nonce = os.urandom(_NONCE)
    connection.write(_OPENING.pack(MAGIC, WIRE) + role + nonce)
    return nonce


def _hear(connection: Connection, role: bytes) -> bytes:
    """
    Hear the greeting of one who should have *role*, and return its nonce.

    Raises:
        KeyRefused: It asks for TLS.
        VersionMismatch: It speaks another version.
        WireError: It is no crawler, or has the same role.
    """
    opening = connection.read(_OPENING.size)
    magic, version = _OPENING.unpack(opening)
    if magic != MAGIC:
        tls = ": it speaks TLS, and the key has no certificate" if opening.startswith(_TLS_RECORDS) else ""
        raise WireError(f"no crawler is on the other side{tls}")
    if version != WIRE:
        raise VersionMismatch(
            f"the other side speaks wire version {version}, this one {WIRE}: install the same crawler on both"
        )
    rest = connection.read(1 + _NONCE)
    if rest[:1] == _TLS_ONLY:
        raise KeyRefused("it asks for TLS, and the key has no certificate: copy the coordinator's cert.pem beside it")
    if rest[:1] != role:
        raise WireError("the other side has the same role")
    return rest[1:]


def _tag(proof: Proof, role: bytes, servers: bytes, clients: bytes) -> bytes:
    """Return what *role* shows; all pieces but the last have fixed lengths, so that none can pass for another."""
    text = _OPENING.pack(MAGIC, WIRE) + role + servers + clients + proof.binding
    return hmac.digest(proof.secret, text, "sha256")


def _digest(key: Key) -> bytes:
    if key.certificate is None:
        return b""
    try:
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(key.certificate.read_text("ascii"))).digest()
    except (OSError, ValueError) as error:
        raise UsageError(f"{key.certificate}: is no certificate: {error}") from error
