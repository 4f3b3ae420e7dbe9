"""
Run `crawler worker` and leave its session in a file: `worker.py FILE worker …`.

So the campaign knows whose leases are whose: what was in flight at a fault is what its victim held.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from crawler import cli, join
from crawler.worker import Worker


class Noted(Worker):
    """A worker that leaves its session in a file."""

    def __init__(self, queue: Any, session: str, *rest: Any) -> None:
        NOTE.write_text(session)
        super().__init__(queue, session, *rest)


if __name__ == "__main__":
    NOTE = Path(sys.argv[1])
    sys.argv[1:] = sys.argv[2:]
    join.Worker = Noted  # type: ignore[misc]
    cli.main()
