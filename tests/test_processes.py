"""Children of a crew: fed, heard, replaced and ended. All are real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import crawler
import crawler.child
from crawler.errors import CrawlerError
from crawler.processes import MAX_STILLBORN, Crew
from tests.conftest import wait_until

#: A child that does what its messages say.
CHILD = """
import os, struct, subprocess, sys, threading
from multiprocessing.reduction import recv_handle
from crawler.processes import child_main
from crawler.slate import mine

def serve(connection, setup):
    slate = mine()
    while True:
        order = connection.recv_bytes()
        if order == b"die":
            os._exit(3)
        elif order == b"hang":
            connection.send_bytes(b"hanging")
            threading.Event().wait()
        elif order == b"descriptor":
            with open(recv_handle(connection), "rb") as file:
                connection.send_bytes(file.read())
        elif order == b"burst":
            for number in range(100):
                connection.send_bytes(b"%d" % number)
            os._exit(0)
        elif order == b"half":
            os.write(connection.fileno(), struct.pack("!i", 100) + b"only this")
            threading.Event().wait()
        elif order == b"huge":
            os.write(connection.fileno(), struct.pack("!i", 2_000_000_000))
            threading.Event().wait()
        elif order == b"note":
            slate.note(1, 7)
            slate.note(2, 2**63)
            slate.note(3, 9)
            slate.note(3, 0)
            os._exit(3)
        elif order == b"leave":
            return
        elif order == b"pid":
            connection.send_bytes(b"%d" % os.getpid())
        elif order == b"files":
            connection.send_bytes(" ".join(os.listdir("/proc/self/fd")).encode())
        elif order == b"descendant":
            listing = subprocess.run("echo /proc/self/fd/*", shell=True, close_fds=False, capture_output=True).stdout
            connection.send_bytes(b" ".join(sorted(path.rpartition(b"/")[2] for path in listing.split())[:-1]))
        elif order == b"paths":
            connection.send_bytes(repr([entry for entry in sys.path if entry in ("", os.getcwd())]).encode())
        else:
            connection.send_bytes(setup + order)

if __name__ == "__main__":
    child_main(serve)
"""


class Heard:
    """What a crew told, and the crew."""

    def __init__(self) -> None:
        self.events: list[tuple[str, int, bytes]] = []
        #: Live children at the time of each death.
        self.at_death: list[list[int]] = []
        self.is_defective = False
        #: What the last that died had noted.
        self.noted: set[int] = set()
        self.crew: Crew

    def message(self, child: int, message: bytes) -> None:
        if self.is_defective:
            raise ZeroDivisionError
        self.events.append(("message", child, message))

    def death(self, child: int, noted: set[int]) -> None:
        self.at_death.append(self.crew.children())
        self.noted = noted
        self.events.append(("death", child, b""))

    def messages(self) -> list[bytes]:
        """Return all messages so far."""
        return [message for kind, _, message in self.events if kind == "message"]

    def deaths(self) -> list[int]:
        """Return the children that died so far."""
        return [child for kind, child, _ in self.events if kind == "death"]

    def ask(self, child: int, order: bytes) -> bytes:
        """Send an order and return the next message."""
        before = len(self.messages())
        assert self.crew.send(child, order)
        wait_until(lambda: len(self.messages()) > before)
        return self.messages()[before]


Make = Callable[..., Heard]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Start crews of `CHILD`, or of the code given, and close them in the end."""
    started: list[Crew] = []
    paths = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))

    def start(size: int = 1, code: str = CHILD, setup: bytes = b"setup ") -> Heard:
        (tmp_path / "crew_child.py").write_text(textwrap.dedent(code))
        heard = Heard()
        heard.crew = Crew("crew_child", setup, size, heard.message, heard.death, 4)
        started.append(heard.crew)
        heard.crew.start()
        return heard

    yield start
    for crew in started:
        crew.close(5)


def test_a_child_ends_at_once(make: Make, tmp_path: Path) -> None:
    """What Python does at its end takes as long as some images, and nobody needs it."""
    code = """
    import atexit, pathlib
    from crawler.processes import child_main

    def serve(connection, setup):
        atexit.register(pathlib.Path(setup.decode()).touch)
        connection.send_bytes(b"registered")
        connection.recv_bytes()

    child_main(serve)
    """
    mark = tmp_path / "ended as Python does"
    heard = make(code=code, setup=str(mark).encode())
    wait_until(lambda: heard.messages() == [b"registered"])
    heard.crew.close(30)
    assert not mark.exists()


