"""What a command says at a terminal, which may be gone by then: whoever has closed it does not miss that."""

from __future__ import annotations

import errno
import os
import stat

import click


def say(text: str, *, err: bool = False) -> None:
    """
    Write *text*, a line or several, to standard output or standard error.

    Raises:
        OSError: It cannot be written, and not because a terminal is gone: a disk is full, nobody reads a pipe.
    """
    try:
        click.echo(text, err=err)
    except OSError as error:
        number = 2 if err else 1
        if error.errno != errno.EIO or not stat.S_ISCHR(os.fstat(number).st_mode):
            raise
        let_go(number)


def let_go(number: int) -> None:
    """Have what is written to descriptor *number* go nowhere, also what waits in a buffer."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, number)
    os.close(nowhere)
