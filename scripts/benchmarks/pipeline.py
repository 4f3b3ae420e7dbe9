"""
The figures of the pipeline, from one run on this machine: real processes, real sockets on loopback, real files.

Each measurement checks what it measured before it prints: a wrong count or a stray file is an error, not a figure.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT))

from tests.site import mixed, photo  # noqa: E402  (the site is a program of the tests, not of the package)

CRAWLER = str(Path(sys.executable).with_name("crawler"))
LOOPBACK = ("--allow-net", "127.0.0.0/8")
#: Seconds that any one command may take.
LIMIT = 1200.0


class Wrong(Exception):
    """What was measured is not what was asked for."""


def check(condition: object, what: str) -> None:
    """Raise Wrong unless *condition* holds."""
    if not condition:
        raise Wrong(what)


# ------------------------------------------------------------------ a site and a crawl


@contextmanager
def served() -> Iterator[str]:
    """Serve the local site from a process of its own; yield its base URL."""
    command = [sys.executable, "-P", str(ROOT / "tests" / "site.py")]
    site = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        assert site.stdout is not None
        yield site.stdout.readline().split()[1]
    finally:
        site.terminate()
        site.wait(10)


def crawl(*arguments: str) -> dict[str, Any]:
    """Run `crawler seed`; return its seconds, CPU seconds of the whole tree, and exit status."""
    began, before = time.monotonic(), os.times()
    run = subprocess.run([CRAWLER, "-q", "seed", *arguments], timeout=LIMIT, check=False)
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return {"seconds": time.monotonic() - began, "cpu": cpu, "status": run.returncode}


def exported(out: Path) -> list[dict[str, Any]]:
    """Return the rows of `crawler export`."""
    file = out.with_suffix(".jsonl")
    subprocess.run([CRAWLER, "export", str(out), str(file)], check=True, capture_output=True, timeout=LIMIT)
    return [json.loads(line) for line in file.read_text().splitlines()]


def images(out: Path) -> dict[str, str]:
    """Return the digest of each file below OUT/images."""
    found = {}
    for path in (out / "images").rglob("*"):
        if path.is_file():
            found[str(path.relative_to(out))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def children_of(pid: int) -> list[int]:
    """Return the processes below *pid*."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found[1:]


