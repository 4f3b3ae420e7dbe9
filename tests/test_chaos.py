"""The fault campaign's own parts: does its proxy do what it says, and does its report see what is wrong?"""

from __future__ import annotations

import importlib
import json
import os
import random
import socket
import ssl
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from crawler.broker import handshake, keys
from tests.command import LOCAL, run, write_list
from tests.conftest import ROOT
from tests.site import Site

#: It says nothing about the Python that it runs on.
pytestmark = pytest.mark.once

#: Seconds that a socket of a test waits; see `wait_until`.
PATIENCE = 20.0


@pytest.fixture
def campaign(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return the module that counts; the installed package stays before the one in this folder."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(ROOT)])
    return importlib.import_module("scripts.campaign.report")


@pytest.fixture
def proxy(campaign: ModuleType) -> Iterator[Any]:
    """Yield (proxy, client, server): a connection that goes through a proxy, and its two ends."""
    module = importlib.import_module("scripts.campaign.proxy")
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        module.Proxy(listener.getsockname()) as between,
        socket.create_connection(("127.0.0.1", between.port), PATIENCE) as client,
    ):
        server, _ = listener.accept()
        with server:
            server.settimeout(PATIENCE)
            client.sendall(b"hello")
            assert server.recv(5) == b"hello"
            yield between, client, server


def mode(between: Any) -> Any:
    """Return the modes of a proxy."""
    return sys.modules[type(between).__module__].Mode  # type: ignore[attr-defined]


def test_a_reset_is_one(proxy: Any) -> None:
    """Both ends meet an error, not an end."""
    between, client, server = proxy
    assert between.reset() == 1
    for end in (client, server):
        with pytest.raises(ConnectionResetError):
            end.recv(1)


def test_a_black_hole_swallows_nothing_for_good(proxy: Any) -> None:
    """While it lasts nothing comes through; what was sent comes afterwards."""
    between, client, server = proxy
    between.set(mode(between).BLACK_HOLE)
    server.settimeout(0.3)
    client.sendall(b"later")
    with pytest.raises(TimeoutError):
        while server.recv(100):  # a relay may have been under way
            client.sendall(b"later")
    server.settimeout(PATIENCE)
    between.set(mode(between).PASS)
    assert server.recv(1)


def test_a_half_close_leaves_the_other_direction(proxy: Any) -> None:
    """The server sees the end of its client, and can still answer."""
    between, client, server = proxy
    assert between.half_close() == 1
    assert server.recv(1) == b""
    server.sendall(b"answer")
    assert client.recv(6) == b"answer"


def test_a_trickle_brings_all_of_it(proxy: Any) -> None:
    """A few bytes at a time."""
    between, client, server = proxy
    between.set(mode(between).TRICKLE)
    client.sendall(bytes(range(200)))
    got = b""
    while len(got) < 200:
        got += server.recv(200)
    assert got == bytes(range(200))


def test_a_report_sees_what_is_wrong(tmp_path: Path, site: Site, campaign: ModuleType) -> None:
    """A good run is good; without a record, with one twice, with an image gone or changed, it is not."""
    urls = [site.url(campaign.path_of(number, 0)) for number in range(4, 10)]
    write_list(tmp_path, *urls)
    assert run(tmp_path, "seed", "urls.txt", *LOCAL).returncode == 0
    fleet = SimpleNamespace(out=tmp_path / "urls.crawl", members=[], kept=[])
    fetched = Counter(request.path for request in site.requests)

    def judge() -> Any:
        return campaign.judge(fleet, fetched, urls, Counter(), 0)

    assert judge().is_good and judge().recorded == 6 and not judge().orphans
    log = fleet.out / "completions.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(lines[1:]))
    assert judge().lost == 1
    log.write_text("".join([*lines, lines[0]]))
    assert judge().duplicated == 1
    log.write_text("".join(lines))
    image = next(fleet.out / json.loads(line)["path"] for line in lines if json.loads(line)["path"])
    content = image.read_bytes()
    image.write_bytes(content[:-1])
    assert (judge().wrong_files, judge().is_good) == (1, False)
    image.unlink()
    assert (judge().lost, judge().is_good) == (1, False)
    image.write_bytes(content)
    fleet.kept = [(log.stat().st_size + 1, "0" * 64)]
    assert not judge().is_good
    fleet.kept = []
    (image.parent / "orphan").write_bytes(b"?")
    assert judge().is_good and judge().orphans == 1


