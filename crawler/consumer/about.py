"""Facts about an image as its record has them: what its verifier said, and what its download says."""

from __future__ import annotations

import msgspec

from crawler.consumer.messages import Accepted
from crawler.facts import MAX_TEXT, Facts
from crawler.model import Download


def complete(verdict: Accepted, came: Download, kept: Download, wanted: tuple[str, ...]) -> Accepted:
    """
    Return *verdict* with all facts that are wanted.

    Args:
        verdict: What the verifier said.
        came: The download as it came.
        kept: The same with the file that is to be stored; *came* itself where nothing was made of it.
        wanted: Of `crawler.facts.KINDS`; none for no facts.
    """
    if not wanted:
        return msgspec.structs.replace(verdict, facts=None)
    new = {} if kept is came else {"original_bytes": came.size, "original_sha256": came.sha256}
    if "response" in wanted:
        new |= _of_response(came)
    facts = msgspec.structs.replace(verdict.facts or Facts(), **new)
    return msgspec.structs.replace(verdict, facts=facts)


def _of_response(came: Download) -> dict[str, object]:
    """Return facts about the response; ETag and Last-Modified are in the record already."""
    response = came.response
    return {
        "final_url": None if response.final_url == came.task.url else response.final_url,
        "content_type": response.content_type and response.content_type[:MAX_TEXT],
        "licence": response.licence or None,
        "fetch_seconds": round(response.seconds, 4),
    }