def resident(pid: int) -> int:
    """Return the peak resident size of a process in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    return 0


# ------------------------------------------------------------------ the measurements


def measure_site(folder: Path, quick: bool) -> dict[str, Any]:
    """A list of a local site: 10 % missing, 2 % not images, 2 % truncated."""
    count = 1_000 if quick else 10_000
    out, temporary = folder / "site.crawl", Path(os.environ["TMPDIR"])
    with served() as base:
        (folder / "site.txt").write_text("".join(f"{base}{mixed(number)}\n" for number in range(count)))
        before = set(temporary.iterdir()), set(children_of(os.getpid()))
        ran = crawl(str(folder / "site.txt"), "-o", str(out), *LOOPBACK, "--per-host", "64", "--robots", "ignore")
        after = set(temporary.iterdir()), set(children_of(os.getpid()))
    check(ran["status"] == 0, f"exit status {ran['status']}")
    rows, files = exported(out), images(out)
    outcomes = Counter(row["reason"] or row["outcome"] for row in rows)
    _check_rows(rows, files, count)
    check(before == after, f"left behind: {[b - a for a, b in zip(before, after, strict=True)]}")
    check(not list((out / "images").glob(".*")), "a spool was left behind")
    lines = (out / "completions.jsonl").read_text().splitlines()
    check(sorted(json.loads(line)["id"] for line in lines) == list(range(1, count + 1)), "not one record for each task")
    stored = outcomes["stored"]
    return {
        "urls": count,
        "outcomes": dict(outcomes),
        "seconds": ran["seconds"],
        "images/s": stored / ran["seconds"],
        "CPU ms/image": 1000 * ran["cpu"] / stored,
    }


def _check_rows(rows: list[dict[str, Any]], files: dict[str, str], count: int) -> None:
    """Hold rows and files against what the site serves for each path."""
    check(len(rows) == count, f"{len(rows)} rows for {count} lines")
    expected = {"missing": "http_not_found", "html": "html", "truncated": "truncated", "cut": "image_truncated"}
    for row in rows:
        kind, _, name = row["url"].split("/", 3)[3].partition("/")
        if kind == "photo":
            digest = hashlib.sha256(photo(int(name.partition(".")[0]))).hexdigest()
            check(row["outcome"] == "stored" and files.pop(row["path"]) == digest == row["sha256"], str(row))
        else:
            check(row["reason"] == expected[kind], str(row))
    check(not files, f"{len(files)} files without a row")


def measure_list(folder: Path, quick: bool) -> dict[str, Any]:
    """A long list: when the first image is stored, and how fast and in how much memory the list is read."""
    count = 100_000 if quick else 1_000_000
    figures: dict[str, Any] = {"lines": count}
    with served() as base:
        path = folder / "long.txt"
        with path.open("w") as file:
            file.writelines(f"{base}/photo/{number}.jpg\n" for number in range(count))
        figures["first image after s"] = _first_image(path, folder / "first.crawl")
        figures |= _read_only(path, folder / "long.crawl", count)
    return figures


def _first_image(path: Path, out: Path) -> float:
    began = time.monotonic()
    run = subprocess.Popen([CRAWLER, "-q", "seed", str(path), "-o", str(out), *LOOPBACK])
    try:
        while not any((out / "images").glob("??/*.jpg")):
            check(time.monotonic() - began < 60 and run.poll() is None, "no image after a minute")
            time.sleep(0.005)
        return time.monotonic() - began
    finally:
        run.send_signal(signal.SIGTERM)
        check(run.wait(60) == 75, "SIGTERM did not end it with 75")


def _read_only(path: Path, out: Path, count: int) -> dict[str, Any]:
    began = time.monotonic()
    run = subprocess.Popen([CRAWLER, "-q", "seed", str(path), "-o", str(out), "--workers", "0"])
    try:
        while _status(out).get("total", 0) < count:
            check(time.monotonic() - began < LIMIT and run.poll() is None, "the list was not read")
            time.sleep(0.5)
        seconds, size = time.monotonic() - began, resident(run.pid)
    finally:
        run.send_signal(signal.SIGTERM)
        run.wait(60)
    return {"lines/s": count / seconds, "coordinator MB": size / 1e6}


def _status(out: Path) -> dict[str, Any]:
    run = subprocess.run([CRAWLER, "status", str(out), "--json"], capture_output=True, text=True, check=False)
    found: dict[str, Any] = json.loads(run.stdout) if run.returncode == 0 else {}
    return found


def measure_help(folder: Path, quick: bool) -> dict[str, Any]:
    """`crawler --help` beside a bare interpreter, in turn."""
    pairs = [(_seconds(CRAWLER, "--help"), _seconds(sys.executable, "-c", "pass")) for _ in range(5 if quick else 15)]
    helped, bare = (statistics.median(column) for column in zip(*pairs, strict=True))
    return {"crawler --help s": helped, "python -c pass s": bare, "at most s": 3 * bare + 0.1}


def _seconds(*command: str) -> float:
    began = time.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    return time.monotonic() - began


def measure_placements(folder: Path, quick: bool) -> dict[str, Any]:
    """One worker, then two of which one sends its downloads through the result queue: the same set, byte for byte."""
    count = 300 if quick else 3_000
    with served() as base:
        (folder / "both.txt").write_text("".join(f"{base}{mixed(number)}\n" for number in range(count)))
        options = (*LOOPBACK, "--per-host", "64", "--robots", "ignore")
        one, two = folder / "one.crawl", folder / "two.crawl"
        crawl(str(folder / "both.txt"), "-o", str(one), *options)
        seed = subprocess.Popen(
            [CRAWLER, "-q", "seed", str(folder / "both.txt"), "-o", str(two), "--workers", "0", *options]
        )
        while not (two / "run" / "address").exists():
            check(seed.poll() is None, "the coordinator ended")
            time.sleep(0.02)
        workers = [
            subprocess.Popen([CRAWLER, "-q", "worker", str(two), "--processes", "1", "--threads", "16", *more])
            for more in ([], ["--store", "none"])
        ]
        statuses = [process.wait(LIMIT) for process in [*workers, seed]]
    check(statuses == [0, 0, 0], f"exit statuses {statuses}")
    check(images(one) == images(two), "the files differ")
    facts = ("url", "outcome", "reason", "path", "sha256", "bytes", "width", "height", "format")
    first, second = ([[row[name] for name in facts] for row in exported(out)] for out in (one, two))
    check(first == second, "the records differ")
    return {"urls": count, "files the same": len(images(one))}


MEASUREMENTS: dict[str, Callable[[Path, bool], dict[str, Any]]] = {
    "help": measure_help,
    "site": measure_site,
    "list": measure_list,
    "placements": measure_placements,
}


def main() -> None:
    """Measure, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, for CI")
    parser.add_argument("--only", choices=MEASUREMENTS, action="append", help="only this measurement (repeatable)")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    results = {}
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    # Theirs alone, so that what is left behind is not what other programs put there.
    os.environ["TMPDIR"] = str(folder / "temporary")
    try:
        (folder / "temporary").mkdir()
        for name in options.only or MEASUREMENTS:
            results[name] = MEASUREMENTS[name](folder, options.quick)
            print(f"{name}: {MEASUREMENTS[name].__doc__}")
            for figure, value in results[name].items():
                print(f"    {figure:<22} {value:,.2f}" if isinstance(value, float) else f"    {figure:<22} {value}")
    finally:
        shutil.rmtree(folder)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
