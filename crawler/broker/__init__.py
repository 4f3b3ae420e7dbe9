"""
The two queues of a run: their verbs and what they promise. Backends stand beside this file.

Every verb takes a batch and may be repeated: a client that did not hear the answer asks again and loses nothing.
"""

from __future__ import annotations

from typing import Protocol

from crawler.model import Batch, Choice, Completion, Failure, Finding, Grant, Hello, ListState, Part, Progress, Welcome
from crawler.stats import Stats


class TaskQueue(Protocol):
    """
    Every task from its entry to its record.

    All verbs raise `QueueUnavailable` where the queue cannot be reached and `UnknownSession` for a session that was
    never opened or is dead. Verbs that commit answer after the commit.
    """

    def hello(self, hello: Hello) -> Welcome:
        """
        Open a session, or go on with one after a coordinator's restart.

        Args:
            hello: Versions, role, and the leases still held.

        Returns:
            The session's id, what the run was told, and which of the leases are still held.

        Raises:
            VersionMismatch: The versions differ; the message names both.
        """

    def prove(self, session: str) -> bool:
        """Tell whether the nonce of *session* can be read in the coordinator's store at `.spool/SESSION/nonce`."""

    def open_shard(self, session: str) -> int:
        """Return a number, that none had before, for a shard into which *session* alone puts images."""

    def leave(self, session: str) -> None:
        """End *session*: its leases are READY again, uncharged, its open lists are closed as incomplete."""

    def open_list(self, session: str, name: str, fresh: bool) -> ListState:
        """
        Begin or go on with the list called *name* on behalf of *session*, which seals it or keeps its session alive.

        Args:
            session: The producer's session.
            name: How the list is called in records and messages.
            fresh: Make a new list even where one of this name exists.

        Returns:
            How far the list was read.
        """

    def put(self, session: str, list_id: int, batch: Batch) -> int:
        """
        Commit the batch's rows and the list's next line together.

        Returns:
            The line that is expected next: `batch.next_line` after a commit; another where the batch did not begin
            at the line expected, and then nothing was changed.
        """

    def seal(self, session: str, list_id: int) -> None:
        """Say that the list has been read to its end."""

    def lease(self, session: str, number: int, max_tasks: int, wait: float, progress: Progress) -> Grant:
        """
        Hand up to *max_tasks* ready tasks to *session*, oldest of each host first, hosts in turn, none above its limit.

        Args:
            session: Session that will hold the leases.
            number: Counts the session's requests from 1; a repeat with the same number gets the same leases.
            max_tasks: Largest batch to return, 1 to 64.
            wait: Seconds to block while nothing is ready, at most 10. 0 returns at once.
            progress: What happened to fetches since the last report.

        Returns:
            The queue's status and between 0 and *max_tasks* leases. None means *wait* ran out, or the queue is not
            open.
        """

    def extend(self, session: str, tokens: list[int], progress: Progress) -> list[int]:
        """
        Let the leases *tokens* live for another lease's life, and take a report.

        Returns:
            Those of *tokens* that the session still holds. The work on others is in vain.
        """

    def complete(self, session: str, completions: list[Completion]) -> list[int]:
        """
        Record how tasks ended, and end their leases.

        Returns:
            Tokens whose completion is recorded, now or by an earlier call. Stale tokens are left out.
        """

    def retry(self, session: str, failures: list[Failure]) -> list[int]:
        """
        End leases whose fetch failed: tried again later, moved to another host, or recorded as failed.

        A transient reason delays the task until its attempts are used up; any other is recorded.

        Returns:
            Tokens that were accepted, now or by an earlier call.
        """

    def learn(self, session: str, findings: list[Finding]) -> list[int]:
        """
        End leases for a robots.txt: what it says holds for its host from now on.

        Returns:
            Tokens that were accepted. Where a lease was over, somebody else asks again.
        """

    def release(self, session: str, tokens: list[int], lost: bool) -> None:
        """
        Give leases back: their tasks are READY again, charged no attempt.

        Args:
            session: Session that holds them.
            tokens: The leases; those not held are passed over.
            lost: The child that worked on these very tasks died; charged as a loss each.
        """

    def revive(self, session: str, choice: Choice) -> dict[str, int]:
        """
        Put the tasks of *choice* back to READY, with all their attempts.

        Returns:
            How many, by the reason for which they failed; "stored" counts those that had not.
        """

    def stats(self) -> Stats:
        """Count."""


class ResultQueue(Protocol):
    """Downloads of workers that cannot write the store, on their way to the coordinator's consumer."""

    def put(self, session: str, part: Part) -> bool:
        """
        Take a piece of a download; the last one moves the lease, same token, to the coordinator's consumer.

        Pieces of one download come in order, at most 1 MiB each; a repeated piece changes nothing.

        Returns:
            False where there is no room now or the piece does not continue what is there: begin again at offset 0,
            after a pause. True otherwise, also for a download whose lease is no longer held (it is dropped).
        """
