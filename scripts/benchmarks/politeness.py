"""
What politeness keeps to, and what it costs: against servers on loopback that record every request's time.

    python scripts/benchmarks/politeness.py [--quick] [--only limits|asked|dead|robots] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT))

from tests.site import Request, Site, most_at_once  # noqa: E402  (the site is a program of the tests)

CRAWLER = [sys.executable, "-P", "-m", "crawler"]
LOOPBACK = ("--allow-net", "127.0.0.0/8")
#: Seconds that any one command may take.
LIMIT = 900.0


class Wrong(Exception):
    """What was measured is not what was asked for."""


def check(condition: object, what: str) -> None:
    """Raise Wrong unless *condition* holds."""
    if not condition:
        raise Wrong(what)


# ------------------------------------------------------------------ a crawl


def write(folder: Path, urls: list[str], name: str = "urls.txt") -> Path:
    """Write a list."""
    path = folder / name
    path.write_text("".join(f"{url}\n" for url in urls))
    return path


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command of crawler to its end."""
    return subprocess.run([*CRAWLER, *arguments], capture_output=True, text=True, timeout=LIMIT, check=False)


def crawl(path: Path, *options: str) -> tuple[float, dict[str, Any]]:
    """Crawl a list to its end; return (seconds, status)."""
    out = path.with_suffix(".crawl")
    began = time.monotonic()
    done = run("seed", str(path), *LOOPBACK, *options)
    seconds = time.monotonic() - began
    check(done.returncode == 0, f"crawler ended with {done.returncode}: {done.stderr[-500:]}")
    return seconds, status(out)


def status(out: Path) -> dict[str, Any]:
    """Return how a crawl stands."""
    done = run("status", str(out), "--json")
    return json.loads(done.stdout) if done.returncode == 0 else {}


def records(out: Path) -> list[dict[str, Any]]:
    """Return all recordings."""
    return [json.loads(line) for line in (out / "completions.jsonl").read_text().splitlines()]


def by_host(requests: list[Request]) -> dict[str, list[Request]]:
    """Return requests by their host, in the order of their starts."""
    found: dict[str, list[Request]] = defaultdict(list)
    for request in sorted(requests, key=lambda request: request.start):
        found[request.host].append(request)
    return found


@contextmanager
def dead(ip: str) -> Iterator[str]:
    """Yield the URL of a host where connecting is answered with nothing: the queue of its listener is full."""
    with ExitStack() as held:
        listener = held.enter_context(socket.create_server((ip, 0), backlog=0))
        for _ in range(8):
            client = held.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        yield f"http://{ip}:{listener.getsockname()[1]}"


# ------------------------------------------------------------------ the measurements


