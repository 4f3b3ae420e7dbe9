"""`crawler seed`: the main job."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from crawler import __version__
from crawler.cli.common import Seconds, key_option, on_stop_signals, require_served
from crawler.cli.disk import disk_options
from crawler.cli.duplicates import duplicate_options, read_duplicates
from crawler.cli.lists import beside, list_options, read_lists
from crawler.cli.loudness import is_quiet, loudness
from crawler.cli.storing import storage_of, storing
from crawler.cli.terminal import say
from crawler.cli.treatment import read_treatment, treatment_options
from crawler.errors import UsageError


def _headers(
    context: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> tuple[tuple[str, str], ...]:
    found = []
    for value in values:
        name, colon, text = value.partition(":")
        text = text.strip()
        if not colon or not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
            raise click.BadParameter(f"{name!r} is no NAME:VALUE")
        if not text.isascii() or not text.isprintable():
            raise click.BadParameter(f"{name}: only printable ASCII can be sent in a header")
        found.append((name, text))
    return tuple(found)


def _networks(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    import ipaddress

    for value in values:
        try:
            ipaddress.ip_network(value)
        except ValueError as error:
            raise click.BadParameter(f"{error}: give a network as 10.1.0.0/16") from error
    return values


def _formats(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[str, ...]:
    from crawler.settings import FORMATS

    if value is None:
        return FORMATS
    aliases = {"JPG": "JPEG", "TIF": "TIFF"}
    names = [name.strip().upper() for name in value.split(",")]
    chosen = {aliases.get(name, name) for name in names}
    if unknown := sorted(chosen.difference(FORMATS)):
        raise click.BadParameter(f"{unknown[0]!r} cannot be accepted: give some of {', '.join(FORMATS)}")
    return tuple(format for format in FORMATS if format in chosen)


def _ports(context: click.Context, parameter: click.Parameter, value: str) -> tuple[tuple[int, int], ...]:
    found = []
    for text in value.split(","):
        match = re.fullmatch(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", text.strip(), re.ASCII)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not 0 < first <= last < 65536:
            raise click.BadParameter(f"{text!r} is no port: give them as 80,443,8000-8999")
        found.append((first, last))
    return tuple(found)


def _proxy(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    from urllib.parse import urlsplit

    if value is None:
        return None
    try:
        parts = urlsplit(value)
        is_one = parts.scheme == "http" and parts.hostname and parts.port and parts.path in ("", "/")
    except ValueError:  # a port that is no number, a bracket that is not closed
        is_one = False
    if not is_one or not value.isascii() or not value.isprintable():
        # Without the value, because there may be a password in it.
        raise click.BadParameter("give it as http://HOST:PORT or http://NAME:PASSWORD@HOST:PORT")
    return value


def _hosts(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[Any, ...]:
    from crawler.hosts import read_rules

    return () if value is None else read_rules(Path(value))


_OBEY = click.Choice(["obey", "ignore"])
_POSITIVE = Seconds(min=0, min_open=True)
_COUNT = click.IntRange(min=1)
_PORTS = "80,81,443,8000,8080,8081,8443,8888"
_PORTS_HELP = "Ports to connect to, also as 8000-8999; the addresses of --allow-net are open on all."
_PROXY_HELP = (
    "Send all through this proxy, http://[NAME:PASSWORD@]HOST:PORT; those of the environment are never used. The proxy"
    " resolves the names, so of addresses only those written in URLs are checked here: it must keep to public ones"
    " itself. --connect-timeout counts up to the proxy, and an error of its own for an http URL looks like the host's."
)


@click.command(short_help="Read URL lists, crawl them, and keep images and records.")
@click.argument("lists", metavar="LIST...", nargs=-1, required=True)
@list_options
@click.option("-o", "--out", metavar="OUT", help="Folder of the crawl. [LIST-stem.crawl beside the list]")
@click.option("--store", metavar="PATH|ADDRESS", help="Where images go, also as s3://bucket/prefix. [OUT/images]")
@storing
@click.option("--to", metavar="OUT|HOST:PORT", help="Add the lists to a queue that is being served, and leave.")
@click.option("--listen", metavar="HOST:PORT", help="Let other machines join here; needs --key.")
@key_option
@click.option("--workers", type=click.IntRange(min=0), default=1, show_default=True, help="Local workers.")
@click.option("--processes", type=_COUNT, help="Downloader processes of each worker. [one per core]")
@click.option("--threads", type=_COUNT, default=32, show_default=True, help="Threads of each downloader.")
@click.option("--per-host", type=_COUNT, default=8, show_default=True, help="Fetches at a time from one host.")
@click.option("--delay", type=Seconds(min=0), default=0.0, show_default=True, help="Seconds between starts.")
@click.option("--timeout", type=_POSITIVE, default=30.0, show_default=True, help="Seconds for a whole fetch.")
@click.option("--connect-timeout", type=_POSITIVE, default=10.0, show_default=True, help="Seconds for connecting.")
@click.option("--stall", type=_POSITIVE, default=10.0, show_default=True, help="Seconds a host may send nothing.")
@click.option("--min-speed", type=click.IntRange(min=0), default=1000, show_default=True, help="Bytes/s; 0: any.")
@click.option("--max-bytes", type=_COUNT, default=50_000_000, show_default=True, help="Largest body.")
@click.option("--max-pixels", type=_COUNT, default=64_000_000, show_default=True, help="Largest width x height.")
@click.option("--formats", metavar="NAMES", callback=_formats, help="As jpeg,png. [jpeg,png,gif,webp,avif,bmp,tiff]")
@treatment_options
@duplicate_options
@click.option("--attempts", type=_COUNT, default=3, show_default=True, help="Fetches per task.")
@click.option("--allow-net", multiple=True, metavar="CIDR", callback=_networks, help="Allow beside public addresses.")
@click.option("--ports", metavar="LIST", callback=_ports, default=_PORTS, show_default=True, help=_PORTS_HELP)
@click.option("--proxy", metavar="URL", callback=_proxy, help=_PROXY_HELP)
@click.option("--robots", type=_OBEY, default="obey", show_default=True, help="robots.txt.")
@click.option("--opt-out", type=_OBEY, default="obey", show_default=True, help="X-Robots-Tag, TDM reservation.")
@click.option("--hosts", metavar="FILE", callback=_hosts, help="TOML: what is different for some hosts; see README.")
@click.option("--host-patience", type=Seconds(min=0), default=60.0, show_default=True, help="For hosts that fail.")
@click.option("--contact", metavar="TEXT", help="How hosts can reach you: a page or an address, in the User-Agent.")
@click.option("--user-agent", metavar="TEXT", help="Another User-Agent altogether.")
@click.option("--header", "headers", multiple=True, metavar="NAME:VALUE", callback=_headers, help="Send a header.")
@click.option("--tls-verify/--no-tls-verify", default=True, show_default=True, help="Check certificates.")
@click.option("--ca-bundle", metavar="FILE", help="Trust these authorities, in PEM. [the system's; SSL_CERT_FILE]")
@click.option("--keep-open", is_flag=True, help="Go on waiting for more lists (--to) when all are done.")
@click.option("--refresh", is_flag=True, help="Ask again for what is stored, and fetch it where it has changed.")
@click.option("--grace", type=_POSITIVE, default=25.0, show_default=True, help="Seconds to end when stopped.")
@disk_options
@click.option("--strict", is_flag=True, help="Exit with 3 where a task failed.")
@loudness
@click.pass_context
def command(context: click.Context, /, lists: tuple[str, ...], to: str | None, key: str | None, **options: Any) -> None:
    """
    Read the lists, serve the queues, and run until every task has its record.

    A list is text with one URL a line, or a table: csv, tsv, json lines, json or parquet, as its name says, also
    compressed (.gz, .bz2, .zst); a folder, a pattern or an address that fsspec knows will do, and `-` is standard
    input. Stop with Ctrl-C (or kill -9): the same command again goes on where it was.

    \b
    crawler seed urls.txt                        images in urls.crawl/images
    crawler seed urls.txt -o /data/flowers       everything in /data/flowers
    crawler seed meta.parquet --url-column URL --columns TEXT      captions come along, see `crawler export`
    crawler keygen key                           then, for several machines:
    crawler seed urls.txt --listen 0.0.0.0:7700 --key key
    crawler worker coordinator.example:7700 --key key      on each of them

    Exit status: 0 every task has its record, 2 usage, 65 a list cannot be read, 69 the queue of --to cannot be
    reached, 73 OUT is in use or cannot be made, 74 a disk is full or failed, 75 stopped and can be resumed,
    77 the key is refused.
    """
    from crawler.run import Stop

    sources = read_lists(lists, options)
    stop = Stop()
    on_stop_signals(stop.ask)
    quiet = is_quiet(context)
    if to is not None:
        _add(sources, to, key, stop, quiet)
        return
    options["out"] = options["out"] or beside(lists[0])
    failed = _seed(sources, key, stop, quiet, options)
    if failed and options["strict"]:
        context.exit(3)


def _add(sources: list[Any], to: str, key: str | None, stop: Any, quiet: bool) -> None:
    from crawler.adding import add
    from crawler.errors import Stopped

    served = require_served(to, key)
    done = add(sources, served.address, served.key, stop)
    if stop.asked.is_set() and done < len(sources):
        raise Stopped("stopped before the end of the lists; the same command goes on")
    if not quiet:
        say(f"{done} list(s) added to {to}; see `crawler status {to}`", err=True)


def _seed(sources: list[Any], key: str | None, stop: Any, quiet: bool, options: dict[str, Any]) -> int:
    from crawler import descriptors
    from crawler.broker.durability import Durability
    from crawler.coordinator import Opening
    from crawler.out import Out
    from crawler.progress import Bar
    from crawler.run import Hands, Run, seed

    descriptors.raise_limit()  # each machine that joins takes some connections
    out = Path(options["out"])
    run = Run(
        sources=sources,
        out=Out(out),
        opening=Opening(
            options["store"],
            _settings(options),
            keep_open=options["keep_open"],
            pause_limit=options["pause_limit"],
            refresh=options["refresh"],
            min_free=options["min_free"],
            durability=Durability(options["durability"]),
        ),
        serving=_serving(options["listen"], key),
        hands=Hands(options["workers"], options["processes"] or 0, options["threads"]),
        grace=options["grace"],
    )
    with Bar(quiet, lambda address: _how_to_join(address, options["listen"], out, key)) as bar:
        summary = seed(run, stop, bar)
    if not quiet:
        say("\n".join(summary.lines()))
    return summary.failed


def _serving(listen: str | None, key: str | None) -> Any:
    from crawler.broker.address import parse_address
    from crawler.coordinator import Serving

    if listen is None:
        if key is not None:
            raise UsageError("--key goes with --listen HOST:PORT or --to HOST:PORT")
        return Serving()
    return Serving(parse_address(listen), None if key is None else Path(key))


def _how_to_join(address: str, listen: str | None, out: Path, key: str | None) -> str:
    if listen is None or key is None:
        return f"to add workers on this machine: crawler worker {out}"
    host, _, port = address.rpartition(":")
    if host in ("0.0.0.0", "[::]"):
        import socket

        host = socket.gethostname()
    return f"to join from another machine: crawler worker {host}:{port} --key {key}   (with a copy of {key} there)"


def _settings(options: dict[str, Any]) -> Any:
    from crawler.settings import Access, Limits, Politeness, RetryPolicy, Settings

    return Settings(
        limits=Limits(
            timeout=options["timeout"],
            connect_timeout=options["connect_timeout"],
            stall=options["stall"],
            min_speed=options["min_speed"],
            max_bytes=options["max_bytes"],
            max_pixels=options["max_pixels"],
            formats=options["formats"],
        ),
        politeness=Politeness(
            per_host=options["per_host"],
            delay=options["delay"],
            robots=options["robots"] == "obey",
            opt_out=options["opt_out"] == "obey",
            patience=options["host_patience"],
            hosts=options["hosts"],
        ),
        retry=RetryPolicy(attempts=options["attempts"]),
        access=Access(
            allow_net=options["allow_net"],
            ports=options["ports"],
            proxy=options["proxy"],
            user_agent=_user_agent(options["user_agent"], options["contact"]),
            headers=options["headers"],
            tls_verify=options["tls_verify"],
            ca_bundle=_ca_bundle(options["ca_bundle"]),
        ),
        treatment=read_treatment(options),
        storage=storage_of(options),
        near_duplicates=read_duplicates(options),
    )


def _user_agent(text: str | None, contact: str | None) -> str:
    agent = text or f"crawler/{__version__}"
    if contact:
        agent += f" (+{contact})"
    if not agent.isascii() or not agent.isprintable():
        raise UsageError("--user-agent and --contact: only printable ASCII can be sent in a header")
    return agent


def _ca_bundle(path: str | None) -> str | None:
    if path is None:
        return None
    import ssl

    try:
        text = Path(path).read_text("ascii")
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
    except ssl.SSLError as error:  # an OSError too
        raise UsageError(f"--ca-bundle {path}: there is no certificate in PEM in it, or a damaged one") from error
    except (OSError, ValueError) as error:  # not ASCII, or empty
        raise UsageError(f"--ca-bundle {path} cannot be read: {error}") from error
    return text
