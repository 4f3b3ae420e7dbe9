"""What is kept beside an image in a shard: its facts and its caption."""

from __future__ import annotations

from typing import Any

import msgspec

from crawler.consumer.store import About
from crawler.facts import LIST_PREFIX, Facts

#: What every image has, known or not.
ALWAYS = (
    "key",
    "url",
    "sha256",
    "bytes",
    "width",
    "height",
    "format",
    "http_status",
    "final_url",
    "content_type",
    "etag",
    "last_modified",
)
#: What it has where that is known; which others it looks like is not yet, when this is written.
KNOWN = tuple(name for name in Facts.__struct_fields__ if name not in (*ALWAYS, "duplicate_of", "duplicate_distance"))
#: Names that no column of a list can have; `image` is a column of parquet.
TAKEN = {*ALWAYS, *KNOWN, "image"}

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
    download, image, known = about
    task, response = download.task, download.response
    kept = (key, task.url, sha256, size, image.width, image.height, image.format)
    came = (response.http_status, response.final_url, response.content_type, response.etag, response.last_modified)
    listed = {LIST_PREFIX + name if name in TAKEN else name: value for name, value in columns(about).items()}
    return {**listed, **dict(zip(ALWAYS, kept + came, strict=True)), **_known(known)}


def _known(facts: Facts | None) -> dict[str, Any]:
    found = {} if facts is None else msgspec.to_builtins(facts)
    return {name: found[name] for name in KNOWN if name in found}


def columns(about: About) -> dict[str, Any]:
    """Return the further columns of the task's line."""
    packed = about.download.task.columns
    return {} if packed is None else msgspec.msgpack.decode(packed, type=dict[str, Any])


def encode(found: dict[str, Any]) -> bytes:
    """Return facts as JSON."""
    return _encode(found)


def caption(about: About, column: str | None) -> bytes | None:
    """Return what a column of the list says of an image, None where there is nothing."""
    text = None if column is None else columns(about).get(column)
    return None if text is None else str(text).encode("utf-8", "replace")
