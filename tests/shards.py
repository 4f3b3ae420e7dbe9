"""Look at shards with the readers that people use: `tar`, `webdataset`, `pyarrow`."""

from __future__ import annotations

import hashlib
import json
import subprocess
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.command import records


def tars(store: Path) -> list[Path]:
    """Return the published tars of a store."""
    return sorted(store.glob("*.tar"))


def listed(tar: Path) -> list[str]:
    """Return what `tar` lists, once it has read all of it."""
    done = subprocess.run(["tar", "-tf", tar], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout.splitlines()


def read_webdataset(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """Return the samples that the `webdataset` package finds, as bytes by ending."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import webdataset

        urls = [str(path) for path in paths]
        return list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False)) if urls else []


def check(out: Path, stored: int, elsewhere: Path | None = None) -> list[dict[str, Any]]:
    """
    Hold the tars of a finished crawl against its records: each stored image once, with its bytes; return samples.

    Args:
        out: The crawl.
        stored: How many images there must be.
        elsewhere: A copy of its store, where that is not in OUT.
    """
    store, prefix = elsewhere or out / "images", "" if elsewhere else "images/"
    current = {record["id"]: record for record in records(out.parent, out.name)}
    paths = {record["path"]: record for record in current.values() if record["outcome"] == "stored"}
    assert len(paths) == stored
    found = {}
    for tar in tars(store):
        names = listed(tar)
        assert len(names) == len(set(names))
        found.update({f"{prefix}{tar.name}/{name}": tar for name in names if not name.endswith((".json", ".txt"))})
    assert sorted(found) == sorted(paths)
    samples = read_webdataset(tars(store))
    assert len(samples) == stored
    by_key = {Path(path).stem: record for path, record in paths.items()}
    for sample in samples:
        record = by_key.pop(sample["__key__"])
        facts = json.loads(sample["json"])
        image = sample[Path(record["path"]).suffix[1:]]
        assert hashlib.sha256(image).hexdigest() == record["sha256"] == facts["sha256"]
        assert (facts["url"], facts["width"], facts["key"]) == (record["url"], record["width"], sample["__key__"])
    assert not by_key
    assert not list((store / ".open").glob("*"))
    return samples
