"""The programs of scripts/primer/ run by themselves and print what they are there to show."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT, wait_until

#: It says nothing about the Python that it runs on.
pytestmark = pytest.mark.once

PRIMER = ROOT / "scripts" / "primer"
#: Seconds after which a program is taken to hang.
LIMIT = 40.0
#: Runs a program as it would run where children are made in another way than is usual here.
WITH_METHOD = """
import multiprocessing, runpy, sys
if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[2])
    runpy.run_path(sys.argv[1], run_name="__main__")
"""
METHODS = pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
URLS = [f"ImageUrl_{number}" for number in range(10)]

Spawn = Callable[..., "Program"]


class Program:
    """A program of the primer under way, what it says going to files."""

    def __init__(self, folder: Path, name: str, *arguments: str) -> None:
        self.said = folder / f"{name}.out"
        self._errors = folder / f"{name}.err"
        command = [sys.executable, "-W", "error", str(PRIMER / name), *arguments]
        with self.said.open("w") as out, self._errors.open("w") as errors:
            # The client looks for the key below the folder for temporary files.
            environment = {**os.environ, "TMPDIR": str(folder)}
            self.process = subprocess.Popen(command, stdout=out, stderr=errors, env=environment)

    def lines(self) -> list[str]:
        """Wait for a good end; return what was said."""
        status = self.process.wait(LIMIT)
        assert (status, self._errors.read_text()) == (0, "")
        return self.said.read_text().splitlines()

    def failure(self) -> tuple[int, str]:
        """Wait for the end; return its status and the complaint."""
        return self.process.wait(LIMIT), self._errors.read_text()


@pytest.fixture
def spawn(tmp_path: Path) -> Iterator[Spawn]:
    """Start programs of the primer, and leave none behind."""
    programs: list[Program] = []

    def start(name: str, *arguments: str) -> Program:
        (folder := tmp_path / "primer").mkdir(exist_ok=True)
        programs.append(Program(folder, name, *arguments))
        return programs[-1]

    yield start
    for program in programs:
        program.process.kill()
        program.process.wait(LIMIT)


def run(name: str, method: str | None = None) -> list[str]:
    """Run a program, warnings being errors; return its lines."""
    program = [str(PRIMER / name)] if method is None else ["-c", WITH_METHOD, str(PRIMER / name), method]
    command = [sys.executable, "-W", "error", *program]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=LIMIT)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def serve(spawn: Spawn) -> tuple[Program, str]:
    """Start the server on a free port; return it and its address."""
    server = spawn("06_manager_server.py", "127.0.0.1:0")
    wait_until(lambda: "\n" in server.said.read_text() or server.process.poll() is not None, LIMIT)
    said = server.said.read_text()
    assert (match := re.match(r"serving 10 tasks at (127\.0\.0\.1:\d+)\n", said)), (said, server.failure())
    return server, match[1]


def test_fork() -> None:
    """Parent and child name each other's numbers, and the parent has the child's exit status."""
    lines = run("01_fork.py")
    parent, child = re.findall(r"\d+", lines[0] + lines[1])[:2]
    assert parent != child
    assert lines == [
        f"{parent} begins",
        f"{child} is the child of {parent}",
        f"{parent} made {child}, which ended with status 7",
    ]


@METHODS
def test_process(method: str) -> None:
    """Three children do one task each, and the parent has their exit statuses."""
    assert sorted(run("02_process.py", method)) == [
        "child 0 downloads ImageUrl_0",
        "child 0 ended with status 0",
        "child 1 downloads ImageUrl_1",
        "child 1 ended with status 0",
        "child 2 downloads ImageUrl_2",
        "child 2 ended with status 0",
    ]


@METHODS
def test_pool(method: str) -> None:
    """Six tasks are done by three processes, two each, and reported in order."""
    lines = run("03_pool.py", method)
    done = [line.split(" was downloaded by ") for line in lines[:6]]
    assert [url for url, _ in done] == URLS[:6]
    counts = Counter(process for _, process in done)
    assert list(counts.values()) == [2, 2, 2]
    assert sorted(lines[6:]) == sorted(f"{process} had 2 tasks" for process in counts)


@METHODS
def test_queue(method: str) -> None:
    """The reader gets what both writers put, each one's texts in order."""
    lines = run("04_queue.py", method)
    gets = [f"the reader gets {url}" for url in URLS[:6]]
    puts = [f"writer {'AB'[number // 3]} puts {url}" for number, url in enumerate(URLS[:6])]
    assert sorted(lines) == sorted([*gets, *puts, "the reader has heard the end of both writers"])
    for part in (gets[:3], gets[3:], puts[:3], puts[3:]):
        assert [line for line in lines if line in part] == part


@METHODS
def test_pipe(method: str) -> None:
    """Parent and child answer one another in turn, and the child ends with the pipe."""
    talk = [
        line
        for url in URLS[:3]
        for line in (f"parent sends {url}", f"child receives {url}", f"parent receives {url}------>completed!")
    ]
    assert run("05_pipe.py", method) == [*talk, "child sees that the pipe is closed", "the child ended with status 0"]


def test_manager(spawn: Spawn) -> None:
    """A client in another process does the tasks in order, and both sides end well."""
    server, address = serve(spawn)
    client = spawn("07_manager_client.py", address)
    assert client.lines() == [*(f"downloading {url}" for url in URLS), "no more tasks"]
    assert server.lines() == [
        f"serving 10 tasks at {address}",
        *(f"result is {url}------>completed!" for url in URLS),
        "all tasks are completed",
    ]


def test_client_without_server(spawn: Spawn) -> None:
    """A client for which no server has made a key says so, and what to do."""
    status, complaint = spawn("07_manager_client.py").failure()
    assert status == 1
    assert "there is no key" in complaint
    assert "Traceback" not in complaint


def test_thread_function() -> None:
    """Two threads download each URL of one queue once."""
    *lines, last = run("08_thread_function.py")
    assert all(re.fullmatch(r"thread [AB] downloads ImageUrl_\d", line) for line in lines)
    assert sorted(line.rpartition(" ")[2] for line in lines) == URLS[:6]
    assert last == "both threads have ended"


def test_thread_callable() -> None:
    """One object counts what two threads do."""
    *lines, last = run("09_thread_callable.py")
    assert sorted(lines) == [f"thread {'AB'[number // 3]} downloads {url}" for number, url in enumerate(URLS[:6])]
    assert last == "6 images, 6000 bytes"


def test_thread_subclass() -> None:
    """Each thread keeps its own results."""
    assert run("10_thread_subclass.py") == [
        f"thread {'AB'[number // 3]}: {url}------>completed!" for number, url in enumerate(URLS[:6])
    ]


def test_every_program_is_tested_and_explained() -> None:
    """No program of the primer is without a test here or without its two rows in the tables of README."""
    tests = Path(__file__).read_text(encoding="utf-8")
    explained = (PRIMER / "README.md").read_text(encoding="utf-8")
    programs = sorted(file.name for file in PRIMER.glob("*.py"))
    assert [name[:2] for name in programs] == [f"{number:02}" for number in range(1, 11)]
    for name in programs:
        assert f'"{name}"' in tests
        assert f"| [{name}]({name}) |" in explained
        assert re.search(rf"\|[ \d,]*\b{name[:2]}\b[ \d,]*\|", explained)
