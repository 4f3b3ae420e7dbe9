"""
crawler beside what a user would pick instead, on the same list in one run, in turn.

    scripts/bench peers [--only a,b,c,d,e] [--count N] [--rounds 3] [--folder .bench] [--contenders NAME,...]

A name may hold a comma and a blank: --contenders 'crawler, webdataset,img2dataset, webdataset'.
It takes Linux, root or user namespaces, and nginx, aria2c, wget2, openssl and ip. Only loopback is fetched from.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT))

from scripts.benchmarks import chart, contenders  # noqa: E402
from scripts.benchmarks.contenders import Contender  # noqa: E402
from scripts.benchmarks.corpus import SMALL, WEB, Kind, Picture, build  # noqa: E402
from scripts.benchmarks.internet import SILENT_ASKED, fate  # noqa: E402
from scripts.benchmarks.network import enter, network  # noqa: E402

#: URLs with which a setting is tried at least, where the list has so many: of fewer the start says too much.
ENOUGH = 1_000


class Scenario(NamedTuple):
    """One list and those who get it."""

    title: str
    kind: Kind
    #: Returns the URL of a picture by its number and path.
    url: Callable[[int, str], str]
    contenders: tuple[Contender, ...]
    #: What the settings of contenders are multiplied with: threads that wait cost little.
    factor: int = 1
    #: Whether a picture can be had, by its number.
    answered: Callable[[int], bool] = lambda number: True
    #: Letter of the scenario whose rate is told beside its own, "" for none.
    beside: str = ""


SCENARIOS = {
    "a": Scenario(
        "(a) http, one host",
        WEB,
        lambda number, path: f"http://one.bench.test/{path}",
        contenders.ALL,
    ),
    "b": Scenario(
        "(b) https, 2,500 hosts",
        WEB,
        lambda number, path: f"https://h{number % 2500}.bench.test/{path}",
        contenders.ALL,
    ),
    "c": Scenario(
        "(c) like the internet, 800 hosts",
        WEB,
        lambda number, path: f"http://h{number % 800}.slow.test/{path}",
        (contenders.OURS, contenders.DEFAULTS, contenders.IMG2DATASET),
        4,
        lambda number: fate(number) == "stored",
        "a",
    ),
    "d": Scenario(
        f"(d) resized to {contenders.SIDE} px, http, one host",
        WEB,
        lambda number, path: f"http://one.bench.test/{path}",
        (
            contenders.OURS_RESIZED,
            contenders.IMG2DATASET_RESIZED,
            contenders.OURS_SHARDED,
            contenders.IMG2DATASET_SHARDED,
        ),
    ),
    "e": Scenario(
        "(e) small images, http, one host",
        SMALL,
        lambda number, path: f"http://one.bench.test/{path}",
        contenders.ALL,
    ),
}


class Bench(NamedTuple):
    """Where things are."""

    environments: Path
    #: For lists and what contenders store.
    scratch: Path


def measure(bench: Bench, contender: Contender, setting: int, urls: Path, expected: set[str]) -> dict[str, Any]:
    """
    Run a contender once, and hold what it stored against what it should have.

    Returns:
        Its figures; `missing` counts images that it did not store. `late` are the seconds from the deadline of the URL
        that was asked for last, of those that are never answered, to the end of the run; absent where there is none.
    """
    # Nothing is deleted between runs: ext4 passes over inodes freed a moment ago, one by one, for each new file.
    out, facts = Path(tempfile.mkdtemp(dir=bench.scratch)) / "out", bench.scratch / "facts.json"
    os.sync()  # nobody pays for what another wrote
    began = time.time()
    command = contender.command(bench.environments, urls, out, setting)
    tree = [sys.executable, "-P", str(Path(__file__).with_name("tree.py")), str(facts)]
    with (bench.scratch.with_name("log")).open("w") as log:
        subprocess.run([*tree, *command], stdout=log, stderr=log, check=True)
    figures: dict[str, Any] = json.loads(facts.read_text())
    silent = bench.scratch.with_name(SILENT_ASKED)
    asked = silent.stat().st_mtime - began if silent.exists() else 0.0
    files = list(contenders.images(contender, out))
    if contender.exact:
        kept = {hashlib.sha256(path.read_bytes()).hexdigest() for path in files} & expected
        stored = len(kept)
    else:
        stored = sum(contenders.whole(contender, path) for path in files)
    last = max((path.stat().st_ctime for path in files), default=began) - began
    if not stored:
        raise RuntimeError(f"{contender.name} stored nothing: see {bench.scratch.with_name('log')}")
    return {
        "setting": setting,
        "stored": stored,
        "missing": len(expected) - stored,
        "images/s": stored / figures["seconds"],
        "CPU ms/image": 1000 * figures["cpu"] / stored,
        "memory MB": figures["memory"] / 1e6,
        "seconds": figures["seconds"],
        "last image after s": last,
        **({"late": figures["seconds"] - asked - float(contenders.TIMEOUT)} if asked > 0 else {}),
    }


class Entry(NamedTuple):
    """One contender in one scenario, ready to be measured."""

    contender: Contender
    #: The best of its settings.
    setting: int
    urls: Path
    #: SHA-256 of all pictures that can be had.
    expected: set[str]
    #: Figures of its runs so far.
    runs: list[dict[str, Any]]


def enlist(bench: Bench, scenario: Scenario, pictures: Sequence[Picture]) -> list[Entry]:
    """Write the list of a scenario, and find the best setting of each contender on a part of it."""
    folder = Path(tempfile.mkdtemp(dir=bench.scratch))
    urls, part = folder / "urls.txt", folder / "part.txt"
    lines = [scenario.url(number, picture.path) + "\n" for number, picture in enumerate(pictures)]
    expected = [picture.sha256 for number, picture in enumerate(pictures) if scenario.answered(number)]
    few = max(len(lines) // 4, min(len(lines), ENOUGH))
    urls.write_text("".join(lines))
    part.write_text("".join(lines[:few]))
    of_part = {picture.sha256 for n, picture in enumerate(pictures[:few]) if scenario.answered(n)}
    entries = []
    for one in scenario.contenders:
        factor = scenario.factor if len(one.settings) > 1 else 1
        tried = [setting * factor for setting in one.settings]
        if len(tried) > 1:
            tried.sort(key=lambda setting, one=one: -measure(bench, one, setting, part, of_part)["images/s"])
        entries.append(Entry(one, tried[0], urls, set(expected), []))
    return entries


def take_turns(bench: Bench, entries: dict[str, list[Entry]]) -> None:
    """Let everybody run once in each scenario."""
    for letter, here in entries.items():
        for entry in here:
            figures = measure(bench, entry.contender, entry.setting, entry.urls, entry.expected)
            name = entry.contender.name
            if name.startswith("crawler") and figures["missing"]:
                log = bench.scratch.with_name("log")
                raise RuntimeError(f"crawler is {figures['missing']} images short: see {log}")
            entry.runs.append(figures)
            print(f"  {len(entry.runs)}. ({letter}) {name}: {figures['images/s']:.0f}/s", file=sys.stderr, flush=True)


def keep(folder: Path, bench: Bench, entries: dict[str, list[Entry]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Write the medians so far, and return them: scenario, contender, figures."""
    results = {
        letter: {entry.contender.name: _middle(entry.runs) for entry in here} for letter, here in entries.items()
    }
    for letter, rows in results.items():
        whole = facts(bench) | {SCENARIOS[letter].title: rows}
        (folder / f"peers-{letter}.json").write_text(json.dumps(whole, indent=2))
    (folder / "peers.svg").write_text(chart.bars(rates(folder), "images/s"))
    return results


