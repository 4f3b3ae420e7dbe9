"""The listening socket of a coordinator."""

from __future__ import annotations

import socket
from contextlib import suppress

from crawler.broker.address import format_address
from crawler.errors import UsageError


class Listener:
    """
    A listening socket as the managers of multiprocessing want it.

    Args:
        address: Host and port; port 0 takes a free one.
        backlog: Connections that may wait to be accepted; small ones are raised.

    Raises:
        UsageError: It is not possible to listen there.
    """

    def __init__(self, address: tuple[str, int], backlog: int = 0) -> None:
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        try:
            self._sock = socket.create_server(address, family=family, backlog=max(backlog, 128))
        except OSError as error:
            raise UsageError(f"cannot listen at {format_address(address)}: {error.strerror}") from error
        # Ends the wait also on systems where `close` does not.
        self._sock.settimeout(1.0)
        #: Host and port in fact.
        self.address: tuple[str, int] = self._sock.getsockname()[:2]

    def accept(self) -> socket.socket:
        """
        Wait up to a second for a connection.

        Raises:
            OSError: None came (TimeoutError), or none can be taken.
        """
        return self._sock.accept()[0]

    def close(self) -> None:
        """Listen no more, and end a wait in `accept`."""
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()
