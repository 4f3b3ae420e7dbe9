"""How leases end: completed, tried again later, recorded as failed, or lost with the child that worked on them."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from crawler.broker.changes import Body, Changes, Delayed, Ended, body_of
from crawler.broker.frontier import Held
from crawler.broker.ledger import Ledger
from crawler.broker.retries import judge
from crawler.broker.state import State
from crawler.errors import StorageFailed, WireError
from crawler.model import Completion, Failure, Welcome
from crawler.reasons import Class, Reason

log = logging.getLogger(__name__)

#: What a path in a store looks like: no empty part, none that begins with a dot.
_PATH = re.compile(r"[0-9A-Za-z_-][0-9A-Za-z._-]*(?:/[0-9A-Za-z_-][0-9A-Za-z._-]*)*")


class Terms(NamedTuple):
    """What a queue tells its sessions, and how it checks that they see the store."""

    #: What all sessions are told.
    base: Welcome
    #: Returns what a session wrote into its spool, None where nothing is there.
    proof: Callable[[str], str | None]
    #: Put before a completion's path in records: the store's place in OUT, "" where it is elsewhere.
    prefix: str = ""
    #: Whether to go on waiting for lists when all are read.
    keep_open: bool = False
    #: Seconds for which nothing may be stored through our own fault before `fail` is called.
    pause_limit: float = 600.0
    fail: Callable[[StorageFailed], None] = lambda error: None


class Ends:
    """
    End leases in a state and its ledger.

    Args:
        state: Frontier, sessions and counts.
        ledger: Where the ends are kept.
        terms: Attempts, pauses, and what goes before paths.
        wake: Called when tasks were delayed.
    """

    def __init__(self, state: State, ledger: Ledger, terms: Terms, wake: Callable[[], None]) -> None:
        self._state = state
        self._ledger = ledger
        self._terms = terms
        self._wake = wake

    def complete(self, session: str, completions: list[Completion]) -> list[int]:
        """Record how tasks ended: see TaskQueue."""
        for item in completions:
            if item.path is not None and not _PATH.fullmatch(item.path):
                raise WireError(f"{item.path[:80]!r} is no path in a store")
        with self._state.lock:
            by_token = {item.token: item for item in completions}
            held = self._state.end(session, list(by_token))
            finals = [self._final(by_token.pop(item.token), item, session) for item in held]
            stale = [(item.token, item.task_id) for item in by_token.values()]
            commit = self._ledger.submit(lambda changes: self._write(changes, finals, [], stale))
            over = bool(held) and self._state.trouble.worked()
        if over:
            log.warning("images can be stored again")
        return self._settle(held, finals, [], commit.result())

    def retry(self, session: str, failures: list[Failure]) -> list[int]:
        """End leases whose fetch failed: see TaskQueue."""
        with self._state.lock:
            by_token = {item.token: item for item in failures}
            held = self._state.end(session, list(by_token))
            judged = [self._judge(by_token.pop(item.token), item, session) for item in held]
            finals = [item for item in judged if isinstance(item, Ended)]
            delayed = [item for item in judged if isinstance(item, Delayed)]
            stale = [(item.token, item.task_id) for item in by_token.values()]
            commit = self._ledger.submit(lambda changes: self._write(changes, finals, delayed, stale))
        for item in failures:
            if item.reason.facts.kind is Class.LOCAL:
                self.local_fault(item.detail)
        return self._settle(held, finals, delayed, commit.result())

    def local_fault(self, detail: str) -> None:
        """Note a failure that is our own fault; several in a row pause the run."""
        with self._state.lock:
            begins = self._state.trouble.failed(detail, self._state.now())
        if begins:
            log.warning("nothing can be stored (%s): waiting up to %.0f s", detail, self._terms.pause_limit)

    def lose(self, session: str, tokens: list[int]) -> None:
        """Charge a loss to the tasks of leases whose child died; those with too many get their record."""
        with self._state.lock:
            ended = self._state.end(session, tokens)
            limit = self._terms.base.settings.retry.losses
            poisoned = [held for held in ended if held.task.losses + 1 >= limit]
            self._spare([held for held in ended if held.task.losses + 1 < limit])
            finals = [self._poisoned(held, session) for held in poisoned]
            commit = self._ledger.submit(lambda changes: self._write(changes, finals, [], []))
        self._settle(poisoned, finals, [], commit.result())

    def _spare(self, spared: list[Held]) -> None:
        for held in spared:
            task = msgspec.structs.replace(held.task, losses=held.task.losses + 1)
            self._state.frontier.give_back(held, task, self._state.now())
        ids, tokens = [held.task.id for held in spared], [held.token for held in spared]
        self._ledger.submit(lambda changes: changes.lose(ids, tokens))
        self._state.lock.notify_all()

    def _poisoned(self, held: Held, session: str) -> Ended:
        body = Body(attempts=held.task.attempts, worker=self._state.machine_of(session))
        return Ended(held.token, held.task.id, Reason.POISONED, body)

    def _write(
        self, changes: Changes, finals: list[Ended], delayed: list[Delayed], stale: list[tuple[int, int]]
    ) -> set[int]:
        changes.record(finals, self._state.now())
        changes.delay(delayed)
        return changes.ended_by(stale)

    def _settle(self, held: list[Held], finals: list[Ended], delayed: list[Delayed], again: set[int]) -> list[int]:
        with self._state.lock:
            now = self._state.now()
            self._state.tally.ended(finals, now)
            self._state.tally.delayed += len(delayed)
            self._state.next_due = min([self._state.next_due, *(item.due for item in delayed)])
            for item in held:
                self._state.origin.pop(item.token, None)
                self._state.frontier.settle(item, now)
            self._state.lock.notify_all()
        if delayed:
            self._wake()
        return [item.token for item in held] + sorted(again)

    def _final(self, completion: Completion, held: Held, session: str) -> Ended:
        session, machine = self._state.origin_of(held.token, session)
        holder = self._state.sessions.find(session)
        if holder is not None:
            holder.completed += 1
        path = None if completion.path is None else self._terms.prefix + completion.path
        body = body_of(completion, held.task.attempts + 1, machine, path)
        return Ended(held.token, held.task.id, completion.reason, body)

    def _judge(self, failure: Failure, held: Held, session: str) -> Ended | Delayed:
        policy, now = self._terms.base.settings.retry, self._state.now()
        if failure.retry_after:
            self._state.frontier.pause(held.host, now + min(failure.retry_after, policy.cap))
        _, machine = self._state.origin_of(held.token, session)
        return judge(failure, held, policy, machine, now)

    def give_up(self) -> None:
        """End a pause that has lasted too long: the run cannot go on."""
        with self._state.lock:
            trouble = self._state.trouble
            over = trouble.since is not None and self._state.now() > trouble.since + self._terms.pause_limit
        if over:
            limit = f"for {self._terms.pause_limit:.0f} s"
            self._terms.fail(
                StorageFailed(f"nothing could be stored {limit}: {trouble.detail}; the same command resumes")
            )
