"""
Several machines for real: a coordinator and three workers in network namespaces, with addresses and names of their own.

It needs root and iproute2, and takes a while: it runs where CI=true or CRAWLER_LONG=1. No packet leaves the namespaces.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.command import command, records, run, write_list
from tests.conftest import ROOT, missing, wait_until
from tests.site import photo

LAUNCHER = ROOT / "scripts" / "campaign" / "coordinator.py"
#: Name of each machine to its address; all hang on one bridge.
MACHINES = {"m0": "10.77.0.1", "m1": "10.77.0.2", "m2": "10.77.0.3", "m3": "10.77.0.4"}
SITE = f"http://{MACHINES['m0']}:8080"
#: Serve the local site at the coordinator's address.
SERVE = """
import signal, socket, sys
import tests.site as module
module._listen = lambda addresses, port: [socket.create_server((sys.argv[1], 8080), backlog=256)]
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
with module.Site():
    print("listening", flush=True)
    signal.sigwait({signal.SIGTERM})
"""
TASKS = 60
#: Seconds that a lease lives here, and by which the clock of one machine is off.
LIFE, SKEW = 3.0, 3600.0
#: Seconds that anything may take; see `wait_until`.
LONG = 60.0

pytestmark = [
    pytest.mark.once,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        os.environ.get("CI") != "true" and os.environ.get("CRAWLER_LONG") != "1", reason="takes long: CRAWLER_LONG=1"
    ),
]


def ip(*arguments: str) -> None:
    """Run `ip`."""
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=20)


class Net:
    """Machines on a bridge."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix

    def name(self, machine: str) -> str:
        """Return the namespace of a machine, or of the bridge, which is called `hub`."""
        return f"{self._prefix}{machine}"

    def build(self) -> None:
        """Make the bridge, and a machine for each address."""
        hub = self.name("hub")
        ip("netns", "add", hub)
        ip("-n", hub, "link", "add", "bridge", "type", "bridge")
        ip("-n", hub, "link", "set", "bridge", "up")
        for machine, address in MACHINES.items():
            there = self.name(machine)
            ip("netns", "add", there)
            ip("-n", there, "link", "add", "wire", "type", "veth", "peer", "name", machine, "netns", hub)
            ip("-n", hub, "link", "set", machine, "master", "bridge", "up")
            ip("-n", there, "addr", "add", f"{address}/24", "dev", "wire")
            ip("-n", there, "link", "set", "wire", "up")
            ip("-n", there, "link", "set", "lo", "up")

    def tear_down(self) -> None:
        """Remove all of it."""
        for machine in ("hub", *MACHINES):
            subprocess.run(["ip", "netns", "del", self.name(machine)], check=False, capture_output=True, timeout=20)

    def plug(self, machine: str, state: str) -> None:
        """Plug a machine into the bridge (up) or out of it (down)."""
        ip("-n", self.name("hub"), "link", "set", machine, state)

    def at(self, machine: str, *words: object) -> list[str]:
        """Return the command line that runs *words* on a machine."""
        # A name of its own, so that records and status tell the machines apart.
        inside = ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', machine]
        return ["ip", "netns", "exec", self.name(machine), *inside, *map(str, words)]


@pytest.fixture
def net() -> Iterator[Net]:
    """Build a network for one test."""
    made = Net(f"crawler{os.getpid()}-")
    if os.getuid() != 0 or not shutil.which("ip") or not shutil.which("unshare"):
        missing("needs root and iproute2")
    try:
        made.build()
    except subprocess.CalledProcessError as error:
        made.tear_down()
        missing(f"no network namespaces here: {error.stderr.decode()}")
    try:
        yield made
    finally:
        made.tear_down()


