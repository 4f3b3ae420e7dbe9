"""How leases end: completed, tried again later, recorded as failed, or lost with the child that worked on them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future

import msgspec

from crawler.broker.changes import Changes
from crawler.broker.claims import can_end, check_path, sound
from crawler.broker.duplicates import compared
from crawler.broker.ended import Body, Delayed, Ended, body_of
from crawler.broker.frontier import Held, Refused
from crawler.broker.health import Says
from crawler.broker.ledger import Ledger
from crawler.broker.origins import Refusal, SavedOrigin, parse
from crawler.broker.outage import NETWORK
from crawler.broker.registry import save_hosts, save_origins
from crawler.broker.retries import LOCAL_PAUSE, judge, pause, says
from crawler.broker.shards import Shards
from crawler.broker.state import State
from crawler.broker.terms import Terms
from crawler.errors import Stopped, StorageFailed
from crawler.model import Completion, Failure, Finding
from crawler.reasons import Class, Reason

log = logging.getLogger(__name__)

#: Characters of a robots.txt that count. Source: RFC 9309, 2.5.
MAX_RULES = 500 * 1024


class Ends:
    """
    End leases in a state and its ledger.

    Args:
        state: Frontier, sessions and counts.
        ledger: Where the ends are kept.
        terms: Attempts, pauses, and what goes before paths.
        shards: Which are open.
        wake: Called when tasks were delayed.
    """

    def __init__(self, state: State, ledger: Ledger, terms: Terms, shards: Shards, wake: Callable[[], None]) -> None:
        self._shards = shards
        self._state = state
        self._ledger = ledger
        self._terms = terms
        self._wake = wake
        self._duplicates = compared(terms.base.settings, ledger.path.parent, ledger.view.hashes())

    def complete(self, session: str, completions: list[Completion]) -> list[int]:
        """Record how tasks ended: see TaskQueue."""
        for item in completions:
            check_path(item)
        with self._state.lock:
            by_token = {item.token: item for item in completions}
            held = self._state.end(session, list(by_token))
            refused = [lease for lease in held if not self._can_end(lease, by_token[lease.token], session)]
            for lease in refused:
                self._state.frontier.give_back(lease, lease.task, self._state.now())
                held.remove(lease)
            over = [lease.token for lease in refused]
            if over:
                self._ledger.submit(lambda changes: changes.drop_leases(over), durable=False)
            for lease in held:  # the report of its fetch may have been lost with the last coordinator
                self._state.frontier.standing.note(lease, Says.ANSWERED, "", self._state.now())
            finals = [self._final(by_token.pop(item.token), item, session) for item in held]
            stale = [(item.token, item.task_id) for item in by_token.values()]

            def write(changes: Changes) -> tuple[list[Ended], set[int]]:
                judged = self._duplicates.judge(changes.db, finals) if self._duplicates else finals
                return changes.record(judged, self._state.now()), changes.ended_by(stale)

            commit = self._ledger.submit(write)
            is_over = bool(held) and self._state.trouble.worked()
        if is_over:
            log.warning("images can be stored again")
        recorded, again = commit.result()
        return self._settle(held, recorded, [], again)

    def _can_end(self, held: Held, completion: Completion, session: str) -> bool:
        is_open = completion.path is None or self._shards.takes(session, completion.path)
        return is_open and can_end(held, completion)

    def retry(self, session: str, failures: list[Failure]) -> list[int]:
        """End leases whose fetch failed: see TaskQueue."""
        hops = self._terms.base.settings.limits.max_redirects + 1
        with self._state.lock:
            by_token = {item.token: sound(item, hops) for item in failures}
            held = self._state.end(session, list(by_token))
            faults = [by_token[item.token] for item in held]
            judged = [self._judge(by_token.pop(item.token), item, session) for item in held]
            finals = [item for item in judged if isinstance(item, Ended)]
            delayed = [item for item in judged if isinstance(item, Delayed)]
            origins = [item for item in judged if isinstance(item, SavedOrigin)]
            over = [item.token for item in held if item.origin is not None]
            stale = [(item.token, item.task_id) for item in by_token.values() if item.task_id]
            hosts = self._state.frontier.standing.take_changed()

            def write(changes: Changes) -> set[int]:
                save_hosts(changes.db, hosts)
                save_origins(changes.db, origins)
                changes.drop_leases(over)
                return self._write(changes, finals, delayed, stale)

            commit = self._ledger.submit(write)
            self._begin_outage(session)
        for item in faults:
            if item.reason.facts.kind is Class.LOCAL:
                self.local_fault(item.detail)
        return self._settle(held, finals, delayed, commit.result())

    def learn(self, session: str, findings: list[Finding]) -> list[int]:
        """Take what robots.txt say: see TaskQueue."""
        with self._state.lock:
            urls = {item.token: self._state.frontier.leases.url_of(session, item.token) for item in findings}
        texts = {item.token: item.text[:MAX_RULES] for item in findings if urls[item.token]}
        rules = {token: parse(text, self._state.product, urls[token] or "") for token, text in texts.items()}
        with self._state.lock:
            now = self._state.now()
            held = [item for item in self._state.end(session, list(texts)) if item.origin is not None]
            origins = []
            for item in held:
                self._answered(item, session)
                origins.append(self._state.frontier.standing.learn(item, texts[item.token], rules[item.token], now))
            over = [item.token for item in held]
            hosts = self._state.frontier.standing.take_changed()

            def write(changes: Changes) -> set[int]:
                save_hosts(changes.db, hosts)
                save_origins(changes.db, origins)
                changes.drop_leases(over)
                return set()

            commit = self._ledger.submit(write, durable=False)
        return self._settle(held, [], [], commit.result())

    def refuse(self, refused: list[Refused]) -> None:
        """Record tasks that fail without being fetched; called with the lock held, and does not wait."""
        finals = [
            Ended(None, task.id, refusal.reason, Body(attempts=task.attempts, detail=refusal.detail or None))
            for task, _, refusal in refused
        ]

        def settle(done: Future[set[int]]) -> None:
            if done.exception() is not None:
                return  # the run ends, and whoever runs it has been told
            with self._state.lock:
                now = self._state.now()
                self._state.tally.ended(finals, now)
                for item in refused:
                    self._state.frontier.settle_refused(item, now)
                self._state.lock.notify_all()
            self._wake()

        self._ledger.submit(lambda changes: self._write(changes, finals, [], [])).add_done_callback(settle)

    def local_fault(self, detail: str) -> None:
        """Note a failure that is our own fault; several in a row pause the run."""
        with self._state.lock:
            begins = self._state.trouble.failed(detail, self._state.now())
        if begins:
            log.warning("nothing can be stored (%s): waiting up to %.0f s", detail, self._terms.pause_limit)

    def block(self, why: str | None) -> None:
        """Begin a pause in which nothing is handed out, or end it."""
        with self._state.lock:
            self._state.trouble.block(why, self._state.now())
            self._state.lock.notify_all()
        if why is None:
            log.warning("there is room again")
        else:
            log.warning("%s: waiting up to %.0f s", why, self._terms.pause_limit)

    def lose(self, session: str, tokens: list[int]) -> None:
        """Charge a loss to the tasks of leases whose child died; those with too many get their record."""
        with self._state.lock:
            ended = self._state.end(session, tokens)
            limit = self._terms.base.settings.retry.losses
            poisoned = [held for held in ended if held.task.losses + 1 >= limit]
            self._spare([held for held in ended if held.task.losses + 1 < limit])
            finals = [self._poisoned(held, session) for held in poisoned if held.origin is None]
            refusal = Refusal(Reason.ROBOTS_UNREACHABLE, "the downloader died while fetching robots.txt")
            for held in poisoned:
                if held.origin is not None:
                    self._state.frontier.standing.refuse_origin(held, refusal, self._state.now())
            over = [held.token for held in poisoned if held.origin is not None]

            def write(changes: Changes) -> set[int]:
                changes.drop_leases(over)
                return self._write(changes, finals, [], [])

            commit = self._ledger.submit(write)
        self._settle(poisoned, finals, [], commit.result())

    def _spare(self, spared: list[Held]) -> None:
        for held in spared:
            task = msgspec.structs.replace(held.task, losses=held.task.losses + 1)
            if held.origin is not None:
                held.origin.losses += 1
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

    def _judge(self, failure: Failure, held: Held, session: str) -> Ended | Delayed | SavedOrigin | None:
        policy, now = self._terms.base.settings.retry, self._state.now()
        standing, said = self._state.frontier.standing, says(failure)
        if said is Says.ANSWERED:
            self._answered(held, session)
        elif self._is_outage(failure, held, session):
            if held.origin is not None:
                standing.ask_again(held, now + LOCAL_PAUSE, is_charged=False)
                return None
            return Delayed(held.token, held.task, held.host.key, now + LOCAL_PAUSE)
        elif held.origin is None or not held.host.has_answered:
            standing.note(held, said, _seen(failure), now)
        if failure.retry_after:
            standing.pause(held.host, now + min(failure.retry_after, policy.cap), is_asked=True)
        if held.origin is not None:
            return self._judge_rules(failure, held, said)
        _, machine = self._state.origin_of(held.token, session)
        end = judge(failure, held, policy, machine, now)
        if said is Says.FAILED and (found := self._state.sessions.find(session)) is not None:
            found.outage.charged([end])
        return end

    def _judge_rules(self, failure: Failure, held: Held, said: Says) -> SavedOrigin | None:
        """
        Decide what becomes of an origin whose robots.txt could not be had.

        1. Our own fault: it is asked for again, uncharged.
        2. The host gives no answer: that is the host's health, and its tasks fail when it is given up. Where another
           of its origins has answered, it is this origin's: it is tried again some times, and then its tasks fail.
        3. The host cannot be reached in principle: all its tasks fail for the same reason.
        4. It answered, but not with rules: tried again some times, and then all is disallowed.
           Source: RFC 9309, 2.3.1.4.
        """
        standing, policy, now = self._state.frontier.standing, self._terms.base.settings.retry, self._state.now()
        assert held.origin is not None
        is_last = held.origin.attempts + 1 >= policy.attempts
        if failure.reason.facts.kind is Class.LOCAL:
            standing.ask_again(held, now + LOCAL_PAUSE, is_charged=False)
        elif said is Says.FAILED and not held.host.has_answered:
            standing.ask_again(held, now, is_charged=False)
        elif said is Says.FAILED and is_last:
            return standing.refuse_origin(held, Refusal(Reason.HOST_UNAVAILABLE, _seen(failure)), now)
        elif said is Says.FAILED:
            standing.ask_again(held, now, is_charged=True)
        elif failure.reason.is_final or is_last:
            return standing.refuse_origin(held, Refusal(failure.reason, failure.detail), now)
        else:
            standing.ask_again(held, now + pause(failure, policy, held.origin.attempts + 1), is_charged=True)
        return None

    def _answered(self, held: Held, session: str) -> None:
        self._state.frontier.standing.note(held, Says.ANSWERED, "", self._state.now())
        self._state.answered(session)

    def _is_outage(self, failure: Failure, held: Held, session: str) -> bool:
        """Tell whether *failure* is that of the machine's network."""
        found, now = self._state.sessions.find(session), self._state.now()
        if found is None:
            return False
        outage, patience = found.outage, self._terms.base.settings.politeness.patience
        is_ours = failure.reason.facts.kind is Class.LOCAL
        if outage.since is not None and failure.reason not in NETWORK and not is_ours:
            self._state.answered(session)  # connected, so there is a network
        is_long = outage.since is not None and now - outage.since > patience
        if is_long and not self._state.frontier.has_others(outage.silent):
            outage.deny()
        return outage.failed(held, failure, now)

    def _begin_outage(self, session: str) -> None:
        """Give back what an outage cost before it was known for one; after all that was submitted for it."""
        found, now = self._state.sessions.find(session), self._state.now()
        if found is None or not found.outage.begins():
            return
        log.warning("%s cannot reach any host (%s): waiting for its network", found.machine, found.outage.detail)
        attempts, recorded, hosts = found.outage.take_charged()
        self._state.frontier.forgive(hosts, now)
        # At once, so that the queue never looks finished; what was not taken back in the end is counted again.
        expected = Counter(recorded.values())
        self._state.tally.revived(expected)
        self._state.next_due = 0.0

        def write(changes: Changes) -> Counter[str]:
            taken = changes.revoke(recorded, now)
            changes.refund(attempts)
            return taken

        def settle(done: Future[Counter[str]]) -> None:
            if done.exception() is None:
                with self._state.lock:
                    self._state.tally.revived({reason: done.result()[reason] - n for reason, n in expected.items()})

        self._ledger.submit(write).add_done_callback(settle)

    def give_up(self) -> None:
        """End a pause that has lasted too long: the run cannot go on."""
        limit = f"for {self._terms.pause_limit:.0f} s"
        with self._state.lock:
            trouble, outage = self._state.trouble, self._state.outage()
            long_ago = self._state.now() - self._terms.pause_limit
            over = trouble.since is not None and trouble.since < long_ago
            cut_off = outage is not None and outage.since is not None and outage.since < long_ago
        if cut_off and outage is not None:
            self._terms.fail(Stopped(f"no host could be reached {limit}: {outage.detail}; the same command resumes"))
        if over:
            self._terms.fail(
                StorageFailed(f"nothing could be stored {limit}: {trouble.detail}; the same command resumes")
            )


def _seen(failure: Failure) -> str:
    """Return what a failure shows of its host, for people."""
    return f"{failure.reason}: {failure.detail}" if failure.detail else str(failure.reason)
