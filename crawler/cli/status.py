"""`crawler status`: how a crawl stands."""

from __future__ import annotations

import json
import time
from typing import Any

import click

from crawler.cli.common import Served, find, key_option
from crawler.cli.loudness import is_quiet, loudness
from crawler.errors import OutUnusable, UsageError
from crawler.out import Out
from crawler.reasons import Reason, advise

#: Waiting hosts that are named.
MAX_HOSTS = 5
#: Characters that are shown of what was seen at one.
MAX_DETAIL = 100


@click.command(short_help="Show how a crawl stands.")
@click.argument("target", metavar="OUT|HOST:PORT")
@key_option
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
@click.option("--verify", is_flag=True, help="Read every image in the store, and hold it against its record.")
@click.option("--sweep", is_flag=True, help="With --verify: remove files without a record; not while anything runs.")
@click.option(
    "--store", metavar="PATH", help="With --sweep: a store outside of OUT that holds this crawl's images alone."
)
@loudness
@click.pass_context
def command(
    context: click.Context, target: str, key: str | None, as_json: bool, verify: bool, sweep: bool, store: str | None
) -> None:
    """
    Count tasks by state and reason; of a crawl that runs also its rates and workers; tell which hosts wait.

    With --verify the exit status is 3 where a record lacks its file.
    """
    out, served = find(target, key)
    _check(out, served, verify, sweep, store)
    checked = None
    if verify and out is not None:
        from crawler.cli.verify import sweep as clean
        from crawler.cli.verify import verify as look

        quiet = is_quiet(context)
        checked = clean(out, store, quiet) if sweep else look(out, served is not None, quiet)
    facts = ask(out, served)
    if as_json:
        click.echo(json.dumps({**facts, "verified": checked.facts()} if checked else facts))
    else:
        click.echo(_table(facts))
        if served is None and out is not None:
            from crawler.summary import Summary

            summary = Summary(out.path, out.images, None)
            click.echo("\n".join(summary.reasons_and_hints()))
        if checked and out is not None:
            click.echo("\n".join(checked.lines(out.path)))
    if checked and not checked.is_sound:
        context.exit(3)


def _check(out: Out | None, served: Served | None, verify: bool, sweep: bool, store: str | None) -> None:
    """Refuse what cannot be verified or swept."""
    if sweep and not verify:
        raise UsageError("--sweep goes with --verify")
    if store is not None and not sweep:
        raise UsageError("--store goes with --verify --sweep")
    if verify and out is None:
        raise UsageError("--verify reads the store: name the OUT of a crawl on this machine")
    if sweep and served is not None and out is not None:
        raise OutUnusable(f"{out.path} runs: stop it before --sweep, so that nothing is removed that is being stored")


def ask(out: Out | None, served: Served | None) -> dict[str, Any]:
    """Return what `--json` prints, of a crawl that was found: see `find`."""
    return _ask(served) if served else _read(out)


def _ask(served: Served) -> dict[str, Any]:
    import msgspec

    from crawler.join import connect

    client = connect(served.address, str(served.key), 10.0)
    try:
        facts: dict[str, Any] = msgspec.to_builtins(client.proxy("task_queue").stats())
    finally:
        client.close()
    # What takes a look at every record is not asked of a queue that is at work.
    return {"running": True, "exact_duplicates": None, **facts}


def _read(out: Any) -> dict[str, Any]:
    import msgspec

    from crawler.broker.audit import AuditView
    from crawler.broker.copies import exact_duplicates

    view = AuditView(out.ledger)
    try:
        counters, total = view.counters(), view.tasks()
        stored, failed, delayed = counters.get("stored", 0), counters.get("failed", 0), view.delayed(time.time())
        return {
            "running": False,
            "total": total,
            "ready": total - stored - failed - delayed,
            "leased": 0,
            "held": 0,
            "delayed": delayed,
            "stored": stored,
            "failed": failed,
            "reasons": view.reasons(),
            "entries": counters.get("entries", 0),
            "bytes": counters.get("bytes", 0),
            "exact_duplicates": exact_duplicates(out.ledger),
            "near_duplicates": counters.get("near_duplicates", 0),
            "lists_read": all(item.sealed for item in view.lists()),
            "hosts": msgspec.to_builtins(view.host_stats(time.time())),
        }
    finally:
        view.close()


def _table(facts: dict[str, Any]) -> str:
    names = ("total", "ready", "leased", "delayed", "stored", "failed")
    lines = [f"{name:<8} {facts[name]:>12,}" for name in names]
    if facts["held"]:
        lines[names.index("leased")] += f"   of these {facts['held']:,} held: fetched, and not recorded yet"
    copies = ((facts["exact_duplicates"], "the same bytes as"), (facts["near_duplicates"], "nearly the same as"))
    if said := [f"{count:,} {words} another" for count, words in copies if count]:
        lines[names.index("stored")] += f"   of these {', '.join(said)}"
    if not facts["lists_read"]:
        lines.append("the lists have not been read to their end yet")
    if facts["running"]:
        rate, size = facts["stored_per_second"], facts["bytes_per_second"] / 1e6
        lines.append(f"{facts['status']}: {rate:.1f} images/s, {size:.1f} MB/s")
        for worker in facts["workers"]:
            done, held = worker["completed"], worker["leased"]
            lines.append(f"  worker on {worker['machine']}: {held:,} in hand, {done:,} completed")
        for name, n in facts["reasons"].items():
            reason = Reason(name)
            lines.append(f"  {n:>9,}  {name:<18} {advise(reason, n, facts['total']) or reason.facts.meaning}")
    return "\n".join(lines + _hosts(facts["hosts"], time.time()))


def _hosts(hosts: dict[str, Any], now: float) -> list[str]:
    """Tell which hosts are not well, and until when they are left alone."""
    words = {"slowed": "slowed down", "open": "failing, tried now and then", "unavailable": "given up for now"}
    counts = [f"{hosts[state]:,} {word}" for state, word in words.items() if hosts[state]]
    lines = [f"hosts: {', '.join(counts)}"] if counts else []
    for item in hosts["waiting"][:MAX_HOSTS]:
        wait = item["until"] - now if item["until"] else 0.0
        when = f"asked again in {_duration(wait)}" if wait > 0 else "asked again now"
        detail = f" ({_escaped(item['detail'])})" if item["detail"] else ""
        state = "" if item["state"] == "healthy" else f"{item['state']}, "
        lines.append(f"  {item['name'] or '?'}: {state}{when}{detail}")
    return lines


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min"


def _escaped(text: str) -> str:
    text = text.encode("unicode_escape").decode()
    return text if len(text) <= MAX_DETAIL else text[: MAX_DETAIL - 1] + "…"