def test_a_handshake_that_was_cut_on_its_way_is_tried_again(tmp_path: Path) -> None:
    """The coordinator's side answers it with an alert; that is no sign of a wrong address."""
    key = keys.load(_made(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                # A fatal alert, decode_error. Source: RFC 8446, section 6.
                connection.sendall(b"\x15\x03\x03\x00\x02\x02\x32")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(ssl.SSLError, match="DECODE_ERROR"):
            handshake.dial(listener.getsockname(), handshake.client_proof(key))
        thread.join(PATIENCE)


def _made(folder: Path) -> Path:
    assert run(folder, "keygen", "key").returncode == 0
    return folder / "key"


def test_extra_fetches_are_counted(tmp_path: Path, site: Site, campaign: ModuleType) -> None:
    """Beyond one, or beyond three of what is cut off each time."""
    urls = [site.url(campaign.path_of(number, 0)) for number in (6, 7)]
    assert [campaign.fetches(campaign.path_of(number, 0)) for number in (6, 7)] == [3, 1]
    write_list(tmp_path, *urls)
    assert run(tmp_path, "seed", "urls.txt", *LOCAL).returncode == 0
    fleet = SimpleNamespace(out=tmp_path / "urls.crawl", members=[], kept=[])
    fetched = Counter(request.path for request in site.requests)
    assert campaign.judge(fleet, fetched, urls, Counter(), 0).extra_fetches == 0
    fetched.update(fetched.keys())
    report = campaign.judge(fleet, fetched, urls, Counter(), 0)
    assert (report.extra_fetches, report.recovered, report.is_good) == (2, 2, True)


def test_each_kind_of_fault_comes_in_each_round(campaign: ModuleType) -> None:
    """Before any comes twice; what met nobody comes again; the same seed gives the same order."""
    plans = importlib.import_module("scripts.campaign.plans")
    schedule, other = (plans.Schedule(plans.MIXED, random.Random(7)) for _ in range(2))
    first = [schedule.take() for _ in plans.MIXED]
    assert sorted(first) == sorted(plans.MIXED)
    assert [other.take() for _ in plans.MIXED] == first
    kind = schedule.take()
    schedule.put_back(kind)
    rest = [schedule.take() for _ in range(len(plans.MIXED) + sum(plans.MIXED.values()))]
    assert set(rest) == set(plans.MIXED)


def test_every_fault_of_a_plan_can_be_done(campaign: ModuleType) -> None:
    """A kind without a method would end a campaign when its turn comes."""
    plans, faults = (importlib.import_module(f"scripts.campaign.{name}") for name in ("plans", "faults"))
    kinds = {kind for plan in plans.PLANS.values() for kind in plan.faults}
    assert all(hasattr(faults.Injector, f"_{kind.replace(' ', '_')}") for kind in kinds)


def test_growth_is_seen(campaign: ModuleType) -> None:
    """Flat figures are, rising ones are not; this process can be looked at."""
    samples = importlib.import_module("scripts.campaign.samples")
    sampler = samples.Sampler({"flat": os.getpid, "rising": os.getpid})
    look = samples.look(os.getpid())
    assert look["threads"] >= 1 and look["descriptors"] >= 3 and look["MB"] > 1
    for number in range(40):
        sampler.samples["flat"].append(samples.Sample(number, look))
        grown = {name: value * (1 + number) for name, value in look.items()}
        sampler.samples["rising"].append(samples.Sample(number, grown))
    growth = {name: is_flat for name, (_, _, is_flat) in sampler.growth().items()}
    assert growth["flat, MB"] and growth["flat, threads"] and growth["flat, descriptors"]
    assert not growth["rising, MB"] and not growth["rising, descriptors"]


@pytest.mark.skipif(os.environ.get("CRAWLER_LONG") != "1", reason="takes long: CRAWLER_LONG=1")
@pytest.mark.timeout(240)
def test_a_short_campaign(tmp_path: Path) -> None:
    """It keeps every promise, and says so in JSON."""
    small = ("--tasks", "2000", "--count", "10", "--workers", "2", "--json", str(tmp_path / "report.json"))
    command = [sys.executable, "-P", str(ROOT / "scripts" / "campaign" / "run.py"), "kills", *small]
    done = subprocess.run(command, capture_output=True, text=True, timeout=220, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (report,) = json.loads((tmp_path / "report.json").read_text())
    assert (report["attempted"], report["recorded"], report["lost"], report["duplicated"]) == (2000, 2000, 0, 0)
    assert sum(report["faults"].values()) == 10
