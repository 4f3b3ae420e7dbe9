"""
A list of image URLs goes in; verified images and one record for every URL come out.

The public names are loaded when first used, so that `import crawler` costs next to nothing and a child process
loads only what its own part needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crawler.api import crawl
    from crawler.errors import (
        CrawlerError,
        KeyRefused,
        ListUnreadable,
        OutUnusable,
        QueueUnavailable,
        Stopped,
        StorageFailed,
        UsageError,
        VersionMismatch,
    )
    from crawler.summary import Summary

__version__ = "0.1.0"

__all__ = [
    "CrawlerError",
    "KeyRefused",
    "ListUnreadable",
    "OutUnusable",
    "QueueUnavailable",
    "Stopped",
    "StorageFailed",
    "Summary",
    "UsageError",
    "VersionMismatch",
    "__version__",
    "crawl",
]

if not TYPE_CHECKING:  # a type checker would take it as leave to use any name

    def __getattr__(name: str) -> object:
        """Load the public *name* from its module, once: afterwards it is an ordinary attribute."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        if name == "crawl":
            from crawler import api as source
        elif name == "Summary":
            from crawler import summary as source
        else:
            from crawler import errors as source
        value = getattr(source, name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
