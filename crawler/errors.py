"""
The errors of crawler, one tree, and the exit status each one has at the command line.

    CrawlerError                  1
    ├── UsageError                2   an option, or an OUT that was made with other ones
    ├── ListUnreadable           65   a URL list cannot be read
    ├── QueueUnavailable         69   the coordinator cannot be reached
    ├── OutUnusable              73   OUT is in use or cannot be made
    ├── StorageFailed            74   a disk is full for too long, or failed
    ├── Stopped                  75   ended before the end; can be resumed
    ├── KeyRefused               77   the key is wrong, or its file open to others
    ├── VersionMismatch           2   the two sides speak different versions
    ├── UnknownSession            1   the coordinator does not know this session (clients say hello again)
    ├── WireError                 1   what came over a connection is not what was agreed
    ├── FetchError                1   one fetch brought nothing (never leaves the worker)
    └── ImageRefused              1   one image was judged unusable (never leaves the consumer)
"""

from __future__ import annotations

import errno

from crawler.reasons import Reason

#: What a system says where there is no room now, for anybody or for this user.
FULL = (errno.ENOSPC, errno.EDQUOT)


class CrawlerError(Exception):
    """Base of all errors that crawler raises on purpose."""

    #: Exit status of the command line when this error ends a command.
    exit_status = 1


class UsageError(CrawlerError):
    """Report an option or an argument that cannot be used, with what to do instead."""

    exit_status = 2


class ListUnreadable(CrawlerError):
    """Report a URL list that cannot be opened or read."""

    exit_status = 65


class QueueUnavailable(CrawlerError):
    """Report that the coordinator could not be reached for longer than a client is willing to wait."""

    exit_status = 69


class OutUnusable(CrawlerError):
    """Report an output folder that another process uses, or that cannot be made or written."""

    exit_status = 73


class StorageFailed(CrawlerError):
    """Report a disk that failed, or stayed full for longer than the pause limit."""

    exit_status = 74


class Stopped(CrawlerError):
    """Report a run that was stopped before its end; the same command resumes it."""

    exit_status = 75


class KeyRefused(CrawlerError):
    """Report a key that the other side does not accept, or that lies open to other users."""

    exit_status = 77


class VersionMismatch(CrawlerError):
    """Report two sides of different versions; the message names both."""

    exit_status = 2


class UnknownSession(CrawlerError):
    """Report a session that this coordinator does not know, for example after its restart."""


class WireError(CrawlerError):
    """Report a message that is too large, malformed or not allowed."""


class FetchError(CrawlerError):
    """
    Say why one fetch brought no usable bytes.

    Args:
        reason: Member of the closed list.
        detail: What exactly was seen, for people; escaped and cut where it is shown.
        http_status: Status of the last response, None where there was none.
        retry_after: Seconds after which the host asked to be tried again, None where it did not.
        moved_to: Absolute URL of a redirect that leads to another host, else None.
        hops: Redirects followed so far, over all hosts; goes with `moved_to`.
    """

    def __init__(
        self,
        reason: Reason,
        detail: str = "",
        *,
        http_status: int | None = None,
        retry_after: float | None = None,
        moved_to: str | None = None,
        hops: int = 0,
    ) -> None:
        super().__init__(f"{reason}: {detail}" if detail else str(reason))
        self.reason = reason
        self.detail = detail
        self.http_status = http_status
        self.retry_after = retry_after
        self.moved_to = moved_to
        self.hops = hops


class ImageRefused(CrawlerError):
    """Say why bytes are not an image that can be stored."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else str(reason))
        self.reason = reason
        self.detail = detail
