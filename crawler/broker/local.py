"""
Frontier and ledger together: a task queue in this process.

Every change of state is made in memory under one lock and queued for the ledger under the same lock, so that both see
the same order; waiting for the commit, reading the backlog and answering happen after the lock is let go.
"""

from __future__ import annotations

import time
from collections import Counter

from msgspec.structs import replace

from crawler.broker.ends import Ends
from crawler.broker.frontier import FOREVER
from crawler.broker.keeper import Keeper
from crawler.broker.ledger import Ledger
from crawler.broker.revival import portions, revive
from crawler.broker.sessions import LOCAL, Session, welcome
from crawler.broker.shards import Shards
from crawler.broker.state import OWN, State
from crawler.broker.terms import Terms
from crawler.errors import VersionMismatch
from crawler.model import (
    PROTOCOL,
    Batch,
    Choice,
    Completion,
    Failure,
    Finding,
    Grant,
    Hello,
    Lease,
    ListState,
    Progress,
    QueueStatus,
    Welcome,
)
from crawler.stats import Stats

__all__ = ["LocalTaskQueue", "Terms"]

#: Seconds that `lease` blocks at most.
MAX_WAIT = 10.0
#: Seconds between two looks while nothing is handed out.
IDLE = 0.1
#: Tasks handed out at a time at most.
MAX_BATCH = 64


