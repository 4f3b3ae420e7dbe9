"""Imports point one way, an outside dependency stays where the layout puts it, and what is tested is the wheel."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

import crawler
from tests.conftest import ROOT

#: Part of crawler and its height: a part may import from itself and from parts below, never from its own height.
#: A part is one module, or a folder's module with all below it where the name ends in a dot.
HEIGHTS = {
    "crawler.reasons": 0,
    "crawler.errors": 1,
    "crawler.treatment": 1,
    "crawler.storage": 1,
    "crawler.facts": 1,
    "crawler.settings": 2,
    "crawler.room": 2,  # on disks
    "crawler.descriptors": 2,
    "crawler.scratch": 2,  # folders for temporary files
    "crawler.logs": 2,  # what processes say
    "crawler.model": 3,
    "crawler.stats": 3.5,  # the status of a queue is of the model
    "crawler.slate": 2,  # what a child notes, for its parent
    "crawler.cores": 2,  # how many processors there are
    "crawler.child": 3,  # one child and its pipe, for processes
    "crawler.broker": 4,  # the verbs; what stands beside that file is a backend
    "crawler.processes": 4,
    "crawler.broker.": 5,
    "crawler.producer.": 5,
    "crawler.worker.": 5,
    "crawler.consumer.": 5,
    "crawler.progress": 5,
    "crawler.out": 6,  # what stands between the roles and a whole run
    "crawler.summary": 6,
    "crawler.hosts": 6,  # the file of --hosts
    "crawler.join": 6,
    "crawler.storing": 7,
    "crawler.publisher": 6,  # shards of the consumers against the ledger
    "crawler.coordinator": 8,
    "crawler.run": 9,
    "crawler.adding": 10,
    "crawler.api": 10,
    "crawler.export.": 9,
    "crawler.cli.": 11,
    "crawler.__main__": 12,
    "crawler": 12,
}

#: Outside dependency, as imported, and the modules that may; a name that ends in a dot is all below it.
OUTSIDE = {
    "requests": (
        "crawler.worker.fetch",
        "crawler.worker.faults",
        "crawler.worker.guard",
        "crawler.worker.headers",
        "crawler.worker.pools",
    ),
    "urllib3": ("crawler.worker.fetch", "crawler.worker.faults", "crawler.worker.guard", "crawler.worker.pools"),
    "PIL": (
        "crawler.consumer.image",
        "crawler.consumer.describe",
        "crawler.consumer.transform",
        "crawler.consumer.treating",
    ),
    "tqdm": ("crawler.progress",),
    "click": ("crawler.cli.",),
    # The data of model are its structs: it is for whatever encodes, decodes or copies one.
    "msgspec": (
        "crawler.storage",
        "crawler.settings",
        "crawler.treatment",
        "crawler.facts",
        "crawler.model",
        "crawler.stats",
        "crawler.processes",
        "crawler.producer.",
        "crawler.broker.",
        "crawler.worker.",
        "crawler.consumer.messages",
        "crawler.consumer.about",
        "crawler.consumer.outputs",
        "crawler.consumer.verifier",
        "crawler.consumer.store.facts",
        "crawler.consumer.store.opening",
        "crawler.consumer.store.remote_shards",
        "crawler.join",
        "crawler.coordinator",
        "crawler.run",
        "crawler.export.",
        "crawler.cli.",
    ),
    "protego": ("crawler.broker.origins",),
    "cryptography": ("crawler.broker.keys",),
    "idna": ("crawler.producer.urls",),
    # Of lists that not everybody has.
    "backports": ("crawler.producer.compression", "crawler.export.files"),
    "fsspec": ("crawler.producer.files", "crawler.consumer.store.remote"),
    "ijson": ("crawler.producer.objects",),
    "pyarrow": (
        "crawler.producer.parquet",
        "crawler.export.files",
        "crawler.consumer.store.parquet",
        "crawler.consumer.store.opening",
    ),
}

#: Distribution, where its name is not that of what is imported.
DISTRIBUTIONS = {"PIL": "pillow", "backports": "backports.zstd"}
#: Distributions that are declared though nothing imports them: what fsspec loads for some addresses.
LOADED = {"adlfs", "aiohttp", "gcsfs", "s3fs"}

#: Modules that run what they read. Nothing that came over a wire or a pipe may reach them.
EXECUTING = {"pickle", "cPickle", "marshal", "shelve", "dill"}

#: What any module may take from the package itself.
VERSION = "crawler.__version__"

#: Modules, empty, among which the rules themselves are tried.
KNOWN = dict.fromkeys(
    (
        "crawler",
        "crawler.broker",
        "crawler.broker.ledger",
        "crawler.broker.local",
        "crawler.cli",
        "crawler.cli.options",
        "crawler.errors",
        "crawler.run",
        "crawler.worker",
        "crawler.worker.fetch",
        "crawler.worker.guard",
    ),
    "",
)


class Import(NamedTuple):
    """One import statement, wherever in a module it stands."""

    module: str
    line: int
    #: Module imported, with dots.
    target: str
    #: Names taken from it; empty for a plain import.
    names: tuple[str, ...] = ()


def sources() -> dict[str, str]:
    """Return the text of every module of the package by its name; a folder's module has the folder's name."""
    assert crawler.__file__ is not None
    top = Path(crawler.__file__).parent
    found = {}
    for file in top.rglob("*.py"):
        parts = ["crawler", *file.relative_to(top).with_suffix("").parts]
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file.read_text(encoding="utf-8")
    return found


def imports(module: str, text: str, is_folder: bool) -> Iterator[Import]:
    """Find every import in *text*: at the top, in functions, under TYPE_CHECKING, and by import_module("...")."""
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Import(names=names):
                for alias in names:
                    yield Import(module, node.lineno, alias.name)
            case ast.ImportFrom(module=source, names=names, level=level):
                folders = module.split(".")
                base = folders[: len(folders) + is_folder - level] if level else []
                target = ".".join([*base, *([source] if source else [])])
                yield Import(module, node.lineno, target, tuple(alias.name for alias in names))
            case ast.Call(func=func, args=[ast.Constant(value=str(target)), *_]) if _imports_by_name(func):
                yield Import(module, node.lineno, target)


def _imports_by_name(func: ast.expr) -> bool:
    return ast.unparse(func).rpartition(".")[2] in ("import_module", "__import__")


def faults(modules: Mapping[str, str]) -> list[str]:
    """Name every import in *modules* (name and text) that breaks a rule, each as "module:line: what"."""
    found = []
    for module, text in modules.items():
        is_folder = module == "crawler" or any(name.startswith(module + ".") for name in modules)
        for one in imports(module, text, is_folder):
            found += [f"{module}:{one.line}: {fault}" for fault in _judge(one, modules)]
    return found


def _judge(one: Import, modules: Mapping[str, str]) -> list[str]:
    top = one.target.partition(".")[0]
    if top in EXECUTING:
        return [f"imports {top}"]
    if top == "crawler":
        return [fault for target in _targets(one, modules) if (fault := _judge_inside(one.module, target))]
    if top in sys.stdlib_module_names or _is_among(one.module, OUTSIDE.get(top, ())):
        return []
    return [f"imports {top}"]


def _targets(one: Import, modules: Mapping[str, str]) -> set[str]:
    """Tell modules taken from a folder by name (`from crawler import model`) from names in the folder's own module."""
    inside = [f"{one.target}.{name}" for name in one.names]
    taken = {path if path in modules else one.target for path in inside if path != VERSION}
    return taken if one.names else {one.target}


