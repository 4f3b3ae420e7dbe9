"""Run the commands as a user would: processes of their own, in an empty folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from crawler.cli.common import find
from crawler.cli.status import ask
from crawler.errors import CrawlerError
from tests.conftest import wait_until

#: Seconds that any one command may take, on a machine with much else to do.
LIMIT = 150
#: Small crews, so that many tests fit on few cores; the local site is one host.
LOCAL = ("--allow-net", "127.0.0.0/8", "--processes", "1", "--threads", "8", "--robots", "ignore")


def command(*arguments: object) -> list[str]:
    """Return the command line that runs crawler with *arguments*."""
    return [sys.executable, "-P", "-m", "crawler", *map(str, arguments)]


def run(folder: Path, *arguments: object, given: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run crawler in *folder* to its end."""
    return subprocess.run(
        command(*arguments), cwd=folder, input=given, capture_output=True, text=True, timeout=LIMIT, check=False
    )


@contextmanager
def running(folder: Path, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Run crawler in *folder* beside the test; what is left of it at the end is killed."""
    process = subprocess.Popen(
        command(*arguments),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def status(folder: Path, out: str) -> dict[str, Any]:
    """Return what `crawler status --json` prints, empty where there is nothing yet; asked from this process."""
    try:
        found: dict[str, Any] = json.loads(json.dumps(ask(*find(str(folder / out), None))))
    except CrawlerError:
        return {}
    return found


def served(folder: Path, out: str) -> None:
    """Wait until a coordinator serves OUT."""
    wait_until(lambda: (folder / out / "run" / "address").exists() and status(folder, out).get("running"))


def records(folder: Path, out: str) -> list[dict[str, Any]]:
    """Return the lines of completions.jsonl."""
    return [json.loads(line) for line in (folder / out / "completions.jsonl").read_text().splitlines()]


def rows(folder: Path, out: str) -> list[dict[str, Any]]:
    """Return the rows of `crawler export`."""
    done = run(folder, "export", out, "rows.jsonl")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]


def write_list(folder: Path, *lines: str, name: str = "urls.txt") -> Path:
    """Write a list of *lines*."""
    path = folder / name
    path.write_text("".join(f"{line}\n" for line in lines))
    return path
