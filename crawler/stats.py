"""How a queue stands at one moment, for people and programs that watch it."""

from __future__ import annotations

import enum

import msgspec

from crawler.model import QueueStatus


class _Frozen(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the structs below."""


class WorkerStats(_Frozen, frozen=True, kw_only=True):
    """One live worker session."""

    machine: str
    #: Leases it holds.
    leased: int
    #: Tasks it completed, stored or failed.
    completed: int


class HostState(enum.StrEnum):
    """How a host fares."""

    HEALTHY = "healthy"
    #: It failed some times in a row, or asked to wait: fewer fetches at a time, longer pauses.
    SLOWED = "slowed"
    #: It failed too often: it is tried by one task at a time, after growing pauses.
    OPEN = "open"
    #: It failed for too long: its tasks fail without being fetched.
    UNAVAILABLE = "unavailable"


class HostWait(_Frozen, frozen=True, kw_only=True):
    """A host that is not healthy, or waits."""

    name: str
    state: HostState
    #: When it is asked again, None where that may be now.
    until: float | None
    #: What was seen there last, "" where nothing was.
    detail: str = ""


class HostStats(_Frozen, frozen=True, kw_only=True):
    """Hosts by state; those that are healthy and do not wait are not counted."""

    slowed: int = 0
    open: int = 0
    unavailable: int = 0
    #: Those that wait longest, some of them.
    waiting: list[HostWait] = []


class Stats(_Frozen, frozen=True, kw_only=True):
    """The queue at one moment. total = ready + leased + delayed + stored + failed."""

    total: int
    ready: int
    leased: int
    delayed: int
    stored: int
    failed: int
    #: Of the leased ones those that were fetched: they are verified, stored, or wait for their shard to be uploaded.
    held: int = 0
    #: Failed tasks by reason.
    reasons: dict[str, int]
    #: Entries read, comments and blank lines not counted.
    entries: int
    #: Bytes of stored images, each recording counted.
    bytes: int
    #: Of the stored images those that are recorded as nearly the same as another.
    near_duplicates: int = 0
    #: Images stored per second, over the last seconds.
    stored_per_second: float
    #: Bytes stored per second, over the last seconds.
    bytes_per_second: float
    status: QueueStatus
    #: Whether every list has been read to its end.
    lists_read: bool
    #: Part of the lists read, 0 to 1, None where their size is not known.
    lists_part: float | None
    #: Names of lists whose producer fell silent.
    incomplete_lists: list[str]
    workers: list[WorkerStats]
    hosts: HostStats = HostStats()
    #: Why nothing can be fetched or stored at the moment, None where all is well.
    trouble: str | None = None
