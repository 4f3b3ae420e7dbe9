"""What a confined process cannot do, seen from inside one; and verifiers that are confined, worn and replaced."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import PIL.Image as Pillow
import pytest

import crawler.consumer
from crawler.consumer import sandbox
from crawler.consumer.image import treat
from crawler.consumer.messages import Accepted, Orders, Ready, Refused, Setup, decode_answer, encode
from crawler.errors import ImageRefused
from crawler.facts import KINDS
from crawler.processes import Crew
from crawler.settings import Limits
from crawler.treatment import Fit, Frames, Transform, Treatment
from tests.conftest import ROOT, wait_until
from tests.test_consumer import Bench, picture

#: Tells what a line of code does in a confined process: "done", or how it was refused.
CONFINED = """
import ctypes, errno, mmap, os, resource, signal, socket, sys, threading
from crawler.consumer import sandbox

inherited = socket.socket()
wire = socket.socket(socket.AF_UNIX)
libc = ctypes.CDLL(None, use_errno=True)

def call(number, *args):
    if libc.syscall(number, *args) < 0:
        raise OSError(ctypes.get_errno(), "")

answer = os.open(sys.argv[2], os.O_WRONLY)
missing = sandbox.confine(256 << 20)
try:
    exec(sys.argv[1])
    said = "done"
except OSError as error:
    said = errno.errorcode[error.errno]
except BaseException as error:
    said = type(error).__name__
os.write(answer, (said + " " + ",".join(missing)).encode())
"""

needs_filter = pytest.mark.skipif(
    sys.platform != "linux" or os.uname().machine not in sandbox.MACHINES, reason="no filter on system calls here"
)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """Return a bench, and close its consumer in the end."""
    made = Bench(tmp_path / "images")
    yield made
    made.consumer.close(0)


@pytest.fixture
def confined(tmp_path: Path) -> Callable[..., tuple[int, str]]:
    """Run a line of code in a confined process; return its exit status and what it said."""

    def run(code: str) -> tuple[int, str]:
        reading, writing = os.pipe()
        with open(reading, "rb") as said, open(tmp_path / "log", "wb") as log:
            command = [sys.executable, "-c", CONFINED, textwrap.dedent(code), f"/dev/fd/{writing}"]
            done = subprocess.run(command, stdout=log, stderr=log, pass_fds=[writing], timeout=30, check=False)
            os.close(writing)
            return done.returncode, said.read().decode()

    return run


@needs_filter
@pytest.mark.parametrize(
    "code",
    [
        "open('/etc/hostname')",
        "open('/proc/self/mem', 'rb')",
        "os.open('new', os.O_CREAT | os.O_WRONLY)",
        "os.unlink('/nonexistent')",
        "os.mkdir('new')",
        "os.rename('/nonexistent', '/nowhere')",
        "os.symlink('a', 'b')",
        "os.chmod('/nonexistent', 0)",
        "os.truncate('/nonexistent', 0)",
        "os.listdir('/')",
        "os.readlink('/proc/self/exe')",
        "os.memfd_create('m')",
        "socket.socket()",
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
        "socket.socket(socket.AF_UNIX)",
        "socket.socketpair()",
        "inherited.connect(('127.0.0.1', 9))",
        "inherited.bind(('127.0.0.1', 0))",
        "inherited.listen()",
        "wire.connect('/nonexistent')",
        "os.fork()",
        "os.execv('/bin/true', ['true'])",
        "os.posix_spawn('/bin/true', ['true'], {})",
        "os.kill(os.getppid(), 0)",
        "os.kill(os.getpid(), 0)",
        "resource.prlimit(os.getppid(), resource.RLIMIT_CPU)",
        "resource.prlimit(0, resource.RLIMIT_AS, (-1, -1))",
        "os.setuid(0)",
        "os.chdir('/')",
        "call(101 if os.uname().machine == 'x86_64' else 117, 0, 0, 0, 0)",  # ptrace
        "libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]\n"
        "if libc.mprotect(id(libc) & ~4095, 4096, 7): raise OSError(ctypes.get_errno(), '')",
        "mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)",
    ],
)
def test_forbidden(confined: Callable[[str], tuple[int, str]], code: str) -> None:
    """Whatever reaches for files, the network, other processes or more rights is refused, and the process lives."""
    assert confined(code) == (0, "EPERM ")


@needs_filter
@pytest.mark.parametrize("number", [425, 435, 437, 438])
def test_new_calls(confined: Callable[[str], tuple[int, str]], number: int) -> None:
    """Calls newer than the C library's needs (io_uring_setup, clone3, openat2, pidfd_getfd) do not exist."""
    assert confined(f"call({number}, 0, 0, 0, 0)") == (0, "ENOSYS ")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("bytearray(2 << 30)", "MemoryError"),
        ("[os.dup(0) for _ in range(40)]", "EMFILE"),
        ("os.write(1, b'x')", "EFBIG"),
        ("threading.Thread(target=print).start()", "RuntimeError"),
        ("bytearray(128 << 20); sum(range(1000)); mmap.mmap(-1, 4096); os.fstat(0); os.dup(0)", "done"),
    ],
)
def test_limits(confined: Callable[[str], tuple[int, str]], code: str, said: str) -> None:
    """Memory, descriptors, files written and threads are limited; what decoding needs is there."""
    status, heard = confined(code)
    assert (status, heard.split(" ")[0]) == (0, said)


