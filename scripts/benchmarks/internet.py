"""
A server that answers as the internet does: late, sometimes with nothing, sometimes never.

    python internet.py FOLDER      # serves the files below FOLDER at 127.0.0.2:80 until it is ended

How a URL fares is told by its number (the name of its file), so that a list and its outcome are known beforehand. When
a URL that is never answered was asked for last, the file `SILENT_ASKED` beside the folder tells by its time of change.
"""

from __future__ import annotations

import asyncio
import math
import random
import sys
from pathlib import Path

#: Median of the seconds until an answer, sigma of its logarithm, and the longest.
MEDIAN, SIGMA, LONGEST = 0.2, 1.0, 8.0
#: Name of the file that is touched when a URL is asked for that is never answered.
SILENT_ASKED = "silent-asked"
#: Of 200 URLs, these are never answered, and these are missing: 1.5 % each.
SILENT = (7, 77, 147)
MISSING = (30, 100, 170)


def fate(number: int) -> str:
    """Return what happens to the URL of *number*: "silent", "missing" or "stored"."""
    # Hosts go by the number too: shifted after each 800, so that the silent URLs are not all of a few hosts.
    place = (number + 3 * (number // 800)) % 200
    return "silent" if place in SILENT else "missing" if place in MISSING else "stored"


def latency(number: int) -> float:
    """Return the seconds after which the URL of *number* is answered."""
    chance = random.Random(number)
    return min(LONGEST, MEDIAN * math.exp(chance.gauss(0, SIGMA)))


class Connection(asyncio.Protocol):
    """One connection; its requests are answered one after the other."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note where to write."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer a request, later, when it is there as a whole."""
        self._received += data
        if b"\r\n\r\n" not in self._received:
            return
        path = self._received.split(b" ", 2)[1].decode("ascii", "replace").partition("?")[0]
        self._received = b""
        if not path.rpartition("/")[2][:6].isdigit():  # robots.txt and the like
            self._respond("404 Not Found", b"")
            return
        number = int(path.rpartition("/")[2][:6])
        how = fate(number)
        if how == "silent":
            self._folder.with_name(SILENT_ASKED).touch()
            return
        asyncio.get_running_loop().call_later(latency(number), self._send, path, how)

    def _send(self, path: str, how: str) -> None:
        if how == "missing":
            self._respond("404 Not Found", b"")
        else:
            self._respond("200 OK", (self._folder / path.lstrip("/")).read_bytes())

    def _respond(self, status: str, body: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)


async def serve(folder: Path) -> None:
    """Serve until ended."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(folder), "127.0.0.2", 80, backlog=4096)
    print("serving", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
