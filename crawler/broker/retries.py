"""What becomes of a task whose fetch failed."""

from __future__ import annotations

import random
from urllib.parse import urlsplit

import msgspec

from crawler.broker.ended import Body, Delayed, Ended
from crawler.broker.frontier import Held
from crawler.broker.health import Says
from crawler.broker.hosts import host_key
from crawler.model import Failure
from crawler.reasons import Class, Reason
from crawler.settings import RetryPolicy

#: Statuses by which a host asks to be left alone for a while.
ASKING = (429, 503)
#: Failures to get an answer from a host.
SILENT = frozenset(
    {
        Reason.RESOLVER_FAILED,
        Reason.CONNECT_FAILED,
        Reason.CONNECT_TIMEOUT,
        Reason.CONNECTION_LOST,
        Reason.TIMEOUT,
    }
)
#: Failures before any host could be asked.
NO_HOST = frozenset({Reason.BAD_URL, Reason.NAME_NOT_FOUND, Reason.ADDRESS_REFUSED, Reason.INTERNAL})
#: Seconds after which a task is tried again that failed through our own fault.
LOCAL_PAUSE = 5.0


def says(failure: Failure) -> Says:
    """Return what *failure* says about its host."""
    # 1. It lives, but wants to be left alone; or it answered with another place.
    if failure.moved_to is not None:
        return Says.ANSWERED
    if failure.http_status in ASKING:
        return Says.ASKED
    # 2. There was no response, or none in time.
    if failure.reason in SILENT and failure.http_status is None:
        return Says.FAILED
    # 3. Our own fault, a name without a host, or nothing that was fetched at all.
    if failure.reason.facts.kind is Class.LOCAL or failure.reason in NO_HOST:
        return Says.NOTHING
    return Says.ANSWERED


def judge(failure: Failure, held: Held, policy: RetryPolicy, machine: str, now: float) -> Ended | Delayed:
    """
    Decide what becomes of a task whose fetch failed.

    1. Moved to another host: it queues there at once, uncharged.
    2. Our own fault: it waits a moment, uncharged.
    3. Transient, and attempts are left: it waits, with full jitter, at least what the host asked for.
    4. Anything else is its record.

    Args:
        failure: What happened.
        held: The lease that ends.
        policy: Limits of attempts and pauses.
        machine: Name of the machine that fetched.
        now: The time.
    """
    task = held.task
    if failure.moved_to is not None:
        moved = msgspec.structs.replace(task, target=failure.moved_to, hops=failure.hops)
        return Delayed(held.token, moved, host_key(urlsplit(failure.moved_to).hostname or ""), now)
    kind = failure.reason.facts.kind
    if kind is Class.LOCAL:
        return Delayed(held.token, task, held.host.key, now + LOCAL_PAUSE)
    attempts = task.attempts + 1
    limit = policy.attempts
    # A host that is fetched from too fast says so to whatever comes next: no fault of this task.
    if limit > 1 and (failure.http_status == 429 or (failure.http_status == 503 and failure.retry_after is not None)):
        limit = max(limit, policy.asked)
    if kind is Class.TRANSIENT and attempts < limit:
        charged = msgspec.structs.replace(task, attempts=attempts)
        return Delayed(held.token, charged, held.host.key, now + pause(failure, policy, attempts))
    body = Body(attempts=attempts, worker=machine, detail=failure.detail or None, http_status=failure.http_status)
    return Ended(held.token, task.id, failure.reason, body)


def pause(failure: Failure, policy: RetryPolicy, attempts: int) -> float:
    """
    Return the seconds to wait before the next attempt: exponential with full jitter, at least what the host asked for.

    Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    jittered = random.uniform(0, min(policy.cap, policy.base * 2 ** (attempts - 1)))
    return max(jittered, min(failure.retry_after or 0.0, policy.cap))