def test_cpu(confined: Callable[[str], tuple[int, str]]) -> None:
    """A process that computes longer than it may is ended."""
    assert confined("sandbox.allow_cpu(1)\nwhile True: pass") == (-signal.SIGXCPU, "")


def test_cpu_again(confined: Callable[[str], tuple[int, str]]) -> None:
    """CPU time is allowed anew for each image, so that a long life is no crime."""
    code = """
        import time
        for end in (0.7, 1.4, 2.1):
            sandbox.allow_cpu(1)
            while time.process_time() < end:
                pass
    """
    assert confined(code) == (0, "done ")


def test_unknown_machine(tmp_path: Path) -> None:
    """Where system calls cannot be filtered this is said, and the limits hold all the same."""
    code = """
        import os, platform, resource
        platform.machine = lambda: "abacus"
        from crawler.consumer import sandbox
        missing = sandbox.confine(1 << 28)
        print(missing, resource.getrlimit(resource.RLIMIT_NOFILE)[0], os.path.exists(os.devnull))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"['filter on system calls'] {sandbox.MAX_FILES} True"


def test_missing_is_told(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A consumer whose verifiers are confined less than they should be says so once, and works."""
    own_verifier(tmp_path, monkeypatch, "import platform; platform.machine = lambda: 'abacus'")
    bench.start(2)
    for color in range(4):
        bench.take(picture(color))
    assert {result.reason for result in bench.wait(4).values()} == {None}
    told = [message for message in caplog.messages if "confines verifiers" in message]
    assert told == ["this system confines verifiers less than it should: no filter on system calls"]


def test_room() -> None:
    """Memory follows from the pixels that an image may have; the defaults of both fit."""
    assert sandbox.room_for(Limits().max_pixels) == 512 << 20
    assert sandbox.room_for(200_000_000) == 1_600_000_000
    assert sandbox.room_for(64_000_000, are_used=True) == 768_000_000


# ------------------------------------------------------------------ real verifiers


def own_verifier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    """Let consumers start verifiers that run a line of code first."""
    (tmp_path / "own_verifier.py").write_text(
        "import crawler.consumer.verifier as verifier\nfrom crawler.processes import child_main\n"
        f"{change}\nif __name__ == '__main__':\n    child_main(verifier.serve)\n"
    )
    paths = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.setattr(crawler.consumer, "VERIFIER", "own_verifier")


class Talk:
    """A crew with one real verifier, and what it said."""

    def __init__(self, setup: Setup | None = None) -> None:
        self.answers: list[object] = []
        self.deaths = 0
        said = encode(setup or Setup(limits=Limits()))
        self.crew = Crew("crawler.consumer.verifier", said, 1, self.on_message, self.on_death)
        self.crew.start()

    def on_message(self, _: int, message: bytes) -> None:
        self.answers.append(decode_answer(message))

    def on_death(self, _: int, __: set[int]) -> None:
        self.deaths += 1

    def judge(self, path: Path, *outputs: int) -> tuple[object, ...]:
        """Return the verdict on a file; what is made of it is written to a descriptor."""
        number = len(self.answers)
        with path.open("rb") as file:
            self.crew.send(self.crew.children()[0], encode(Orders(numbers=[number])), file.fileno(), *outputs)
        wait_until(lambda: len(self.answers) > number)
        answer = self.answers[-1]
        assert isinstance(answer, Accepted | Refused)
        assert answer.number == number
        if isinstance(answer, Refused):
            return answer.reason, answer.detail
        assert answer.facts is not None
        assert answer.facts.decode_seconds is not None
        return answer.image, msgspec.structs.replace(answer.facts, decode_seconds=None)


