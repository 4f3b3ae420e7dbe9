"""The faults of a campaign, each done to a fleet and undone again, and the seeded order in which they come."""

from __future__ import annotations

import errno
import os
import random
import signal
import struct
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from scripts.campaign.fleet import Fleet, Member
from scripts.campaign.proxy import Mode

#: Seconds that a black hole, a trickle, a full disk or a store that is away lasts.
SHORT = (1.0, 4.0)
#: Seconds by which the wall clock jumps, forward or back: what waits in the ledger waits that much longer.
JUMP = 30.0


class Injector:
    """
    Do faults to a fleet, chosen by a seed.

    Args:
        fleet: To whom.
        seed: The same seed gives the same faults to the same victims after the same pauses.
        disk: File system of its own that may be filled, None where there is none.
    """

    def __init__(self, fleet: Fleet, seed: int, disk: Path | None) -> None:
        self._fleet = fleet
        self._chance = random.Random(seed)
        self._disk = disk
        self.done: Counter[str] = Counter()
        #: What was done and when, in seconds from the start.
        self.log: list[str] = []
        #: Tasks that were leased at the moments of the faults, added up: what may have been fetched twice.
        self.in_hand = 0
        self._began = time.monotonic()
        kinds: list[tuple[Callable[[], str], int]] = [
            (self._kill_downloader, 4),
            (self._kill_verifier, 2),
            (self._kill_worker, 5),
            (self._kill_coordinator, 4),
            (self._stop_worker, 2),
            (self._terminate_worker, 2),
            (self._terminate_coordinator, 1),
            (self._reset, 3),
            (self._half_close, 2),
            (self._black_hole, 2),
            (self._trickle, 2),
            (self._jump, 2),
            (self._store_away, 1),
        ]
        if disk is not None:
            kinds.append((self._fill_disk, 2))
        # Each kind comes once in a round before any comes too often: a short campaign meets all of them.
        self._kinds = [kind for kind, _ in kinds]
        self._bag = [kind for kind, weight in kinds for _ in range(weight - 1)]
        self._next: list[Callable[[], str]] = []

    def run(self, pause: float, until: float) -> None:
        """Do faults with pauses of *pause* seconds in the mean until *until* (monotonic), or the end of the run."""
        while time.monotonic() < until and not self._fleet.is_finished():
            self._rest(self._chance.uniform(0.3, 1.7) * pause)
            if self._fleet.is_finished():
                return
            if not self._next:
                self._next = self._kinds + self._chance.sample(self._bag, len(self._bag) // 2)
                self._chance.shuffle(self._next)
            kind = self._next.pop()
            self.in_hand += self._fleet.in_hand()
            at = time.monotonic() - self._began
            said = kind()
            self.done[kind.__name__.strip("_").replace("_", " ")] += 1
            self.log.append(f"{at:8.2f} s  {said}")

    def _rest(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self._fleet.is_finished():
            time.sleep(0.05)

    def _length(self) -> float:
        return self._chance.uniform(*SHORT)

    def _worker(self) -> Member:
        return self._chance.choice(self._fleet.workers)

    # ------------------------------------------------------------ processes

    def _kill_child(self, role: str) -> str:
        worker = self._worker()
        children, place = worker.children(role), self._chance.random()
        if not children:
            return f"kill -9 of a {role} of {worker.name}: it had none"
        victim = children[int(place * len(children))]
        try:
            os.kill(victim, signal.SIGKILL)
        except ProcessLookupError:
            return f"kill -9 of a {role} of {worker.name}: it was gone"
        return f"kill -9 of a {role} of {worker.name}"

    def _kill_downloader(self) -> str:
        return self._kill_child("downloader")

    def _kill_verifier(self) -> str:
        return self._kill_child("verifier")

    def _kill_worker(self) -> str:
        worker = self._worker()
        worker.send(signal.SIGKILL)
        return f"kill -9 of {worker.name}"

    def _kill_coordinator(self) -> str:
        self._fleet.coordinator.send(signal.SIGKILL)
        return "kill -9 of the coordinator"

    def _terminate_worker(self) -> str:
        worker = self._worker()
        worker.send(signal.SIGTERM)
        return f"SIGTERM of {worker.name}"

    def _terminate_coordinator(self) -> str:
        self._fleet.coordinator.send(signal.SIGTERM)
        return "SIGTERM of the coordinator"

    def _stop_worker(self) -> str:
        worker, length = self._worker(), self._fleet.shape.lease_life + 2.0
        with self._fleet.hold:  # else it could be another process that is woken
            process = worker.process
            worker.send(signal.SIGSTOP, group=True)
        self._rest(length)
        if process is worker.process:
            worker.send(signal.SIGCONT, group=True)
        return f"{worker.name} stopped for {length:.1f} s, longer than a lease"

    # ------------------------------------------------------------ network

    def _reset(self) -> str:
        number = self._chance.randrange(len(self._fleet.proxies))
        return f"{self._fleet.proxies[number].reset(0.7)} connections of worker-{number} reset"

    def _half_close(self) -> str:
        number = self._chance.randrange(len(self._fleet.proxies))
        return f"{self._fleet.proxies[number].half_close(0.7)} connections of worker-{number} closed on one side"

    def _bad_network(self, mode: Mode) -> str:
        number, length = self._chance.randrange(len(self._fleet.proxies)), self._length() + self._length()
        self._fleet.proxies[number].set(mode)
        self._rest(length)
        self._fleet.proxies[number].set(Mode.PASS)
        return f"{mode.value} before worker-{number} for {length:.1f} s"

    def _black_hole(self) -> str:
        return self._bad_network(Mode.BLACK_HOLE)

    def _trickle(self) -> str:
        return self._bad_network(Mode.TRICKLE)

    # ------------------------------------------------------------ clock and disk

    def _jump(self) -> str:
        seconds = self._chance.choice([-JUMP, JUMP])
        with self._fleet.clock.open("r+b") as file:  # in place: the file is mapped
            file.write(struct.pack("d", seconds))
        # It is read when a coordinator starts: afterwards only its monotonic clock counts.
        if self._chance.random() < 0.7:
            self._fleet.coordinator.send(signal.SIGKILL)
        return f"wall clock of the coordinator off by {seconds:+.0f} s"

    def _store_away(self) -> str:
        length, store = self._length(), self._fleet.out / "images"
        away = store.with_name("images.away")
        with self._fleet.hold:  # nobody is started, and nobody is starting, who would make an empty one
            if not self._fleet.is_served():
                return "the store stays: there is no coordinator at the moment"
            store.rename(away)
            try:
                self._rest(length)
            finally:
                away.rename(store)
        return f"the store was away for {length:.1f} s"

    def _fill_disk(self) -> str:
        assert self._disk is not None
        length, filler = self._length(), self._disk / "filler"
        with filler.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(1 << 16))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
        self._rest(length)
        filler.unlink()
        return f"no room on the disk for {length:.1f} s"


def mount_disk(folder: Path, size: int) -> bool:
    """Mount a file system of *size* bytes in memory at *folder*; False where this user may not."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "crawler-campaign", str(folder)]
    try:
        return os.getuid() == 0 and subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def unmount_disk(folder: Path) -> None:
    """Undo `mount_disk`."""
    subprocess.run(["umount", "--lazy", str(folder)], capture_output=True, check=False)
