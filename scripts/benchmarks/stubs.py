"""
A stub machine: leases over the wire, holds, completes. It fetches nothing.

    stubs.py HOST:PORT KEY THREADS HOLD SECONDS

It says `ready` when it has joined, begins at a line of its input, and prints what it did as JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

sys.path.append(str(Path(__file__).resolve().parents[2]))

from crawler.join import connect, greet  # noqa: E402
from crawler.model import Completion, Outcome, Progress, QueueStatus, Role  # noqa: E402

#: Leases asked for at a time.
LEASES = 64


class Served(NamedTuple):
    """Where the queue is."""

    address: str
    key: str


class Worked(NamedTuple):
    """What some machines did."""

    #: Tasks ended per second.
    rate: float
    #: Milliseconds that each answer to `lease` took.
    waits: list[float]


def run(served: Served, machines: int, threads: int, hold: float, seconds: float) -> Worked:
    """Let *machines* processes work on the queue at once, each with some requests under way."""
    command = [sys.executable, "-P", __file__, *served, str(threads), str(hold), str(seconds)]
    started = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(machines)
    ]
    for one in started:
        assert one.stdout is not None
        if one.stdout.readline() != "ready\n":
            raise RuntimeError("a stub machine did not join")
    for one in started:
        assert one.stdin is not None
        one.stdin.write("go\n")
        one.stdin.flush()
    found = [json.loads(one.communicate(timeout=seconds + 60)[0]) for one in started]
    return Worked(sum(one["ended"] / one["seconds"] for one in found), [w for one in found for w in one["waits"]])


class _Machine:
    def __init__(self, served: Served, threads: int, hold: float) -> None:
        self._clients = [connect(*served, 60.0) for _ in range(threads)]
        self._queues = [client.proxy("task_queue") for client in self._clients]
        for client, queue in zip(self._clients, self._queues, strict=True):
            client.session = queue.hello(greet(Role.WORKER)).session
        self._hold = hold
        self._lock = threading.Lock()
        self._waits: list[float] = []
        self._ended = 0

    def work(self, seconds: float) -> dict[str, Any]:
        """Work for some seconds on all threads."""
        began = time.perf_counter()
        threads = [
            threading.Thread(target=self._lease, args=(number, began + seconds)) for number in range(len(self._queues))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return {"ended": self._ended, "seconds": time.perf_counter() - began, "waits": self._waits}

    def _lease(self, number: int, end: float) -> None:
        queue, session, request = self._queues[number], self._clients[number].session, 0
        while time.perf_counter() < end:
            request += 1
            began = time.perf_counter()
            grant = queue.lease(session, request, LEASES, 1.0, Progress())
            if grant.status is not QueueStatus.OPEN:
                return
            wait = 1000 * (time.perf_counter() - began)
            time.sleep(self._hold)
            accepted = queue.complete(session, [_stored(one.token, one.task.id) for one in grant.leases])
            with self._lock:
                self._waits.append(wait)
                self._ended += len(accepted)


def _stored(token: int, task: int) -> Completion:
    return Completion(
        token=token,
        task_id=task,
        outcome=Outcome.STORED,
        http_status=200,
        path=f"ab/{task:064x}.jpg",
        sha256=f"{task:064x}",
        bytes=90_000,
        width=640,
        height=480,
        format="JPEG",
    )


def main() -> None:
    """Join, wait for the word, work, and tell."""
    address, key, threads, hold, seconds = sys.argv[1:]
    machine = _Machine(Served(address, key), int(threads), float(hold))
    print("ready", flush=True)
    sys.stdin.readline()
    print(json.dumps(machine.work(float(seconds))))


if __name__ == "__main__":
    main()