@pytest.fixture
def talk() -> Iterator[Talk]:
    """Return a talk with a verifier that is ready."""
    made = Talk()
    wait_until(lambda: made.answers)
    yield made
    made.crew.close(0)


@needs_filter
def test_verifier_is_confined(talk: Talk) -> None:
    """A verifier that is ready is confined, as the kernel sees it."""
    assert talk.answers == [Ready(missing=[])]
    (pid,) = (pid for pid in children() if "crawler.consumer.verifier" in command_of(pid))
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    assert (status["Seccomp"], status["NoNewPrivs"]) == ("2", "1")
    limits = {line[:26].strip(): line[26:].split()[0] for line in Path(f"/proc/{pid}/limits").read_text().splitlines()}
    assert limits["Max address space"].isdigit()
    assert [limits[name] for name in ("Max file size", "Max core file size", "Max processes")] == ["0", "0", "0"]


def children() -> list[int]:
    """Return the processes started by this one's threads."""
    tasks = Path("/proc/self/task").glob("*/children")
    return [int(pid) for task in tasks for pid in task.read_text().split()]


def command_of(pid: int) -> str:
    """Return a process's command line."""
    return Path(f"/proc/{pid}/cmdline").read_text()


def test_same_verdicts(talk: Talk) -> None:
    """The sandbox changes no verdict: every fixture is judged as outside of it."""
    files = sorted(path for path in (ROOT / "fixtures").iterdir() if path.is_file())
    assert [(file.name, talk.judge(file)) for file in files] == [(file.name, outside(file)) for file in files]
    assert talk.deaths == 0


def outside(path: Path) -> tuple[object, ...]:
    """Return the verdict on a file in this process, which nothing confines."""
    with path.open("rb") as file:
        try:
            made = treat(file, Limits(), Treatment())
            return made.image, made.facts
        except ImageRefused as error:
            return error.reason, error.detail


