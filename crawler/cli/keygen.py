"""`crawler keygen`: a key and a certificate."""

from __future__ import annotations

from pathlib import Path

import click

from crawler.cli.loudness import loudness


@click.command(short_help="Make a key and a certificate for several machines.")
@click.argument("folder", metavar="DIR")
@loudness
def command(folder: str) -> None:
    """
    Make DIR with a fresh key and certificate, mode 0600.

    Copy DIR to each machine that shall join; `cert-key.pem` is for the coordinator alone and need not be copied.
    Whoever has the key can give and take tasks.
    """
    from crawler.broker.keys import generate

    generate(Path(folder))
    click.echo(
        f"key and certificate made in {folder}; the coordinator: crawler seed LIST --listen HOST:PORT --key {folder}"
    )
