"""What is made of images, from the command line to the store, wherever the consumer is."""

from __future__ import annotations

import hashlib
from pathlib import Path

import PIL.Image as Pillow
import pytest

from tests.command import LIMIT, LOCAL, records, run, running, served, write_list
from tests.site import Site, photo_size

#: What it tries is the same on every Python; that crawls run there is seen by others.
pytestmark = pytest.mark.once

RESIZED = ("--resize", "64", "--resize-mode", "keep-ratio")


def stored(folder: Path, out: str) -> dict[str, tuple[tuple[int, int], str]]:
    """Return (size, SHA-256) of each stored image by the end of its URL, held against its record and its file."""
    found = {}
    for record in records(folder, out):
        content = (folder / out / record["path"]).read_bytes()
        with Pillow.open(folder / out / record["path"]) as opened:
            assert (opened.format, *opened.size) == (record["format"], record["width"], record["height"])
        digest = hashlib.sha256(content).hexdigest()
        assert (record["sha256"], record["bytes"]) == (digest, len(content))
        assert digest in record["path"]
        found[record["url"].rpartition("/")[2]] = ((record["width"], record["height"]), digest)
    return found


def test_resized_in_place_and_at_the_coordinator(tmp_path: Path, site: Site) -> None:
    """Records tell what is stored; a worker without the store leaves the same files; nothing is left in spools."""
    write_list(tmp_path, *(site.url(f"/photo/{n}.jpg") for n in range(12)))
    done = run(tmp_path, "seed", "urls.txt", "-o", "here", *LOCAL, *RESIZED)
    assert done.returncode == 0, done.stderr
    with running(tmp_path, "seed", "urls.txt", "-o", "there", *LOCAL, *RESIZED, "--workers", "0") as seed:
        served(tmp_path, "there")
        worker = run(tmp_path, "worker", "there", "--store", "none", "--processes", "1", "--threads", "8")
        assert (worker.returncode, seed.wait(LIMIT)) == (0, 0), worker.stderr
    here = stored(tmp_path, "here")
    assert len(here) == 12
    assert here == stored(tmp_path, "there")
    for name, (size, _) in here.items():
        original = photo_size(int(name.removesuffix(".jpg")))
        scale = 64 / min(original)
        assert size == (round(original[0] * scale), round(original[1] * scale))
    assert not [*tmp_path.glob("*/images/.*")]


def test_another_transform_is_refused(tmp_path: Path, site: Site) -> None:
    """By name, with what to do; the same one goes on."""
    write_list(tmp_path, site.url("/photo/1.jpg"))
    assert run(tmp_path, "seed", "urls.txt", *LOCAL, *RESIZED).returncode == 0
    assert run(tmp_path, "seed", "urls.txt", *LOCAL, "--resize", "64").returncode == 0
    for other in ((), ("--resize", "65"), (*RESIZED, "--encode", "webp"), (*RESIZED, "--quality", "94")):
        done = run(tmp_path, "seed", "urls.txt", *LOCAL, *other)
        assert done.returncode == 2
        assert "begun with --resize 64 --resize-mode keep-ratio --encode jpeg --quality 95" in done.stderr
        assert "choose another OUT" in done.stderr


def test_a_transform_of_what_was_begun_without_one_is_refused(tmp_path: Path, site: Site) -> None:
    """Original bytes and others do not mix in one OUT."""
    write_list(tmp_path, site.url("/photo/1.jpg"))
    assert run(tmp_path, "seed", "urls.txt", *LOCAL).returncode == 0
    done = run(tmp_path, "seed", "urls.txt", *LOCAL, *RESIZED)
    assert done.returncode == 2
    assert "begun with no transform, not with --resize 64" in done.stderr


@pytest.mark.parametrize(
    ("options", "needed"),
    [
        (("--resize-mode", "border"), "--resize"),
        (("--resize-only-if-bigger",), "--resize"),
        (("--quality", "50"), "--resize or --encode"),
        (("--frames", "all"), "--resize or --encode"),
        (("--encode", "png", "--quality", "50"), "another --encode than png"),
    ],
)
def test_an_option_without_a_meaning_is_refused(tmp_path: Path, options: tuple[str, ...], needed: str) -> None:
    """And nothing is made."""
    write_list(tmp_path, "http://127.0.0.1/")
    done = run(tmp_path, "seed", "urls.txt", *options)
    assert done.returncode == 2
    assert f"goes with {needed}" in done.stderr
    assert not (tmp_path / "urls.crawl" / "ledger.db").exists()
