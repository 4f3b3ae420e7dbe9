"""
Make a child process with fork: one process calls it, two return from it.

In the child fork returns 0, in the parent the number of the child. All that the child can give back is its exit status.

The crawler starts its children as fresh interpreters instead (`crawler.child`): fork copies locks that threads of the
parent hold at that moment, and nobody in the child will ever release them. The crawler's parents have many threads.
"""

from __future__ import annotations

import os

#: Exit status of the child, so that the parent has something to hear of.
STATUS = 7


def main() -> None:
    """Fork, and tell who is who."""
    # Flushed, because text that still waits in the buffer is copied as well and would be printed twice.
    print(f"{os.getpid()} begins", flush=True)
    child = os.fork()
    if child == 0:
        print(f"{os.getpid()} is the child of {os.getppid()}", flush=True)
        os._exit(STATUS)
    _, status = os.waitpid(child, 0)
    print(f"{os.getpid()} made {child}, which ended with status {os.waitstatus_to_exitcode(status)}")


if __name__ == "__main__":
    main()
