"""
Lists that are text, one URL a line; blank lines and lines that begin with `#` are passed over.

A line that is no http or https URL is an entry all the same: its task fails as `bad_url`, named by list and line.
"""

from __future__ import annotations

from crawler.errors import UsageError
from crawler.model import ListState, Row
from crawler.producer.entries import MAX_LINE, show
from crawler.producer.picks import Picks
from crawler.producer.stream import Mark, Stream
from crawler.producer.urls import canonical


class TextList:
    """The lines of an open list."""

    def __init__(self, stream: Stream, path: str, picks: Picks) -> None:
        if picks.url_column or picks.columns or picks.digest_column:
            raise UsageError(
                f"{path} is read as text with one URL a line, which has no columns: say what it is with "
                "--list-format, or leave --url-column, --columns and --digest-column out"
            )
        self._stream = stream
        self._path = path

    def begin(self, state: ListState) -> None:
        """Pass over what was read before."""
        if state.offset:
            self._stream.pass_over(state)

    def next(self) -> bytes | None:
        """Return the next line, None at the end; of one that is too long its beginning."""
        return self._stream.line() or None

    def entry(self, number: int, line: bytes) -> Row | None:
        """Return the entry of a line, None for a comment or a blank line."""
        return parse(line, self._path, number)

    def mark(self) -> Mark:
        """Return how far the list has been read."""
        return self._stream.mark()


def parse(line: bytes, path: str, number: int) -> Row | None:
    """
    Make an entry of a line.

    Args:
        line: The line, with or without its end.
        path: Name of the list, for messages.
        number: Number of the line, from 1.

    Returns:
        The entry, or None for a comment or a blank line. One that is no URL has its `error` set.
    """
    try:
        text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
        if not text or text.startswith("#"):
            return None
        if len(line) >= MAX_LINE:
            raise ValueError(f"it is longer than {MAX_LINE} bytes")
        url, host = canonical(text)
        return Row(line=number, url=url, host=host)
    except ValueError as error:
        # The mark keeps it from having the same text as a URL, whose task would be its own then.
        shown = show(line.decode("utf-8", "backslashreplace").strip(), len(line) >= MAX_LINE)
        why = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
        return Row(line=number, url=shown, host="", error=f"{path}, line {number}: {why}")
