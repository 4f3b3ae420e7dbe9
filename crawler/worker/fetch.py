"""One URL -> a Download, or a FetchError that says why not."""

from __future__ import annotations

import hashlib
import http.client
import ssl
import time
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any, NoReturn

import requests
import requests.structures
import requests.utils
from urllib3 import exceptions as urllib3_errors

from crawler.descriptors import write_all
from crawler.errors import FetchError
from crawler.model import Completion, Download, Finding, Lease, Outcome, Response, Task
from crawler.reasons import Reason
from crawler.settings import Settings
from crawler.worker.answers import REDIRECTS, host_of, read_length, read_retry_after, read_status, resolve_location
from crawler.worker.expected import Expected
from crawler.worker.faults import causes_of, translate
from crawler.worker.guard import Guard, make_context
from crawler.worker.headers import RequestHeaders, is_stored
from crawler.worker.licence import find_licence
from crawler.worker.optout import find_opt_out
from crawler.worker.pools import GuardedAdapter
from crawler.worker.robots import Answer, read_rules
from crawler.worker.watchdog import Pace, Watch

#: Bytes of a body that are read at a time.
CHUNK = 256 * 1024
#: Bytes of an unwanted body that are read so that its connection can be used again.
DRAIN = 64 * 1024
#: Seconds that reading an unwanted body may take.
DRAIN_WAIT = 1.0
#: Bytes of a robots.txt that count; the rest is passed over. Source: RFC 9309, 2.5.
RULES_SIZE = 500 * 1024
#: How a kept connection shows that the server closed it before the request: not one byte of a response came.
CLOSED_BEFORE = (http.client.RemoteDisconnected, ssl.SSLEOFError, ssl.SSLZeroReturnError)
#: Status of a response that says that the image which is stored has not changed.
NOT_MODIFIED = 304
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
        self._headers = RequestHeaders(access, settings.politeness.hosts)
        #: Who we are to what a response says against use by machines, None where that is ignored.
        self._product = access.product if settings.politeness.opt_out else None
        self._guard = Guard(access, settings.limits.connect_timeout, threads)
        self._adapter = GuardedAdapter(
            self._guard,
            make_context(access.tls_verify, access.ca_bundle),
            per_host=max(1, min(threads, settings.politeness.per_host)),
        )

    def fetch(self, lease: Lease) -> Download | Completion:
        """
        Fetch the URL of *lease* into a file of the spool named by its token.

        Returns:
            The download; whoever gets it owns the file. Where the image that is stored has not changed, its end.

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

    def fetch_rules(self, lease: Lease) -> Finding:
        """
        Fetch the robots.txt that is the URL of *lease*.

        Raises:
            FetchError: It cannot be had; its host says so, or cannot be reached.
        """
        with self._guard.watching(self._limits.timeout):
            return Finding(token=lease.token, text=read_rules(lease.task.url, self._ask_rules))

    def cancel(self) -> None:
        """End all fetches in progress soon; they and all later ones raise FetchError. May be called again."""
        self._guard.cancel()

    def close(self) -> None:
        """Cancel, and close the connections that were kept. May be called again."""
        self.cancel()
        self._adapter.close()

    def _follow(self, lease: Lease, trip: _Trip, watch: Watch) -> Download | Completion:
        while True:
            host = host_of(trip.url)
            began = time.monotonic()
            with self._send(trip.url, watch, lease.task) as response:
                trip.status = response.status_code
                if response.status_code == NOT_MODIFIED and is_stored(lease.task):
                    return Completion(
                        token=lease.token,
                        task_id=lease.task.id,
                        outcome=Outcome.STORED,
                        http_status=NOT_MODIFIED,
                    )
                if response.status_code not in REDIRECTS:
                    return self._take(lease, trip.url, response, began)
                trip.redirect(response.headers.get("Location"))
                self._drain(response.raw)
            if trip.hops > self._limits.max_redirects:
                raise FetchError(Reason.TOO_MANY_REDIRECTS, f"the last one to {trip.url[:MAX_TEXT]}")
            if host_of(trip.url) != host or not lease.follow:
                raise FetchError(Reason.INTERNAL, "moved to another host", moved_to=trip.url, hops=trip.hops)

    def _send(self, url: str, watch: Watch, task: Task | None = None) -> requests.Response:
        """Ask for *url*, once more where a kept connection turns out to have been closed by the server meanwhile."""
        try:
            return self._transmit(url, watch, task)
        except requests.ConnectionError as error:
            # The request and the closing passed each other on the way.
            was_closed = any(isinstance(cause, CLOSED_BEFORE) for cause in causes_of(error))
            if not (was_closed and watch.reused) or watch.fired or watch.cancelled:
                raise
        watch.fresh = True
        try:
            return self._transmit(url, watch, task)
        finally:
            watch.fresh = False

    def _transmit(self, url: str, watch: Watch, task: Task | None) -> requests.Response:
        # Put together by hand: URLs are canonical before they reach a queue, and to prepare one again takes longer
        # than all else that is done here for a request.
        request = requests.PreparedRequest()
        request.method, request.url, request.headers = "GET", url, self._headers.of(url, task)
        left = watch.left
        waits = (min(left, self._limits.connect_timeout), min(left, self._limits.stall))
        return self._adapter.send(request, stream=True, timeout=waits)

    def _take(self, lease: Lease, url: str, response: requests.Response, began: float) -> Download:
        headers = response.headers
        if response.status_code != 200:
            self._drain(response.raw)
        read_status(response.status_code, headers)
        if self._product is not None and (said := find_opt_out(response.raw.headers.iteritems(), self._product)):
            raise FetchError(Reason.OPTED_OUT, said)
        announced = read_length(headers)
        if announced is not None and announced > self._limits.max_bytes:
            raise FetchError(Reason.TOO_LARGE, f"{announced} bytes announced")
        path = self._spool / str(lease.token)
        try:
            expected = Expected(lease.task.digest)
            size, digest = self._save(response.raw, path, expected)
            self._check_whole(size, announced)
            expected.check(digest)
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
            licence=find_licence(headers),
        )
        return Download(token=lease.token, task=lease.task, path=str(path), size=size, sha256=digest, response=facts)

    def _save(self, raw: Any, path: Path, expected: Expected) -> tuple[int, str]:
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
                expected.update(data)
                write_all(file, data)
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

    def _ask_rules(self, url: str) -> Answer:
        watch = self._guard.watch
        try:
            with self._send(url, watch) as response:
                return self._read_rules(url, response, watch)
        except Exception as error:
            _raise(translate(error, watch), error)

    def _read_rules(self, url: str, response: requests.Response, watch: Watch) -> Answer:
        status, headers = response.status_code, response.headers
        if status == 200:
            # Decoded, because what a server compresses unasked still counts here, and the size is bounded.
            text: bytes = response.raw.read(RULES_SIZE, decode_content=True)
            _refuse_cut(watch)
            return Answer(status, text=text.decode("utf-8", "replace"))
        self._drain(response.raw)
        location = headers.get("Location") if status in REDIRECTS else None
        target = None if location is None else resolve_location(url, str(location))
        return Answer(status, target, retry_after=read_retry_after(headers.get("Retry-After", "")))


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


def _create(path: Path) -> FileIO:
    """
    Open a spool file for writing; a spool that was swept while its session was taken for dead is made again.

    Without a buffer: what is written is large, and to make one asks the system three things for each file.
    """
    try:
        return path.open("wb", buffering=0)
    except FileNotFoundError:
        for folder in (path.parent.parent, path.parent):  # never the store itself: it may be a disk that is not mounted
            folder.mkdir(mode=0o700, exist_ok=True)
        return path.open("wb", buffering=0)
