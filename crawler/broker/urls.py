"""Which URLs a ledger knows: by a hash of 64 bits, and by the text where two have the same one."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Mapping

from crawler.broker.hashes import hashes
from crawler.broker.intake import SLICE, Intake
from crawler.broker.rows import among


class KnownUrls:
    """
    The URLs of all tasks. All of it belongs to a transaction of the writing connection.

    Args:
        db: The writing connection.
    """

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        #: Those that are not sorted in yet.
        self.new = Intake(db, "urls")
        #: The tasks of these by key; apart from them those that the transaction under way adds.
        self._tasks: dict[int, int] = {}
        self._added: dict[int, int] = {}
        #: Whether those are found again that an earlier start had not sorted in, and was so before this transaction.
        self._is_whole = self._was_whole = False

    def begin(self) -> None:
        """Forget what an unfinished transaction changed."""
        self._is_whole = self._was_whole
        self._added.clear()
        self.new.begin()

    def committed(self) -> None:
        """Keep what the transaction changed."""
        self._was_whole = self._is_whole
        self._tasks.update(self._added)
        self._added.clear()
        for key, _ in self.new.committed():
            del self._tasks[key]

    def add(self, keys: Mapping[str, int], tasks: Mapping[str, int], newest: int) -> None:
        """Add the URLs of *tasks* under their *keys*; *newest* is the highest id of a task."""
        added = {keys[url]: task for url, task in tasks.items()}
        self._added.update(added)
        self.new.add(added.items(), newest)

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
            numbered = zip(hashes(urls, salt), urls, strict=True)
            clashes = [url for key, url in numbered if keys.setdefault(key, url) is not url]
            for key, (task, holder) in self._hits(keys).items():
                url = keys.pop(key)
                if holder == url:
                    known[url] = task
                    continue
                clashes.append(url)
                if holder in clashes:
                    known[holder] = task
                    clashes.remove(holder)
            free.update(zip(keys.values(), keys, strict=True))
            urls, salt = clashes, salt + 1
        return known, free

    def _hits(self, keys: Collection[int]) -> dict[int, tuple[int, str]]:
        """Return the task, and its URL, of each of the *keys* that is taken."""
        tasks = {key: some[key] for some in (self._tasks, self._added) for key in some.keys() & keys}
        tasks.update(among(self._db, "SELECT hash, task FROM urls WHERE hash IN ?", sorted(keys)))
        urls = dict(among(self._db, "SELECT id, url FROM tasks WHERE id IN ?", list(tasks.values())))
        return {key: (task, urls[task]) for key, task in tasks.items()}
