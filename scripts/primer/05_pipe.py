"""
Send and receive through a pipe between two processes.

A pipe has two ends. When all copies of one are closed, the other says so with EOFError: whether its owner ended well or
was killed, the news arrives. A forked child has a copy of both ends, so it first closes the one that is not its own.

The crawler talks with each of its children over a pipe of its own (`crawler.child`, `crawler.processes`), and EOFError
is how it hears of a death. `send` and `recv` pickle; the crawler sends bytes that it checks against their types.
"""

from __future__ import annotations

import multiprocessing
from multiprocessing.connection import Connection

#: Seconds to wait for an answer, and for the child's end.
LIMIT = 30.0


def serve(mine: Connection, theirs: Connection) -> None:
    """Answer all that comes in at *mine*, until the other end is closed."""
    theirs.close()
    try:
        while True:
            url = mine.recv()
            print(f"child receives {url}", flush=True)
            mine.send(f"{url}------>completed!")
    except EOFError:
        print("child sees that the pipe is closed", flush=True)


def ask(pipe: Connection, url: str) -> str:
    """Send *url*, and return what comes back."""
    print(f"parent sends {url}", flush=True)
    pipe.send(url)
    if not pipe.poll(LIMIT):
        raise TimeoutError(f"no answer within {LIMIT} s")
    answer: str = pipe.recv()
    return answer


def main() -> None:
    """Give a child three tasks, one after the other."""
    mine, theirs = multiprocessing.Pipe()
    child = multiprocessing.Process(target=serve, args=(theirs, mine))
    child.start()
    theirs.close()
    with mine:
        for number in range(3):
            print(f"parent receives {ask(mine, f'ImageUrl_{number}')}", flush=True)
    child.join(LIMIT)
    print(f"the child ended with status {child.exitcode}")


if __name__ == "__main__":
    main()