def _middle(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the medians, and the rates they come from."""
    medians: dict[str, Any] = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    return medians | {"all images/s": [round(run["images/s"], 1) for run in runs]}


def table(results: dict[str, dict[str, Any]]) -> str:
    """Return the figures of one scenario as a table in Markdown."""
    beside = {one.name: one.beside for scenario in SCENARIOS.values() for one in scenario.contenders}
    rows = [
        "| | threads | images/s (lowest to highest) | crawler is | CPU ms/image | memory MB "
        "| last image after s | end after the last deadline, s | not stored |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, figures in results.items():
        ours = results.get(beside[name], figures)
        cells = [
            name,
            f"{figures['setting']:.0f}",
            f"{figures['images/s']:,.0f} ({min(figures['all images/s']):,.0f} to {max(figures['all images/s']):,.0f})",
            "" if ours is figures else f"{ours['images/s'] / figures['images/s']:.2f} ×",
            f"{figures['CPU ms/image']:.2f}",
            f"{figures['memory MB']:,.0f}",
            f"{figures['last image after s']:.1f}",
            f"{figures['late']:.2f}" if "late" in figures else "",
            f"{figures['missing']:.0f}",
        ]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def own_rates(results: dict[str, dict[str, dict[str, Any]]], letter: str) -> Iterator[str]:
    """Yield how those who ran in a scenario did in the one that it is held against."""
    other = SCENARIOS[letter].beside
    for name, figures in results.get(other, {}).items():
        if name in results[letter]:
            ratio = results[letter][name]["images/s"] / figures["images/s"]
            yield f"{name}: {ratio:.2f} × its own rate in ({other})"


def main() -> None:
    """Build, install, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="a,b,c,d,e", help="scenarios, by letter")
    parser.add_argument("--count", type=int, default=20_000, help="URLs of each list")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path(".bench"), help="corpus, environments and results")
    parser.add_argument("--contenders", default="", help="only these, by name")
    parser.add_argument("--wheel", required=True, help="crawler as it is measured")
    chosen = parser.parse_args()
    folder = chosen.folder.absolute()
    bench = Bench(folder / "environments", folder / "scratch")
    enter_after_setup(chosen, bench)
    with network(folder / "network", folder / "corpus"), cleared(bench.scratch):
        entries = {}
        for letter in chosen.only.split(","):
            scenario = SCENARIOS[letter]
            if chosen.contenders:
                names = re.split(",(?! )", chosen.contenders)  # a name may hold a comma and a blank
                kept = tuple(one for one in scenario.contenders if one.name in names)
                scenario = scenario._replace(contenders=kept)
            entries[letter] = enlist(bench, scenario, build(folder / "corpus", scenario.kind, chosen.count))
        # All again and again, in place of one after the other: what the machine gives varies from hour to hour.
        for _ in range(chosen.rounds):
            take_turns(bench, entries)
            results = keep(folder, bench, entries)
    for letter, rows in results.items():
        print(f"\n{SCENARIOS[letter].title}, {chosen.count:,} URLs\n\n{table(rows)}")
        for line in own_rates(results, letter):
            print(f"\n{line}")