def _judge_inside(module: str, target: str) -> str | None:
    mine, theirs = part_of(module), part_of(target)
    if mine is None or theirs is None:
        return f"{module if mine is None else target} is no part known to this test: give it a height"
    if mine != theirs and HEIGHTS[mine] <= HEIGHTS[theirs]:
        return f"imports {target}"
    return None


def part_of(module: str) -> str | None:
    """Return the part of crawler that *module* belongs to, the longest name that fits."""
    if module in HEIGHTS:
        return module
    return max((part for part in HEIGHTS if _is_among(module, (part,))), key=len, default=None)


def _is_among(module: str, names: tuple[str, ...]) -> bool:
    return any(module == name.rstrip(".") or (name.endswith(".") and module.startswith(name)) for name in names)


def test_every_import_keeps_the_rules() -> None:
    """No module imports from above or beside, nor an outside dependency that is another module's."""
    assert faults(sources()) == []


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("crawler.model", "from crawler.run import crawl"),
        ("crawler.errors", "import crawler.model"),
        ("crawler.worker.fetch", "from crawler.consumer import Consumer"),
        ("crawler.worker.fetch", "from crawler.broker.local import LocalQueue"),
        ("crawler.broker", "from crawler.broker.ledger import Ledger"),
        ("crawler.broker", "from .ledger import Ledger"),
        ("crawler.broker.local", "from ..worker import fetch"),
        ("crawler.export", "def f():\n    from crawler import run"),
        ("crawler.processes", "if TYPE_CHECKING:\n    from crawler.cli import main"),
        ("crawler.producer", "import importlib\nimportlib.import_module('crawler.worker')"),
        ("crawler.worker.fetch", "from crawler import crawl"),
        ("crawler.novelty", "from crawler.model import Task"),
        ("crawler.consumer.store", "from PIL import Image"),
        ("crawler.run", "import requests.adapters"),
        ("crawler.worker", "import numpy"),
        ("crawler.broker.wire", "import pickle"),
    ],
)
def test_breach_is_found(module: str, text: str) -> None:
    """An import against the rules is found, in each form that an import can have."""
    assert len(faults({**KNOWN, module: text})) == 1


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("crawler.worker.fetch", "import requests\nfrom crawler import __version__, errors\nfrom . import guard"),
        ("crawler.broker.local", "import sqlite3\nfrom crawler.broker import TaskQueue\nfrom .ledger import Ledger"),
        ("crawler.cli.seed", "import click\nfrom crawler import run\nfrom crawler.cli import options"),
    ],
)
def test_rightful_import_is_passed(module: str, text: str) -> None:
    """What the layout allows is not held against a module."""
    assert faults({**KNOWN, module: text}) == []


