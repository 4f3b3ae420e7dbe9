"""The processes of a campaign: one coordinator, workers behind proxies of their own, and who starts them again."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

from scripts.campaign.proxy import Proxy

#: Seconds for a process to end after SIGKILL, or to serve after its start.
LIMIT = 30.0
#: Seconds between two looks at who has ended.
LOOK = 0.1
LAUNCHER = Path(__file__).with_name("coordinator.py")
WORKER = Path(__file__).with_name("worker.py")
#: Modules of children, by the name of the role.
CHILDREN = {"downloader": "crawler.worker.downloader", "verifier": "crawler.consumer.verifier"}


class Shape(NamedTuple):
    """How large a fleet is."""

    workers: int
    threads: int
    #: Seconds that a lease lives.
    lease_life: float
    #: Fetches at a time from one host.
    per_host: int = 8


class Member:
    """One process of the fleet, in a process group of its own, started again whenever it has ended."""

    def __init__(self, name: str, command: list[str], folder: Path) -> None:
        self.name = name
        self._command = command
        self._folder = folder
        self.log = folder / f"{name}.log"
        #: Where a worker leaves its session.
        self.note = folder / f"{name}.session"
        #: Exit statuses so far; negative for a signal.
        self.ends: list[int] = []
        #: Held while it is started again or sent a signal, so that none reaches a stranger.
        self._lock = threading.Lock()
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                self._command, cwd=self._folder, stdout=log, stderr=log, stdin=subprocess.DEVNULL, process_group=0
            )

    def look(self) -> int | None:
        """Return the exit status if it has ended, None while it runs."""
        return self.process.poll()

    def again(self) -> None:
        """Note how it ended, and start it once more."""
        with self._lock:
            self.ends.append(self.process.wait(LIMIT))
            self.process = self._start()

    def send(self, number: signal.Signals) -> bool:
        """Send a signal to it alone; tell whether it was there."""
        with self._lock:
            if self.process.poll() is not None:
                return False
            self.process.send_signal(number)
            return True

    def stop(self) -> int | None:
        """Stop it with all its children until somebody continues its process group; return that, None without one."""
        with self._lock, contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGSTOP)
            return self.process.pid
        return None

    def children(self, role: str) -> list[int]:
        """Return the process ids of its children of a role, sorted."""
        found = []
        for pid in _children(self.process.pid):
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace").split("\0")
                if CHILDREN[role] in words:
                    found.append(pid)
        return sorted(found)

    def kill(self) -> None:
        """Kill it with everything it started, and wait for its end."""
        for number in (signal.SIGCONT, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)
        self.process.wait(LIMIT)


class Fleet:
    """
    A run of `crawler seed` and workers, kept alive against all faults until the coordinator ends well.

    Args:
        folder: Empty folder for everything.
        out: Folder of the crawl; it may be on a file system of its own.
        urls: The list.
        shape: How large.
        seed: Of what the proxies decide.
    """

    def __init__(self, folder: Path, out: Path, urls: list[str], shape: Shape, seed: int) -> None:
        self.folder = folder
        self.out = out
        self.shape = shape
        self.clock = folder / "clock"
        self.clock.write_bytes(struct.pack("d", 0.0))
        #: Held while somebody must not be started again.
        self.hold = threading.Lock()
        #: completions.jsonl as it was whenever the coordinator had ended: (size of its whole lines, their SHA-256).
        self.kept: list[tuple[int, str]] = []
        self._done = threading.Event()
        (folder / "urls.txt").write_text("".join(f"{url}\n" for url in urls))
        subprocess.run([*_crawler(), "keygen", str(folder / "key")], check=True, capture_output=True, timeout=LIMIT)
        self._port = port = _free_port()
        self.coordinator = Member("coordinator", self._seed(port), folder)
        self._wait_served()
        self.proxies = [Proxy(("127.0.0.1", port), seed + number) for number in range(shape.workers)]
        for proxy in self.proxies:
            proxy.__enter__()
        self.workers = [
            Member(f"worker-{number}", self._worker(number, proxy.port), folder)
            for number, proxy in enumerate(self.proxies)
        ]
        self._keeper = threading.Thread(target=self._keep, name="fleet", daemon=True)
        self._keeper.start()

    def _seed(self, port: int) -> list[str]:
        return [
            *(sys.executable, "-P", str(LAUNCHER), str(self.shape.lease_life), str(self.clock)),
            *("seed", "urls.txt", "-o", str(self.out), "--workers", "0", "--listen", f"127.0.0.1:{port}"),
            *("--key", "key", "--allow-net", "127.0.0.0/8", "--per-host", str(self.shape.per_host)),
            *("--pause-limit", "60", "--min-free", "0"),
        ]

    def _worker(self, number: int, port: int) -> list[str]:
        # The last one cannot write the store: its downloads go over the result queue.
        store = ["--store", "none"] if number == self.shape.workers - 1 else []
        return [
            *(
                sys.executable,
                "-P",
                str(WORKER),
                f"worker-{number}.session",
                "worker",
                f"127.0.0.1:{port}",
                "--key",
                "key",
            ),
            *("--give-up", "600", "--processes", "2", "--threads", str(self.shape.threads), *store, "-v"),
        ]

    def _wait_served(self) -> None:
        deadline = time.monotonic() + LIMIT
        while not self.is_served():
            if self.coordinator.look() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the coordinator does not start: see {self.coordinator.log}")
            time.sleep(LOOK)

    # ------------------------------------------------------------ keeping it alive

    @property
    def members(self) -> list[Member]:
        """The coordinator, then the workers."""
        return [self.coordinator, *self.workers]

    def _keep(self) -> None:
        while not self._done.wait(LOOK):
            with self.hold:
                if self.coordinator.look() == 0:
                    return
                if self.coordinator.look() is not None:
                    self._remember()
                for member in self.members:
                    if member.look() is not None:
                        member.again()

    def _remember(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            data = (self.out / "completions.jsonl").read_bytes()
            whole = data[: data.rfind(b"\n") + 1]
            self.kept.append((len(whole), hashlib.sha256(whole).hexdigest()))

    def is_served(self) -> bool:
        """Tell whether the coordinator listens: it has opened its ledger and its store by then."""
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port), 1.0):
            return True
        return False

    def is_finished(self) -> bool:
        """Tell whether the coordinator has ended with 0."""
        return self.coordinator.look() == 0

    def in_hand(self, worker: Member | None = None) -> int:
        """Return the number of tasks that are leased at the moment, to *worker* or to all, as the ledger has it."""
        session = worker.note.read_text() if worker and worker.note.exists() else ""
        with contextlib.suppress(sqlite3.Error):
            db = sqlite3.connect(f"file:{self.out / 'ledger.db'}?mode=ro", uri=True, timeout=5)
            with contextlib.closing(db):
                query = "SELECT count(*) FROM leases WHERE task > 0 AND (session = ? OR ?)"
                found: int = db.execute(query, (session, worker is None)).fetchone()[0]
                return found
        return 0

    def wait(self, deadline: float) -> bool:
        """Wait for the end of the run until *deadline* (monotonic); return whether it has ended."""
        while not self.is_finished() and time.monotonic() < deadline:
            self._done.wait(LOOK)
        return self.is_finished()

    def close(self) -> None:
        """End everything: workers may leave by themselves for a moment, then they are killed."""
        end_by = time.monotonic() + 10.0
        while self.is_finished() and time.monotonic() < end_by and any(m.look() is None for m in self.workers):
            self._done.wait(LOOK)
        self._done.set()
        self._keeper.join(LIMIT)
        for member in self.members:
            if member.look() is None:
                member.kill()
            member.ends.append(member.process.wait(LIMIT))
        for proxy in self.proxies:
            proxy.__exit__()


def _crawler() -> list[str]:
    return [sys.executable, "-P", "-m", "crawler"]


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                found += map(int, (thread / "children").read_text().split())
    return found


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
