"""What the benchmarks rest on: their name server, their internet, how they count, and what they draw."""

from __future__ import annotations

import importlib.util
import json
import struct
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

from tests.conftest import ROOT

PROGRAMS = ROOT / "scripts" / "benchmarks"
SVG = "{http://www.w3.org/2000/svg}"


def load(name: str) -> ModuleType:
    """Return a program of the benchmarks as a module."""
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", PROGRAMS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def query(name: str, kind: int) -> bytes:
    """Return what a resolver asks."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack("!HHHHHH", 77, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!HH", kind, 1)


@pytest.mark.parametrize(("name", "address"), [("a.bench.test", "127.0.0.1"), ("h7.SLOW.test", "127.0.0.2")])
def test_a_name_is_an_address_of_loopback(name: str, address: str) -> None:
    """Its last four bytes, after the question and the head of one record."""
    asked = query(name, 1)
    answer = load("names").answer(asked)
    assert struct.unpack_from("!HHHH", answer) == (77, 0x8580, 1, 1)
    assert answer[12 : len(asked)] == asked[12:]
    assert ".".join(str(byte) for byte in answer[-4:]) == address
    assert len(answer) == len(asked) + 16


def test_a_name_has_no_other_address() -> None:
    """The answer is that there is none, not that there is no such name."""
    answer = load("names").answer(query("a.bench.test", 28))
    assert struct.unpack_from("!HHHH", answer) == (77, 0x8580, 1, 0)


def test_the_internet_is_the_same_each_time() -> None:
    """As many URLs are silent and missing as is said, and answers take as long as is said."""
    internet = load("internet")
    assert Counter(map(internet.fate, range(20_000))) == {"stored": 19_400, "silent": 300, "missing": 300}
    waits = sorted(internet.latency(number) for number in range(2_000))
    assert waits == sorted(internet.latency(number) for number in range(2_000))
    assert waits[-1] <= 8.0
    assert 0.18 < waits[1_000] < 0.22


def test_the_time_of_all_descendants_counts(tmp_path: Path) -> None:
    """Also that of one whose parent did not wait for it."""
    burn = "import time\nwhile time.process_time() < 0.3: pass"
    orphan = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {burn!r}]); sys.exit(5)"
    facts = tmp_path / "facts.json"
    subprocess.run(
        [sys.executable, "-P", PROGRAMS / "tree.py", facts, sys.executable, "-W", "ignore", "-c", orphan],
        check=True,
        timeout=50,
    )
    told = json.loads(facts.read_text())
    assert told["cpu"] >= 0.3
    assert told["status"] == 5


def test_bars_are_as_long_as_their_figures() -> None:
    """The longest is the largest, and names are escaped."""
    drawn = ElementTree.fromstring(load("chart").bars({"<a>": {"crawler": 100.0, "other": 50.0}}, "images/s"))
    _, first, second = drawn.findall(f"{SVG}rect")
    assert float(first.attrib["width"]) == 2 * float(second.attrib["width"])
    assert "<a>, images/s" in [text.text for text in drawn.findall(f"{SVG}text")]


def test_lines_go_through_their_points() -> None:
    """A line for each series, a point for each pair."""
    drawn = ElementTree.fromstring(load("chart").lines("t", "x", {"one": [(1, 5), (10, 7), (100, 9)], "two": [(1, 0)]}))
    points = [line.attrib["points"].split() for line in drawn.findall(f"{SVG}polyline")]
    assert [len(line) for line in points] == [3, 1]
    x = [float(point.split(",")[0]) for point in points[0]]
    assert x[1] - x[0] == pytest.approx(x[2] - x[1])


def test_near_duplicates_are_judged_and_found(tmp_path: Path) -> None:
    """The program ends where one that it planted is missed; what it measured is of the size that was asked for."""
    program = load("likeness")
    program.fill(tmp_path / "ledger.db", 200)
    row = program.judge(tmp_path / "ledger.db", 200, 5, 300)
    assert (row["size"], row["distance"]) == (200, 5)
    wanted = program.images(200, 300, 5)
    assert sum(original is not None for _, original in wanted) == 30
