"""
Every reason for which a task can fail, its class, what it means and an example: the one table.

README shows this table, `crawler retry --reason` takes these names, and the summary explains failures with it.
"""

from __future__ import annotations

import enum
from typing import NamedTuple


class Class(enum.StrEnum):
    """What a failure says about trying again."""

    #: May pass by itself: the queue tries again, up to the limit of attempts.
    TRANSIENT = "transient"
    #: Trying again now would bring the same: recorded at once.
    PERMANENT = "permanent"
    #: Our own network, disk or machine is at fault: no attempt is charged.
    LOCAL = "local"


class Reason(enum.StrEnum):
    """Closed list of reasons. The value is the name in records, exports and options."""

    BAD_URL = "bad_url"
    NAME_NOT_FOUND = "name_not_found"
    RESOLVER_FAILED = "resolver_failed"
    ADDRESS_REFUSED = "address_refused"
    CONNECT_FAILED = "connect_failed"
    CONNECT_TIMEOUT = "connect_timeout"
    CONNECTION_LOST = "connection_lost"
    TLS_FAILED = "tls_failed"
    TIMEOUT = "timeout"
    BAD_RESPONSE = "bad_response"
    TRUNCATED = "truncated"
    TOO_LARGE = "too_large"
    EMPTY = "empty"
    DIGEST_MISMATCH = "digest_mismatch"
    TOO_MANY_REDIRECTS = "too_many_redirects"
    BAD_REDIRECT = "bad_redirect"
    HTTP_NOT_FOUND = "http_not_found"
    HTTP_FORBIDDEN = "http_forbidden"
    HTTP_TOO_MANY = "http_too_many"
    HTTP_SERVER_ERROR = "http_server_error"
    HTTP_STATUS = "http_status"
    ROBOTS_DISALLOWED = "robots_disallowed"
    ROBOTS_UNREACHABLE = "robots_unreachable"
    OPTED_OUT = "opted_out"
    HOST_UNAVAILABLE = "host_unavailable"
    HOST_SKIPPED = "host_skipped"
    NOT_AN_IMAGE = "not_an_image"
    HTML = "html"
    SVG = "svg"
    FORMAT_REFUSED = "format_refused"
    IMAGE_TRUNCATED = "image_truncated"
    IMAGE_BROKEN = "image_broken"
    TOO_MANY_PIXELS = "too_many_pixels"
    TOO_NARROW = "too_narrow"
    TOO_WIDE = "too_wide"
    TOO_SHORT = "too_short"
    TOO_TALL = "too_tall"
    TOO_FEW_PIXELS = "too_few_pixels"
    TOO_SQUARE = "too_square"
    TOO_ELONGATED = "too_elongated"
    TOO_FEW_BYTES = "too_few_bytes"
    NEAR_DUPLICATE = "near_duplicate"
    TRANSFORM_FAILED = "transform_failed"
    VERIFIER_TIMEOUT = "verifier_timeout"
    VERIFIER_DIED = "verifier_died"
    POISONED = "poisoned"
    DISK_FULL = "disk_full"
    LOCAL_FAULT = "local_fault"
    INTERNAL = "internal"

    @property
    def facts(self) -> Facts:
        """Return this reason's row of the table."""
        return TABLE[self]

    @property
    def is_final(self) -> bool:
        """Tell whether trying again is pointless, so that the first failure is recorded."""
        return TABLE[self].kind is Class.PERMANENT


class Facts(NamedTuple):
    """One row of the table of reasons."""

    #: Class that decides about trying again.
    kind: Class
    #: What happened, in a user's words.
    meaning: str
    #: A case in which it is seen.
    example: str


_T, _P, _L = Class.TRANSIENT, Class.PERMANENT, Class.LOCAL

