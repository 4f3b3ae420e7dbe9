"""
The coordinator alone: how fast its queue takes, hands out and ends tasks, and how it grows.

    scripts/bench queue [--sizes 100000,1000000] [--ended 100000] [--machines 1,2,4,8] [--folder .bench]

The ledger is durable SQLite in the folder. Machines are stubs, threads of the same process. In the first part they
complete at once; in the second they hold each task for 0.2 s, as a network does. Each size has a process of its own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT))

from crawler import __version__  # noqa: E402
from crawler.broker.ledger import Ledger  # noqa: E402
from crawler.broker.local import LocalTaskQueue, Terms  # noqa: E402
from crawler.errors import StorageFailed  # noqa: E402
from crawler.model import PROTOCOL, Batch, Completion, Hello, Outcome, Progress, Role, Row, Welcome  # noqa: E402
from crawler.settings import Politeness, Settings  # noqa: E402
from scripts.benchmarks import chart  # noqa: E402

HOSTS = 100_000
#: Lines put at a time, as a producer does.
BATCH = 2_000
#: Of a hundred lines, how many repeat the line before.
REPEATED = 1
#: Leases asked for at a time, and requests that a stub machine has under way.
LEASES, CYCLES = 64, 8
#: Seconds for which the machines of the second part hold a task.
HOLD = 0.2


def failed(error: StorageFailed) -> None:
    """End the benchmark: the disk failed."""
    raise error


def opened(folder: Path) -> tuple[Ledger, LocalTaskQueue]:
    """Return a queue without robots.txt, on a ledger of its own."""
    ledger = Ledger(folder / "ledger.db", 0, failed)
    settings = Settings(politeness=Politeness(robots=False))
    base = Welcome(session="", version=__version__, lease_life=60, store="/", nonce="", settings=settings)
    return ledger, LocalTaskQueue(ledger, Terms(base, lambda session: None))


def join(queue: LocalTaskQueue, role: Role) -> str:
    """Open a session that stays."""
    found = queue.hello(Hello(protocol=PROTOCOL, version=__version__, machine="stub", role=role))
    queue.attached(found.session)
    return found.session


def resident() -> float:
    """Return the resident size of this process in MB."""
    text = Path("/proc/self/status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0]) / 1000


def fill(queue: LocalTaskQueue, size: int) -> float:
    """Put *size* lines, some of them twice; return the seconds that putting took, without making the lines."""
    session = join(queue, Role.PRODUCER)
    listed = queue.open_list(session, "list", False)
    seconds = 0.0
    for first in range(1, size + 1, BATCH):
        numbers = [n - (n % 100 < REPEATED) for n in range(first, first + BATCH)]
        rows = [
            Row(
                line=first + place,
                url=f"https://host{n * 7919 % HOSTS}.example/{n}",
                host=f"host{n * 7919 % HOSTS}.example",
            )
            for place, n in enumerate(numbers)
        ]
        batch = Batch(first_line=first, next_line=first + BATCH, offset=0, digest="0" * 64, total_bytes=None, rows=rows)
        began = time.perf_counter()
        queue.put(session, listed.id, batch)
        seconds += time.perf_counter() - began
    queue.seal(session, listed.id)
    return seconds


class Machines:
    """
    Stub machines: threads that lease, hold, and complete.

    Args:
        queue: Of this process.
        threads: Requests under way at a time, each of a session of its own.
        hold: Seconds between lease and completion.
    """

    def __init__(self, queue: LocalTaskQueue, threads: int, hold: float) -> None:
        self._queue = queue
        self._hold = hold
        self._threads = [threading.Thread(target=self._work) for _ in range(threads)]
        self._stop = threading.Event()
        self.waits: list[float] = []
        self.ended = 0
        self._lock = threading.Lock()

    def run(self, count: int, seconds: float) -> float:
        """End at least *count* tasks, or work for *seconds*; return the tasks ended per second."""
        began = time.perf_counter()
        for thread in self._threads:
            thread.start()
        while self.ended < count and time.perf_counter() - began < seconds and self._threads[0].is_alive():
            time.sleep(0.02)
        rate = self.ended / (time.perf_counter() - began)
        self._stop.set()
        for thread in self._threads:
            thread.join()
        return rate

    def _work(self) -> None:
        session, number = join(self._queue, Role.WORKER), 0
        while not self._stop.is_set():
            number += 1
            began = time.perf_counter()
            leases = self._queue.lease(session, number, LEASES, 1.0, Progress()).leases or []
            wait = time.perf_counter() - began
            if self._hold:
                time.sleep(self._hold)
            done = [
                Completion(
                    token=one.token,
                    task_id=one.task.id,
                    outcome=Outcome.STORED,
                    http_status=200,
                    path=f"ab/{one.task.id:064x}.jpg",
                    sha256=f"{one.task.id:064x}",
                    bytes=90_000,
                    width=640,
                    height=480,
                    format="JPEG",
                )
                for one in leases
            ]
            accepted = self._queue.complete(session, done)
            with self._lock:
                self.waits.append(wait)
                self.ended += len(accepted)


def measure(folder: Path, size: int, count: int, machines: list[int]) -> dict[str, Any]:
    """Fill one queue, empty a part of it, and measure both; then let more and more machines wait on it."""
    ledger, queue = opened(folder)
    seconds = fill(queue, size)
    full = resident()
    stubs = Machines(queue, 4, 0)
    rate = stubs.run(count, 60)
    waits = [1000 * wait for wait in stubs.waits]
    found = {
        "tasks": size,
        "put/s": size / seconds,
        "lease + complete/s": rate,
        "p50 ms": statistics.median(waits),
        "p99 ms": statistics.quantiles(waits, n=100)[98],
        "memory MB": max(full, resident()),
        "machines": [[number, Machines(queue, CYCLES * number, HOLD).run(size, 5)] for number in machines],
    }
    total = queue.stats()
    if total.total != size - size * REPEATED // 100:
        raise RuntimeError(f"{total.total} tasks of {size} lines")
    queue.close()
    ledger.close()
    return found


def main() -> None:
    """Measure each size in a process of its own; print, write JSON and charts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="100000,1000000", help="tasks in the queue")
    parser.add_argument("--ended", type=int, default=100_000, help="tasks leased and completed")
    parser.add_argument("--machines", default="1,2,4,8", help="stub machines that hold tasks, with the largest size")
    parser.add_argument("--folder", type=Path, default=Path(".bench"), help="ledger and results")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    sizes = [int(size) for size in chosen.sizes.split(",")]
    if chosen.one:
        machines = [int(number) for number in chosen.machines.split(",") if number]
        with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
            print(json.dumps(measure(Path(folder), sizes[0], chosen.ended, machines)))
        return
    results = []
    for size in sizes:
        command = [
            sys.executable,
            "-P",
            __file__,
            "--one",
            f"--sizes={size}",
            f"--ended={min(size // 2, chosen.ended)}",
        ]
        more = [f"--machines={chosen.machines if size == sizes[-1] else ''}", f"--folder={chosen.folder}"]
        done = subprocess.run([*command, *more], check=True, capture_output=True, text=True)
        results.append(json.loads(done.stdout))
        shown = (f"{name} {value:,.1f}" for name, value in results[-1].items() if name != "machines")
        print(", ".join(shown), flush=True)
    for number, rate in results[-1]["machines"]:
        print(f"{number} machines that hold {LEASES * CYCLES} tasks for {HOLD} s each: {rate:,.0f}/s")
    (chosen.folder / "queue.json").write_text(json.dumps(results, indent=2))
    write_charts(chosen.folder, results)


def write_charts(folder: Path, results: list[dict[str, Any]]) -> None:
    """Write how figures grow with the queue, and with the machines."""
    names = ("put/s", "lease + complete/s")
    rates = {name: [(one["tasks"], one[name]) for one in results] for name in names}
    (folder / "queue-rates.svg").write_text(chart.lines("tasks per second", "tasks in the queue", rates))
    memory = {"memory": [(one["tasks"], one["memory MB"]) for one in results]}
    (folder / "queue-memory.svg").write_text(chart.lines("resident MB", "tasks in the queue", memory))
    if machines := results[-1]["machines"]:
        ideal = [(number, number * LEASES * CYCLES / HOLD) for number, _ in machines]
        growth = {"ended": [(number, rate) for number, rate in machines], "if nothing else cost time": ideal}
        (folder / "queue-machines.svg").write_text(chart.lines("tasks per second", "machines", growth))


if __name__ == "__main__":
    main()
