"""
Near duplicates: images judged per second, and the memory it takes, beside so many that were recorded before.

    scripts/bench likeness [--sizes 10000,100000,1000000] [--distances 3,7,11] [--images 20000]

For each size a ledger is made with so many records whose hashes are by chance, and a process of its own judges images
as the queue does: in durable transactions, 256 images in each. One in ten is near a recorded one; that exactly these
are found is checked. The processor time and the memory are those of that process.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from crawler.broker.duplicates import Duplicates
from crawler.broker.ended import Body, Ended
from crawler.broker.ledger import Ledger
from crawler.facts import Facts
from crawler.settings import NearDuplicates

#: Images judged in one transaction.
BATCH = 256
#: Of how many images one is a duplicate.
NEAR = 10
#: Where ledgers are made.
FOLDER = Path(".bench")
#: Rows written at a time.
ROWS = 10_000


def body(value: int) -> Body:
    """Return the body of a record whose image has a hash."""
    return Body(attempts=1, http_status=200, path="ab/ab.jpg", bytes=1, facts=Facts(phash=f"{value:016x}"))


def signed(value: int) -> int:
    """Return a hash as a ledger keeps it."""
    return value - (1 << 64) if value >> 63 else value


def fill(path: Path, size: int) -> None:
    """Make a ledger with so many records; the hashes are those of `hashes`."""
    ledger, encode = Ledger(path, 0, lambda error: None), msgspec.msgpack.Encoder().encode
    values = hashes(size)
    for start in range(1, size + 1, ROWS):
        some = [(task, next(values)) for task in range(start, min(start + ROWS, size + 1))]
        ledger.change(lambda changes, some=some: write(changes.db, some, encode))  # type: ignore[misc]
    ledger.close()


def write(db: Any, some: list[tuple[int, int]], encode: Any) -> None:
    """Write tasks and their records."""
    db.executemany(
        "INSERT INTO tasks(id, host, state, attempts, seq, url) VALUES (?, 1, 2, 1, ?, ?)",
        [(task, task, f"http://h.test/{task}") for task, _ in some],
    )
    rows = [(task, task, None, 0.0, encode(body(value))) for task, value in some]
    db.executemany("INSERT INTO records VALUES (?, ?, ?, ?, ?)", rows)
    db.executemany("INSERT INTO likeness VALUES (?, ?)", [(signed(value), task) for task, value in some])


def hashes(seed: int) -> Iterator[int]:
    """Yield hashes by chance, the same for each seed."""
    chance = random.Random(seed)
    while True:
        yield chance.getrandbits(64)


def images(size: int, count: int, distance: int) -> list[tuple[int, int | None]]:
    """Return (hash, task that it is a duplicate of, None for none) of so many images."""
    chance, known, found = random.Random(distance), hashes(size), []
    for number in range(count):
        value: int = chance.getrandbits(64)
        original = None
        if number % NEAR == 0 and number // NEAR < size:
            original = number // NEAR + 1
            value = next(known) ^ sum(1 << bit for bit in chance.sample(range(64), chance.randint(0, distance)))
        found.append((value, original))
    return found


def memory() -> dict[str, int]:
    """Return resident bytes of this process, in all and without those of files."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {name: int(lines[name].split()[0]) * 1024 for name in ("VmHWM", "RssAnon")}


def judge(path: Path, size: int, distance: int, count: int) -> dict[str, Any]:
    """Judge images, and return what it took."""
    ledger = Ledger(path, 0, lambda error: None)
    began = time.perf_counter()
    duplicates = Duplicates(NearDuplicates(distance=distance), path.parent, ledger.view.hashes())
    start = time.perf_counter() - began
    wanted = images(size, count, distance)
    ends = [Ended(None, size + n, None, body(value)) for n, (value, _) in enumerate(wanted, 1)]
    began, cpu, found = time.perf_counter(), time.process_time(), []
    for at in range(0, count, BATCH):
        some = ends[at : at + BATCH]
        found += ledger.change(lambda changes, some=some: duplicates.judge(changes.db, some))  # type: ignore[misc]
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    named = [end.body.facts and end.body.facts.duplicate_of for end in found]
    missed = sum(original is not None and one is None for one, (_, original) in zip(named, wanted, strict=True))
    if missed or sum(one is not None for one in named) > 2 * count / NEAR:
        sys.exit(f"{missed} duplicates were not found, or too many were")
    ledger.close()
    rates = {"images_per_second": count / seconds, "images_per_cpu_second": count / cpu}
    return {"size": size, "distance": distance, **rates, "start_seconds": start, **memory()}


def main() -> None:
    """Print a row for each size and distance."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="10000,100000,1000000")
    parser.add_argument("--distances", default="3,7,11")
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--judge", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.judge:
        path, size, distance = options.judge
        print(json.dumps(judge(Path(path), int(size), int(distance), options.images)))
        return
    print("  recorded  bits  images/s  per CPU second  start    resident  of these anonymous")
    FOLDER.mkdir(exist_ok=True)
    for size in map(int, options.sizes.split(",")):
        with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
            path = Path(folder) / "ledger.db"
            fill(path, size)
            for distance in map(int, options.distances.split(",")):
                show(ask(path, size, distance, options.images))


def ask(path: Path, size: int, distance: int, count: int) -> dict[str, Any]:
    """Judge images in a process of its own."""
    command = [sys.executable, "-P", __file__, "--images", str(count), "--judge", str(path), str(size), str(distance)]
    answer: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return answer


def show(row: dict[str, Any]) -> None:
    """Print one row."""
    print(
        f"{row['size']:>10,} {row['distance']:>5} {row['images_per_second']:>9,.0f}"
        f" {row['images_per_cpu_second']:>15,.0f} {row['start_seconds']:>5.1f} s {row['VmHWM'] / 1e6:>7,.0f} MB"
        f" {row['RssAnon'] / 1e6:>14,.0f} MB",
        flush=True,
    )


if __name__ == "__main__":
    main()
