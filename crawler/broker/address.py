"""Where a queue is served, as people write it: a host and a port."""

from __future__ import annotations

from crawler.errors import UsageError


def parse_address(text: str) -> tuple[str, int]:
    """
    Read ``HOST:PORT``; a literal IPv6 address stands in brackets.

    Raises:
        UsageError: It is no address.
    """
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host or "[" in host:
        host = ""
    if not (host and colon and port.isascii() and port.isdigit() and len(port) < 6 and int(port) < 1 << 16):
        raise UsageError(f"{text!r} is no address: it must be HOST:PORT, as in 192.0.2.1:7070 or [2001:db8::1]:7070")
    return host, int(port)


def format_address(address: tuple[str, int]) -> str:
    """Write an address as `parse_address` reads it."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
