"""
Run a function in processes of its own: start them all, then wait for each.

`Process` hides how a child is made: by fork, or as a fresh interpreter that imports this file. Because of the second
the program's own work stands below `if __name__ == "__main__"`.

The crawler's downloaders and verifiers are such children, but started as `python -m MODULE` (`crawler.child`), so that
scripts that call `crawl()` need no such line. `crawler.processes` watches them and replaces those that die.
"""

from __future__ import annotations

import multiprocessing

#: Seconds to wait for one child.
LIMIT = 30.0


def download(url: str) -> None:
    """Pretend to download *url*."""
    # The line and its end in one piece: print may write them separately, and another process come in between.
    print(f"{multiprocessing.current_process().name} downloads {url}\n", end="")


def main() -> None:
    """Run three children at the same time."""
    children = [
        multiprocessing.Process(target=download, args=(f"ImageUrl_{number}",), name=f"child {number}")
        for number in range(3)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join(LIMIT)
    for child in children:
        print(f"{child.name} ended with status {child.exitcode}")


if __name__ == "__main__":
    main()
