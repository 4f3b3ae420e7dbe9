"""README says what is: its tables, commands and examples are held against the package."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import duckdb
import pytest
import responses

import crawler
from crawler.cli import COMMANDS, cli
from crawler.reasons import TABLE
from tests.command import LIMIT, LOCAL, run, write_list
from tests.conftest import ROOT
from tests.shards import read_webdataset, tars
from tests.site import Site, photo

README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", README, re.M | re.S)
#: Text outside of blocks and in them, in turn.
PARTS = re.split(r"^```\w*$", README, flags=re.M)
#: What README tells people to type, in a block or between backquotes, up to a comment.
LINES = sorted(
    {*re.findall(r"^crawler ([a-z][^#\n]*)", "".join(PARTS[1::2]), re.M)}
    | {*re.findall(r"`crawler ([a-z][^`]*)`", "".join(PARTS[::2]))}
)


def section(title: str) -> str:
    """Return the text below the heading *title*, up to the next one."""
    found = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^##|\Z)", README, re.M | re.S)
    assert found is not None, title
    return found[1]


def table(title: str) -> list[list[str]]:
    """Return the cells of the rows of the table below the heading *title*, its head left out."""
    rows = [line for line in section(title).splitlines() if line.startswith("|")]
    return [[cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows[2:]]


def options(name: str) -> Iterator[click.Option]:
    """Yield the options of a command."""
    found = cli.get_command(click.Context(cli), name)
    assert found is not None
    yield from (parameter for parameter in found.params if isinstance(parameter, click.Option))


def spellings(option: click.Option) -> list[str]:
    """Return all that may be typed for an option."""
    return [*option.opts, *option.secondary_opts]


def default(option: click.Option) -> str | None:
    """Return an option's default as README writes it, None where it says so in words or not at all."""
    value: Any = option.default
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


# ------------------------------------------------------------------ tables


def test_the_table_of_reasons_is_the_package_s() -> None:
    """Each reason in order, with its class, meaning and example."""
    expected = [[f"`{reason}`", facts.kind.value, facts.meaning, facts.example] for reason, facts in TABLE.items()]
    assert table("Reasons") == expected


@pytest.mark.parametrize(
    ("name", "title"), [("seed", "`crawler seed LIST...`"), ("worker", "`crawler worker OUT|HOST:PORT`")]
)
def test_every_option_has_its_row(name: str, title: str) -> None:
    """With its spellings and its default; a row that names no option is none of this command."""
    rows = {re.findall(r"-[\w-]+", cells[0])[0]: cells for cells in table(title)}
    shared = {"--verbose", "--quiet"}
    known = [option for option in options(name) if not shared & set(option.opts)]
    assert set(rows) == {option.opts[0] for option in known}
    for option in known:
        spelt, said, _ = rows[option.opts[0]]
        assert re.findall(r"--?[a-z][\w-]*", spelt) == spellings(option)
        assert default(option) in (None, said), option.name


def test_every_option_of_every_command_is_named() -> None:
    """Those of the small commands too, and those that all commands have."""
    words = set(re.findall(r"--?[a-z][\w-]*", section("The other commands")))
    for name in set(COMMANDS) - {"seed", "worker"}:
        assert not {spelling for option in options(name) for spelling in spellings(option)} - words, name


def test_every_command_has_its_row() -> None:
    """In the order in which help names them."""
    named = [re.findall(r"crawler ([a-z]+)", cells[0])[0] for cells in table("Commands and options")]
    assert named == list(COMMANDS)


@pytest.mark.parametrize("line", LINES)
def test_no_command_line_has_an_option_that_is_none(line: str) -> None:
    """Whatever README tells people to type is understood."""
    name, *rest = line.split()
    assert name in COMMANDS
    known = {spelling for option in options(name) for spelling in spellings(option)}
    assert {word for word in rest if re.match("--?[a-z]", word)} <= known | {"-h", "--help"}


def test_exit_statuses_of_all_errors_are_told() -> None:
    """Each error that ends a command has a status with a row."""
    told = {int(cells[0]) for cells in table("Exit statuses")}
    errors = [getattr(crawler, name) for name in crawler.__all__ if isinstance(getattr(crawler, name), type)]
    assert {error.exit_status for error in errors if issubclass(error, Exception)} <= told


@pytest.mark.parametrize("title", ["Guarantees", "Beside other programs"])
def test_every_row_names_tests_that_are_there(title: str) -> None:
    """By file and function."""
    for what, *_, shown in table(title):
        named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", shown)
        assert named, what
        for file, function in named:
            assert f"def {function}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), f"{file}::{function}"


def test_every_row_has_a_cell_for_each_program() -> None:
    """Also where nothing was found."""
    head, *rows = (line for line in section("Beside other programs").splitlines() if line.startswith("|"))
    assert {row.replace("\\|", "").count("|") for row in rows} == {head.count("|")}
    assert all(all(cells) for cells in table("Beside other programs"))


