"""`crawler status`: how a crawl stands."""

from __future__ import annotations

import json
import time
from typing import Any

import click

from crawler.cli.common import Served, find, key_option
from crawler.cli.loudness import loudness
from crawler.reasons import Reason, advise


@click.command(short_help="Show how a crawl stands.")
@click.argument("target", metavar="OUT|HOST:PORT")
@key_option
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
@loudness
def command(target: str, key: str | None, as_json: bool) -> None:
    """Count tasks by state and reason; of a crawl that runs also its rates and workers."""
    out, served = find(target, key)
    facts = _ask(served) if served else _read(out)
    if as_json:
        click.echo(json.dumps(facts))
        return
    click.echo(_table(facts))
    if served is None and out is not None:
        from crawler.summary import Summary

        summary = Summary(out.path, out.images, None)
        click.echo("\n".join(summary.lines()[2:]))


def _ask(served: Served) -> dict[str, Any]:
    import msgspec

    from crawler.join import connect

    client = connect(served.address, str(served.key), 10.0)
    try:
        facts: dict[str, Any] = msgspec.to_builtins(client.proxy("task_queue").stats())
    finally:
        client.close()
    return {"running": True, **facts}


def _read(out: Any) -> dict[str, Any]:
    from crawler.broker.views import View

    view = View(out.ledger)
    try:
        counters, total = view.counters(), view.tasks()
        stored, failed, delayed = counters.get("stored", 0), counters.get("failed", 0), view.delayed(time.time())
        return {
            "running": False,
            "total": total,
            "ready": total - stored - failed - delayed,
            "leased": 0,
            "delayed": delayed,
            "stored": stored,
            "failed": failed,
            "reasons": view.reasons(),
            "entries": counters.get("entries", 0),
            "bytes": counters.get("bytes", 0),
            "lists_read": all(item.sealed for item in view.lists()),
        }
    finally:
        view.close()


def _table(facts: dict[str, Any]) -> str:
    names = ("total", "ready", "leased", "delayed", "stored", "failed")
    lines = [f"{name:<8} {facts[name]:>12,}" for name in names]
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
    return "\n".join(lines)
