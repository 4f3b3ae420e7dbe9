"""The ready-made files that start workers on several machines: tried as far as one machine can."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command import LIMIT, LOCAL, records, run, running, served, status, write_list
from tests.conftest import ROOT, free_port, missing, wait_until
from tests.site import Site

#: It says nothing about the Python that it runs on.
pytestmark = pytest.mark.once

FLEET = ROOT / "scripts" / "fleet"
SMALL = ("--processes", "1", "--threads", "4")


@pytest.fixture
def paths(tmp_path: Path) -> dict[str, str]:
    """Return an environment with `crawler`, and with an `ssh` that runs its command here in a home of its own."""
    programs = tmp_path / "bin"
    programs.mkdir()
    scripts = {
        "crawler": f'exec {sys.executable} -P -m crawler "$@"',
        "ssh": f'export HOME={tmp_path}/"$1"; mkdir -p "$HOME"; shift; exec sh -c "$*"',
        # An array of two, as Slurm runs it: a copy of the script for each task, all with the same arguments.
        "sbatch": '[ "$1" = --array=0-1 ] || exit 2; shift; cp "$1" job; shift;'
        ' for task in 0 1; do SLURM_ARRAY_TASK_ID=$task bash job "$@" & echo $! >task-$task; done;'
        " status=0; for task in 0 1; do wait $(cat task-$task) || status=$?; done; exit $status",
    }
    for name, text in scripts.items():
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)
    return {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}


@pytest.mark.parametrize("script", ["workers.sh", "workers.slurm"])
def test_workers_are_started(tmp_path: Path, site: Site, paths: dict[str, str], script: str) -> None:
    """Each joins with the key over TLS and takes its options; when the coordinator is stopped, so are they."""
    assert run(tmp_path, "keygen", "key").returncode == 0
    write_list(tmp_path, *(site.url(f"/photo/{number}.jpg") for number in range(20)))
    address = f"127.0.0.1:{free_port()}"
    machines = ["anna", "bert"] if script == "workers.sh" else []
    words = ["bash", str(FLEET / script), address, "key", *machines, *(["--"] if machines else []), *SMALL]
    at = ("--listen", address, "--key", "key", "--keep-open")
    with running(tmp_path, "seed", "urls.txt", *LOCAL, "--workers", "0", *at) as seed:
        served(tmp_path, "urls.crawl")
        with subprocess.Popen(words, cwd=tmp_path, env=paths, stdout=subprocess.PIPE, text=True) as workers:
            wait_until(lambda: len(status(tmp_path, "urls.crawl").get("workers", [])) == max(1, len(machines)))
            wait_until(lambda: status(tmp_path, "urls.crawl").get("stored") == 20)
            seed.send_signal(signal.SIGTERM)
            said = workers.communicate(timeout=LIMIT)[0]
            assert (workers.returncode, seed.wait(LIMIT)) == (75, 75)
    assert len(records(tmp_path, "urls.crawl")) == 20
    for machine in machines:
        assert f"{machine}: working for {address}" in said
        kept = tmp_path / machine / ".crawler-key"
        assert sorted(file.name for file in kept.iterdir()) == ["cert.pem", "key"]
        assert (kept / "key").stat().st_mode & 0o777 == 0o600


def test_a_task_that_slurm_stops_gives_back_what_it_has(tmp_path: Path, site: Site, paths: dict[str, str]) -> None:
    """One of an array gets SIGTERM before its time is up: the other does the rest, and nothing is fetched again."""
    assert run(tmp_path, "keygen", "key").returncode == 0
    write_list(tmp_path, *(site.url(f"/slow/0.3/photo/{number}.jpg") for number in range(40)))
    address = f"127.0.0.1:{free_port()}"
    script = FLEET / "workers.slurm"
    subprocess.run(["bash", "-n", str(script)], check=True, timeout=20)
    words = ["sbatch", "--array=0-1", str(script), address, "key", *SMALL]
    with running(tmp_path, "seed", "urls.txt", *LOCAL, "--workers", "0", "--listen", address, "--key", "key") as seed:
        served(tmp_path, "urls.crawl")
        with subprocess.Popen(words, cwd=tmp_path, env=paths) as array:
            wait_until(lambda: len(status(tmp_path, "urls.crawl").get("workers", [])) == 2)
            os.kill(int((tmp_path / "task-0").read_text()), signal.SIGTERM)
            assert (array.wait(40), seed.wait(LIMIT)) == (75, 0)
    assert len(records(tmp_path, "urls.crawl")) == len(site.requests) == 40


def test_without_machines_it_says_how_it_is_used() -> None:
    """Status 2, as for any wrong use."""
    done = subprocess.run([FLEET / "workers.sh"], capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 2
    assert "HOST:PORT KEY MACHINE" in done.stderr


def test_systemd_knows_every_word_of_the_unit() -> None:
    """An unknown option or section would be a warning."""
    if not shutil.which("systemd-analyze"):
        missing("no systemd-analyze")
    unit = FLEET / "crawler-worker@.service"
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0
    assert unit.name not in done.stderr