TABLE: dict[Reason, Facts] = {
    Reason.BAD_URL: Facts(
        _P, "the line or row holds no http or https URL", "a line `hello`, `http://[::bad/x.jpg`, or broken JSON"
    ),
    Reason.NAME_NOT_FOUND: Facts(_P, "the host's name does not exist", "a domain that was given up"),
    Reason.RESOLVER_FAILED: Facts(_T, "the resolver gave no answer", "an overloaded or unreachable name server"),
    Reason.ADDRESS_REFUSED: Facts(
        _P,
        "the host's address is not public, or its port not among `--ports`",
        "`http://127.0.0.1/` without `--allow-net`",
    ),
    Reason.CONNECT_FAILED: Facts(_T, "the host refused the connection or cannot be reached", "nothing listens there"),
    Reason.CONNECT_TIMEOUT: Facts(_T, "the host did not answer the connection in time", "a dead host"),
    Reason.CONNECTION_LOST: Facts(_T, "the host cut the connection", "a reset in the middle of a response"),
    Reason.TLS_FAILED: Facts(_P, "the host's certificate or TLS was not accepted", "an expired certificate"),
    Reason.TIMEOUT: Facts(_T, "the whole fetch took longer than `--timeout`", "a server that drips bytes"),
    Reason.BAD_RESPONSE: Facts(_P, "the answer breaks the rules of HTTP", "contradicting lengths, an unasked coding"),
    Reason.TRUNCATED: Facts(_T, "fewer bytes came than were announced", "a proxy that gave up"),
    Reason.TOO_LARGE: Facts(_P, "the body is larger than `--max-bytes`", "a video behind an image's name"),
    Reason.EMPTY: Facts(_P, "the body is empty", "200 with Content-Length 0"),
    Reason.DIGEST_MISMATCH: Facts(
        _P, "the bytes are not those whose digest the list has", "an image that was replaced since the list was made"
    ),
    Reason.TOO_MANY_REDIRECTS: Facts(_P, "more than five redirects", "a redirect loop"),
    Reason.BAD_REDIRECT: Facts(_P, "a redirect leads to no http or https URL", "`Location: ftp://…`, or none"),
    Reason.HTTP_NOT_FOUND: Facts(_P, "the host says there is no such thing", "404, 410"),
    Reason.HTTP_FORBIDDEN: Facts(_P, "the host does not let us have it", "401, 403, 451"),
    Reason.HTTP_TOO_MANY: Facts(_T, "the host asks us to slow down", "429"),
    Reason.HTTP_SERVER_ERROR: Facts(_T, "the host failed", "500, 502, 503, 504"),
    Reason.HTTP_STATUS: Facts(_P, "any other status than 200", "204, 206, 400"),
    Reason.ROBOTS_DISALLOWED: Facts(_P, "robots.txt of the host does not allow it", "`Disallow: /`"),
    Reason.ROBOTS_UNREACHABLE: Facts(_T, "robots.txt of the host could not be had", "503 for /robots.txt"),
    Reason.OPTED_OUT: Facts(
        _P, "the host reserves the image against use by machines", "`X-Robots-Tag: noai`, `tdm-reservation: 1`"
    ),
    Reason.HOST_UNAVAILABLE: Facts(
        _T, "the host failed for longer than `--host-patience`, so this was not fetched", "a dead host with many URLs"
    ),
    Reason.HOST_SKIPPED: Facts(_P, "the file of `--hosts` says to skip the host", "`skip = true`"),
    Reason.NOT_AN_IMAGE: Facts(_P, "the bytes are no image of any known format", "a PDF, JSON, plain text"),
    Reason.HTML: Facts(_P, "a web page came in place of the image", "a login page served with 200"),
    Reason.SVG: Facts(_P, "an SVG drawing, which is not decoded", "a logo"),
    Reason.FORMAT_REFUSED: Facts(_P, "an image of a format that is not accepted", "EPS, PSD, ICO"),
    Reason.IMAGE_TRUNCATED: Facts(_P, "the image's data end before the image does", "an upload that was cut"),
    Reason.IMAGE_BROKEN: Facts(_P, "the image does not decode", "flipped bytes in a PNG"),
    Reason.TOO_MANY_PIXELS: Facts(
        _P,
        "the image has more pixels than `--max-pixels`, or needs more memory than follows from it",
        "a decompression bomb",
    ),
    Reason.TOO_NARROW: Facts(_P, "the image's width is below `--min-width`", "an icon"),
    Reason.TOO_WIDE: Facts(_P, "the image's width is above `--max-width`", "a panorama"),
    Reason.TOO_SHORT: Facts(_P, "the image's height is below `--min-height`", "a ruler of one pixel"),
    Reason.TOO_TALL: Facts(_P, "the image's height is above `--max-height`", "a screenshot of a whole page"),
    Reason.TOO_FEW_PIXELS: Facts(_P, "the image has fewer pixels than `--min-pixels`", "a tracking pixel"),
    Reason.TOO_SQUARE: Facts(_P, "the longer side is less than `--min-aspect-ratio` times the shorter", "a logo"),
    Reason.TOO_ELONGATED: Facts(_P, "the longer side is over `--max-aspect-ratio` times the shorter", "a banner"),
    Reason.TOO_FEW_BYTES: Facts(_P, "the file is smaller than `--min-bytes`", "a placeholder"),
    Reason.NEAR_DUPLICATE: Facts(
        _P,
        "the image looks like one recorded before, and `--drop-near-duplicates` was given",
        "the same photograph in another size",
    ),
    Reason.TRANSFORM_FAILED: Facts(
        _P, "the image cannot be turned into what was asked for", "more pixels than the format can hold"
    ),
    Reason.VERIFIER_TIMEOUT: Facts(_P, "decoding took too long", "an image made to be slow"),
    Reason.VERIFIER_DIED: Facts(_P, "decoding ended the verifier, twice", "a flaw in a decoder"),
    Reason.POISONED: Facts(_P, "the downloader died three times while fetching it", "out of memory, a crash"),
    Reason.DISK_FULL: Facts(_L, "no room for the download", "ENOSPC in the spool"),
    Reason.LOCAL_FAULT: Facts(_L, "this machine's disk, memory or limits failed", "EIO, a read-only spool, EMFILE"),
    Reason.INTERNAL: Facts(_T, "something unforeseen in crawler; the detail says what", "a defect: please report it"),
}

