"""The file of `--hosts`."""

from __future__ import annotations

from pathlib import Path

import pytest

from crawler.errors import UsageError
from crawler.hosts import read_rules
from crawler.producer.urls import canonical
from crawler.settings import HostRule
from tests.command import LOCAL, run, write_list
from tests.site import Site

GOOD = """
["Images.example"]
per_host = 2
delay = 0.5
headers = { Authorization = "Bearer x", X-Two = "2" }

["*.private.example"]
skip = true

["*"]
delay = 1
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "hosts.toml"
    path.write_text(text)
    return path


def test_rules_are_read_in_order(tmp_path: Path) -> None:
    """With what each says, and nothing else."""
    assert read_rules(write(tmp_path, GOOD)) == (
        HostRule(
            pattern="images.example",
            per_host=2,
            delay=0.5,
            headers=(("Authorization", "Bearer x"), ("X-Two", "2")),
        ),
        HostRule(pattern="*.private.example", skip=True),
        HostRule(pattern="*", delay=1.0),
    )
    assert read_rules(write(tmp_path, "")) == ()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("per_host = 1", "per_host is no table"),
        ("[a.example]\nper_host = 1", "must be quoted"),
        ("['a.example']\nper-host = 1", "'per-host'"),
        ("['a.example']\nper_host = 0", "per_host = 0"),
        ("['a.example']\nper_host = true", "per_host = True"),
        ("['a.example']\nper_host = 1.5", "per_host = 1.5"),
        ("['a.example']\ndelay = -1", "delay = -1"),
        ("['a.example']\ndelay = nan", "delay = nan"),
        ("['a.example']\ndelay = 'x'", "delay = 'x'"),
        ("['a.example']\nskip = 1", "skip = 1"),
        ("['a.example']\nheaders = 'x'", "headers is no table"),
        ("['a.example']\nheaders = { 'X Y' = 'x' }", "'X Y'"),
        ('["a.example"]\nheaders = { X = "secret\\u0007" }', "header X"),
        ("['http://a.example/']\nskip = true", "'http://a.example/'"),
        ("['a*.example']\nskip = true", "'a*.example'"),
        ("['*.*.example']\nskip = true", "'*.*.example'"),
        ("['a.example:80']\nskip = true", "'a.example:80'"),
        ("['me@a.example']\nskip = true", "'me@a.example'"),
        ("['a..example']\nskip = true", "'a..example'"),
        ("['::1']\nskip = true", "'::1'"),
        ("['.']\nskip = true", "'.'"),
        ("['*.']\nskip = true", "'*.'"),
        ("['']\nskip = true", "'' is no host"),
        ("['a.example']\nper_host = 99999999999999999999", "per_host = 99999999999999999999"),
        ("['a.example']\ndelay = 1e6", "delay = 1000000.0"),
        ("['a.example']\nheaders = { X = 1 }", "header X"),
        ("['a.example']\nheaders = { X = 'secret', x = 'secret' }", "header x is there twice"),
        ("['a.example']\nauthorization = 'secret'", "'authorization'"),
        ("['a.example']\nheaders = { X = 'secret }", "is no TOML"),
        ("['a.example']\n['a.example']", "is no TOML"),
        ("['a.example'", "is no TOML"),
    ],
)
def test_what_cannot_be_meant_is_named(tmp_path: Path, text: str, named: str) -> None:
    """By file and key, and never by a header's value."""
    with pytest.raises(UsageError) as caught:
        read_rules(write(tmp_path, text))
    assert named in str(caught.value) and "hosts.toml" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("written", "pattern"),
    [
        ("A.Example", "a.example"),
        ("a.example.", "a.example"),
        ("*.A.Example.", "*.a.example"),
        ("münchen.example", "xn--mnchen-3ya.example"),
        ("*.münchen.example", "*.xn--mnchen-3ya.example"),
        ("my_host", "my_host"),
        ("127.0.0.1", "127.0.0.1"),
        ("[::1]", "::1"),
        ("*", "*"),
    ],
)
def test_a_name_is_what_a_queue_knows_it_by(tmp_path: Path, written: str, pattern: str) -> None:
    """However it is written; in another form it would never fit, and what is to be skipped would be fetched."""
    assert read_rules(write(tmp_path, f"['{written}']\nskip = true")) == (HostRule(pattern=pattern, skip=True),)
    if pattern != "*":
        name = written.removeprefix("*.").rstrip(".")
        assert canonical(f"http://{name}/")[1] == pattern.removeprefix("*.")


def test_white_space_around_a_value_is_none_of_it(tmp_path: Path) -> None:
    """As with --header; a request could not have it."""
    rules = read_rules(write(tmp_path, "['a.example']\nheaders = { X = ' b c ' }"))
    assert rules == (HostRule(pattern="a.example", headers=(("X", "b c"),)),)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """A folder, or bytes that are no text."""
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    for path in (tmp_path, tmp_path / "bytes.toml"):
        with pytest.raises(UsageError, match="cannot be read") as caught:
            read_rules(path)
        assert str(path) in str(caught.value)


def test_patterns() -> None:
    """A name is itself, *.NAME what is below it, * all."""
    fits = {pattern: HostRule(pattern=pattern).fits for pattern in ("a.example", "*.a.example", "*")}
    names = ("a.example", "x.a.example", "xa.example", "b.example")
    assert [[fits[pattern](name) for name in names] for pattern in fits] == [
        [True, False, False, False],
        [False, True, False, False],
        [True, True, True, True],
    ]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """Is an error of usage that names it."""
    done = run(tmp_path, "seed", "urls.txt", "--hosts", "nothing.toml")
    assert (done.returncode, "nothing.toml" in done.stderr, "Traceback" in done.stderr) == (2, True, False)


def test_a_run_with_rules(tmp_path: Path) -> None:
    """What is to be skipped is not fetched; a header goes to its host."""
    with Site(addresses=2) as site:
        write(tmp_path, '["127.0.0.1"]\nskip = true\n["127.0.0.2"]\nheaders = { X-Key = "abc" }\n')
        write_list(tmp_path, site.url("/photo/1.jpg"), site.url("/photo/2.jpg", host=2))
        done = run(tmp_path, "seed", "urls.txt", "--hosts", "hosts.toml", *LOCAL)
        asked = [(request.path, request.headers.get("x-key")) for request in site.requests]
    assert done.returncode == 0, done.stderr
    assert asked == [("/photo/2.jpg", "abc")]
    assert "host_skipped" in done.stdout
    assert "abc" not in done.stdout + done.stderr