def measure_limits(folder: Path, quick: bool) -> dict[str, Any]:
    """40 hosts, 4 workers, two fetches at a time and 0.2 s between starts, the coordinator killed in the middle."""
    hosts, each = (8, 10) if quick else (40, 40)
    options = ["--per-host", "2", "--delay", "0.2", "--workers", "0"]
    with Site(addresses=hosts) as site, ExitStack() as started:
        path = write(folder, [site.url(f"/slow/0.3/photo/{n}.jpg", 1 + n % hosts) for n in range(hosts * each)])
        out = path.with_suffix(".crawl")

        key, address = folder / "key", f"127.0.0.1:{free_port()}"
        check(run("keygen", str(key)).returncode == 0, "no key")

        def start(*command: object) -> subprocess.Popen[bytes]:
            line = [*CRAWLER, *map(str, command), "--key", str(key), "-q"]
            process = subprocess.Popen(line, stdout=subprocess.DEVNULL, process_group=0)
            started.callback(lambda: process.poll() is not None or os.killpg(process.pid, signal.SIGKILL))
            return process

        seed = ("seed", path, *LOOPBACK, *options, "--listen", address)
        coordinator = start(*seed)
        wait(lambda: status(out).get("running"))
        workers = [start("worker", address, "--processes", "1", "--threads", "16") for _ in range(4)]
        wait(lambda: status(out).get("stored", 0) > hosts * each // 2)
        coordinator.kill()
        coordinator.wait()
        again = start(*seed)  # the workers ride it out
        check(again.wait(LIMIT) == 0, "the second coordinator failed")
        check([worker.wait(60) for worker in workers] == [0] * 4, "a worker failed")
        check(status(out)["stored"] == hosts * each, f"not all stored: {status(out)}")
        requests = by_host(site.requests)
    gaps = [b.start - a.start for found in requests.values() for a, b in zip(found, found[1:], strict=False)]
    return {
        "hosts": hosts,
        "requests": sum(map(len, requests.values())),
        "most at a time": max(most_at_once(found) for found in requests.values()),
        "least gap": round(min(gaps), 4),
        "gaps below 0.18 s": sum(gap < 0.18 for gap in gaps),
    }


def measure_asked(folder: Path, quick: bool) -> dict[str, Any]:
    """One host that allows 2 requests/s and answers 429 with Retry-After: 3, among others bound by latency."""
    pairs, others, each, limited = (1, 4, 60, 8) if quick else (5, 8, 250, 30)
    rates: list[float] = []
    late: list[float] = []
    counts = []
    for pair in range(pairs):
        seconds = {}
        for name in ("with", "without"):
            with Site(addresses=others + 1) as site:
                urls = [site.url(f"/slow/0.1/photo/{n}.jpg", 2 + n % others) for n in range(others * each)]
                if name == "with":
                    step = len(urls) // limited
                    for n in range(limited):
                        urls.insert(n * (step + 1), site.url(f"/limited/2/3/{n}.jpg"))
                path = write(folder, urls, f"{name}{pair}.txt")
                _, found = crawl(path, "--processes", "1", "--threads", "96", "--robots", "ignore")
                check(found["stored"] == len(urls), f"not all stored: {found['reasons']}")
                mine = [r for r in site.requests if r.host.startswith("127.0.0.1:")]
                rest = [r for r in site.requests if not r.host.startswith("127.0.0.1:")]
            seconds[name] = max(r.end for r in rest) - min(r.start for r in rest)
            refusals = [r.end for r in mine if r.status == 429]
            # The window begins when the answer was sent; what was on its way then cannot be taken back.
            late += [r.start - end for end in refusals for r in mine if end < r.start < end + 3.0]
            if name == "with":
                counts.append(len(refusals))
        rates.append(seconds["without"] / seconds["with"])
    return {
        "pairs": pairs,
        "429 answers a run": counts,
        "requests in windows": len(late),
        "latest of them after the 429": round(max(late, default=0.0), 4),
        "rate of the others, with / without": round(statistics.median(rates), 3),
    }


def measure_dead(folder: Path, quick: bool) -> dict[str, Any]:
    """A list sorted by host; one host of 40 % of it does not answer."""
    total = 2_000 if quick else 100_000
    lost, others = total * 2 // 5, 100
    seconds = {}
    with Site(addresses=others) as site, dead("127.0.0.201") as gone:
        alive = [site.url(f"/photo/{n}.jpg", 1 + n * others // (total - lost)) for n in range(total - lost)]
        for name, urls in (
            ("without", alive),
            ("with", [*alive[: len(alive) // 2], *(f"{gone}/{n}.jpg" for n in range(lost)), *alive[len(alive) // 2 :]]),
        ):
            path = write(folder, urls, f"{name}.txt")
            before = len(site.requests)
            _, found = crawl(path, "--robots", "ignore", "--connect-timeout", "10", "--attempts", "3")
            check(found["stored"] == len(alive), f"not all stored: {found['reasons']}")
            mine = site.requests[before:]
            seconds[name] = max(r.end for r in mine) - min(r.start for r in mine)
    last = {record["id"]: record for record in records(folder / "with.crawl")}
    fetches = sum(record["attempts"] for record in last.values() if record["url"].startswith(gone))
    return {
        "tasks": total,
        "of the dead host": lost,
        "connections to it": fetches,
        "reasons": found["reasons"],
        "time of the others, with / without": round(seconds["with"] / seconds["without"], 3),
    }


def measure_robots(folder: Path, quick: bool) -> dict[str, Any]:
    """Twenty URLs a host, with robots.txt and without, in turn."""
    hosts, pairs = (20, 1) if quick else (200, 5)
    rates = []
    with Site(addresses=hosts) as site:
        site.robots = site.robots._replace(status=200, body=b"User-agent: *\nDisallow: /private/\nAllow: /\n")
        urls = [site.url(f"/slow/0.02/photo/{n}.jpg", 1 + n % hosts) for n in range(20 * hosts)]
        asked = 0
        for pair in range(pairs):
            seconds = {}
            for rule in ("obey", "ignore"):
                before = site.count("/robots.txt")
                path = write(folder, urls, f"{rule}{pair}.txt")
                began = len(site.requests)
                _, found = crawl(path, "--robots", rule)
                check(found["stored"] == len(urls), f"not all stored: {found['reasons']}")
                mine = site.requests[began:]
                seconds[rule] = max(r.end for r in mine) - min(r.start for r in mine)
                asked = max(asked, site.count("/robots.txt") - before)
            rates.append(seconds["ignore"] / seconds["obey"])
    return {
        "hosts": hosts,
        "requests for robots.txt": asked,
        "rate, obey / ignore": round(statistics.median(rates), 3),
    }


def wait(condition: Any) -> None:
    """Wait until *condition* holds."""
    end = time.monotonic() + LIMIT
    while not condition():
        check(time.monotonic() < end, "waited for too long")
        time.sleep(0.05)


def free_port() -> int:
    """Return a port that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


MEASUREMENTS = {
    "limits": measure_limits,
    "asked": measure_asked,
    "dead": measure_dead,
    "robots": measure_robots,
}


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description="Measure what politeness keeps to, and what it costs.")
    parser.add_argument("--quick", action="store_true", help="small enough for CI")
    parser.add_argument("--only", choices=MEASUREMENTS, help="this one")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    options = parser.parse_args()
    found = {}
    for name, measure in MEASUREMENTS.items():
        if options.only in (None, name):
            with tempfile.TemporaryDirectory() as folder:
                found[name] = measure(Path(folder), options.quick)
            print(f"{name}: {(measure.__doc__ or '').strip()}")
            for key, value in found[name].items():
                print(f"    {key:<40} {value}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
