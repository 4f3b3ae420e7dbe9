"""One URL -> a Download, or a FetchError that says why not."""

from __future__ import annotations

import errno
import hashlib
import http.client
import ssl
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import requests
import requests.structures
import requests.utils
from urllib3 import exceptions as urllib3_errors

from crawler.errors import FetchError, UsageError
from crawler.model import Download, Lease, Response, Task
from crawler.reasons import Reason
from crawler.settings import Access, Settings
from crawler.worker.answers import REDIRECTS, host_of, read_length, read_status, resolve_location
from crawler.worker.guard import Guard, GuardedAdapter, make_context
from crawler.worker.robots import Answer, Robots
from crawler.worker.watchdog import Pace, Watch

#: Bytes of a body that are read at a time.
CHUNK = 256 * 1024
#: Bytes of an unwanted body that are read so that its connection can be used again.
DRAIN = 64 * 1024
#: Seconds that reading an unwanted body may take.
DRAIN_WAIT = 1.0
#: Bytes of a robots.txt that count; the rest is passed over. Source: RFC 9309, 2.5.
ROBOTS_SIZE = 500 * 1024
#: How a kept connection shows that the server closed it before the request: not one byte of a response came.
CLOSED_BEFORE = (http.client.RemoteDisconnected, ssl.SSLEOFError, ssl.SSLZeroReturnError)
#: Characters of a detail or of a header that are kept.
MAX_TEXT = 300


