"""What a list says that an image is, held against the bytes that came."""

from __future__ import annotations

import hashlib

from crawler.errors import FetchError
from crawler.reasons import Reason

#: Hexadecimal digits of an MD5.
MD5_DIGITS = 32


class Expected:
    """
    The digest that a list says.

    Args:
        digest: MD5 or SHA-256, in hexadecimal digits by whose number one is told from the other; None for none.
    """

    def __init__(self, digest: str | None) -> None:
        self._digest = digest
        is_md5 = digest is not None and len(digest) == MD5_DIGITS
        # Only where it is asked for: SHA-256 is made of all that comes.
        self._md5 = hashlib.md5(usedforsecurity=False) if is_md5 else None

    def update(self, data: bytes) -> None:
        """Take the next bytes of the body."""
        if self._md5 is not None:
            self._md5.update(data)

    def check(self, sha256: str) -> None:
        """
        Hold a whole body against what is expected.

        Args:
            sha256: Of the body, in hexadecimal digits in lower case.

        Raises:
            FetchError: It is another one; names both.
        """
        found = sha256 if self._md5 is None else self._md5.hexdigest()
        if self._digest not in (None, found):
            raise FetchError(Reason.DIGEST_MISMATCH, f"{found} came, {self._digest} was expected")
