"""What a worker and its downloaders say to each other over their pipes."""

from __future__ import annotations

import msgspec

from crawler.model import Completion, Download, Failure, Finding, Lease
from crawler.settings import Settings


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """First message to a downloader."""

    settings: Settings
    #: Absolute path of the folder for bodies.
    spool: str
    threads: int


class Feed(msgspec.Struct, frozen=True, kw_only=True):
    """Tasks to fetch now."""

    leases: list[Lease]


class Events(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What happened in a downloader since its last message."""

    #: Tokens of fetches that began.
    started: list[int] = []
    downloads: list[Download] = []
    failures: list[Failure] = []
    #: Images that are stored and have not changed.
    unchanged: list[Completion] = []
    #: What robots.txt say.
    findings: list[Finding] = []


def ended(events: Events) -> list[int]:
    """Return the tokens of the fetches that ended."""
    parts = (events.downloads, events.unchanged, events.failures, events.findings)
    return [item.token for part in parts for item in part]


_encoder = msgspec.msgpack.Encoder()
encode = _encoder.encode
decode_setup = msgspec.msgpack.Decoder(Setup).decode
decode_feed = msgspec.msgpack.Decoder(Feed).decode
decode_events = msgspec.msgpack.Decoder(Events).decode