class Fetcher:
    """
    Fetch URLs from any number of threads over connections they share.

    Args:
        settings: What the run was told.
        spool: Existing folder where bodies are written.
        threads: Number of threads that will call `fetch` at a time.

    Raises:
        UsageError: A network, a header or the certificate authorities among the settings cannot be used.
    """

    def __init__(self, settings: Settings, spool: Path, threads: int) -> None:
        access = settings.access
        self._limits = settings.limits
        self._spool = spool.absolute()
        self._headers = _make_headers(access)
        self._guard = Guard(access, settings.limits.connect_timeout, threads)
        self._adapter = GuardedAdapter(
            self._guard,
            make_context(access.tls_verify, access.ca_bundle),
            per_host=max(1, min(threads, settings.politeness.per_host)),
        )
        self._robots = Robots(self._ask_robots, access.user_agent) if settings.politeness.robots else None

    def fetch(self, lease: Lease) -> Download:
        """
        Fetch the URL of *lease* into a file of the spool named by its token.

        Returns:
            The download; whoever gets it owns the file.

        Raises:
            FetchError: Whatever a server or a URL can cause, a redirect to another host among it (`moved_to`). No file
                is left then.
        """
        trip = _Trip(lease.task)
        with self._guard.watching(self._limits.timeout) as watch:
            try:
                if watch.cancelled:
                    raise FetchError(Reason.CONNECTION_LOST)
                return self._follow(lease, trip, watch)
            except Exception as error:
                _raise(translate(error, watch, trip.status), error)

    def cancel(self) -> None:
        """End all fetches in progress soon; they and all later ones raise FetchError. May be called again."""
        self._guard.cancel()

    def close(self) -> None:
        """Cancel, and close the connections that were kept. May be called again."""
        self.cancel()
        self._adapter.close()

    def _follow(self, lease: Lease, trip: _Trip, watch: Watch) -> Download:
        while True:
            host = host_of(trip.url)
            if self._robots is not None:
                self._robots.check(trip.url, watch.left)
            began = time.monotonic()
            with self._send(trip.url, watch) as response:
                trip.status = response.status_code
                if response.status_code not in REDIRECTS:
                    return self._take(lease, trip.url, response, began)
                trip.redirect(response.headers.get("Location"))
                self._drain(response.raw)
            if trip.hops > self._limits.max_redirects:
                raise FetchError(Reason.TOO_MANY_REDIRECTS, f"the last one to {trip.url[:MAX_TEXT]}")
            if host_of(trip.url) != host:
                raise FetchError(Reason.INTERNAL, "moved to another host", moved_to=trip.url, hops=trip.hops)

    def _send(self, url: str, watch: Watch) -> requests.Response:
        """Ask for *url*, once more where a kept connection turns out to have been closed by the server meanwhile."""
        try:
            return self._transmit(url, watch)
        except requests.ConnectionError as error:
            # The request and the closing passed each other on the way.
            was_closed = any(isinstance(cause, CLOSED_BEFORE) for cause in _causes(error))
            if not (was_closed and watch.reused) or watch.fired or watch.cancelled:
                raise
        watch.fresh = True
        try:
            return self._transmit(url, watch)
        finally:
            watch.fresh = False

    def _transmit(self, url: str, watch: Watch) -> requests.Response:
        # Put together by hand: URLs are canonical before they reach a queue, and to prepare one again takes longer
        # than all else that is done here for a request.
        request = requests.PreparedRequest()
        request.method, request.url, request.headers = "GET", url, self._headers
        left = watch.left
        waits = (min(left, self._limits.connect_timeout), min(left, self._limits.stall))
        return self._adapter.send(request, stream=True, timeout=waits)

    def _take(self, lease: Lease, url: str, response: requests.Response, began: float) -> Download:
        headers = response.headers
        if response.status_code != 200:
            self._drain(response.raw)
        read_status(response.status_code, headers)
        announced = read_length(headers)
        if announced is not None and announced > self._limits.max_bytes:
            raise FetchError(Reason.TOO_LARGE, f"{announced} bytes announced")
        path = self._spool / str(lease.token)
        try:
            size, digest = self._save(response.raw, path)
            self._check_whole(size, announced)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        facts = Response(
            http_status=response.status_code,
            final_url=url,
            content_type=_cut(headers.get("Content-Type")),
            etag=_cut(headers.get("ETag")),
            last_modified=_cut(headers.get("Last-Modified")),
            seconds=time.monotonic() - began,
        )
        return Download(token=lease.token, task=lease.task, path=str(path), size=size, sha256=digest, response=facts)

    def _save(self, raw: Any, path: Path) -> tuple[int, str]:
        """Write the body to *path*; return its size and SHA-256."""
        size, digest, pace = 0, hashlib.sha256(), Pace(self._limits.stall, self._limits.min_speed)
        with _create(path) as file:
            # What has come and no more: `read` returns only when all it was asked for is there, however slowly.
            while data := raw.read1(CHUNK, decode_content=False):
                size += len(data)
                pace.check(size)
                if size > self._limits.max_bytes:
                    raise FetchError(Reason.TOO_LARGE, f"more than {self._limits.max_bytes} bytes")
                digest.update(data)
                file.write(data)
        return size, digest.hexdigest()

    def _check_whole(self, size: int, announced: int | None) -> None:
        _refuse_cut(self._guard.watch)
        if announced is not None and size < announced:
            raise FetchError(Reason.TRUNCATED, f"{size} of {announced} bytes")
        if announced is not None and size > announced:
            raise FetchError(Reason.BAD_RESPONSE, f"{size} bytes in chunks, {announced} announced")
        if size == 0:
            raise FetchError(Reason.EMPTY)

    def _drain(self, raw: Any) -> None:
        """Read what is left of a small body, so that its connection can be used again; more is not worth the time."""
        # The answer is known by now, and a body that drips must not turn it into a timeout.
        self._guard.hurry(DRAIN_WAIT)
        with suppress(urllib3_errors.HTTPError, OSError):
            raw.read(DRAIN, decode_content=False)

    def _ask_robots(self, url: str) -> Answer:
        watch = self._guard.watch
        try:
            with self._send(url, watch) as response:
                return self._read_robots(url, response, watch)
        except Exception as error:
            _raise(translate(error, watch), error)

    def _read_robots(self, url: str, response: requests.Response, watch: Watch) -> Answer:
        status, location = response.status_code, response.headers.get("Location")
        if status == 200:
            # Decoded, because what a server compresses unasked still counts here, and the size is bounded.
            text: bytes = response.raw.read(ROBOTS_SIZE, decode_content=True)
            _refuse_cut(watch)
            return Answer(status, text=text.decode("utf-8", "replace"))
        self._drain(response.raw)
        is_redirect = status in REDIRECTS and location is not None
        return Answer(status, resolve_location(url, str(location)) if is_redirect else None)


