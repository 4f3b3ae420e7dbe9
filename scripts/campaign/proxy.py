"""A TCP proxy on loopback that can be told to fail: reset, fall silent, trickle, or close one direction only."""

from __future__ import annotations

import contextlib
import enum
import random
import select
import socket
import struct
import threading

#: Bytes read at a time.
CHUNK = 65536
#: Seconds between two looks at the mode.
TICK = 0.05
#: Bytes that pass in each TICK of a trickle.
DRIP = 40
#: Seconds that closing waits for each thread, whose sockets are shut by then.
CLOSING = 5.0


class Mode(enum.Enum):
    """What the proxy does with what comes."""

    #: Hand it on.
    PASS = "pass"
    #: Read nothing and hand on nothing; connections stay open, new ones are accepted.
    BLACK_HOLE = "black hole"
    #: Hand on a few bytes at a time.
    TRICKLE = "trickle"


class Proxy:
    """
    Stand between many clients and one server while used as a context manager.

    Args:
        target: Address of the server; it may be away, then clients are closed.
        seed: Decides which connections a partial fault meets.
    """

    def __init__(self, target: tuple[str, int], seed: int = 0) -> None:
        self._target = target
        self._chance = random.Random(seed)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self._mode = Mode.PASS
        self._lock = threading.Lock()
        #: Pairs (client, server) that are open, and the thread of each.
        self._pairs: dict[threading.Thread, tuple[socket.socket, socket.socket]] = {}
        #: Threads whose pair is to be reset.
        self._doomed: set[threading.Thread] = set()
        self._closing = threading.Event()
        self._acceptor = threading.Thread(target=self._accept, name="proxy", daemon=True)

    def __enter__(self) -> Proxy:
        self._acceptor.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._acceptor.join(CLOSING)
        self._listener.close()
        with self._lock:
            left = list(self._pairs.items())
        for thread, pair in left:
            for end in pair:
                _shut(end, socket.SHUT_RDWR)
            thread.join(CLOSING)

    # ------------------------------------------------------------ faults

    def set(self, mode: Mode) -> None:
        """Treat all connections, those that are open too, in this way from now on."""
        self._mode = mode

    def reset(self, share: float = 1.0) -> int:
        """Reset each open connection with probability *share*, on both sides; return how many."""
        chosen = self._choose(share)
        for thread, pair in chosen:
            with self._lock:
                self._doomed.add(thread)
            for end in pair:
                with contextlib.suppress(OSError):  # closed by its own thread in between
                    # Lingering for no time makes the close a reset. Source: socket(7), SO_LINGER.
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            for end in pair:  # only now, since the first one ends both
                _shut(end, socket.SHUT_RD)
        return len(chosen)

    def half_close(self, share: float = 1.0) -> int:
        """Tell the server of each open connection, with probability *share*, that its client has ended."""
        chosen = self._choose(share)
        for _, (_, server) in chosen:
            _shut(server, socket.SHUT_WR)
        return len(chosen)

    def _choose(self, share: float) -> list[tuple[threading.Thread, tuple[socket.socket, socket.socket]]]:
        with self._lock:
            return [item for item in self._pairs.items() if self._chance.random() < share]

    # ------------------------------------------------------------ connections

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed, or gone again before it was taken
                continue
            try:
                server = socket.create_connection(self._target, timeout=2.0)
            except OSError:
                client.close()
                continue
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                end.settimeout(10.0)
            thread = threading.Thread(target=self._relay, args=(client, server), name="proxy pair", daemon=True)
            with self._lock:
                self._pairs[thread] = (client, server)
            thread.start()

    def _relay(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError), client, server:
            self._pump(client, server)
        with self._lock:
            del self._pairs[threading.current_thread()]
            self._doomed.discard(threading.current_thread())

    def _pump(self, client: socket.socket, server: socket.socket) -> None:
        """Hand bytes on in both directions until both have ended."""
        other = {client: server, server: client}
        while other and not self._closing.is_set():
            if self._mode is Mode.BLACK_HOLE:
                self._closing.wait(TICK)
                continue
            ready, _, _ = select.select(list(other), [], [], TICK)
            for source in ready:
                slow = self._mode is Mode.TRICKLE
                data = source.recv(DRIP if slow else CHUNK)
                if threading.current_thread() in self._doomed:
                    return
                if not data:
                    _shut(other.pop(source), socket.SHUT_WR)
                    continue
                other[source].sendall(data)
                if slow:
                    self._closing.wait(TICK)


def _shut(end: socket.socket, how: int) -> None:
    with contextlib.suppress(OSError):  # closed by its own thread in between
        end.shutdown(how)