class LocalTaskQueue:
    """
    The verbs of `TaskQueue`, over *ledger*.

    Args:
        ledger: Open ledger; the caller closes it after the queue.
        terms: What sessions are told.
    """

    def __init__(self, ledger: Ledger, terms: Terms) -> None:
        self._ledger = ledger
        self._terms = terms
        self._state = State(ledger, terms.base, terms.keep_open)
        self._keeper = Keeper(self._state, ledger, terms.fail)
        #: Which shards are open.
        self.shards = Shards(self._state, ledger)
        self._ends = Ends(self._state, ledger, terms, self.shards, self._keeper.wake)
        self._keeper.also(self._ends.give_up)
        self._keeper.also(self._refuse)
        self._keeper.start()

    # ------------------------------------------------------------ sessions

    def hello(self, hello: Hello) -> Welcome:
        """Open a session: see TaskQueue."""
        if hello.protocol != PROTOCOL:
            base = self._terms.base
            raise VersionMismatch(
                f"the coordinator runs crawler {base.version} (protocol {PROTOCOL}), {hello.machine} runs crawler "
                f"{hello.version} (protocol {hello.protocol}): install the same version on both"
            )
        with self._state.lock:
            now = self._state.now()
            session = self._state.sessions.open(hello, now)
            holds = self._state.frontier.extend(session.id, hello.holds, now)
            self._state.give_back(session.id, list(set(self._state.frontier.leases.tokens(session.id)) - set(holds)))
        return welcome(session, self._terms.base, holds)

    def prove(self, session: str) -> bool:
        """Compare the nonce in the store: see TaskQueue."""
        with self._state.lock:
            nonce = self._state.sessions.get(session).nonce
        return self._terms.proof(session) == nonce

    def open_shard(self, session: str) -> int:
        """Return the number of a new shard: see TaskQueue."""
        with self._state.lock:
            if session != OWN:
                self._state.sessions.get(session)
        return self.shards.open(session)

    def leave(self, session: str) -> None:
        """End a session: see TaskQueue."""
        with self._state.lock:
            self._state.end_session(session)

    def attached(self, session: str) -> None:
        """Note a new connection of *session*."""
        with self._state.lock:
            self._state.sessions.attached(session)

    def detached(self, session: str) -> None:
        """Note that a connection of *session* has ended."""
        with self._state.lock:
            self._state.sessions.detached(session, self._state.now())

    # ------------------------------------------------------------ lists

    def open_list(self, session: str, name: str, fresh: bool) -> ListState:
        """Begin or go on with a list: see TaskQueue."""
        state = self._ledger.change(lambda changes: changes.open_list(name, fresh))
        with self._state.lock:
            self._state.lists.open(state, self._state.sessions.get(session).id, self._state.now())
        return state

    def put(self, session: str, list_id: int, batch: Batch) -> int:
        """Add entries: see TaskQueue."""
        with self._state.lock:
            self._state.sessions.get(session)
        now = self._state.now()
        result = self._ledger.change(lambda changes: changes.put(list_id, batch, now))
        with self._state.lock:
            if result.next_line == batch.next_line:
                self._state.lists.put(list_id, session, batch)
            self._state.tally.put(result.tasks, result.entries, result.bad)
            self._state.put_at = self._state.now()
            self._state.frontier.added(result.hosts, self._state.put_at)
        self._keeper.wake()
        return result.next_line

    def seal(self, session: str, list_id: int) -> None:
        """Close a list: see TaskQueue."""
        self._ledger.change(lambda changes: changes.seal(list_id))
        with self._state.lock:
            self._state.lists.seal(list_id)
            self._state.lock.notify_all()

    # ------------------------------------------------------------ leases

    def lease(self, session: str, number: int, max_tasks: int, wait: float, progress: Progress) -> Grant:
        """Hand out tasks: see TaskQueue."""
        count = max(1, min(max_tasks, MAX_BATCH))
        give_up = time.monotonic() + max(0.0, min(wait, MAX_WAIT))
        with self._state.lock:
            self._report(session, progress)
            while True:
                holder = self._state.sessions.get(session)
                grant = self._granted(holder, number) or self._grant(holder, number, count, give_up)
                if grant is not None:
                    break
                wake = self._state.frontier.next_wake() - self._state.now()
                # While nothing is handed out, hosts whose time has come stay where they are.
                wake = wake if wake > 0 else IDLE
                self._state.lock.wait(max(0.0, min(give_up - time.monotonic(), wake)))
            commit = holder.commit
        # Those of another process go on fetching when this one is killed: the next coordinator must know of them.
        if commit is not None and not session.startswith(LOCAL):
            commit.result()
        return self._with_columns(grant) if self._terms.base.settings.with_columns else grant

    def _with_columns(self, grant: Grant) -> Grant:
        """Bring the columns of what is handed out: they are read now, so that the window need not hold them."""
        found = self._ledger.view.columns_of([lease.task.id for lease in grant.leases])
        tasks = [replace(lease.task, columns=found.get(lease.task.id)) for lease in grant.leases]
        leases = [replace(lease, task=task) for lease, task in zip(grant.leases, tasks, strict=True)]
        return replace(grant, leases=leases)

    def _report(self, session: str, progress: Progress) -> None:
        self._state.frontier.report(session, progress, self._state.now())
        if progress.fetched:
            self._state.answered(session)

    def _granted(self, holder: Session, number: int) -> Grant | None:
        """Return what was answered to this request before; an older one than the last gets nothing."""
        if number == holder.number and holder.grant is not None:
            return holder.grant
        return Grant(status=self._state.status()) if number < holder.number else None

    def _grant(self, holder: Session, number: int, count: int, give_up: float) -> Grant | None:
        status, now = self._state.status(), self._state.now()
        if self._state.trouble.since is not None:  # one task at a time shows whether it is over
            count = 0 if self._state.trouble.is_blocked else 1 - min(1, self._state.frontier.leases.count())
        if holder.outage.since is not None:  # the same, for this machine
            count = min(
                count, int(now >= holder.outage.next_probe and not self._state.frontier.leases.tokens(holder.id))
            )
        held = self._state.frontier.lease(holder.id, count, now) if status is QueueStatus.OPEN and count else []
        self._refuse()
        if self._state.frontier.is_hungry() or (self._ledger.unsorted and self._state.frontier.has_room()):
            self._keeper.wake()
        if not held and status is QueueStatus.OPEN and time.monotonic() < give_up:
            return None
        follow = not self._terms.base.settings.politeness.robots
        leases = [
            Lease(token=item.token, task=item.task, robots=item.origin is not None, follow=follow) for item in held
        ]
        if held:
            expires = held[0].expires
            holder.commit = self._ledger.submit(lambda changes: changes.lease(held, holder.id, expires), durable=False)
        grace = None if self._state.drain_at is None else max(0.0, self._state.drain_at - self._state.now())
        holder.number, holder.grant = number, Grant(status=status, leases=leases, grace=grace)
        self._state.lock.notify_all()
        return holder.grant

    def _refuse(self) -> None:
        """Record what is not to be fetched."""
        with self._state.lock:
            if refused := self._state.frontier.take_refused():
                self._ends.refuse(refused)

    def extend(self, session: str, tokens: list[int], progress: Progress) -> list[int]:
        """Let leases live on: see TaskQueue."""
        with self._state.lock:
            self._state.sessions.get(session)
            now = self._state.now()
            self._report(session, progress)
            kept = self._state.frontier.extend(session, tokens, now)
            if kept:
                self._ledger.submit(
                    lambda changes: changes.extend(kept, now + self._terms.base.lease_life), durable=False
                )
            self._state.lock.notify_all()
        return kept

    def is_held(self, session: str, token: int) -> bool:
        """Tell whether *session* holds the lease *token*."""
        with self._state.lock:
            return self._state.frontier.leases.get(session, token) is not None

    def transfer(self, session: str, token: int) -> bool:
        """Move a lease to the coordinator's own consumer, whose session is `OWN`; False where *session* lacks it."""
        with self._state.lock:
            held = self._state.frontier.transfer(session, token, OWN, self._state.now())
            if held is None:
                return False
            self._state.origin[token] = (session, self._state.machine_of(session))
            self._ledger.submit(lambda changes: changes.lease([held], OWN, FOREVER), durable=False)
        return True

    def release(self, session: str, tokens: list[int], lost: bool) -> None:
        """Give leases back: see TaskQueue."""
        if lost:
            self._ends.lose(session, tokens)
            return
        with self._state.lock:
            self._state.give_back(session, tokens)

    # ------------------------------------------------------------ ends

    def complete(self, session: str, completions: list[Completion]) -> list[int]:
        """Record how tasks ended: see TaskQueue."""
        return self._ends.complete(session, completions)

    def retry(self, session: str, failures: list[Failure]) -> list[int]:
        """End leases whose fetch failed: see TaskQueue."""
        return self._ends.retry(session, failures)

    def learn(self, session: str, findings: list[Finding]) -> list[int]:
        """Take what robots.txt say: see TaskQueue."""
        return self._ends.learn(session, findings)

    def local_fault(self, detail: str) -> None:
        """Note a failure at the coordinator that is its own fault; several in a row pause the run."""
        self._ends.local_fault(detail)

    def block(self, why: str | None) -> None:
        """Hand out nothing for the reason *why*, until it is called with None; for as long as the pause limit."""
        self._ends.block(why)

    def revive(self, session: str, choice: Choice) -> dict[str, int]:
        """Put tasks back that have their record, some at a time, so that others get their turn: see TaskQueue."""
        counts = Counter[str]()
        # What fails again meanwhile has a later record.
        for seqs in portions(self._ledger.view.last_seq()):
            counts += self._revive(choice, seqs)
        return dict(counts)

    def _revive(self, choice: Choice, seqs: range) -> Counter[str]:
        now = self._state.now()
        found = self._ledger.change(lambda changes: revive(changes.db, choice, now, seqs))
        if found.counts and not choice.dry_run:
            with self._state.lock:
                self._state.tally.revived(found.counts, found.size, found.near_duplicates)
                self._state.frontier.forgive(found.hosts, now)
                self._state.next_due = 0.0
            self._keeper.wake()
        return found.counts

    # ------------------------------------------------------------ status

    def stats(self) -> Stats:
        """Count: see TaskQueue."""
        with self._state.lock:
            tally, leased = self._state.tally, self._state.frontier.leases.count()
            images, size = tally.rates(self._state.now())
            return Stats(
                total=tally.total,
                ready=max(0, tally.total - tally.done - tally.delayed - leased),
                leased=leased,
                held=self._state.frontier.leases.fetched(),
                delayed=max(0, tally.delayed),
                stored=tally.stored,
                failed=tally.failed,
                reasons={name: n for name, n in tally.reasons.most_common() if n > 0},
                entries=tally.entries,
                bytes=tally.bytes,
                near_duplicates=tally.near_duplicates,
                stored_per_second=images,
                bytes_per_second=size,
                status=self._state.status(),
                lists_read=self._state.lists.all_read(),
                lists_part=self._state.lists.part(),
                incomplete_lists=self._state.lists.incomplete(),
                workers=self._state.workers(),
                hosts=self._state.host_stats(),
                trouble=self._ledger.paused or self._state.why_paused(),
            )

    def alive(self) -> set[str]:
        """Return the sessions that are connected, or hold leases."""
        with self._state.lock:
            return {item.id for item in self._state.sessions} | set(self._state.frontier.leases.by_session())

    def drain(self, grace: float) -> None:
        """Hand out no more tasks; tell workers to end what they hold within *grace* seconds."""
        with self._state.lock:
            self._state.drain_at = self._state.now() + grace
            self._state.lock.notify_all()

    # Each looks at one thing only: it does so at every change of the queue.

    def wait_for_end(self, seconds: float) -> bool:
        """Wait up to *seconds* until every task has its record; tell whether that is so."""
        with self._state.lock:
            return self._state.lock.wait_for(lambda: self._state.status() is QueueStatus.FINISHED, seconds)

    def wait_for_leases(self, seconds: float) -> bool:
        """Wait up to *seconds* until no task is leased; tell whether that is so."""
        with self._state.lock:
            return self._state.lock.wait_for(lambda: not self._state.frontier.leases.count(), seconds)

    def wait_for_workers(self, seconds: float) -> bool:
        """Wait up to *seconds* until all workers have left; tell whether that is so."""
        with self._state.lock:
            return self._state.lock.wait_for(lambda: not self._state.sessions.workers(), seconds)

    def close(self) -> None:
        """Stop looking after leases. The ledger stays open."""
        self._keeper.stop()