#: What a user can do where many tasks fail for one reason; `{share}` is per cent of all tasks.
ADVICE: dict[Reason, str] = {
    Reason.NAME_NOT_FOUND: "{share} % of names do not exist: the list may be old, or the resolver filters",
    Reason.RESOLVER_FAILED: "{share} % of names could not be resolved: your resolver may be overloaded",
    Reason.CONNECT_TIMEOUT: "{share} % of hosts did not answer: look at firewall and proxy, or lower --threads",
    Reason.CONNECT_FAILED: "{share} % of connections were refused: look at firewall and proxy",
    Reason.TIMEOUT: "{share} % took too long: raise --timeout, or lower --threads where your line is full",
    Reason.TLS_FAILED: "{share} % failed for TLS: look at the clock, and at --ca-bundle behind a company's proxy",
    Reason.HTTP_TOO_MANY: "{share} % were asked to slow down: lower --per-host, set --delay, then retry",
    Reason.HTTP_FORBIDDEN: "{share} % were not let in: say who you are with --contact; hosts may block your address",
    Reason.ADDRESS_REFUSED: "{share} % lead to addresses or ports that are not allowed: see --allow-net and --ports",
    Reason.ROBOTS_DISALLOWED: "{share} % are disallowed by robots.txt of their hosts",
    Reason.ROBOTS_UNREACHABLE: "{share} % of hosts did not give their robots.txt: try again later",
    Reason.OPTED_OUT: "{share} % are reserved against use by machines by their hosts",
    Reason.HOST_UNAVAILABLE: "{share} % belong to hosts that do not answer: try again another day",
    Reason.DIGEST_MISMATCH: "{share} % are no longer what the list says: leave out --digest-column to have them",
    Reason.TOO_MANY_PIXELS: "{share} % are larger than --max-pixels allows: with more, verifiers take more memory too",
    Reason.VERIFIER_TIMEOUT: "{share} % took too long: if the machine was busy, retry with --reason verifier_timeout",
    Reason.HTML: "{share} % are web pages: the URLs may name pages with images, not images",
    Reason.DISK_FULL: "the disk was full: make room, then retry",
    Reason.INTERNAL: "{share} % met something unforeseen: please report the detail of one",
}
#: Per cent of all tasks from which on advice is given.
ADVICE_SHARE = 5.0


def advise(reason: Reason, tasks: int, total: int) -> str | None:
    """Return what to do about *tasks* of *total* that failed for *reason*, None where they are few or nothing helps."""
    share = 100 * tasks / max(1, total)
    if share < ADVICE_SHARE or reason not in ADVICE:
        return None
    return ADVICE[reason].format(share=round(share))
