"""
The fault campaign: see scripts/chaos, and README, "Fault campaign".

A real coordinator and real workers crawl a local site while they are killed, stopped, cut off and robbed of their disk;
then what they recorded is held against what the site served.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT))

from scripts.campaign.faults import Injector, mount_disk, unmount_disk  # noqa: E402
from scripts.campaign.fleet import Fleet, Shape  # noqa: E402
from scripts.campaign.report import Report, judge, path_of  # noqa: E402
from tests.site import Site  # noqa: E402

#: Hosts that the site is; the fleet is bound by what it may ask of each.
HOSTS = 8
#: Bytes of the file system in memory that is filled.
DISK = 96 << 20
#: Seconds for a run to end after its last fault.
CALM = 120.0
LEASE_LIFE = 6.0


def campaign(options: argparse.Namespace, seed: int, seconds: float) -> tuple[Report, Injector, float]:
    """Run once with *seed*, with faults for at most *seconds*."""
    folder = Path(tempfile.mkdtemp(prefix="crawler-campaign-"))
    disk = folder / "disk"
    is_mounted = mount_disk(disk, DISK)
    began = time.monotonic()
    is_good = False
    try:
        with Site(HOSTS) as site:
            urls = [site.url(path_of(number), 1 + number % HOSTS) for number in range(options.tasks)]
            fleet = Fleet(folder, disk / "out", urls, Shape(options.workers, 8, LEASE_LIFE), seed)
            try:
                injector = Injector(fleet, seed, disk if is_mounted else None)
                injector.run(options.pause, began + seconds)
                has_ended = fleet.wait(time.monotonic() + CALM)
            finally:
                fleet.close()
            report = judge(fleet, site, urls, injector.done, injector.in_hand)
        if not has_ended:
            report.unexpected.append(f"not done {CALM:.0f} s after the last fault")
        is_good = report.is_good
        return report, injector, time.monotonic() - began
    finally:
        if not is_good:
            kept = Path(tempfile.mkdtemp(prefix="crawler-campaign-failed-"))
            shutil.copytree(folder, kept, dirs_exist_ok=True, ignore=shutil.ignore_patterns("key", "run", "filler"))
            print(f"everything is kept in {kept}", file=sys.stderr)
        if is_mounted:
            unmount_disk(disk)
        shutil.rmtree(folder, ignore_errors=True)


def tell(seed: int, report: Report, injector: Injector, seconds: float) -> dict[str, Any]:
    """Print a report, and return it for JSON."""
    print(f"seed {seed}: {'kept every promise' if report.is_good else 'FAILED'}, {seconds:.0f} s")
    figures = {**report._asdict()}
    unexpected = figures.pop("unexpected")
    for name, value in figures.items():
        print(f"  {name.replace('_', ' '):14} {value:>8,}")
    print(f"  {'unexpected':14} {len(unexpected):>8,}")
    for line in unexpected[:20]:
        print(f"      {line}")
    print(f"  faults         {sum(injector.done.values()):>8,}")
    for name, count in sorted(injector.done.items()):
        print(f"      {count:5}  {name}")
    sys.stdout.flush()
    return {"seed": seed, "seconds": round(seconds, 1), **report._asdict(), "faults": injector.done}


def main() -> int:
    """Run one campaign, or many with `--long`; return 1 where a promise was broken."""
    parser = argparse.ArgumentParser(prog="scripts/chaos", description="Crawl a local site under seeded faults.")
    parser.add_argument("--seed", type=int, default=1, help="of faults, victims and pauses (1)")
    parser.add_argument("--long", action="store_true", help="an hour: seeds from --seed on, 10,000 tasks each")
    parser.add_argument("--tasks", type=int, help="URLs of a list (2,500; 10,000)")
    parser.add_argument("--workers", type=int, default=4, help="(4)")
    parser.add_argument("--pause", type=float, default=1.0, help="seconds between faults in the mean (1.0)")
    parser.add_argument("--seconds", type=float, help="how long faults come (60; an hour)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the reports there too")
    parser.add_argument("--log", action="store_true", help="print every fault with its time")
    options = parser.parse_args()
    options.tasks = options.tasks or (10_000 if options.long else 2_500)
    end = time.monotonic() + (options.seconds or (3600.0 if options.long else 60.0))
    reports, totals, seed = [], Counter[str](), options.seed
    while not reports or (options.long and time.monotonic() < end):
        report, injector, seconds = campaign(options, seed, end - time.monotonic())
        reports.append(tell(seed, report, injector, seconds))
        totals.update(good=report.is_good, bad=not report.is_good)
        if options.log:
            print("\n".join(injector.log))
        if injector.done["fill disk"] == 0:
            print("  the disk was not filled: no file system of its own (that needs root), or too short a run")
        if options.json:
            options.json.write_text(json.dumps(reports, indent=1) + "\n")
        seed += 1
    if len(reports) > 1:
        print(f"{totals['good']} campaigns kept every promise, {totals['bad']} did not")
    return 1 if totals["bad"] else 0


if __name__ == "__main__":
    sys.exit(main())
