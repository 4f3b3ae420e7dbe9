"""
A name server for a network namespace of the benchmarks' own: every name below `.test` is an address of loopback.

    python names.py      # serves 127.0.0.1:53 until it is ended

Names below `.slow.test` are 127.0.0.2, others 127.0.0.1; there is no IPv6.
"""

from __future__ import annotations

import socket
import struct

#: Type of a question for an IPv4 address. Source: RFC 1035, 3.2.2.
A = 1
#: Seconds for which an answer may be used again.
LIFE = 300
#: Answered, authoritative, recursion available.
FOUND = 0x8580


def answer(query: bytes) -> bytes:
    """Return the answer to a query of one question: one address for type A, nothing for others."""
    end, labels = 12, []
    while length := query[end]:
        labels.append(query[end + 1 : end + 1 + length].lower())
        end += 1 + length
    end += 1
    (kind,) = struct.unpack_from("!H", query, end)
    found = kind == A
    head = query[:2] + struct.pack("!HHHHH", FOUND, 1, int(found), 0, 0)
    address = socket.inet_aton("127.0.0.2" if labels[-2:-1] == [b"slow"] else "127.0.0.1")
    record = struct.pack("!HHHIH", 0xC00C, A, 1, LIFE, 4) + address
    return head + query[12 : end + 4] + (record if found else b"")


def main() -> None:
    """Answer until ended."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        server.bind(("127.0.0.1", 53))
        print("serving", flush=True)
        while True:
            query, client = server.recvfrom(4096)
            server.sendto(answer(query), client)


if __name__ == "__main__":
    main()