def test_declared_dependencies_are_those_imported() -> None:
    """What the package says it needs is what its modules import, no more and no less."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    declared = {re.split(r"[^\w.-]", line)[0] for line in [*project["dependencies"], *extras]}
    assert declared - LOADED == {DISTRIBUTIONS.get(name, name) for name in OUTSIDE}


def test_import_loads_nothing() -> None:
    """`import crawler` loads no other module of the package and no outside dependency."""
    code = "import crawler, sys; print(*sorted(name.partition('.')[0] for name in sys.modules if name not in known))"
    done = subprocess.run(
        [sys.executable, "-c", "import sys; known = {*sys.modules, '__future__', 'typing'}; " + code],
        check=True,
        capture_output=True,
        text=True,
        timeout=30,
    )
    loaded = set(done.stdout.split()) - sys.stdlib_module_names
    assert loaded == {"crawler"}
    assert "crawler crawler" not in done.stdout


@pytest.mark.parametrize("name", crawler.__all__)
def test_public_name(name: str) -> None:
    """Every public name can be had from the package, and `dir` shows it."""
    assert getattr(crawler, name) is not None
    assert name in dir(crawler)


def test_unknown_name() -> None:
    """A name that the package does not have is refused as by any module."""
    with pytest.raises(AttributeError, match="no attribute 'novelty'"):
        _ = crawler.novelty  # type: ignore[attr-defined]


def test_wheel_is_tested() -> None:
    """Under scripts/test the package is the installed wheel, not the folder beside the tests."""
    if os.environ.get("CRAWLER_TEST_INSTALLED") != "1":
        pytest.skip("not run by scripts/test")
    assert crawler.__file__ is not None
    assert "site-packages" in Path(crawler.__file__).parts
    assert not Path(crawler.__file__).is_relative_to(ROOT / "crawler")


def test_wheel_contains_the_package_only() -> None:
    """The wheel brings crawler/, its command and its metadata, and says that it is typed."""
    if os.environ.get("CRAWLER_TEST_INSTALLED") != "1":
        pytest.skip("not run by scripts/test")
    files = [file.as_posix() for file in importlib.metadata.files("crawler") or []]
    others = [f for f in files if not re.match(r"crawler/|crawler-[\d.]+\.dist-info/|(\.\./)+bin/crawler$", f)]
    assert others == []
    assert "crawler/py.typed" in files
