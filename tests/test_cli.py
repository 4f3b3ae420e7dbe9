"""The command line's edges: help, usage errors that name the option, exit statuses, and saying nothing."""

from __future__ import annotations

import errno
import json
import os
import re
import socket
import sqlite3
import stat
import subprocess
from pathlib import Path

import pytest

import crawler
from crawler.cli import cli, main
from crawler.reasons import ADVICE, Reason, advise
from tests.command import LIMIT, command, run, write_list

#: Command to options that its help must name; DESIGN's contract.
OPTIONS = {
    "seed": """--out --store --to --listen --key --workers --processes --threads --per-host --delay --timeout
        --connect-timeout --stall --min-speed --max-bytes --max-pixels --attempts --allow-net --ports --proxy
        --robots --opt-out --hosts --host-patience --contact --user-agent --header --tls-verify --no-tls-verify
        --ca-bundle --keep-open --refresh --grace
        --pause-limit --strict""",
    "worker": "--key --store --processes --threads --grace --give-up",
    "status": "--key --json --verify --sweep --store",
    "retry": "--key --reason --class --host --http-status --older-than --missing --dry-run",
    "export": "OUT FILE",
    "keygen": "DIR",
    "doctor": "",
}


# ------------------------------------------------------------------ help


def test_the_version_is_told(tmp_path: Path) -> None:
    """The package's own, on standard output."""
    done = run(tmp_path, "--version")
    assert (done.returncode, done.stdout) == (0, f"crawler, version {crawler.__version__}\n")


def test_help_names_every_command(tmp_path: Path) -> None:
    """With what it does."""
    done = run(tmp_path, "--help")
    assert done.returncode == 0
    assert re.findall(r"^  ([a-z]+)  +[A-Z]", done.stdout.partition("Commands:")[2], re.M) == list(OPTIONS)


@pytest.mark.parametrize("name", OPTIONS)
def test_help_of_a_command_names_its_options(tmp_path: Path, name: str) -> None:
    """-h too; every command takes -v and -q."""
    long, short = run(tmp_path, name, "--help"), run(tmp_path, name, "-h")
    assert (long.returncode, short.returncode, long.stderr) == (0, 0, "")
    assert long.stdout == short.stdout
    words = set(re.findall(r"[\w-]+", long.stdout))
    assert not {*OPTIONS[name].split(), "--verbose", "--quiet"} - words


# ------------------------------------------------------------------ usage errors

LISTED = ("seed", "urls.txt", "--workers", "0")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("banana",), "banana"),
        (("seed",), "LIST"),
        (("seed", "urls.txt", "--banana"), "--banana"),
        ((*LISTED, "--threads", "0"), "--threads"),
        ((*LISTED, "--processes", "two"), "--processes"),
        ((*LISTED, "--workers", "-1"), "--workers"),
        ((*LISTED, "--timeout", "0"), "--timeout"),
        ((*LISTED, "--timeout", "nan"), "--timeout"),
        ((*LISTED, "--grace", "1e12"), "--grace"),
        ((*LISTED, "--delay", "inf"), "--delay"),
        *(((*LISTED, "--ports", text), "--ports") for text in ("0-80", "65536", "90-80", "80,")),
        *(((*LISTED, "--proxy", url), "--proxy") for url in ("a:3128", "https://a:1", "http://a", "http://[a:1")),
        ((*LISTED, "--robots", "maybe"), "--robots"),
        ((*LISTED, "--header", "no colon"), "--header"),
        ((*LISTED, "--header", "a b: c"), "--header"),
        ((*LISTED, "--header", ": c"), "--header"),
        ((*LISTED, "--header", "A: b\r\nC: d"), "--header"),
        ((*LISTED, "--header", "A: 日本"), "--header"),
        ((*LISTED, "--contact", "me\n"), "--contact"),
        ((*LISTED, "--user-agent", "ü"), "--user-agent"),
        ((*LISTED, "--allow-net", "banana"), "--allow-net"),
        ((*LISTED, "--allow-net", "10.1.2.3/8"), "--allow-net"),
        ((*LISTED, "--allow-net", "10.0.0.0/33"), "--allow-net"),
        ((*LISTED, "--ca-bundle", "missing.pem"), "--ca-bundle missing.pem"),
        ((*LISTED, "--ca-bundle", "."), "--ca-bundle ."),
        ((*LISTED, "--ca-bundle", "urls.txt"), "--ca-bundle urls.txt"),
        ((*LISTED, "--ca-bundle", "empty.pem"), "--ca-bundle empty.pem"),
        ((*LISTED, "--ca-bundle", "damaged.pem"), "--ca-bundle damaged.pem"),
        ((*LISTED, "--key", "key"), "--listen"),
        ((*LISTED, "--listen", "banana"), "HOST:PORT"),
        ((*LISTED, "--listen", "127.0.0.1:65536"), "HOST:PORT"),
        ((*LISTED, "--listen", "0.0.0.0:0"), "--key"),
        ((*LISTED, "--listen", "127.0.0.1:0", "--key", "missing"), "crawler keygen missing"),
        (("seed", "urls.txt", "--to", "127.0.0.1:9"), "--key"),
        (("worker", "127.0.0.1:9"), "--key"),
        (("status", "127.0.0.1:9"), "--key"),
        (("retry", "[::1]:9"), "--key"),
        (("retry", "made", "--reason", "banana"), "--reason"),
        (("retry", "made", "--reason", "bad_url"), "--reason"),
        (("export", "made"), "FILE"),
        (("keygen",), "DIR"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, arguments: tuple[str, ...], named: str) -> None:
    """Status 2, a message that names it, and nothing was read, fetched or stored for it."""
    write_list(tmp_path, "no url")
    (tmp_path / "empty.pem").touch()
    (tmp_path / "damaged.pem").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    (tmp_path / "made").mkdir()
    done = run(tmp_path, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert named in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("*.crawl/images/*"))