@contextmanager
def started(folder: Path, words: list[str], **more: Any) -> Iterator[subprocess.Popen[str]]:
    """Run a program beside the test; what is left of it at the end is killed with its children."""
    with (folder / "log").open("a") as log:
        process = subprocess.Popen(
            words, cwd=folder, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True, **more
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def clock(folder: Path, seconds: float) -> Path:
    """Return a file that says by how much a clock is off: see the campaign's launcher."""
    path = folder / f"clock{seconds:.0f}"
    path.write_bytes(struct.pack("d", seconds))
    return path


def leases(folder: Path) -> dict[str, int]:
    """Return the number of leases of each session, as the ledger has it."""
    with closing(sqlite3.connect(f"file:{folder / 'urls.crawl' / 'ledger.db'}?mode=ro", uri=True)) as db:
        return dict(db.execute("SELECT session, count(*) FROM leases GROUP BY session").fetchall())


def status(folder: Path, net: Net) -> dict[str, Any]:
    """Return `crawler status --json`, asked on the coordinator's machine."""
    words = net.at("m0", *command("status", "urls.crawl", "--json"))
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=LONG, check=False)
    found: dict[str, Any] = json.loads(done.stdout) if done.returncode == 0 else {}
    return found


def completed(folder: Path, net: Net) -> dict[str, int]:
    """Return how many tasks the worker of each machine completed that is with the coordinator."""
    return {worker["machine"]: worker["completed"] for worker in status(folder, net).get("workers", [])}


def stored(folder: Path, net: Net) -> int:
    """Return how many images are stored."""
    found: int = status(folder, net).get("stored", 0)
    return found


def test_four_machines(tmp_path: Path, net: Net) -> None:
    """
    With TLS and key; one is cut off for longer than its lease and comes back, one dies, one cannot write the store,
    and the clock of one is an hour off: every task ends once, and every image is there.
    """
    assert run(tmp_path, "keygen", "key").returncode == 0
    write_list(tmp_path, *(f"{SITE}/slow/0.5/photo/{number}.jpg" for number in range(TASKS)))
    launcher = [sys.executable, "-P", str(LAUNCHER), str(LIFE)]
    join = ("worker", f"{MACHINES['m0']}:7700", "--key", "key", "--processes", "1", "--threads", "4")
    seed = ("seed", "urls.txt", "--workers", "0", "--listen", f"{MACHINES['m0']}:7700", "--key", "key", "--keep-open")
    polite = ("--allow-net", "10.77.0.0/24", "--per-host", "4", "--robots", "ignore", "--timeout", "5")
    with ExitStack() as stack:

        def start(machine: str, *words: object, **more: Any) -> subprocess.Popen[str]:
            return stack.enter_context(started(tmp_path, net.at(machine, *words), **more))

        paths = {**os.environ, "PYTHONPATH": str(ROOT)}
        site = start("m0", sys.executable, "-P", "-c", SERVE, MACHINES["m0"], env=paths)
        assert site.stdout is not None and site.stdout.readline() == "listening\n"
        coordinator = start("m0", *launcher, clock(tmp_path, 0.0), *seed, *polite)
        wait_until((tmp_path / "urls.crawl" / "run" / "address").exists, LONG)

        cut_off = start("m1", *command(*join))
        wait_until(lambda: stored(tmp_path, net) and leases(tmp_path), LONG)
        net.plug("m1", "down")
        lost = set(leases(tmp_path))
        sender = start("m3", *command(*join, "--store", "none"))
        wait_until(lambda: not lost & set(leases(tmp_path)) and completed(tmp_path, net).get("m3"), LONG)
        doomed = start("m2", *launcher, clock(tmp_path, SKEW), *join)
        wait_until(lambda: "m2" in completed(tmp_path, net), LONG)
        os.killpg(doomed.pid, signal.SIGKILL)
        net.plug("m1", "up")
        wait_until(lambda: stored(tmp_path, net) == TASKS and "m1" in completed(tmp_path, net), LONG)

        coordinator.send_signal(signal.SIGTERM)
        assert [each.wait(LONG) for each in (coordinator, cut_off, sender)] == [75, 75, 75]

    kept = records(tmp_path, "urls.crawl")
    assert len(kept) == len({record["id"] for record in kept}) == TASKS
    assert {"m1", "m3"} <= {record["worker"] for record in kept} <= {"m1", "m2", "m3"}
    for record in kept:
        number = int(record["url"].rpartition("/")[2].partition(".")[0])
        assert (tmp_path / "urls.crawl" / record["path"]).read_bytes() == photo(number)
