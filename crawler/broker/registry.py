"""What a ledger keeps of hosts and of their robots.txt: the statements, and their rows as data."""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from crawler.broker.health import SavedHealth
from crawler.broker.hosts import Facts, SavedHost
from crawler.broker.origins import Refusal, SavedOrigin, parse
from crawler.reasons import Reason
from crawler.stats import HostState

#: Reads all rows of a statement.
Query = Callable[..., list[Any]]

#: By number in the ledger.
STATES = (HostState.HEALTHY, HostState.SLOWED, HostState.OPEN, HostState.UNAVAILABLE)
#: Hosts that wait which are taken up at a start; others are read when they enter the window.
MAX_PAUSED = 100_000

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(SavedHealth).decode


def save_hosts(db: sqlite3.Connection, hosts: Iterable[SavedHost]) -> None:
    """Keep the state of hosts."""
    values = [(host.key, host.name, STATES.index(host.state), host.until, _encode(host.health)) for host in hosts]
    db.executemany("INSERT OR REPLACE INTO hosts VALUES (?, ?, ?, ?, ?)", values)


def save_origins(db: sqlite3.Connection, origins: Iterable[SavedOrigin]) -> None:
    """Keep what the robots.txt of origins say, or that they could not be had."""
    values = [
        (
            saved.host,
            saved.origin,
            saved.expires,
            None if saved.text is None else zlib.compress(saved.text.encode("utf-8", "replace"), 1),
            saved.refusal.reason if saved.refusal else None,
            saved.refusal.detail if saved.refusal else None,
        )
        for saved in origins
    ]
    db.executemany("INSERT OR REPLACE INTO robots VALUES (?, ?, ?, ?, ?, ?)", values)


def read_facts(query: Query, keys: list[int], product: str, now: float) -> dict[int, Facts]:
    """Return what is known of each host, and what its rules say to *product*; those that ran out are left out."""
    if not keys:
        return {}
    marks = ", ".join("?" * len(keys))
    sql = f"SELECT key, name, state, until, body FROM hosts WHERE key IN ({marks})"
    saved = {
        key: SavedHost(key, name, STATES[state], until, _decode(body))
        for key, name, state, until, body in query(sql, *keys)
    }
    origins: dict[int, list[SavedOrigin]] = {key: [] for key in keys}
    sql = f"SELECT host, origin, expires, text, reason, detail FROM robots WHERE host IN ({marks}) AND expires > ?"
    for row in query(sql, *keys, now):
        origins[row[0]].append(_origin(row, product))
    return {key: Facts(saved.get(key), origins[key]) for key in keys}


def read_paused(query: Query, now: float) -> list[tuple[int, float]]:
    """Return (key, time) of hosts that must not be asked before a time to come."""
    sql = "SELECT key, until FROM hosts WHERE until > ? AND state != 3 LIMIT ?"
    return [(key, until) for key, until in query(sql, now, MAX_PAUSED)]


def _origin(row: Any, product: str) -> SavedOrigin:
    host, origin, expires, packed, reason, detail = row
    refusal = None if reason is None else Refusal(Reason(reason), detail)
    text = None if packed is None else zlib.decompress(packed).decode()
    rules = None if text is None else parse(text, product, f"{origin}/robots.txt")
    return SavedOrigin(host, origin, expires, text, refusal, rules)