def rates(folder: Path) -> dict[str, dict[str, float]]:
    """Return the rates of all scenarios that were run last into *folder*, this time or before."""
    found = {}
    for letter, scenario in SCENARIOS.items():
        file = folder / f"peers-{letter}.json"
        if file.exists():
            rows = json.loads(file.read_text())[scenario.title]
            found[scenario.title] = {name: row["images/s"] for name, row in rows.items()}
    return found


@contextmanager
def cleared(scratch: Path) -> Iterator[None]:
    """Delete in the end what contenders stored, which takes room for all runs until then."""
    try:
        yield
    finally:
        shutil.rmtree(scratch)


def enter_after_setup(chosen: argparse.Namespace, bench: Bench) -> None:
    """Do what takes the real network, then go on in a namespace without it."""
    bench.scratch.mkdir(parents=True, exist_ok=True)
    if "CRAWLER_BENCH_INSIDE" not in os.environ:
        contenders.install(bench.environments, chosen.wheel)
        for kind in {SCENARIOS[letter].kind for letter in chosen.only.split(",")}:
            build(chosen.folder.absolute() / "corpus", kind, chosen.count)
    enter()


def facts(bench: Bench) -> dict[str, Any]:
    """Return what the figures depend on."""
    versions = {one.name: contenders.version(one, bench.environments) for one in contenders.ALL}
    machine = {"cores": os.cpu_count(), "system": platform.platform(), "Python": platform.python_version()}
    return {"machine": machine, "versions": versions}


if __name__ == "__main__":
    main()