def test_an_address_that_is_taken_is_told(tmp_path: Path) -> None:
    """It is the user's to choose another one."""
    write_list(tmp_path, "no url")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = run(tmp_path, *LISTED, "--listen", address)
    assert done.returncode == 2
    assert f"cannot listen at {address}" in done.stderr


# ------------------------------------------------------------------ exit statuses


@pytest.mark.parametrize("name", ["status", "retry", "export", "worker", "seed"])
@pytest.mark.parametrize("folder", ["empty", "missing"])
def test_a_folder_that_is_no_crawl_is_73(tmp_path: Path, name: str, folder: str) -> None:
    """It is named, and not made into one."""
    write_list(tmp_path, "no url")
    (tmp_path / "empty").mkdir()
    arguments = {"export": (folder, "rows.csv"), "seed": ("urls.txt", "--to", folder)}.get(name, (folder,))
    done = run(tmp_path, name, *arguments)
    assert done.returncode == 73
    assert folder in done.stderr and "Traceback" not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "urls.txt"]
    assert list((tmp_path / "empty").iterdir()) == []


@pytest.mark.parametrize("name", ["worker", "seed"])
def test_a_crawl_that_does_not_run_cannot_be_joined(tmp_path: Path, name: str) -> None:
    """73, with the command that starts it."""
    write_list(tmp_path, "no url")
    assert run(tmp_path, *LISTED).returncode == 0
    arguments = ("urls.txt", "--to", "urls.crawl") if name == "seed" else ("urls.crawl",)
    done = run(tmp_path, name, *arguments)
    assert done.returncode == 73
    assert "crawler seed LIST -o urls.crawl" in done.stderr


def test_what_is_unforeseen_is_told_on_one_line(tmp_path: Path) -> None:
    """Status 1; where it happened is shown to those who ask with -vv."""
    with sqlite3.connect(tmp_path / "ledger.db") as ledger:
        ledger.execute("CREATE TABLE meta(name, value)")
    ledger.close()
    brief, long = run(tmp_path, "status", "."), run(tmp_path, "-vv", "status", ".")
    assert (brief.returncode, long.returncode) == (1, 1)
    assert brief.stderr.startswith("crawler: internal error: OperationalError: ") and brief.stderr.count("\n") == 1
    assert "Traceback" in long.stderr and long.stderr.endswith(brief.stderr)


def test_a_reader_that_leaves_ends_a_command(tmp_path: Path) -> None:
    """As with `| head`: no traceback."""
    write_list(tmp_path, "no url")
    assert run(tmp_path, *LISTED).returncode == 0
    reading, writing = os.pipe()
    os.close(reading)
    show = command("status", "urls.crawl")
    with open(writing, "wb") as gone:
        done = subprocess.run(show, cwd=tmp_path, stdout=gone, stderr=subprocess.PIPE, timeout=LIMIT, check=False)
    assert (done.returncode, done.stderr) == (1, b"")


# ------------------------------------------------------------------ saying little


