"""`crawler doctor`: is this machine fit?"""

from __future__ import annotations

import importlib.metadata
import resource
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

import click

from crawler.cli.loudness import loudness
from crawler.consumer import VERIFIER
from crawler.consumer.messages import Ready, Setup, decode_answer, encode
from crawler.errors import CrawlerError
from crawler.processes import Crew
from crawler.settings import Limits

#: Versions below which a published flaw matters here.
FLOORS = {"requests": "2.32.4", "urllib3": "2.7.0", "pillow": "12.3.0", "cryptography": "44.0.1", "idna": "3.7"}
#: Seconds to wait for a verifier.
VERIFIER_WAIT = 30.0
#: Open files that a default worker may need.
FILES = 1024


class Finding(NamedTuple):
    """One thing that was looked at."""

    good: bool
    text: str
    #: What to do about it.
    advice: str = ""


@click.command(short_help="Check versions, limits and the system.")
@loudness
@click.pass_context
def command(context: click.Context) -> None:
    """Check versions against their security floors, file limits, the resolver, the clock and the sandbox."""
    findings = [*_versions(), _sqlite(), _files(), _resolver(), _clock(), _sandbox()]
    for finding in findings:
        click.echo(f"{'ok ' if finding.good else 'BAD'}  {finding.text}")
        if not finding.good:
            click.echo(f"     {finding.advice}")
    if not all(finding.good for finding in findings):
        context.exit(1)


def _versions() -> Iterator[Finding]:
    for name, floor in FLOORS.items():
        version = importlib.metadata.version(name)
        good = _numbers(version) >= _numbers(floor)
        yield Finding(good, f"{name} {version} (at least {floor})", f"pip install --upgrade '{name}>={floor}'")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def _sqlite() -> Finding:
    return Finding(sqlite3.sqlite_version_info >= (3, 35), f"SQLite {sqlite3.sqlite_version}", "use a newer Python")


def _files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    good = hard == resource.RLIM_INFINITY or hard >= FILES
    return Finding(good, f"open files: {soft}, can be raised to {hard}", f"raise the limit (ulimit -Hn) to {FILES}")


def _resolver() -> Finding:
    began = time.monotonic()
    try:
        socket.getaddrinfo("localhost", 80)
    except OSError as error:
        return Finding(False, f"resolver: localhost: {error}", "see /etc/resolv.conf and /etc/hosts")
    return Finding(True, f"resolver: answers in {1000 * (time.monotonic() - began):.0f} ms (localhost)")


def _clock() -> Finding:
    text = f"clock: {time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime())} UTC"
    return Finding(time.gmtime().tm_year >= 2026, text, "set the clock: certificates are checked against it")


def _sandbox() -> Finding:
    """Start a verifier and hear what confines it."""
    heard: list[bytes] = []
    news = threading.Event()

    def on_message(_: int, message: bytes) -> None:
        heard.append(message)
        news.set()

    crew = Crew(VERIFIER, encode(Setup(limits=Limits())), 1, on_message, lambda *_: news.set())
    try:
        crew.start()
        news.wait(VERIFIER_WAIT)
    except CrawlerError as error:
        return Finding(False, f"sandbox: {error}", "see what the line above says")
    finally:
        crew.close(1.0)
    answer = decode_answer(heard[0]) if heard else None
    if not isinstance(answer, Ready):
        return Finding(False, "sandbox: a verifier does not start", "run again with -v")
    if answer.missing:
        advice = "images are verified, less confined; Linux on x86_64 or aarch64 offers all of it"
        return Finding(False, f"sandbox: no {', no '.join(answer.missing)}", advice)
    return Finding(True, "sandbox: verifiers are limited in memory, CPU and files, and cannot open, connect or start")
