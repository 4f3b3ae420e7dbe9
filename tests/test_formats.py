"""`--formats`: which images a run accepts."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.command import LOCAL, records, run, write_list
from tests.site import Site


def test_only_chosen_formats_are_stored(tmp_path: Path, site: Site) -> None:
    """In any case, by their usual endings too; what a file is called does not count."""
    names = ("ImageUrl_0.jpg", "ImageUrl_2.png", "ImageUrl_4.gif", "ImageUrl_7.tiff", "wrong_extension.jpg")
    write_list(tmp_path, *(site.url(f"/fixtures/{name}") for name in names))
    done = run(tmp_path, "seed", "urls.txt", *LOCAL, "--formats", "jpg, TIFF")
    assert done.returncode == 0, done.stderr
    found = {record["url"].rpartition("/")[2]: record["reason"] for record in records(tmp_path, "urls.crawl")}
    assert found == {
        "ImageUrl_0.jpg": None,
        "ImageUrl_2.png": "format_refused",
        "ImageUrl_4.gif": "format_refused",
        "ImageUrl_7.tiff": None,
        "wrong_extension.jpg": "format_refused",
    }


@pytest.mark.parametrize("value", ["eps", "jpeg,pdf", "", "jpeg,,png", "jpeg png"])
def test_other_formats_are_refused(tmp_path: Path, value: str) -> None:
    """A format that is never decoded is a mistake in the command, and the message names those that are."""
    write_list(tmp_path, "http://127.0.0.1/")
    done = run(tmp_path, "seed", "urls.txt", "--formats", value)
    assert done.returncode == 2
    assert "JPEG, PNG, GIF, WEBP, AVIF, BMP, TIFF" in done.stderr
    assert not (tmp_path / "urls.crawl").exists()