def is_alive(pid: int) -> bool:
    """Tell whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_answer(make: Make) -> None:
    """A child gets its setup and its messages, and what it sends is heard with its number."""
    heard = make()
    (child,) = heard.crew.children()
    heard.ask(child, b"hello")
    assert heard.events == [("message", child, b"setup hello")]


def test_descriptor(make: Make, tmp_path: Path) -> None:
    """A child reads through a descriptor that goes with a message; the sender keeps his own."""
    heard = make()
    (tmp_path / "file").write_bytes(b"content")
    with (tmp_path / "file").open("rb") as file:
        assert heard.crew.send(heard.crew.children()[0], b"descriptor", file.fileno())
        wait_until(heard.messages)
        assert heard.messages() == [b"content"]
        file.seek(0)
        assert file.read() == b"content"


def test_replaced(make: Make) -> None:
    """A killed child is replaced by one with a new number, before its death is told."""
    heard = make(2)
    first, second = heard.crew.children()
    heard.ask(first, b"x")
    heard.crew.kill(first)
    wait_until(heard.deaths)
    assert heard.deaths() == [first]
    assert heard.at_death == [heard.crew.children()] == [[second, 3]]
    assert heard.ask(3, b"x") == b"setup x"


def test_heard_before_death(make: Make) -> None:
    """All that a child sent before it died is heard before its death is."""
    heard = make()
    (child,) = heard.crew.children()
    heard.crew.send(child, b"burst")
    wait_until(heard.deaths)
    assert heard.events == [("message", child, b"%d" % number) for number in range(100)] + [("death", child, b"")]


def test_clean_end(make: Make) -> None:
    """A child that ends by itself is replaced too."""
    heard = make()
    heard.crew.send(1, b"leave")
    wait_until(heard.deaths)
    assert heard.crew.children() == [2]
    assert not heard.crew.hopeless


def test_hopeless(make: Make) -> None:
    """Children that all die before they are ready are given up, and the crew says why."""
    heard = make(code="raise RuntimeError('no such decoder')")
    wait_until(lambda: len(heard.deaths()) == MAX_STILLBORN)
    assert heard.crew.hopeless
    assert "RuntimeError: no such decoder" in heard.crew.why
    assert heard.crew.children() == []
    assert not heard.crew.send(1, b"x")


def test_late_start(make: Make, tmp_path: Path) -> None:
    """A few children that die before they are ready are no reason to give up."""
    tries = MAX_STILLBORN - 1
    stumble = f"""
    from pathlib import Path
    log = Path({str(tmp_path / "tries")!r})
    with log.open("a") as file:
        file.write("x")
    if log.stat().st_size <= {tries}:
        raise SystemExit(1)
    """
    heard = make(code=textwrap.dedent(stumble) + CHILD)
    wait_until(lambda: len(heard.deaths()) == tries)
    assert heard.ask(tries + 1, b"x") == b"setup x"
    assert not heard.crew.hopeless


def test_cannot_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """A crew of which no child can be started says so at once."""
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    crew = Crew("crew_child", b"", 2, lambda child, message: None, lambda child, noted: None)
    with pytest.raises(CrawlerError, match="nonexistent"):
        crew.start()


def test_never_reads(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that does not read is killed, and its sender does not wait for ever."""
    monkeypatch.setattr(crawler.child, "PIPE_WAIT", 0.2)
    heard = make()
    heard.ask(1, b"hang")
    while heard.crew.send(1, bytes(65536)):
        pass
    wait_until(heard.deaths)
    assert heard.deaths() == [1]


@pytest.mark.parametrize("order", [b"half", b"huge"])
def test_broken_message(make: Make, monkeypatch: pytest.MonkeyPatch, order: bytes) -> None:
    """A child that stops in the middle of a message, or announces a huge one, is killed; the other is still heard."""
    monkeypatch.setattr(crawler.child, "PIPE_WAIT", 0.2)
    heard = make(2)
    heard.crew.send(1, order)
    wait_until(heard.deaths)
    assert heard.deaths() == [1]
    assert heard.ask(2, b"x") == b"setup x"


