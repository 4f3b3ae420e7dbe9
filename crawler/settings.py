"""
What a run is told, once, by `seed`: limits of a fetch, politeness, retries, and how hosts are approached.

Durations are seconds, sizes are bytes.
"""

from __future__ import annotations

import re

import msgspec

from crawler.storage import Storage
from crawler.treatment import Treatment

#: Formats of images that can be accepted, by Pillow's names.
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "AVIF", "BMP", "TIFF")


class _Frozen(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the structs below."""


class Limits(_Frozen, frozen=True, kw_only=True):
    """Limits of one fetch and one image."""

    #: Seconds for a whole fetch: resolution, connecting, TLS, headers, body, redirects.
    timeout: float = 30.0
    #: Seconds for connecting to one address.
    connect_timeout: float = 10.0
    #: Seconds for which a host that is connected may send nothing.
    stall: float = 10.0
    #: Bytes per second that a body must bring, over any `stall` seconds. 0 is no such limit.
    min_speed: int = 1000
    #: Largest body.
    max_bytes: int = 50_000_000
    #: Largest width × height of an image.
    max_pixels: int = 64_000_000
    #: Formats that are accepted, of `FORMATS`.
    formats: tuple[str, ...] = FORMATS
    #: Redirects followed before giving up.
    max_redirects: int = 5


class HostRule(_Frozen, frozen=True, kw_only=True):
    """What is different for the hosts whose name fits a pattern."""

    #: A name, or `*.NAME` for all names below NAME, in lower case; `*` is every host.
    pattern: str
    #: Fetches at a time, None for what holds for all.
    per_host: int | None = None
    #: Seconds from one start to the next, None for what holds for all.
    delay: float | None = None
    #: Further request headers, (name, value); they may be secret.
    headers: tuple[tuple[str, str], ...] = ()
    #: Whether nothing is fetched there.
    skip: bool = False

    def fits(self, name: str) -> bool:
        """Tell whether the host *name*, in lower case, is meant."""
        return self.pattern in ("*", name) or (self.pattern.startswith("*.") and name.endswith(self.pattern[1:]))


class Politeness(_Frozen, frozen=True, kw_only=True):
    """What one host may be asked, by the whole fleet."""

    #: Fetches at a time.
    per_host: int = 8
    #: Seconds from one start to the next. 0 is no pause.
    delay: float = 0.0
    #: Whether robots.txt is fetched and obeyed.
    robots: bool = True
    #: Whether what a response says against use by machines (X-Robots-Tag, TDM reservation) is obeyed.
    opt_out: bool = True
    #: Seconds for which a host that fails is tried before its tasks fail without being fetched.
    patience: float = 60.0
    #: What is different for some hosts; of the rules that fit a name the first that says something counts.
    hosts: tuple[HostRule, ...] = ()


class RetryPolicy(_Frozen, frozen=True, kw_only=True):
    """When a task that failed for a transient reason is tried again."""

    #: Fetches that may end before the failure is recorded.
    attempts: int = 3
    #: The same where the host asks to wait (429, or 503 with Retry-After); not used where `attempts` is 1.
    asked: int = 10
    #: Upper bound of the first random pause in seconds; it doubles with each attempt.
    base: float = 2.0
    #: Largest pause, a host's Retry-After included.
    cap: float = 3600.0
    #: Deaths of the one child that worked on the task before it is recorded as poisoned.
    losses: int = 3


class Access(_Frozen, frozen=True, kw_only=True):
    """How hosts are approached."""

    #: Networks allowed beside the public ones, as CIDR.
    allow_net: tuple[str, ...] = ()
    #: Ports of public addresses that are connected to, (first, last); addresses of `allow_net` are open on all ports.
    ports: tuple[tuple[int, int], ...] = tuple((port, port) for port in (80, 81, 443, 8000, 8080, 8081, 8443, 8888))
    #: http://[NAME:PASSWORD@]HOST:PORT of a proxy that resolves names and connects in our place, None for none.
    proxy: str | None = None
    #: Value of the User-Agent header; the contact is part of it.
    user_agent: str = "crawler"
    #: Further request headers, (name, value).
    headers: tuple[tuple[str, str], ...] = ()
    #: Whether certificates are verified.
    tls_verify: bool = True
    #: PEM text of the certificate authorities to trust in place of the system's, None for those.
    ca_bundle: str | None = None

    @property
    def product(self) -> str:
        """Return the name that rules for robots are looked up for: the first word of `user_agent`, no version."""
        return re.split(r"[/\s]", self.user_agent.strip(), maxsplit=1)[0] or "crawler"


class NearDuplicates(_Frozen, frozen=True, kw_only=True):
    """Which images are duplicates of one that was recorded before, and what becomes of them."""

    #: Bits in which their perceptual hashes differ at most.
    distance: int
    #: Whether they are not kept, and their tasks fail.
    drop: bool = False


class Settings(_Frozen, frozen=True, kw_only=True):
    """All that a run is told, once, by `seed`; workers get it in the hello."""

    limits: Limits = Limits()
    politeness: Politeness = Politeness()
    retry: RetryPolicy = RetryPolicy()
    access: Access = Access()
    treatment: Treatment = Treatment()
    #: Whether a lease brings the columns of its task's first entry, for a store that keeps them beside the image.
    with_columns: bool = False
    storage: Storage = Storage()
    #: None where images are not compared. `Treatment.facts` must have `phash` where they are.
    near_duplicates: NearDuplicates | None = None
