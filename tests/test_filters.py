"""Which images are refused for their size, shape and bytes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import PIL.Image as Pillow
import pytest

from crawler.consumer.image import treat
from crawler.errors import ImageRefused
from crawler.settings import Limits
from crawler.treatment import Filters, Treatment
from tests.command import LOCAL, records, run, write_list
from tests.site import Site, photo_size

#: What it tries is the same on every Python; that crawls run there is seen by others.
pytestmark = pytest.mark.once


def image(width: int, height: int) -> bytes:
    """Return a PNG."""
    file = io.BytesIO()
    Pillow.new("L", (width, height)).save(file, "PNG")
    return file.getvalue()


def judge(content: bytes, **filters: Any) -> str | None:
    """Return why an image is refused, None where it is not."""
    try:
        treat(io.BytesIO(content), Limits(), Treatment(filters=Filters(**filters)))
    except ImageRefused as error:
        return error.reason
    return None


@pytest.mark.parametrize(
    ("filters", "good", "bad", "reason"),
    [
        ({"min_width": 20}, (20, 1), (19, 99), "too_narrow"),
        ({"max_width": 20}, (20, 99), (21, 1), "too_wide"),
        ({"min_height": 20}, (1, 20), (99, 19), "too_short"),
        ({"max_height": 20}, (99, 20), (1, 21), "too_tall"),
        ({"min_pixels": 200}, (20, 10), (199, 1), "too_few_pixels"),
        ({"min_aspect_ratio": 1.5}, (20, 30), (10, 14), "too_square"),
        ({"max_aspect_ratio": 3}, (30, 10), (31, 10), "too_elongated"),
        ({"max_aspect_ratio": 3}, (10, 30), (10, 31), "too_elongated"),
        ({"max_aspect_ratio": 1}, (10, 10), (10, 11), "too_elongated"),
    ],
)
def test_size(filters: dict[str, Any], good: tuple[int, int], bad: tuple[int, int], reason: str) -> None:
    """What is on the limit is wanted, what is beyond it is not; and nothing is decoded to see that."""
    assert judge(image(*good), **filters) is None
    assert judge(image(*bad)[:50], **filters) == reason
    assert judge(image(*good)[:50], **filters) == "image_truncated"


def test_bytes() -> None:
    """The smallest file that is wanted."""
    content = image(20, 20)
    assert judge(content, min_bytes=len(content)) is None
    assert judge(content, min_bytes=len(content) + 1) == "too_few_bytes"
    assert judge(b"<html><body>", min_bytes=1000) == "html"


def test_a_run_with_filters(tmp_path: Path, site: Site) -> None:
    """Each refused image has its reason; without the filter the same OUT goes on, and a retry stores them."""
    sizes = {n: photo_size(n) for n in range(8)}
    widest = max(width for width, _ in sizes.values())
    write_list(tmp_path, *(site.url(f"/photo/{n}.jpg") for n in sizes))
    done = run(tmp_path, "seed", "urls.txt", *LOCAL, "--min-width", widest)
    assert done.returncode == 0, done.stderr
    found = {record["url"].rpartition("/")[2]: record["reason"] for record in records(tmp_path, "urls.crawl")}
    narrow = sum(width < widest for width, _ in sizes.values())
    assert found == {f"{n}.jpg": "too_narrow" if sizes[n][0] < widest else None for n in sizes}
    assert narrow
    assert run(tmp_path, "retry", "urls.crawl", "--reason", "too_narrow").returncode == 0
    done = run(tmp_path, "seed", "urls.txt", *LOCAL)
    assert f"{len(sizes)} stored, 0 failed" in done.stdout


def test_limits_that_contradict_are_refused(tmp_path: Path) -> None:
    """The least may not be more than the most."""
    write_list(tmp_path, "http://127.0.0.1/")
    done = run(tmp_path, "seed", "urls.txt", "--min-aspect-ratio", "3", "--max-aspect-ratio", "2")
    assert done.returncode == 2
    assert "--min-aspect-ratio 3.0 is more than --max-aspect-ratio 2.0" in done.stderr