def test_senders(make: Make) -> None:
    """Messages that several threads send to one child do not mix."""
    heard = make(setup=b"")
    sent = [bytes([number]) * 5000 for number in range(8)]

    def send(message: bytes) -> None:
        for _ in range(50):
            assert heard.crew.send(1, message)

    threads = [threading.Thread(target=send, args=(message,)) for message in sent]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait_until(lambda: len(heard.messages()) == 400)
    assert {message: heard.messages().count(message) for message in sent} == dict.fromkeys(sent, 50)


def test_callback_fails(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    """A defect in a callback is logged and does not end the crew."""
    heard = make()
    heard.is_defective = True
    heard.crew.send(1, b"x")
    wait_until(lambda: "ZeroDivisionError" in caplog.text)
    heard.is_defective = False
    assert heard.ask(1, b"y") == b"setup y"


def test_interrupt(make: Make) -> None:
    """Ctrl-C does not end a child: its parent decides."""
    heard = make()
    pid = int(heard.ask(1, b"pid"))
    os.kill(pid, signal.SIGINT)
    assert heard.ask(1, b"pid") == b"%d" % pid


def test_interrupt_at_start(make: Make) -> None:
    """Ctrl-C does not end a child that has not yet said that it ignores it."""
    heard = make(code="import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n" + CHILD)
    assert heard.ask(1, b"x") == b"setup x"


def test_grandchild(make: Make) -> None:
    """What a child starts does not inherit its pipe, and so cannot hide its death."""
    heard = make()
    assert heard.ask(1, b"descendant").split() == [b"0", b"1", b"2"]


def test_inherits(make: Make) -> None:
    """A child has its own pipe and slate, standard input, output and error, and nothing else of its parent's."""
    heard = make(3)
    for child in heard.crew.children():
        # One more is open while it lists them.
        assert len(heard.ask(child, b"files").split()) == 6


def test_import_path(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child imports nothing from the current folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert make().ask(1, b"paths") == b"[]"


def test_close(make: Make) -> None:
    """Closing ends and reaps every child, tells no death, and leaves no descriptor or thread."""
    before = set(os.listdir("/proc/self/fd")), threading.active_count()
    heard = make(3)
    pids = [int(heard.ask(child, b"pid")) for child in heard.crew.children()]
    heard.crew.kill(2)
    wait_until(heard.deaths)
    heard.crew.close(20)
    assert heard.deaths() == [2]
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert heard.crew.children() == []
    assert not heard.crew.send(1, b"x")
    assert (set(os.listdir("/proc/self/fd")), threading.active_count()) == before


def test_close_kills(make: Make) -> None:
    """A child that does not end when its pipe is closed is killed."""
    heard = make()
    pid = int(heard.ask(1, b"pid"))
    heard.ask(1, b"hang")
    heard.crew.close(0.1)
    assert not Path(f"/proc/{pid}").exists()
    heard.crew.close(0.1)


def test_parent_killed(make: Make) -> None:
    """A child ends with its parent, also one that is busy and does not look at its pipe."""
    make()  # writes the module
    parent = """
import sys, threading
from crawler.processes import Crew

def hear(child, message):
    if message == b"hanging":
        sys.stdout.write(pid + "\\n")
        sys.stdout.flush()
    else:
        globals().update(pid=message.decode())
        crew.send(1, b"hang")

crew = Crew("crew_child", b"", 1, hear, lambda child, noted: None)
crew.start()
crew.send(1, b"pid")
threading.Event().wait()
"""
    root = str(Path(crawler.__file__).parents[1])
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([os.environ["PYTHONPATH"], root])}
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, env=env) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        assert is_alive(pid)
        process.kill()
    wait_until(lambda: not is_alive(pid))


def test_what_a_child_noted_outlives_it(make: Make) -> None:
    """A parent reads after a child's death what this had noted, however it died; what was taken back is gone."""
    heard = make()
    heard.crew.send(heard.crew.children()[0], b"note")
    wait_until(lambda: heard.deaths() == [1])
    assert heard.noted == {7, 2**63}
    heard.crew.send(heard.crew.children()[0], b"die")
    wait_until(lambda: heard.deaths() == [1, 2])
    assert heard.noted == set()
