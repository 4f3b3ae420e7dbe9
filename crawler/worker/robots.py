"""How a robots.txt is fetched; what it says is for the queue to judge. Source: RFC 9309."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from crawler.errors import FetchError
from crawler.reasons import Class, Reason

#: Failures that say about the host what fetching an image would say.
OF_THE_HOST = frozenset(
    {
        Reason.BAD_URL,
        Reason.NAME_NOT_FOUND,
        Reason.RESOLVER_FAILED,
        Reason.ADDRESS_REFUSED,
        Reason.CONNECT_FAILED,
        Reason.CONNECT_TIMEOUT,
        Reason.CONNECTION_LOST,
        Reason.TLS_FAILED,
        Reason.TIMEOUT,
    }
)
#: Redirects followed, across hosts too. Source: RFC 9309, 2.3.1.2.
MAX_REDIRECTS = 5
#: Too many requests: not the absence of a file, but a host that wants to be left alone.
TOO_MANY = 429


class Answer(NamedTuple):
    """What a server said when asked for a robots.txt."""

    status: int
    #: Absolute URL to ask in its place, None where there is none.
    target: str | None = None
    text: str = ""
    #: Seconds after which it wants to be asked again.
    retry_after: float | None = None


def read_rules(where: str, ask: Callable[[str], Answer]) -> str:
    """
    Return the text of the robots.txt at *where*, "" where all is allowed.

    Args:
        where: Its URL.
        ask: Fetches a URL without following redirects.

    Raises:
        FetchError: ROBOTS_UNREACHABLE; or what went wrong with the host itself. The detail names the robots.txt.
    """
    url = where
    for hop in range(MAX_REDIRECTS + 1):
        try:
            answer = ask(url)
        except FetchError as error:
            # Behind a redirect it is another host's fault; and an answer that cannot be read is none.
            is_its_own = hop == 0 and (error.reason in OF_THE_HOST or error.reason.facts.kind is Class.LOCAL)
            reason = error.reason if is_its_own else Reason.ROBOTS_UNREACHABLE
            detail = error.detail if reason is error.reason and error.detail else str(error)
            raise FetchError(reason, f"{where}: {detail}") from error
        if answer.status >= 500 or answer.status == TOO_MANY:
            raise FetchError(
                Reason.ROBOTS_UNREACHABLE,
                f"{where}: status {answer.status}",
                http_status=answer.status,
                retry_after=answer.retry_after,
            )
        if answer.target is None:
            return answer.text if answer.status == 200 else ""
        url = answer.target
    # More redirects than must be followed count like a file that is not there. Source: RFC 9309, 2.3.1.2.
    return ""
