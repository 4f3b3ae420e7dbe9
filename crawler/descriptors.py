"""Open files: how many a run needs, whether it may have them, and writing to one without a buffer."""

from __future__ import annotations

import io
import resource

from crawler.errors import UsageError

#: Of each thread that fetches: its connection, its spool file, and one that is kept alive for the next fetch.
EACH = 3
#: Of each process beside that: pipes, libraries, the ledger, connections to the coordinator.
REST = 64


def require(threads: int) -> None:
    """
    Check that a downloader of *threads* threads may open the files that it needs.

    Raises:
        UsageError: The limit of this machine is too low.
    """
    needed = EACH * threads + REST
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most == resource.RLIM_INFINITY or most >= needed:
        return
    fewer = max(1, (most - REST) // EACH)
    raise UsageError(
        f"--threads {threads} needs {needed} open files, and the limit here is {most}: raise it (`ulimit -Hn {needed}`,"
        f" or LimitNOFILE= of a service), or give --threads {fewer}"
    )


def raise_limit() -> None:
    """Let this process open as many files as the system lets it have; not done in a user's own process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def write_all(file: io.FileIO, data: bytes) -> None:
    """Write all of *data*; one write takes less where the file meets a limit, and the next says which."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
