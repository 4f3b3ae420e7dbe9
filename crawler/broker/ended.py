"""How the end of a lease is kept: a record's facts, or that a task waits."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from crawler.facts import Facts
from crawler.model import Completion, Task
from crawler.reasons import Reason

#: Status of a response that brings no image, because the one that is stored has not changed.
NOT_MODIFIED = 304


class Body(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a record holds beside its columns."""

    attempts: int
    worker: str | None = None
    detail: str | None = None
    http_status: int | None = None
    path: str | None = None
    sha256: str | None = None
    bytes: int | None = None
    width: int | None = None
    height: int | None = None
    format: str | None = None
    etag: str | None = None
    last_modified: str | None = None
    facts: Facts | None = None

    @property
    def is_duplicate(self) -> bool:
        """Tell whether the image was nearly the same as one before."""
        return self.facts is not None and self.facts.duplicate_of is not None


class Ended(NamedTuple):
    """A task that gets its record now."""

    token: int | None
    task_id: int
    reason: Reason | None
    body: Body

    @property
    def is_kept_duplicate(self) -> bool:
        """Tell whether its image is stored, though it is nearly the same as another."""
        return self.reason is None and self.body.is_duplicate


class Delayed(NamedTuple):
    """A task that is tried again later, perhaps at another host."""

    token: int
    task: Task
    host: int
    due: float


encode_body = msgspec.msgpack.Encoder().encode
decode_body = msgspec.msgpack.Decoder(Body).decode


def body_of(completion: Completion, attempts: int, worker: str, path: str | None) -> Body:
    """Return what a record keeps of a completion."""
    return Body(
        attempts=attempts,
        worker=worker,
        detail=completion.detail,
        http_status=completion.http_status,
        path=path,
        sha256=completion.sha256,
        bytes=completion.bytes,
        width=completion.width,
        height=completion.height,
        format=completion.format,
        etag=completion.etag,
        last_modified=completion.last_modified,
        facts=_undecided(completion.facts),
    )


def _undecided(facts: Facts | None) -> Facts | None:
    """Return facts without what the queue alone can say: of what another image is a duplicate."""
    if facts is None or facts.duplicate_of is facts.duplicate_distance is None:
        return facts
    return msgspec.structs.replace(facts, duplicate_of=None, duplicate_distance=None)
