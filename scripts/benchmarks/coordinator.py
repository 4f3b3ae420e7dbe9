"""
The coordinator alone: how fast its queue takes, hands out and ends tasks, and how it grows.

    scripts/bench queue [--sizes 100000,1000000] [--machines 1,2,4,8] [--threads 1,2,4,8,16] [--folder .bench]

The ledger is durable SQLite in the folder. Machines are stubs, processes that speak over the wire (see stubs.py). In
the first part they complete at once; in the others they hold each task for 0.2 s, as a network does. Each size has a
process of its own; it ends as if it were killed, and the next start is timed to its first lease. Beside it all: what
SQLite alone reaches, in the same run.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT))

from crawler import __version__  # noqa: E402
from crawler.broker import TaskQueue, keys  # noqa: E402
from crawler.broker.address import format_address  # noqa: E402
from crawler.broker.ledger import Ledger  # noqa: E402
from crawler.broker.local import LocalTaskQueue  # noqa: E402
from crawler.broker.manager import QueueServer, Service  # noqa: E402
from crawler.broker.terms import Terms  # noqa: E402
from crawler.errors import StorageFailed  # noqa: E402
from crawler.model import PROTOCOL, Batch, Hello, Progress, QueueStatus, Role, Row, Welcome  # noqa: E402
from crawler.settings import Politeness, Settings  # noqa: E402
from scripts.benchmarks import chart, plain, stubs  # noqa: E402

HOSTS = 100_000
#: Lines put at a time, as a producer does.
BATCH = 2_000
#: Of a hundred lines, how many repeat the line before.
REPEATED = 1
#: Requests that a stub machine has under way.
CYCLES = 8
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


class Growth(NamedTuple):
    """What is measured beside the size."""

    machines: list[int]
    threads: list[int]
    #: Seconds for each figure.
    seconds: float
    #: Requests under way where tasks are completed at once.
    requests: int = CYCLES


def percentiles(waits: list[float]) -> dict[str, float]:
    """Return the median and the 99th percentile."""
    return {"p50 ms": statistics.median(waits), "p99 ms": statistics.quantiles(waits, n=100)[98]}


def serve(queue: LocalTaskQueue, folder: Path) -> stubs.Served:
    """Serve the queue on loopback."""
    key = keys.fresh(folder / "run")
    server = QueueServer([Service("task_queue", TaskQueue, queue)], ("127.0.0.1", 0), key, queue)
    server.start()
    return stubs.Served(format_address(server.address), str(folder / "run"))


def measure(folder: Path, size: int, growth: Growth) -> dict[str, Any]:
    """Fill one queue, empty a part of it, and measure both; then let more and more machines wait on it."""
    cpu = time.process_time()
    _, queue = opened(folder)
    seconds = fill(queue, size)
    found = {"tasks": size, "put/s": size / seconds, "put CPU us": 1e6 * (time.process_time() - cpu) / size}
    found["memory MB"] = resident()
    alone = plain.rates(folder, min(size, 1_000_000))
    found |= {"plain inserts/s": alone.inserted, "plain lease + complete/s": alone.ended}
    if queue.stats().total != size - size * REPEATED // 100:
        raise RuntimeError(f"{queue.stats().total} tasks of {size} lines")
    served, cpu, done = serve(queue, folder), time.process_time(), queue.stats().stored
    worked = stubs.run(served, 1, growth.requests, 0.0, growth.seconds)
    done = queue.stats().stored - done
    found |= {"lease + complete/s": worked.rate, "CPU us": 1e6 * (time.process_time() - cpu) / done}
    found |= percentiles(worked.waits)
    hold = (HOLD, growth.seconds)
    found["machines"] = [[number, stubs.run(served, number, CYCLES, *hold).rate] for number in growth.machines]
    found["threads"] = [[number, stubs.run(served, 1, number, *hold).rate] for number in growth.threads]
    found["memory MB"] = max(found["memory MB"], resident())
    return found


def first(folder: Path) -> None:
    """Open a ledger that was left, and say when the first task is leased."""
    _, queue = opened(folder)
    session, number = join(queue, Role.WORKER), 0
    while True:
        number += 1
        grant = queue.lease(session, number, stubs.LEASES, 1.0, Progress())
        if grant.leases or grant.status is not QueueStatus.OPEN:
            break
    print("leased" if grant.leases else "finished", flush=True)
    os._exit(0)


def restart(folder: Path) -> float:
    """Return the seconds from the start of a process to its first lease, 0 where no task is left."""
    began = time.perf_counter()
    command = [sys.executable, "-P", __file__, "--first", f"--folder={folder}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        if started.stdout.readline() != "leased\n":
            return 0.0  # the machines had ended all there was
        return time.perf_counter() - began


def numbers(text: str) -> list[int]:
    """Return the numbers of a list with commas."""
    return [int(number) for number in text.split(",") if number]


def main() -> None:
    """Measure each size in a process of its own; print, write JSON and charts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="100000,1000000", help="tasks in the queue")
    parser.add_argument("--machines", default="1,2,4,8", help="stub machines that hold tasks, with the largest size")
    parser.add_argument("--threads", default="1,2,4,8,16", help="requests under way of one of them, likewise")
    parser.add_argument("--seconds", type=float, default=5.0, help="for each figure but that of putting")
    parser.add_argument(
        "--requests", type=int, default=CYCLES, help="requests under way where all is completed at once"
    )
    parser.add_argument("--folder", type=Path, default=Path(".bench"), help="ledger and results")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--first", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.first:
        first(chosen.folder)
    if chosen.one:
        growth = Growth(numbers(chosen.machines), numbers(chosen.threads), chosen.seconds, chosen.requests)
        print(json.dumps(measure(chosen.folder, int(chosen.sizes), growth)), flush=True)
        os._exit(0)  # as a kill would
    chosen.folder.mkdir(parents=True, exist_ok=True)
    sizes = numbers(chosen.sizes)
    results = [measured(size, chosen, size == sizes[-1]) for size in sizes]
    (chosen.folder / "queue.json").write_text(json.dumps(results, indent=2))
    write_charts(chosen.folder, results)