def test_worn(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A verifier that has judged its number of images is replaced, and no image notices."""
    own_verifier(tmp_path, monkeypatch, "verifier.MAX_IMAGES = 3")
    bench.start()
    for color in range(10):
        bench.take(picture(color))
    results = bench.wait(10)
    assert {result.reason for result in results.values()} == {None}
    wait_until(lambda: len(bench.consumer._crew.children()) == 1 and bench.consumer._crew.children()[0] >= 3)


def test_grown(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A verifier that keeps much memory between two images is replaced."""
    leak = """
kept = []
plain = verifier.treat
def leaking(*args):
    kept.append(bytearray(100 << 20))
    return plain(*args)
"""
    own_verifier(tmp_path, monkeypatch, leak + "verifier.treat = leaking")
    bench.start()
    for color in range(8):
        bench.take(picture(color))
    assert {result.reason for result in bench.wait(8).values()} == {None}
    wait_until(lambda: bench.consumer._crew.children()[-1:] >= [3])


def test_memory_is_too_small(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image that does not fit into the verifier's memory is refused for its size, and ends nobody."""
    own_verifier(tmp_path, monkeypatch, "verifier.sandbox.ROOM = 56 << 20; verifier.sandbox.ROOM_PER_PIXEL = 0")
    bench.start()
    large = bench.take(large_picture())
    small = bench.take(picture())
    results = bench.wait(2)
    assert results[large.task.id].reason == "too_many_pixels"
    assert results[small.task.id].reason is None
    assert bench.consumer._crew.children() == [1]


# Enough to decode; with less the encoder of AVIF crashes, with more there is enough for all.
@pytest.mark.parametrize(("format", "room"), [("WEBP", 124 << 20), ("AVIF", 140 << 20)])
def test_memory_is_too_small_to_encode(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str, room: int
) -> None:
    """What an encoder says then is of use to nobody: it is refused as when a decoder gets too little."""
    own_verifier(tmp_path, monkeypatch, f"verifier.sandbox.ROOM = {room}; verifier.sandbox.ROOM_PER_PIXEL_USED = 0")
    bench.start(treatment=Treatment(transform=Transform(format=format)))
    file = io.BytesIO()
    Pillow.new("L", (4000, 3000)).save(file, "PNG")
    large, small = bench.take(file.getvalue()), bench.take(picture())
    results = bench.wait(2)
    assert results[large.task.id].reason == "too_many_pixels"
    assert "memory" in str(results[large.task.id].detail) and "--max-pixels" in str(results[large.task.id].detail)
    assert results[small.task.id].reason is None


def large_picture() -> bytes:
    """Return a TIFF of 64 million bytes decoded."""
    file = io.BytesIO()
    Pillow.new("RGBA", (4000, 4000)).save(file, "TIFF", compression="tiff_deflate")
    return file.getvalue()


def test_a_crash_costs_one_image(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image over which decoders crash gets its verdict; all others are stored."""
    crash = """
import os
plain = verifier.treat
def crashing(file, *args):
    if file.read(5) == b"CRASH":
        os._exit(139)
    file.seek(0)
    return plain(file, *args)
"""
    own_verifier(tmp_path, monkeypatch, crash + "verifier.treat = crashing")
    bench.start(2)
    bad = [bench.take(b"CRASH").task.id for _ in range(3)]
    good = [bench.take(picture(color)).task.id for color in range(20)]
    results = bench.wait(23)
    assert {results[number].reason for number in bad} == {"verifier_died"}
    assert {results[number].reason for number in good} == {None}


# ------------------------------------------------------------------ transforms


@needs_filter
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "AVIF"])
@pytest.mark.parametrize(("frames", "size"), [(Frames.FIRST, 50), (Frames.ALL, 50), (Frames.FIRST, 0)])
def test_same_transforms(tmp_path: Path, format: str, frames: Frames, size: int) -> None:
    """A confined verifier makes of every fixture, byte for byte, what is made of it outside: nothing is loaded late."""
    asked = Treatment(transform=Transform(size=size, fit=Fit.BORDER, format=format, frames=frames), facts=KINDS)
    talk = Talk(Setup(limits=Limits(), treatment=asked))
    try:
        wait_until(lambda: talk.answers)
        for path in sorted((ROOT / "fixtures").iterdir()):
            with open(tmp_path / "made", "w+b") as made:
                answer = talk.judge(path, made.fileno())
                made.seek(0)
                *facts, data = treated(path, asked)
                assert (path.name, *answer, timeless(made.read())) == (path.name, *facts, timeless(data))
        assert talk.deaths == 0
    finally:
        talk.crew.close(0)


def timeless(data: bytes) -> bytes:
    """Return *data* without the times at which an animated AVIF says it was made. Source: ISO/IEC 14496-12, 8.2.2."""
    return re.sub(rb"(mvhd|tkhd|mdhd)(?:(\x00...).{8}|(\x01...).{16})", rb"\1\2\3", data, flags=re.DOTALL)


def treated(path: Path, asked: Treatment) -> tuple[Any, ...]:
    """Return what is made of a file in this process, which nothing confines."""
    with path.open("rb") as file:
        try:
            made = treat(file, Limits(), asked)
            return made.image, made.facts, made.data
        except ImageRefused as error:
            return error.reason, error.detail, b""


@needs_filter
def test_what_is_made_is_bounded(tmp_path: Path) -> None:
    """A verifier writes no more than `max_bytes`, into what it is given for it."""
    talk = Talk(Setup(limits=Limits(max_bytes=1000), treatment=Treatment(transform=Transform(size=400))))
    try:
        wait_until(lambda: talk.answers)
        with open(tmp_path / "made", "w+b") as made:
            reason, detail = talk.judge(ROOT / "fixtures/ImageUrl_0.jpg", made.fileno())
            assert reason == "too_large"
            assert str(detail).endswith("bytes after its transform")
            assert made.seek(0, os.SEEK_END) <= 1000
    finally:
        talk.crew.close(0)
