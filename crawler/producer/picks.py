"""What is taken of a list: which columns, and which of its rows."""

from __future__ import annotations

from hashlib import blake2b

import msgspec

from crawler.errors import UsageError

#: Column of the URLs where none is named.
URL = "url"
#: Stands for all columns.
ALL = "*"
#: Names that columns of URLs have in the lists of others, in lower case.
LIKELY = {"url", "urls", "uri", "link", "href", "src", "image", "img", "photo", "picture"}


class Picks(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is taken of a list."""

    #: Column of the URLs; None for `url`, in whatever case.
    url_column: str | None = None
    #: Columns that are carried through to records, `*` for all others.
    columns: tuple[str, ...] = ()
    #: Column of the digests that images must have, None for no such.
    digest_column: str | None = None
    #: Rows passed over at the beginning of all lists together.
    skip: int = 0
    #: Part of the rows that is taken, above 0 and at most 1.
    sample: float = 1.0
    #: Chooses which rows are taken where `sample` is below 1.
    sample_seed: int = 0

    def identity(self, format: str) -> bytes:
        """Return what the digest of a list begins with, so that a list is not gone on with in another way."""
        said = msgspec.json.encode(self)
        return b"" if format == "txt" and said == b"{}" else format.encode() + said

    def takes(self, name: str, number: int) -> bool:
        """Tell whether the sample has row *number* of the list called *name*: each time the same."""
        if self.sample >= 1:
            return True
        text = f"{self.sample_seed} {number} {name}".encode("utf-8", "backslashreplace")
        return int.from_bytes(blake2b(text, digest_size=8).digest()) < self.sample * 2**64


class Cut:
    """
    The rows that are taken of several lists that are read one after the other, as if they were one.

    Args:
        skip: Rows passed over at the beginning.
        limit: Rows taken then, None for all.
    """

    def __init__(self, skip: int = 0, limit: int | None = None) -> None:
        self._skip = skip
        self._limit = limit
        self._before = 0

    @property
    def first(self) -> int:
        """Return the number of the first row that is taken of the current list, at least 1."""
        return max(1, self._skip - self._before + 1)

    @property
    def last(self) -> int | None:
        """Return the number of the last one, 0 where none is; None for all."""
        return None if self._limit is None else max(0, self._skip + self._limit - self._before)

    def end(self, rows: int) -> None:
        """Go on to the next list; the current one had so many rows, or as many as were wanted."""
        self._before += rows


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """Where in the rows of one list is what is taken of them."""

    #: Name of the column of URLs.
    url: str
    #: Name of the column of digests, None for none.
    digest: str | None
    #: Names of the columns that are carried through, the column of digests among them.
    carried: tuple[str, ...]


def lay_out(picks: Picks, names: list[str], path: str) -> Layout:
    """
    Find the columns that are asked for among *names*.

    Raises:
        UsageError: One is not there, or twice; the message names the list, and the columns that are there.
    """
    url = _find_url(picks.url_column, names, path)
    digest = picks.digest_column and _find(picks.digest_column, names, path, "--digest-column")
    wanted = [name for name in names if name != url] if ALL in picks.columns else picks.columns
    carried = [_find(name, names, path, "--columns") for name in wanted]
    return Layout(url=url, digest=digest, carried=tuple(dict.fromkeys([*carried, *([digest] if digest else [])])))


def _find_url(name: str | None, names: list[str], path: str) -> str:
    if name is not None or URL in names:
        return _find(name or URL, names, path, "--url-column")
    same = [one for one in names if one.lower() == URL]
    if len(same) == 1:
        return same[0]
    likely = [one for one in names if set(one.lower().replace("-", "_").split("_")) & LIKELY]
    hint = f"say --url-column {likely[0]}" if len(likely) == 1 else "name the right one with --url-column"
    if any(one.strip().lower().startswith(("http://", "https://")) for one in names):
        hint = "its first row, which should name the columns, holds a URL: say --list-format txt if it is a plain list"
    raise UsageError(f"{path} has no column `{URL}`, but {_shown(names)}: {hint}")


def _find(name: str, names: list[str], path: str, option: str) -> str:
    if (count := names.count(name)) == 1:
        return name
    if count:
        raise UsageError(f"{path} has the column `{name}` {count} times: rename all but one of them")
    raise UsageError(f"{path} has no column `{name}`, but {_shown(names)}: name another one with {option}")


def _shown(names: list[str]) -> str:
    shown = ", ".join(f"`{name[:50].encode('unicode_escape').decode()}`" for name in names[:30])
    return f"{shown}{' …' if len(names) > 30 else ''}" if names else "none at all"
