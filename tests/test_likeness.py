"""The index of hashes finds what a comparison of all with all finds, no less and no more."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crawler.broker import likeness
from crawler.broker.likeness import MAX_DISTANCE, Likeness

#: What it tries is the same on every Python; that crawls run there is seen by others.
pytestmark = pytest.mark.once

HASH = st.integers(0, (1 << 64) - 1)
DISTANCE = st.integers(0, MAX_DISTANCE)
FEW_BITS = st.sets(st.integers(0, 63), max_size=MAX_DISTANCE + 2)


def changed(value: int, bits: set[int]) -> int:
    return value ^ sum(1 << bit for bit in bits)


def by_force(hashes: set[int], value: int, distance: int) -> list[tuple[int, int]]:
    pairs = sorted(((value ^ other).bit_count(), other) for other in hashes)
    return [pair for pair in pairs if pair[0] <= distance]


@given(st.lists(HASH, max_size=50), HASH, st.lists(FEW_BITS, max_size=50), DISTANCE)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_like_brute_force(tmp_path: Path, others: list[int], value: int, near: list[set[int]], distance: int) -> None:
    """Whatever bits differ, those around the limit above all; values of no hash, as 0, are none."""
    hashes = {*others, *(changed(value, bits) for bits in near)}
    assert Likeness(tmp_path, hashes).find(value, distance) == by_force(hashes, value, distance)


@pytest.mark.parametrize("distance", range(MAX_DISTANCE + 1))
def test_crowded(tmp_path: Path, distance: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under one value of a chunk long chains, in several files."""
    monkeypatch.setattr(likeness, "BITS", 8)
    made = random.Random(distance)
    hashes = set(range(2000))
    middle = min(hashes)
    hashes |= {changed(middle, set(made.sample(range(64), made.randint(1, 14)))) for _ in range(200)}
    index = Likeness(tmp_path, hashes)
    for value in (middle, changed(middle, {3, 20, 40}), 7, 0, (1 << 64) - 1):
        assert index.find(value, distance) == by_force(hashes, value, distance)


def chains(index: Likeness) -> list[int]:
    """Return how many hashes are under each value of a chunk that has any."""
    return [length(index, number) for number in index._newest if number]


def length(index: Likeness, number: int) -> int:
    """Return the nodes of a chain from the one of a number on."""
    count, mask = 0, (1 << likeness.BITS) - 1
    while number:
        number = index._files[number >> likeness.BITS][2 * (number & mask) + 1]
        count += 1
    return count


@pytest.mark.parametrize("shared", [range(22), range(22, 43)])
def test_strangers_cannot_crowd_a_chunk(tmp_path: Path, shared: range) -> None:
    """Whichever third of their bits hashes have in common, few of them are under any value of a chunk."""
    made = random.Random(0)
    common = sum(1 << bit for bit in shared)
    index = Likeness(tmp_path, (made.getrandbits(64) & ~common for _ in range(2000)))
    found = chains(index)
    assert (sum(found), max(found) < 200) == (6000, True)  # three times 2000; unshuffled one chain would have 2000


def test_it_grows_between_questions(tmp_path: Path) -> None:
    """What was added is found from then on."""
    index = Likeness(tmp_path)
    assert index.find(0, MAX_DISTANCE) == []
    index.add(0)
    assert index.find(0, 0) == [(0, 0)]
    index.add(1 << 63)
    assert index.find(0, 0) == [(0, 0)]
    assert index.find(0, 1) == [(0, 0), (1, 1 << 63)]


def test_nothing_is_left_in_its_folder(tmp_path: Path) -> None:
    """Its files have no name."""
    index = Likeness(tmp_path, range(100))
    assert list(tmp_path.iterdir()) == []
    assert len(index.find(0, 7)) == 100
