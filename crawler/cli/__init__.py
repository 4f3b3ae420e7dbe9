"""The command line: one file per command, loaded when it is asked for."""

from __future__ import annotations

import errno
import importlib
import logging
import sys

import click

from crawler import __version__
from crawler.cli.loudness import loudness
from crawler.cli.terminal import say
from crawler.errors import FULL, CrawlerError, StorageFailed

#: Errors of a disk, wherever they are met.
DISK = (*FULL, errno.EIO, errno.EROFS)
#: Command to (what the list of commands says).
COMMANDS = {
    "seed": "Read URL lists, crawl them, and keep images and records.",
    "worker": "Join a crawl from this or another machine.",
    "status": "Show how a crawl stands.",
    "retry": "Put failed tasks back into the queue.",
    "export": "Write one row for each line of the lists.",
    "keygen": "Make a key and a certificate for several machines.",
    "doctor": "Check versions, limits and the system.",
}


class _Commands(click.Group):
    """A group whose commands are imported when they run, so that `--help` is quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"crawler.cli.{cmd_name}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="crawler")
@loudness
def cli() -> None:
    """
    Download the images of a list of URLs: verified, stored, and one record for every URL.

    \b
    crawler seed urls.txt              crawl a list; the same command again resumes
    crawler status urls.crawl          how it stands
    crawler export urls.crawl all.csv  one row for each line of the list
    """


def main() -> None:
    """Run the command line; exit with the status of the error that ended it."""
    try:
        sys.exit(cli.main(standalone_mode=False))
    except click.Abort:
        sys.exit(75)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except CrawlerError as error:
        say(f"crawler: {error}", err=True)
        sys.exit(error.exit_status)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in DISK:
            what = f"{error.strerror}{f': {error.filename}' if error.filename else ''}"
            say(f"crawler: {what}; the same command goes on when that is mended", err=True)
            sys.exit(StorageFailed.exit_status)
        logging.getLogger(__name__).debug("internal error", exc_info=True)
        say(f"crawler: internal error: {type(error).__name__}: {error} (say -vv to see where)", err=True)
        sys.exit(1)