def measured(size: int, chosen: argparse.Namespace, is_last: bool) -> dict[str, Any]:
    """Measure one size in a process of its own, and the restart after it; print both."""
    with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
        machines, threads = (chosen.machines, chosen.threads) if is_last else ("", "")
        command = [sys.executable, "-P", __file__, "--one", f"--sizes={size}", f"--seconds={chosen.seconds}"]
        more = [f"--machines={machines}", f"--threads={threads}", f"--requests={chosen.requests}", f"--folder={folder}"]
        done = subprocess.run([*command, *more], check=True, stdout=subprocess.PIPE, text=True)
        found: dict[str, Any] = json.loads(done.stdout)
        found["first lease s"] = restart(Path(folder))
    print(", ".join(f"{name} {value:,.1f}" for name, value in found.items() if not isinstance(value, list)), flush=True)
    for name in ("machines", "threads"):
        print("".join(f"{number} {name}: {rate:,.0f}/s\n" for number, rate in found[name]), end="", flush=True)
    return found


def write_charts(folder: Path, results: list[dict[str, Any]]) -> None:
    """Write how figures grow with the queue, and with the machines."""
    names = ("put/s", "lease + complete/s", "plain inserts/s", "plain lease + complete/s")
    rates = {name: [(one["tasks"], one[name]) for one in results] for name in names}
    (folder / "queue-rates.svg").write_text(chart.lines("tasks per second", "tasks in the queue", rates))
    memory = {"at most, while putting and leasing": [(one["tasks"], one["memory MB"]) for one in results]}
    (folder / "queue-memory.svg").write_text(
        chart.lines("resident MB of the coordinator", "tasks in the queue", memory)
    )
    units = {
        "machines": f"stub machines, each with {CYCLES} requests under way",
        "threads": "requests under way of one",
    }
    for name, unit in units.items():
        if found := results[-1][name]:
            requests = CYCLES if name == "machines" else 1
            ideal = [(number, number * requests * stubs.LEASES / HOLD) for number, _ in found]
            growth = {"ended": [(number, rate) for number, rate in found], "if nothing else cost time": ideal}
            title = f"tasks ended per second, each held for {HOLD} s"
            (folder / f"queue-{name}.svg").write_text(chart.lines(title, unit, growth, is_linear=True))


if __name__ == "__main__":
    main()
