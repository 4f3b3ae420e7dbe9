"""How tests fetch: fetchers over a spool, reasons in place of errors, and names that resolve as a test wants."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from crawler.errors import FetchError
from crawler.model import Lease, Task
from crawler.reasons import Reason
from crawler.settings import Access, Limits, Settings
from crawler.worker.fetch import Fetcher
from tests.raw import Talk, ok

LOOPBACK = ("127.0.0.0/8",)
#: By name: its addresses, or what the resolver raises.
Names = dict[str, list[str] | OSError]


@contextlib.contextmanager
def fetchers(spool: Path) -> Iterator[Callable[..., Fetcher]]:
    """Yield what makes a fetcher with *spool*; its further arguments are those of `Access`."""
    with contextlib.ExitStack() as made:

        def make_one(limits: Limits | None = None, **access: Any) -> Fetcher:
            settings = Settings(limits=limits or Limits(), access=Access(**access))
            return made.enter_context(contextlib.closing(Fetcher(settings, spool, threads=4)))

        yield make_one


def fetch(fetcher: Fetcher, url: str, target: str | None = None) -> Reason | None:
    """Fetch *url*; return why that failed, None where it did not."""
    try:
        fetcher.fetch(Lease(token=1, task=Task(id=1, url=url, target=target)))
    except FetchError as error:
        return error.reason
    return None


def serving(talk: Talk) -> None:
    """Answer every request of a connection."""
    while talk.request():
        talk.say(ok(b"image"))


def replace_resolver(monkeypatch: pytest.MonkeyPatch) -> tuple[Names, list[str]]:
    """Have names resolved as the first of what is returned says, to be filled; the second is the names asked for."""
    known: Names = {}
    asked: list[str] = []

    def getaddrinfo(name: bytes, *_: Any, **__: Any) -> list[Any]:
        asked.append(name.decode())
        found = known[name.decode()]
        if isinstance(found, OSError):
            raise found
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, 0)) for ip in found]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return known, asked
