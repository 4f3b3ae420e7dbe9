"""What is kept beside an image in a shard: its facts and its caption."""

from __future__ import annotations

from typing import Any

import msgspec

from crawler.consumer.store import About

_encode = msgspec.json.Encoder().encode


def facts(about: About, sha256: str, size: int, key: str) -> dict[str, Any]:
    """
    Return the facts about an image, the columns of its list first.

    Args:
        about: The download and what its verifier saw.
        sha256: Of the image that is kept.
        size: Of the image that is kept.
        key: Of its sample.
    """
    download, image = about
    return {
        **columns(about),
        "key": key,
        "url": download.task.url,
        "sha256": sha256,
        "bytes": size,
        "width": image.width,
        "height": image.height,
        "format": image.format,
        "http_status": download.response.http_status,
        "final_url": download.response.final_url,
        "content_type": download.response.content_type,
    }


def columns(about: About) -> dict[str, Any]:
    """Return the further columns of the task's line."""
    packed = about.download.task.columns
    return {} if packed is None else msgspec.msgpack.decode(packed, type=dict[str, Any])


def encode(found: dict[str, Any]) -> bytes:
    """Return facts as JSON."""
    return _encode(found)


def caption(found: dict[str, Any], column: str | None) -> bytes | None:
    """Return the caption among facts, None where there is none."""
    text = None if column is None else found.get(column)
    return None if text is None else str(text).encode("utf-8", "replace")
