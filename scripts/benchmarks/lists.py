"""
A large list in parquet: when the first image of it is stored, and what the coordinator needs while it is read.

    scripts/bench lists [--rows 10000000] [--seconds 0] [--folder .bench] [--format parquet]

The list has five columns and is made once for each size; its URLs are those of one local web site that has few images
and does not know the others. What is measured is the command as it is typed, with --columns '*', two downloaders on
this machine beside the coordinator; memory is that of the coordinator's process alone, looked at twice a second. With
--seconds it is stopped then, else read to the end of the list, and stopped there.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT))

import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402

from tests.site import Site  # noqa: E402

#: Rows made at a time, and in a row group.
CHUNK = 100_000
#: Hosts of the list: addresses of loopback.
HOSTS = 250
#: Seconds for the command to end when it is stopped.
END_WAIT = 120


def chunks(rows: int, port: int) -> Iterator[pa.Table]:
    """Yield the list in pieces: a key, the URL, a caption, and two numbers."""
    for first in range(0, rows, CHUNK):
        numbers = range(first, min(rows, first + CHUNK))
        yield pa.table(
            {
                "key": [f"{n:09d}" for n in numbers],
                "url": [f"http://127.0.0.{n * 7919 % HOSTS + 1}:{port}/photo/{n}.jpg" for n in numbers],
                "caption": [f"a photograph of thing number {n}, seen from the {n % 360} degrees side" for n in numbers],
                "width": [n % 4000 for n in numbers],
                "similarity": [n % 1000 / 1000 for n in numbers],
            }
        )


def make_list(path: Path, rows: int, port: int) -> None:
    """Write the list; a piece of it is a row group."""
    part = path.with_suffix(".part")
    pieces = chunks(rows, port)
    first = next(pieces)
    with pq.ParquetWriter(part, first.schema) as writer:
        writer.write_table(first)
        for piece in pieces:
            writer.write_table(piece)
    part.rename(path)


def resident(process: int) -> float:
    """Return the resident size of a process in MB, 0 where it is gone."""
    try:
        text = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0.0
    return int((text.partition("VmRSS:")[2].split() or ["0"])[0]) / 1000


def progress(ledger: Path) -> tuple[int, int, bool]:
    """Return (entries, stored images, whether the list was read to its end) as the ledger has them."""
    try:
        with closing(sqlite3.connect(f"{ledger.as_uri()}?mode=ro", uri=True, timeout=5)) as db:
            counts = dict(db.execute("SELECT name, n FROM counters"))
            sealed = db.execute("SELECT sealed FROM lists").fetchone()
    except sqlite3.Error:
        return 0, 0, False
    return counts.get("entries", 0), counts.get("stored", 0), bool(sealed and sealed[0])


def measure(path: Path, out: Path, seconds: float) -> dict[str, Any]:
    """Run the command until the list is read, or for so long; return what was seen."""
    shutil.rmtree(out, ignore_errors=True)
    options = ["--columns", "*", "--allow-net", "127.0.0.0/8", "--robots", "ignore", "-q"]
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, "-P", "-m", "crawler", "seed", str(path), "-o", str(out), *options])
    curve, first = list[tuple[float, int, float]](), None
    while process.poll() is None:
        entries, stored, is_read = progress(out / "ledger.db")
        passed = time.monotonic() - began
        first = first or (passed if stored else None)
        curve.append((round(passed, 1), entries, round(resident(process.pid), 1)))
        if is_read or (seconds and passed > seconds):
            break
        time.sleep(0.05 if first is None else 0.5)
    process.send_signal(signal.SIGINT)
    process.wait(END_WAIT)
    passed, entries, _ = curve[-1]
    return {
        "rows read": entries,
        "seconds": passed,
        "rows per second": round(entries / passed),
        "first image stored after": first and round(first, 2),
        "coordinator at most, MB": max(size for _, _, size in curve),
        "curve": curve[:: max(1, len(curve) // 20)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--folder", type=Path, default=ROOT / ".bench")
    parser.add_argument("--port", type=int, default=8123)
    options = parser.parse_args()
    options.folder.mkdir(exist_ok=True)
    path = options.folder / f"list-{options.rows}.parquet"
    if not path.exists():
        make_list(path, options.rows, options.port)
    print(f"{path}: {options.rows:,} rows, {path.stat().st_size / 1e6:,.0f} MB", file=sys.stderr)
    # A process of its own, so that what it needs is not measured as well.
    site = subprocess.Popen([sys.executable, __file__, "--site", str(options.port)])
    try:
        print(json.dumps(measure(path, options.folder / "lists.crawl", options.seconds), indent=2))
    finally:
        site.terminate()
        site.wait(END_WAIT)


def serve(port: int) -> None:
    """Be the web site until ended."""
    with Site(HOSTS, port):
        signal.sigwait({signal.SIGTERM, signal.SIGINT})


if __name__ == "__main__":
    if sys.argv[1:2] == ["--site"]:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
        serve(int(sys.argv[2]))
    else:
        main()
