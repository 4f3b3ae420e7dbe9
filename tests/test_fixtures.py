"""The files of fixtures/ are what the manifest says, and the script still makes them."""

from __future__ import annotations

import csv
import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from crawler.consumer.image import verify
from crawler.errors import ImageRefused
from crawler.reasons import Reason
from crawler.settings import Limits
from tests.conftest import ROOT

FIXTURES = ROOT / "fixtures"
SCRIPT = ROOT / "scripts" / "make_fixtures.py"
LARGEST = 600_000


def manifest(folder: Path) -> list[dict[str, str]]:
    """Read the manifest of *folder*, a dict for each row."""
    with (folder / "MANIFEST.tsv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE, strict=True))


def contents(folder: Path) -> dict[str, bytes]:
    """Read every file of *folder* but the manifest."""
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name != "MANIFEST.tsv"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the fixtures anew."""
    folder = tmp_path_factory.mktemp("made")
    subprocess.run([sys.executable, SCRIPT, folder], check=True, timeout=50)
    return folder


def test_digests() -> None:
    """Every file has a row in the manifest, every row a file, and the digests are those of the files."""
    found = {name: hashlib.sha256(data).hexdigest() for name, data in contents(FIXTURES).items()}
    assert found == {row["name"]: row["sha256"] for row in manifest(FIXTURES)}


def test_rows() -> None:
    """Every outcome is `stored` or a reason, and every purpose is told."""
    outcomes = {row["outcome"] for row in manifest(FIXTURES)}
    assert outcomes <= {"stored", *Reason}
    assert all(row["purpose"] for row in manifest(FIXTURES))


def test_size() -> None:
    """The fixtures stay small enough to be cloned by everybody."""
    assert sum(len(data) for data in contents(FIXTURES).values()) < LARGEST


@pytest.mark.parametrize("row", manifest(FIXTURES), ids=lambda row: row["name"])
def test_outcome(row: dict[str, str]) -> None:
    """The verifier's judgement on each file is the outcome that the manifest tells."""
    with (FIXTURES / row["name"]).open("rb") as file:
        try:
            verify(file, Limits())
            outcome = "stored"
        except ImageRefused as error:
            outcome = error.reason
    assert outcome == row["outcome"]


def test_script_makes_these(made: Path) -> None:
    """The script makes these names with these outcomes and purposes; digests depend on the version of Pillow."""
    assert [strip(row) for row in manifest(made)] == [strip(row) for row in manifest(FIXTURES)]


def test_script_repeats_itself(made: Path, tmp_path: Path) -> None:
    """Made twice by one version of Pillow, the files have the same bytes."""
    subprocess.run([sys.executable, SCRIPT, tmp_path], check=True, timeout=50)
    assert contents(tmp_path) == contents(made)


def strip(row: dict[str, str]) -> dict[str, str]:
    """Return *row* without its digest."""
    return {name: value for name, value in row.items() if name != "sha256"}
