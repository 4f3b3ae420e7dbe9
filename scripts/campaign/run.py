"""
The fault campaigns: see scripts/chaos, and README, "Fault campaign".

A real coordinator and real workers crawl a local site while they are killed, stopped, cut off and robbed of their disk;
then what they recorded is held against what the site served.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT))

from scripts.campaign import disk, drains, restarts, strangers  # noqa: E402
from scripts.campaign.faults import Injector  # noqa: E402
from scripts.campaign.fleet import Fleet, Member, Shape  # noqa: E402
from scripts.campaign.plans import PLANS, Plan  # noqa: E402
from scripts.campaign.report import Report, judge, path_of  # noqa: E402
from scripts.campaign.samples import Sampler  # noqa: E402
from tests.site import Request, Site  # noqa: E402

#: Hosts that the site is; the fleet is bound by what it may ask of each.
HOSTS = 8
#: Bytes of the file system in memory that is filled.
DISK = 96 << 20
#: Seconds for a run to end after its last fault.
CALM = 1800.0
#: Bytes of the ledger that the coordinator keeps in memory at most: its cache fills as the ledger grows.
CACHE = 64 << 20
#: Lines of what is unexpected that are shown.
SHOWN = 20
#: Campaigns of another kind: name to (what it does, what runs it with a folder and a seed).
OTHERS: dict[str, tuple[str, Callable[[Path, int], Any]]] = {
    "drains": (drains.MEANING, drains.campaign),
    "restarts": (restarts.MEANING, restarts.campaign),
    "strangers": (strangers.MEANING, strangers.campaign),
}


class CountedSite(Site):
    """A site that is asked so often that it only counts."""

    def __init__(self, addresses: int) -> None:
        super().__init__(addresses)
        #: By path.
        self.fetched = Counter[str]()

    def note(self, request: Request) -> None:
        """Count a request."""
        self.fetched[request.path] += 1


class Outcome(NamedTuple):
    """What one campaign of a plan came to."""

    report: Report
    injector: Injector
    sampler: Sampler | None
    seconds: float


@contextmanager
def kept_if_bad(is_good: list[bool]) -> Iterator[Path]:
    """Yield a folder that is kept, without its keys, unless *is_good* holds a True at the end."""
    folder = Path(tempfile.mkdtemp(prefix="crawler-campaign-"))
    (folder / "temporary").mkdir()
    # For the processes that are killed: what they leave goes with the campaign.
    os.environ["TMPDIR"] = str(folder / "temporary")
    try:
        yield folder
    finally:
        if True not in is_good:
            kept = Path(tempfile.mkdtemp(prefix="crawler-campaign-failed-"))
            shutil.copytree(
                folder, kept, dirs_exist_ok=True, ignore=shutil.ignore_patterns("key", "run", "filler", "temporary")
            )
            print(f"everything is kept in {kept}", file=sys.stderr)
        disk.unmount(folder / "disk")
        shutil.rmtree(folder, ignore_errors=True)


def run_plan(plan: Plan, seed: int, workers: int) -> Outcome:
    """Run the campaign of a plan once."""
    is_good: list[bool] = []
    with kept_if_bad(is_good) as folder, CountedSite(HOSTS) as site:
        is_mounted = disk.mount(folder / "disk", DISK) if "fill disk" in plan.faults else False
        urls = [site.url(path_of(number, plan.answer), 1 + number % HOSTS) for number in range(plan.tasks)]
        out = (folder / "disk" if is_mounted else folder) / "out"
        began = time.monotonic()
        shape = Shape(workers, 8, plan.lease_life, plan.per_host)
        fleet = Fleet(folder, out, urls, shape, seed)
        injector, sampler = Injector(fleet, plan, seed, folder / "disk" if is_mounted else None), None
        try:
            if plan.is_watched:
                with _watching(fleet) as sampler:
                    injector.run()
                    fleet.wait(time.monotonic() + CALM)
            else:
                injector.run()
                fleet.wait(time.monotonic() + CALM)
            has_ended = fleet.is_finished()
        finally:
            fleet.close()
        report = judge(fleet, site.fetched, urls, injector.done, injector.in_hand)
        report.unexpected.extend(injector.missing() + _verdicts(plan, report, injector.kinds, sampler))
        if not has_ended:
            report.unexpected.append(f"not done {CALM:.0f} s after the last fault")
        is_good.append(report.is_good)
        return Outcome(report, injector, sampler, time.monotonic() - began)


def _watching(fleet: Fleet) -> Sampler:
    watched = (fleet.coordinator, fleet.workers[0])
    processes = {member.name: functools.partial(_pid, member) for member in watched}
    return Sampler(
        processes, {fleet.coordinator.name: lambda: min(CACHE, fleet.out.joinpath("ledger.db").stat().st_size)}
    )


def _pid(member: Member) -> int:
    return member.process.pid


def _verdicts(plan: Plan, report: Report, kinds: Collection[str], sampler: Sampler | None) -> list[str]:
    """Return what a plan promises beyond what all do, and was not kept."""
    wrong = []
    if "fill disk" in plan.faults and "fill disk" not in kinds and os.environ.get("CI") == "true":
        wrong.append("no disk could be filled: that needs root, and the right to mount")
    if plan.is_bounded and report.extra_fetches > report.in_hand:
        wrong.append(f"{report.extra_fetches} extra fetches, and only {report.in_hand} were in hand at the faults")
    if sampler is not None:
        grown = [(name, early, late) for name, (early, late, is_flat) in sampler.growth().items() if not is_flat]
        wrong += [f"{name} grew from {early:.0f} to {late:.0f}" for name, early, late in grown]
    return wrong


# ------------------------------------------------------------------ telling


def tell(name: str, seed: int, outcome: Outcome) -> dict[str, Any]:
    """Print what a campaign came to, and return it for JSON."""
    report, injector = outcome.report, outcome.injector
    print(f"{name}, seed {seed}: {'kept every promise' if report.is_good else 'FAILED'}, {outcome.seconds:.0f} s")
    figures = report._asdict()
    unexpected = figures.pop("unexpected")
    for figure, value in figures.items():
        print(f"  {figure.replace('_', ' '):14} {value:>8,}")
    print(f"  {'unexpected':14} {len(unexpected):>8,}")
    for line in unexpected[:SHOWN]:
        print(f"      {line}")
    print(f"  {'faults':14} {injector.done.total():>8,}")
    for kind, count in sorted(injector.done.items()):
        print(f"      {count:5}  {kind}")
    growth = outcome.sampler.growth() if outcome.sampler else {}
    for figure, (early, late, is_flat) in growth.items():
        print(f"  {figure}: {early:.0f}, then {late:.0f}{'' if is_flat else ', NOT FLAT'}")
    if "fill disk" not in injector.done:
        print("  no disk was filled: that needs root, and a plan that does it")
    sys.stdout.flush()
    facts = {"plan": name, "seed": seed, "seconds": round(outcome.seconds, 1), **report._asdict()}
    samples = outcome.sampler.samples if outcome.sampler else {}
    return {**facts, "faults": injector.done, "growth": growth, "samples": samples}


def run_plans(name: str, options: argparse.Namespace) -> Iterator[tuple[bool, dict[str, Any]]]:
    """Yield (whether it kept every promise, what it came to) for each seed; the long one ends by the clock."""
    given = {key: value for key in ("tasks", "pause", "seconds", "count") if (value := getattr(options, key))}
    plan = PLANS[name]._replace(**given)
    end, seed = time.monotonic() + plan.seconds, options.seed
    while seed < options.seed + options.seeds or (name == "long" and time.monotonic() < end):
        left = plan._replace(seconds=max(1.0, end - time.monotonic())) if name == "long" else plan
        outcome = run_plan(left, seed, options.workers)
        facts = tell(name, seed, outcome)
        if options.log:
            print("\n".join(outcome.injector.log))
        yield outcome.report.is_good, facts
        seed += 1


def run_other(name: str, options: argparse.Namespace) -> Iterator[tuple[bool, dict[str, Any]]]:
    """Yield the same for a campaign of another kind."""
    for seed in range(options.seed, options.seed + options.seeds):
        is_good: list[bool] = []
        began = time.monotonic()
        with kept_if_bad(is_good) as folder:
            result = OTHERS[name][1](folder, seed)
            is_good.append(not result.unexpected)
        seconds = time.monotonic() - began
        print(f"{name}, seed {seed}: {'kept every promise' if is_good[0] else 'FAILED'}, {seconds:.0f} s")
        for line in [*result.lines(), *result.unexpected[:SHOWN]]:
            print(f"  {line}")
        sys.stdout.flush()
        yield is_good[0], {"plan": name, "seed": seed, "seconds": round(seconds, 1), **result._asdict()}


def _options() -> argparse.Namespace:
    meanings = {name: plan.meaning for name, plan in PLANS.items()} | {name: text for name, (text, _) in OTHERS.items()}
    parser = argparse.ArgumentParser(
        prog="scripts/chaos",
        description="Crawl a local site under seeded faults, and count what became of each URL.",
        epilog="\n".join(f"  {name:12} {meaning}" for name, meaning in meanings.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("campaign", nargs="?", default="short", choices=list(meanings), help="(short)", metavar="NAME")
    parser.add_argument("--seed", type=int, default=1, help="of faults, victims and pauses (1)")
    parser.add_argument("--seeds", type=int, default=1, help="how many, from --seed on (1)")
    parser.add_argument("--tasks", type=int, help="URLs of the list")
    parser.add_argument("--workers", type=int, default=4, help="(4)")
    parser.add_argument("--pause", type=float, help="seconds between faults in the mean")
    parser.add_argument("--seconds", type=float, help="how long faults come")
    parser.add_argument("--count", type=int, help="faults after which the run is left in peace")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the reports there too")
    parser.add_argument("--log", action="store_true", help="print every fault with its time")
    return parser.parse_args()


def main() -> int:
    """Run a campaign with one seed or several; return 1 where a promise was broken."""
    options = _options()
    run = run_plans if options.campaign in PLANS else run_other
    reports, bad = [], 0
    for is_good, facts in run(options.campaign, options):
        reports.append(facts)
        bad += not is_good
        if options.json:
            options.json.write_text(json.dumps(reports, indent=1) + "\n")
    if len(reports) > 1:
        print(f"{len(reports) - bad} campaigns kept every promise, {bad} did not")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
