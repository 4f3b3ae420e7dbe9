"""Which URLs a ledger knows: by a hash of 64 bits, and by the text where two have the same one."""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Mapping
from hashlib import blake2b

from crawler.broker.intake import SLICE, URLS, Intake

#: Keys asked for in one statement.
KEYS = 500
_from_bytes = struct.Struct(">q").unpack


def url_key(url: str, salt: int) -> int:
    """Return a 64-bit key, signed, under which a URL is found; another *salt* gives another key."""
    if not salt:  # the same as without one, and all but one pair of URLs in 2^64 need no other
        return int(_from_bytes(blake2b(url.encode(), digest_size=8).digest())[0])
    return int(_from_bytes(blake2b(url.encode(), digest_size=8, salt=salt.to_bytes(2, "big")).digest())[0])


class KnownUrls:
    """
    The URLs of all tasks. All of it belongs to a transaction of the writing connection.

    Args:
        db: The writing connection.
    """

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        #: Those that are not sorted in yet.
        self.new = Intake(db, URLS)
        #: Whether those are found again that an earlier start had not sorted in, and was so before this transaction.
        self._is_whole = self._was_whole = False

    def begin(self) -> None:
        """Forget what an unfinished transaction changed."""
        self._is_whole = self._was_whole
        self.new.begin()

    def committed(self) -> None:
        """Keep what the transaction changed."""
        self._was_whole = self._is_whole
        self.new.committed()

    def add(self, keys: Mapping[str, int], tasks: Mapping[str, int], newest: int) -> None:
        """Add the URLs of *tasks* under their *keys*; *newest* is the highest id of a task."""
        self.new.add(sorted((keys[url], task) for url, task in tasks.items()), newest)

    def take_up(self, newest: int) -> None:
        """Find the keys again that an earlier start had not sorted in: at the first put, for nobody else needs them."""
        if self._is_whole:
            return
        self._is_whole = True
        after = self.new.mark()
        while rows := self._db.execute(
            "SELECT id, url FROM tasks WHERE id > ? ORDER BY id LIMIT ?", (after, SLICE)
        ).fetchall():
            after = rows[-1][0]
            _, free = self.look_up([url for _, url in rows])
            tasks = {url: task for task, url in rows}
            self.add(free, {url: tasks[url] for url in free}, newest)

    def look_up(self, urls: list[str]) -> tuple[dict[str, int], dict[str, int]]:
        """Return the tasks of the URLs that are known, and a free key for each of the others."""
        known: dict[str, int] = {}
        free: dict[str, int] = {}
        salt = 0
        while urls:  # a second round only for URLs whose key is another's, one pair in 2^64
            keys: dict[int, str] = {}
            clashes = [url for url in urls if keys.setdefault(url_key(url, salt), url) is not url]
            for key, (task, holder) in self._hits(sorted(keys)).items():
                url = keys.pop(key)
                if holder == url:
                    known[url] = task
                    continue
                clashes.append(url)
                if holder in clashes:
                    known[holder] = task
                    clashes.remove(holder)
            free.update((url, key) for key, url in keys.items())
            urls, salt = clashes, salt + 1
        return known, free

    def _hits(self, keys: list[int]) -> dict[int, tuple[int, str]]:
        hits = {}
        for start in range(0, len(keys), KEYS):
            some = keys[start : start + KEYS]
            marks = ",".join("?" * len(some))
            for table in ("temp.new_urls", "main.urls"):
                sql = f"SELECT u.hash, t.id, t.url FROM {table} u JOIN tasks t ON t.id = u.task"
                found = self._db.execute(f"{sql} WHERE u.hash IN ({marks})", some)
                hits.update({key: (task, url) for key, task, url in found})
        return hits