def test_every_module_has_its_place_in_the_layout() -> None:
    """A stranger finds there what each file is for."""
    assert crawler.__file__ is not None
    top = Path(crawler.__file__).parent
    named: set[str] = set()
    folder = ""
    for line in section("Development").partition("\ncrawler/\n")[2].partition("\ntests/")[0].splitlines():
        depth = len(line) - len(line.lstrip())
        if entered := re.match(r"  (\w+/)", line):
            folder = entered[1]
        elif depth == 2:
            folder = ""
        named |= {f"{folder}{name}" for name in re.findall(r"(?:^|  )([\w/]+\.py)", line)}
    assert named == {str(path.relative_to(top)) for path in top.rglob("*.py")}


# ------------------------------------------------------------------ examples


def test_the_script_runs(tmp_path: Path, site: Site) -> None:
    """As it stands, only the network that it allows is the test's own."""
    [script] = [text for text in EXAMPLES if "def test_" not in text]
    assert "10.1.0.0/16" in script
    (tmp_path / "flowers.py").write_text(script.replace("10.1.0.0/16", "127.0.0.0/8"))
    write_list(tmp_path, site.url("/photo/1.jpg"), site.url("/missing/1"))
    done = subprocess.run(
        [sys.executable, "-P", "flowers.py"], cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    first, *records = done.stdout.splitlines()
    assert first == "1 stored, 1 failed, 0 left"
    assert records[0].startswith(f"stored None {site.url('/photo/1.jpg')} images/")
    assert records[1] == f"failed http_not_found {site.url('/missing/1')} None"


def test_the_example_with_mocked_http_passes(tmp_path: Path) -> None:
    """It is a test of a user's own, and holds what it says."""
    [text] = [text for text in EXAMPLES if "def test_" in text]
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(text, "README.md", "exec"), names)  # noqa: S102  (our own README)
    [test] = [value for name, value in names.items() if name.startswith("test_")]
    call: Callable[..., None] = test
    call(tmp_path=tmp_path)
    assert (tmp_path / "flowers.crawl" / "ledger.db").is_file()


def test_mappings_are_crawled_as_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On threads of this process, where its host can be mocked; captions go into the shard."""
    [text] = re.findall(r"^```py\n(.*?)^```$", section("Python"), re.M | re.S)
    monkeypatch.chdir(tmp_path)
    with responses.RequestsMock() as web:
        web.get("https://flowers.example/robots.txt", status=404)
        web.get("https://flowers.example/rose.jpg", body=photo(1))
        exec(compile(text.replace(", settings=", ", inline=True, settings="), "README.md", "exec"), {})  # noqa: S102
    [sample] = read_webdataset(tars(tmp_path / "roses.crawl" / "images"))
    assert (sample["txt"], json.loads(sample["json"])["license"]) == (b"a rose", "CC0")


def test_exports_can_be_asked_as_is_shown(
    tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In SQL and with pandas, as it stands there."""
    shown = section("Exports")
    queries = [line for text in re.findall(r"^```sql\n(.*?)^```$", shown, re.M | re.S) for line in text.splitlines()]
    programs = re.findall(r"^```py\n(.*?)^```$", shown, re.M | re.S)
    assert (len(queries), len(programs)) == (3, 1)
    monkeypatch.chdir(tmp_path)
    urls = [site.url("/photo/1.jpg"), site.url("/photo/2.jpg"), site.url("/missing/1"), "hello"]
    (tmp_path / "meta.csv").write_text("url,text\n" + "".join(f"{url},text {n}\n" for n, url in enumerate(urls)))
    assert run(tmp_path, "seed", "meta.csv", "--columns", "*", *LOCAL).returncode == 0
    assert run(tmp_path, "export", "meta.crawl", "all.parquet").returncode == 0
    assert run(tmp_path, "export", "meta.crawl", "all.csv.gz").returncode == 0
    reasons, pairs, hosts = (duckdb.sql(query).fetchall() for query in queries)
    assert sorted(reasons) == [("bad_url", 1), ("http_not_found", 1)]
    assert [text for _, text in pairs] == ["text 0", "text 1"]
    assert hosts == [(f"127.0.0.1:{site.port}", pytest.approx(2 / 3)), ("", 0)]
    exec(compile(programs[0], "README.md", "exec"), {"__name__": "example"})  # noqa: S102  (our own README)
    size = sum(file.stat().st_size for file in (tmp_path / "meta.crawl" / "images").rglob("*.jpg"))
    assert re.search(rf"^JPEG +{size}\.0$", capsys.readouterr().out, re.M)


def test_readme_is_the_package_s_description() -> None:
    """Whoever meets the package alone reads the same."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["readme"] == "README.md"


def test_links_within_lead_somewhere() -> None:
    """To files that are there, and to headings of this page."""
    headings = {
        re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^#+ (.*)$", README, re.M)
    }
    for target in re.findall(r"\]\(([^)\s]+)\)", README):
        if target.startswith("#"):
            assert target[1:] in headings, target
        elif not target.startswith("https://"):
            assert (ROOT / target).exists(), target
