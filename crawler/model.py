"""
The data that the parts of crawler hand to one another: frozen, keyword only; all that crosses a wire or a pipe.

Times that are kept or sent are seconds since 1970 in UTC (float); durations are seconds. Sizes are bytes.
A **token** is one integer, ``epoch << 40 | counter``: the epoch grows with each start of a coordinator, so a later
lease of a task always has the greater token.
"""

from __future__ import annotations

import enum
from typing import Annotated

import msgspec

from crawler.facts import Facts
from crawler.reasons import Reason
from crawler.settings import Settings

#: Version of the verbs and messages; both sides of a connection must have the same.
PROTOCOL = 1
#: Bits of a token that count leases within one epoch.
COUNTER_BITS = 40

#: What a ledger can keep: 63 bits.
Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
#: Number of a line; entries keep it in 40 bits.
Line = Annotated[int, msgspec.Meta(ge=1, lt=1 << 40)]


class _Frozen(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the structs below."""


class _Compact(_Frozen, frozen=True, kw_only=True, array_like=True):
    """Base of the structs that occur by the thousand: fields go over the wire by position."""


class Outcome(enum.StrEnum):
    """How a task ended."""

    STORED = "stored"
    FAILED = "failed"


class QueueStatus(enum.StrEnum):
    """What a worker is told with each answer to `lease`."""

    #: There are tasks, or there may be more.
    OPEN = "open"
    #: The coordinator is stopping: lease no more, end or give back what is in hand.
    DRAINING = "draining"
    #: Every task has its record: leave.
    FINISHED = "finished"


class Role(enum.StrEnum):
    """What a session is for."""

    WORKER = "worker"
    PRODUCER = "producer"
    OBSERVER = "observer"


# ------------------------------------------------------------------ hello


class Hello(_Frozen, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """First message of a client; another version may say more, and is told so by its `protocol`."""

    #: `PROTOCOL` of the client.
    protocol: int
    #: Version of the client's program, for people.
    version: str
    #: Name of the client's machine, for people.
    machine: str
    role: Role
    #: Id of the session to go on with after a coordinator's restart, "" for a new one.
    session: str = ""
    #: Tokens of the leases this session still holds.
    holds: list[int] = []
    #: Whether the client is a child of the coordinator and ends with it.
    local: bool = False


class Welcome(_Frozen, frozen=True, kw_only=True):
    """Answer to a hello."""

    #: Random id of the session: 32 hexadecimal digits, with `local` before them where it ends with its coordinator.
    session: str
    #: Version of the coordinator's program.
    version: str
    #: Seconds that a lease lives without being extended.
    lease_life: float
    #: Where the coordinator sees the store: an absolute path.
    store: str
    #: Text that a worker writes through the store to show that it can (see `TaskQueue.prove`).
    nonce: str
    settings: Settings
    #: Tokens of `Hello.holds` that this session still holds.
    holds: list[int] = []


# ------------------------------------------------------------------ tasks and leases


class Task(_Compact, frozen=True, kw_only=True):
    """One distinct URL to fetch."""

    #: Id from the ledger, from 1.
    id: int
    #: Absolute http or https URL, ASCII, without fragment.
    url: str
    #: URL to ask in its place, after a redirect to another host. None for `url`.
    target: str | None = None
    #: Redirects followed so far, over all hosts.
    hops: int = 0
    #: Fetches that ended so far.
    attempts: int = 0
    #: Times the child that worked on it died.
    losses: int = 0
    #: ETag and Last-Modified of the image that is stored, which is asked for again only if it has changed; None for
    #: one that is not.
    etag: str | None = None
    last_modified: str | None = None
    #: MD5 or SHA-256 of the image by its list: 32 or 64 hexadecimal digits in lower case. None where it says none.
    digest: str | None = None
    #: Columns of the first entry of the task, a map in MessagePack; only where `Settings.with_columns` asks for them.
    columns: bytes | None = None


class Lease(_Compact, frozen=True, kw_only=True):
    """A task handed to one session for a limited time."""

    token: int
    task: Task
    #: Whether it is no image: the robots.txt that is the task's URL, whose id is 0.
    robots: bool = False
    #: Whether redirects within the host may be followed at once. Where not, the task goes back as moved, so that the
    #: queue holds the next URL against the host's robots.txt.
    follow: bool = True


class Grant(_Frozen, frozen=True, kw_only=True):
    """Answer to `lease`."""

    status: QueueStatus
    leases: list[Lease] = []
    #: Seconds left to end what is in hand, when draining.
    grace: float | None = None


class Progress(_Frozen, frozen=True, kw_only=True):
    """What happened to fetches since the last report; lists of tokens."""

    #: Fetches that started.
    started: list[int] = []
    #: Fetches that ended: the host's slot is free.
    fetched: list[int] = []


# ------------------------------------------------------------------ what a fetch brought


class Response(_Compact, frozen=True, kw_only=True):
    """Facts about the response that brought a download."""

    http_status: int
    #: URL that answered, after redirects.
    final_url: str
    content_type: str | None = None
    etag: str | None = None
    last_modified: str | None = None
    #: Seconds from the first connection to the last byte.
    seconds: float = 0.0
    #: Headers that say what may be done with the image, by lower-case name.
    licence: dict[str, str] = {}


class Download(_Compact, frozen=True, kw_only=True):
    """What a fetch brought: a spool file and facts. Whoever takes it owns the file."""

    token: int
    task: Task
    #: Absolute path of the spool file.
    path: str
    #: Size of the file.
    size: int
    #: SHA-256 of the file, 64 hexadecimal digits.
    sha256: str
    response: Response


class Part(_Frozen, frozen=True, kw_only=True):
    """A piece of a download on its way to the coordinator."""

    #: The download; its `path` means nothing on the other side.
    download: Download
    #: Where in the file `data` begins. The piece that ends at `download.size` is the last.
    offset: int
    data: bytes


class Failure(_Compact, frozen=True, kw_only=True):
    """A fetch that ended without a download, or with one that cannot be used."""

    token: Count
    task_id: Count
    reason: Reason
    detail: str = ""
    http_status: Count | None = None
    #: Seconds after which the host asked to be tried again.
    retry_after: float | None = None
    #: Absolute URL on another host to which the task moves; charged no attempt.
    moved_to: str | None = None
    #: Redirects followed so far, over all hosts; goes with `moved_to`.
    hops: int = 0


class Finding(_Compact, frozen=True, kw_only=True):
    """A robots.txt, as the fetch of a lease for one found it."""

    token: Count
    #: Its text, at most 500 KiB and decoded; "" where all is allowed, because there is none.
    text: str


class Image(_Compact, frozen=True, kw_only=True):
    """Facts about an image that decoded completely."""

    #: Pillow's name of the format, for example JPEG.
    format: str
    #: Pixels.
    width: int
    #: Pixels.
    height: int


class Completion(_Compact, frozen=True, kw_only=True):
    """The final fact about a leased task, as the consumer sends it to the queue."""

    token: Count
    task_id: Count
    outcome: Outcome
    reason: Reason | None = None
    detail: str | None = None
    http_status: Count | None = None
    #: Path of the image, relative to the store's root.
    path: str | None = None
    #: 64 hexadecimal digits.
    sha256: str | None = None
    bytes: Count | None = None
    width: Count | None = None
    height: Count | None = None
    format: str | None = None
    #: Of the response, for the next time.
    etag: str | None = None
    last_modified: str | None = None
    #: Of a stored image, None where none are wanted.
    facts: Facts | None = None


class Record(_Frozen, frozen=True, kw_only=True):
    """The current final fact about a task: one line of `completions.jsonl`."""

    #: Grows with every recording of the run, from 1.
    seq: int
    #: Id of the task.
    id: int
    url: str
    outcome: Outcome
    reason: Reason | None
    http_status: int | None
    path: str | None
    sha256: str | None
    bytes: int | None
    width: int | None
    height: int | None
    format: str | None
    #: Fetches that ended, this one included.
    attempts: int
    #: Name of the machine that completed it, None where no fetch was needed.
    worker: str | None
    #: UTC, as 2026-01-01T00:00:00.000Z.
    finished_at: str
    detail: str | None = None
    #: Of a stored image; what is not known of it is left out.
    facts: Facts | None = None


# ------------------------------------------------------------------ lists


class Row(_Compact, frozen=True, kw_only=True):
    """One entry on its way to the ledger."""

    #: Line number in its list, from 1.
    line: Line
    #: Canonical URL, or the line's text (escaped, cut) where it is none.
    url: str
    #: Name of the host, "" where the line is no URL.
    host: str
    #: Why the line is no URL, None where it is one.
    error: str | None = None
    #: Columns that are carried through: a map by name, in MessagePack. None where there are none.
    columns: bytes | None = None
    #: MD5 or SHA-256 of the image: 32 or 64 hexadecimal digits in lower case. None where the list says none.
    digest: str | None = None


class Batch(_Frozen, frozen=True, kw_only=True):
    """Successive lines of one list."""

    #: Line that the queue must expect next, from 1.
    first_line: Line
    #: Line that follows the batch.
    next_line: Line
    #: Bytes of the list read up to `next_line`.
    offset: Count
    #: SHA-256 of these bytes, 64 hexadecimal digits.
    digest: str
    #: Bytes of the list in all, None while that is not known.
    total_bytes: Count | None
    rows: list[Row]


class ListState(_Frozen, frozen=True, kw_only=True):
    """How far a list has been read."""

    #: Number of the list in this ledger, from 1.
    id: int
    name: str
    next_line: int = 1
    offset: int = 0
    digest: str = ""
    sealed: bool = False


class Choice(_Frozen, frozen=True, kw_only=True):
    """Which failed tasks are meant: those that fit all that is said. Lines that are no URL never are."""

    #: Names of reasons, none for all.
    reasons: tuple[str, ...] = ()
    #: Names of hosts, `*.NAME` for all below NAME; none for all.
    hosts: tuple[str, ...] = ()
    #: HTTP statuses, none for all.
    http_statuses: tuple[int, ...] = ()
    #: Only those recorded before this time, None for all.
    before: float | None = None
    #: Ids of stored tasks, which are meant in place of failed ones; None for failed ones.
    ids: tuple[Count, ...] | None = None
    #: Whether they are only counted.
    dry_run: bool = False
