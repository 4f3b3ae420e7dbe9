"""What errors of others mean for a fetch: the one place where they become ours."""

from __future__ import annotations

import errno
import http.client
import ssl
import time

import requests
from urllib3 import exceptions as urllib3_errors

from crawler.errors import FULL, FetchError
from crawler.reasons import Reason
from crawler.worker.watchdog import Watch

#: Characters of a detail that are kept.
MAX_TEXT = 300
#: What an error of others means; the first row that any of its causes belongs to counts. The order matters: SSLError,
#: timeouts and failures to connect are all ConnectionError to requests, RemoteDisconnected is a BadStatusLine too.
MEANINGS: tuple[tuple[tuple[type[BaseException], ...], Reason], ...] = (
    (
        (
            urllib3_errors.LocationValueError,
            requests.exceptions.InvalidURL,
            requests.exceptions.InvalidSchema,
            requests.exceptions.MissingSchema,
            http.client.InvalidURL,
            UnicodeError,
        ),
        Reason.BAD_URL,
    ),
    ((ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError), Reason.CONNECTION_LOST),
    ((ssl.SSLError, urllib3_errors.SSLError, requests.exceptions.SSLError), Reason.TLS_FAILED),
    ((urllib3_errors.NewConnectionError,), Reason.CONNECT_FAILED),
    ((urllib3_errors.ConnectTimeoutError, requests.ConnectTimeout), Reason.CONNECT_TIMEOUT),
    ((http.client.IncompleteRead,), Reason.TRUNCATED),
    ((TimeoutError, urllib3_errors.TimeoutError, requests.Timeout), Reason.TIMEOUT),
    ((ConnectionError,), Reason.CONNECTION_LOST),
    (
        (
            http.client.HTTPException,
            urllib3_errors.InvalidHeader,
            urllib3_errors.DecodeError,
            requests.exceptions.InvalidHeader,
            requests.exceptions.ContentDecodingError,
        ),
        Reason.BAD_RESPONSE,
    ),
    (
        (urllib3_errors.ProtocolError, requests.ConnectionError, requests.exceptions.ChunkedEncodingError),
        Reason.CONNECTION_LOST,
    ),
)


#: Errors of this machine, not of a server.
LOCAL_FAULTS = (errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)


def translate(error: Exception, watch: Watch, status: int | None = None) -> FetchError:
    """
    Say what *error* means for the fetch it ended: the one place where errors of others become ours.

    Args:
        error: Anything that was raised; a FetchError stays as it is.
        watch: The fetch. What happens to it after it was cut says nothing about the server.
        status: Status of the last response, None where there was none.
    """
    if watch.cancelled:
        return FetchError(Reason.CONNECTION_LOST, "the fetch was cancelled", http_status=status)
    is_late = not isinstance(error, FetchError) and watch.deadline <= time.monotonic()
    if watch.fired or is_late:
        return FetchError(Reason.TIMEOUT, "not done in time", http_status=status)
    if isinstance(error, FetchError):
        error.http_status = status if error.http_status is None else error.http_status
        return error
    causes = causes_of(error)
    detail = f"{type(causes[-1]).__name__}: {causes[-1]}"[:MAX_TEXT]
    return FetchError(_find_reason(causes), detail, http_status=status)


def _find_reason(causes: list[BaseException]) -> Reason:
    for cause in causes:
        if isinstance(cause, OSError) and cause.errno in FULL:
            return Reason.DISK_FULL
        # No server can cause these, nor any error that names a file.
        if isinstance(cause, OSError) and (cause.errno in LOCAL_FAULTS or cause.filename is not None):
            return Reason.LOCAL_FAULT
    for kinds, reason in MEANINGS:
        if any(isinstance(cause, kinds) for cause in causes):
            return reason
    return Reason.INTERNAL


def causes_of(error: BaseException) -> list[BaseException]:
    """Return *error* and what it wraps: requests and urllib3 put causes into arguments, `reason` or `__cause__`."""
    found = [error]
    for one in found:
        inner = (*one.args, getattr(one, "reason", None), one.__cause__)
        found += [e for e in inner if isinstance(e, BaseException) and not any(e is known for known in found)]
    return found