@pytest.mark.parametrize("order", [("-q", *LISTED), (*LISTED, "-q"), ("--quiet", *LISTED)])
def test_quiet_says_nothing(tmp_path: Path, order: tuple[str, ...]) -> None:
    """Before or after the name of the command; the work is done all the same."""
    write_list(tmp_path, "no url")
    done = run(tmp_path, *order)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert json.loads(run(tmp_path, "status", "urls.crawl", "--json").stdout)["failed"] == 1


def test_quiet_still_says_errors(tmp_path: Path) -> None:
    """They are what a quiet run is listened to for."""
    done = run(tmp_path, "-q", "seed", "missing.txt")
    assert (done.returncode, done.stdout) == (65, "")
    assert "missing.txt" in done.stderr


# ------------------------------------------------------------------ keygen and doctor


def test_a_key_is_its_owners_alone(tmp_path: Path) -> None:
    """The folder 0700, each file 0600, whatever the umask; its content is said nowhere."""
    old = os.umask(0)
    try:
        done = run(tmp_path, "keygen", "new/key")
    finally:
        os.umask(old)
    folder = tmp_path / "new" / "key"
    assert done.returncode == 0
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert modes == {"key": 0o600, "cert.pem": 0o600, "cert-key.pem": 0o600}
    assert (folder / "key").read_text().strip() not in done.stdout + done.stderr
    assert "--key new/key" in done.stdout


def test_a_key_is_not_overwritten(tmp_path: Path) -> None:
    """Status 2, the file is named, and all files are what they were."""
    assert run(tmp_path, "keygen", "key").returncode == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "key").iterdir()}
    done = run(tmp_path, "keygen", "key")
    assert done.returncode == 2
    assert "exists" in done.stderr
    assert {path.name: path.read_bytes() for path in (tmp_path / "key").iterdir()} == before


def test_two_keys_are_not_the_same(tmp_path: Path) -> None:
    """They are random."""
    for name in ("one", "two"):
        assert run(tmp_path, "keygen", name).returncode == 0
    assert (tmp_path / "one" / "key").read_bytes() != (tmp_path / "two" / "key").read_bytes()


def test_a_key_where_nothing_can_be_written_is_told(tmp_path: Path) -> None:
    """A usage error: another folder is the user's to choose."""
    (tmp_path / "file").touch()
    done = run(tmp_path, "keygen", "file/key")
    assert done.returncode == 2
    assert "file/key" in done.stderr and "Traceback" not in done.stderr


def test_the_doctor_finds_this_machine_fit(tmp_path: Path) -> None:
    """Each line is a finding; the versions are held against their floors."""
    done = run(tmp_path, "doctor")
    assert done.returncode == 0, done.stdout
    lines = done.stdout.splitlines()
    assert all(line.startswith("ok ") for line in lines)
    for word in ("requests", "urllib3", "pillow", "SQLite", "open files", "resolver", "clock", "sandbox"):
        assert any(word in line for line in lines)


def test_the_doctor_tells_what_is_not_fit(tmp_path: Path) -> None:
    """Status 1, and what to do about it."""
    done = subprocess.run(
        ["/bin/sh", "-c", 'ulimit -n 100; exec "$@"', "sh", *command("doctor")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 1
    assert re.search(r"^BAD  open files: 100.*\n +raise the limit", done.stdout, re.M)


def test_reasons_come_with_advice_where_they_are_many() -> None:
    """In a user's words, with the share; a few failures are no pattern."""
    assert advise(Reason.RESOLVER_FAILED, 38, 100) == (
        "38 % of names could not be resolved: your resolver may be overloaded"
    )
    assert advise(Reason.RESOLVER_FAILED, 4, 100) is None
    assert advise(Reason.HTTP_NOT_FOUND, 90, 100) is None
    assert all(advise(reason, 50, 100) for reason in ADVICE)


@pytest.mark.parametrize(("number", "status"), [(errno.ENOSPC, 74), (errno.EIO, 74), (errno.EPERM, 1)])
def test_a_disk_that_fails_at_a_start(
    number: int, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before there is a run that could wait for room: one line that names the file, and 74."""

    def fail(**_: object) -> None:
        raise OSError(number, os.strerror(number), "urls.crawl/run/address")

    monkeypatch.setattr(cli, "main", fail)
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == status
    (line,) = capsys.readouterr().err.splitlines()
    assert "urls.crawl/run/address" in line
    assert ("internal error" in line) is (status == 1)
