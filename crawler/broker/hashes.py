"""The 64-bit hashes under which a ledger finds texts."""

from __future__ import annotations

import struct
from collections.abc import Collection
from hashlib import blake2b


def hashes(texts: Collection[str], salt: int = 0) -> tuple[int, ...]:
    """Return a hash, signed, for each of *texts* in their order; another *salt* gives others."""
    mark = salt.to_bytes(2, "big") if salt else b""
    digests = [blake2b(text.encode(), digest_size=8, salt=mark).digest() for text in texts]
    return struct.unpack(f">{len(digests)}q", b"".join(digests))