class _Trip:
    """How far a fetch has come."""

    def __init__(self, task: Task) -> None:
        self.url = task.target or task.url
        #: Redirects followed, over all hosts.
        self.hops = task.hops
        #: Status of the last response.
        self.status: int | None = None

    def redirect(self, location: str | None) -> None:
        if location is None:
            raise FetchError(Reason.BAD_REDIRECT, "no Location")
        self.url = resolve_location(self.url, location)
        self.hops += 1


def _raise(ours: FetchError, error: Exception) -> NoReturn:
    """Raise *ours*, which *error* was translated to."""
    try:
        if ours is error:
            raise ours
        raise ours from error
    finally:
        # By its traceback it would hold the frame that holds it, and with that sockets until the next collection.
        del ours, error


def _refuse_cut(watch: Watch) -> None:
    """Raise where *watch* cut what was read: to everything above that looks as if the server had ended it."""
    if watch.fired or watch.cancelled:
        raise FetchError(Reason.TIMEOUT)


def _cut(text: str | None) -> str | None:
    return None if text is None else text[:MAX_TEXT]


def _make_headers(access: Access) -> requests.structures.CaseInsensitiveDict[Any]:
    headers: requests.structures.CaseInsensitiveDict[Any] = requests.structures.CaseInsensitiveDict()
    headers["Accept"] = "image/*,*/*;q=0.5"
    for name, value in (("User-Agent", access.user_agent), *access.headers):
        try:
            name.encode("ascii")
            requests.utils.check_header_validity((name, value))
        except (requests.RequestException, UnicodeEncodeError) as error:
            raise UsageError(f"a request cannot have the header {name!r}: {error}") from error
        # Characters become bytes as latin-1 further down, and this lets any name of a person through.
        headers[name] = value.encode().decode("latin-1")
    headers["Accept-Encoding"] = "identity"
    return headers


# ------------------------------------------------------------------ errors of others

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


def _create(path: Path) -> BinaryIO:
    """Open a spool file for writing; a spool that was swept while its session was taken for dead is made again."""
    try:
        return path.open("wb")
    except FileNotFoundError:
        for folder in (path.parent.parent, path.parent):  # never the store itself: it may be a disk that is not mounted
            folder.mkdir(mode=0o700, exist_ok=True)
        return path.open("wb")


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
    causes = _causes(error)
    detail = f"{type(causes[-1]).__name__}: {causes[-1]}"[:MAX_TEXT]
    return FetchError(_find_reason(causes), detail, http_status=status)


def _find_reason(causes: list[BaseException]) -> Reason:
    for cause in causes:
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return Reason.DISK_FULL
        # No server can cause these, nor any error that names a file.
        if isinstance(cause, OSError) and (cause.errno in LOCAL_FAULTS or cause.filename is not None):
            return Reason.LOCAL_FAULT
    for kinds, reason in MEANINGS:
        if any(isinstance(cause, kinds) for cause in causes):
            return reason
    return Reason.INTERNAL


def _causes(error: BaseException) -> list[BaseException]:
    """Return *error* and what it wraps: requests and urllib3 put causes into arguments, `reason` or `__cause__`."""
    found = [error]
    for one in found:
        inner = (*one.args, getattr(one, "reason", None), one.__cause__)
        found += [e for e in inner if isinstance(e, BaseException) and not any(e is known for known in found)]
    return found
