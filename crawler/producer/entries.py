"""One entry from what a row of a list holds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from crawler.model import Row
from crawler.producer.urls import canonical

#: Bytes of a line or a URL beyond which it is no URL.
MAX_LINE = 16_384
#: Bytes of the columns of one entry, packed.
MAX_COLUMNS = 32_768
#: Characters of a line that are shown.
SHOWN = 200

_pack = msgspec.msgpack.Encoder(decimal_format="string", enc_hook=str).encode
_DIGEST = re.compile(r"[0-9a-f]{32}|[0-9a-f]{64}")


class Place:
    """
    A list whose rows become entries.

    Args:
        path: How it is named to the user.
        name: How it is called in records.
        unit: What its rows are called: `line` or `row`.
    """

    def __init__(self, path: str, name: str, unit: str) -> None:
        self._path = path
        self._name = name
        self._unit = unit

    def bad(self, number: int, why: str, text: str = "", columns: bytes | None = None) -> Row:
        """Return the entry of row *number*, which is no URL; *text* is what stands in its place."""
        # The mark keeps it from having the same text as a URL, whose task would be its own then.
        shown = text or f"({self._unit} {number} of {self._name})"
        error = f"{self._path}, {self._unit} {number}: {why}"
        return Row(line=number, url=shown, host="", error=error, columns=columns)

    def entry(self, number: int, url: Any, digest: Any, columns: Mapping[str, Any] | None) -> Row:
        """
        Return the entry of row *number*.

        Args:
            number: From 1.
            url: Text, or bytes of it; whatever else a list holds makes an entry that fails.
            digest: The same, for what the image must have; None and "" are none.
            columns: Those that are carried through, None for none; an entry that fails has them too.
        """
        packed, text = None, ""
        try:
            packed = None if columns is None else _packed(columns)
            text = _text(url)
            if not text:
                raise ValueError("it has no URL")
            if len(text) >= MAX_LINE:
                raise ValueError(f"its URL is longer than {MAX_LINE} bytes")
            found, host = canonical(text)
        except ValueError as error:
            return self.bad(number, _why(error), show(text), packed)
        try:
            wanted = _digest(digest)
        except ValueError as error:
            return self.bad(number, _why(error), columns=packed)
        return Row(line=number, url=found, host=host, digest=wanted, columns=packed)


def show(text: str, cut: bool = False) -> str:
    """Escape a text and cut it, with a mark where that was done here or (*cut*) before."""
    shown = text[:SHOWN].encode("unicode_escape").decode()
    return f"{shown}…" if cut or len(text) > SHOWN else shown


def _why(error: ValueError) -> str:
    return "it is not UTF-8" if isinstance(error, UnicodeError) else str(error)


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bytes):
        return value.decode().strip()
    if not isinstance(value, str):
        raise ValueError(f"its URL is no text but {type(value).__name__}")
    return value.encode("utf-8", "surrogateescape").decode().strip()  # raises where it was not UTF-8


def _digest(value: Any) -> str | None:
    if isinstance(value, bytes) and len(value) in (16, 32):
        return value.hex()
    text = value.decode("ascii", "replace") if isinstance(value, bytes) else "" if value is None else str(value)
    lower = text.strip().lower()
    if lower and not _DIGEST.fullmatch(lower):
        raise ValueError("its digest is neither an MD5 nor a SHA-256 in hexadecimal digits")
    return lower or None


def _packed(columns: Mapping[str, Any]) -> bytes:
    try:
        packed = _pack(columns)
    except UnicodeEncodeError:
        packed = _pack({_clean(name): _clean(value) for name, value in columns.items()})
    except (OverflowError, RecursionError, TypeError) as error:
        raise ValueError(f"its columns cannot be kept: {error}") from error
    if len(packed) > MAX_COLUMNS:
        raise ValueError(f"its columns have {len(packed):,} bytes, more than {MAX_COLUMNS:,}")
    return packed


def _clean(value: Any) -> Any:
    """Return a text with U+FFFD for what was not UTF-8."""
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace") if isinstance(value, str) else value
