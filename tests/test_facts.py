"""What is told about images beside their outcome."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import msgspec
import PIL.Image as Pillow
import pyarrow.parquet as pq
import pytest
from PIL import ImageCms

from crawler.consumer.describe import phash_of, printable
from crawler.consumer.image import treat
from crawler.consumer.store import facts, parquet
from crawler.facts import KINDS, Facts
from crawler.settings import Limits
from crawler.treatment import Frames, Transform, Treatment
from crawler.worker.licence import find_licence
from tests.command import LOCAL, records, run, write_list
from tests.conftest import ROOT
from tests.shards import read_webdataset, tars
from tests.site import Site

FIXTURES = ROOT / "fixtures"

#: Values of imagehash.phash, version 4.3.2 with Pillow 13.0.0.
HASHES = [
    ("ImageUrl_0.jpg", "86146df51cf1a55a"),
    ("ImageUrl_1.jpg", "91225c3d5e2d56e9"),
    ("ImageUrl_2.png", "84541b36675d2f3a"),
    ("ImageUrl_3.png", "943956551fe3502f"),
    ("ImageUrl_4.gif", "94f0f50f1b2cd82b"),
    ("ImageUrl_5.webp", "9554550bfcae0b0f"),
    ("ImageUrl_6.bmp", "9515b5459d638f2c"),
    ("ImageUrl_7.tiff", "91648a1f3735d58d"),
    ("ImageUrl_8.jpg", "964d7132b435565e"),
    ("ImageUrl_9.png", "800000ff00fffffe"),
    ("animated.gif", "9557a3e495ac5a1c"),
    ("animated.webp", "9557a1e4d5ac5a1c"),
    ("bilevel.png", "9515046d7e019e7f"),
    ("cmyk.jpg", "87b5187456d585c7"),
    ("exif_rotated.jpg", "951e42db2ee25d16"),
    ("one_pixel.png", "0000000000000000"),
    ("palette.png", "95d6cf2358303d3c"),
]


def facts_of(content: bytes, *kinds: str, transform: Transform | None = None) -> Facts:
    """Return what a verifier says about an image."""
    facts = treat(io.BytesIO(content), Limits(), Treatment(facts=kinds, transform=transform)).facts
    assert facts is not None
    return facts


def jpeg(**options: Any) -> bytes:
    """Return a small JPEG."""
    file = io.BytesIO()
    Pillow.new("RGB", (40, 30), "red").save(file, "JPEG", **options)
    return file.getvalue()


# ------------------------------------------------------------------ perceptual hash


@pytest.mark.parametrize(("name", "value"), HASHES)
@pytest.mark.parametrize("transform", [None, Transform(size=16)])
def test_phash(name: str, value: str, transform: Transform | None) -> None:
    """It is the value of imagehash, of the image as it came, whatever is made of it."""
    assert facts_of((FIXTURES / name).read_bytes(), "phash", transform=transform) == Facts(
        phash=value, **({} if transform is None else _original(name))
    )


def _original(name: str) -> dict[str, Any]:
    with Pillow.open(FIXTURES / name) as opened:
        width, height = opened.size
        return {"original_format": opened.format, "original_width": width, "original_height": height}


@pytest.mark.parametrize(("color", "value"), [(0, "0" * 16), (1, "8" + "0" * 15), (255, "8" + "0" * 15)])
def test_phash_of_one_color(color: int, value: str) -> None:
    """What is nothing stays nothing; the values are those of imagehash."""
    assert phash_of(Pillow.new("L", (50, 40), color)) == value


# ------------------------------------------------------------------ EXIF and profiles


def test_exif() -> None:
    """A few fields, cleaned and cut; of a position only that there is one, and nothing else."""
    exif = Pillow.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "Maker\x00\x1b[31m"
    exif[0x0110] = "x" * 1000
    exif[0x8298] = "@@ Somebody"
    exif[0x9286] = "a comment"
    exif[0xA431] = "serial number"
    exif.get_ifd(0x8769)[0x9003] = "2026:01:02 03:04:05"
    exif.get_ifd(0x8769)[0xA430] = "owner"
    exif.get_ifd(0x8825)[2] = (52.0, 31.0, 12.0)
    assert facts_of(jpeg(exif=exif.tobytes().replace(b"@@", "©".encode())), "exif").exif == {
        "orientation": 6,
        "make": "Maker  [31m",
        "model": "x" * 300,
        "copyright": "© Somebody",
        "datetime_original": "2026:01:02 03:04:05",
        "gps": True,
    }


@pytest.mark.parametrize(
    "junk", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\1" * 50]
)
def test_broken_exif(junk: bytes) -> None:
    """Junk says nothing, and costs the image nothing."""
    assert facts_of(jpeg(exif=junk), "exif").exif is None


def test_printable() -> None:
    """UTF-8 is known, other bytes are Latin-1; line ends and colours of terminals are no text."""
    assert printable("\xe9t\xe9\r\n\x1b") == "été"
    assert printable("Straße".encode().decode("latin-1")) == "Straße"


def test_profile() -> None:
    """Its description; one that cannot be read has none, and an image without one neither."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert facts_of(jpeg(icc_profile=profile), "image").icc == "sRGB built-in"
    assert facts_of(jpeg(icc_profile=b"no profile at all"), "image").icc == ""
    assert facts_of(jpeg(), "image") == Facts(mode="RGB", frames=1)


@pytest.mark.parametrize(
    ("name", "mode", "frames"),
    [
        ("animated.gif", "P", 4),
        ("animated.webp", "RGBA", 4),
        ("cmyk.jpg", "CMYK", 1),
        ("ImageUrl_9.png", "I;16", 1),
        ("palette.png", "P", 1),
        ("bilevel.png", "1", 1),
        ("ImageUrl_8.jpg", "L", 1),
    ],
)
@pytest.mark.parametrize("transform", [None, Transform(frames=Frames.FIRST)])
def test_image(name: str, mode: str, frames: int, transform: Transform | None) -> None:
    """Kind of pixels and number of frames are those of the file that came."""
    facts = facts_of((FIXTURES / name).read_bytes(), "image", transform=transform)
    assert (facts.mode, facts.frames) == (mode, frames)


# ------------------------------------------------------------------ responses


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ({}, {}),
        ({"x-robots-tag": "noimageindex", "server": "x"}, {"x-robots-tag": "noimageindex"}),
        ({"tdm-reservation": "0", "tdm-policy": "https://a/p"}, {"tdm-reservation": "0", "tdm-policy": "https://a/p"}),
        ({"link": '<https://a/l>; rel="license"'}, {"license": "https://a/l"}),
        ({"link": '<https://a/n>; rel=next, <https://a/l>; title="x"; rel="up license"'}, {"license": "https://a/l"}),
        ({"link": "<https://a/n>; rel=next"}, {}),
        ({"link": "<https://a/l>; rel=license-of-nothing; <" + "<" * 100_000}, {"license": "https://a/l"}),
        ({"content-usage": "train-ai=n\x1b" + "x" * 1000}, {"content-usage": "train-ai=n " + "x" * 289}),
    ],
)
def test_licence(headers: dict[str, str], found: dict[str, str]) -> None:
    """Headers about use, and links to a licence, cut and cleaned."""
    assert find_licence(headers) == found


# ------------------------------------------------------------------ records and exports


def test_a_run(tmp_path: Path, site: Site) -> None:
    """Records have facts, exports their columns, whatever is stored; failed tasks have none."""
    content = (FIXTURES / "exif_rotated.jpg").read_bytes()
    write_list(tmp_path, site.url("/fixtures/exif_rotated.jpg"), site.url("/kept/1.jpg"), site.url("/missing/1"))
    options = (*LOCAL, "--resize", "20", "--facts", ",".join(KINDS))
    done = run(tmp_path, "seed", "urls.txt", *options)
    assert done.returncode == 0, done.stderr
    by_url = {record["url"]: record["facts"] for record in records(tmp_path, "urls.crawl")}
    rotated = by_url[site.url("/fixtures/exif_rotated.jpg")]
    assert 0 <= rotated.pop("fetch_seconds") < 30
    assert 0 <= rotated.pop("decode_seconds") < 30
    assert rotated == {
        "original_format": "JPEG",
        "original_width": 160,
        "original_height": 120,
        "original_bytes": len(content),
        "original_sha256": hashlib.sha256(content).hexdigest(),
        "mode": "RGB",
        "frames": 1,
        "exif": {"orientation": 6},
        "phash": "951e42db2ee25d16",
        "content_type": "image/jpeg",
    }
    assert by_url[site.url("/kept/1.jpg")]["etag"] == '"0"'
    assert by_url[site.url("/missing/1")] is None
    assert run(tmp_path, "export", "urls.crawl", "rows.csv").returncode == 0
    with (tmp_path / "rows.csv").open(newline="") as file:
        first, _, last = csv.DictReader(file)
    assert (first["original_width"], first["width"], first["phash"]) == ("160", "20", "951e42db2ee25d16")
    assert json.loads(first["exif"]) == {"orientation": 6}
    assert {last[name] for name in Facts.__struct_fields__} == {""}


@pytest.mark.parametrize("format", ["webdataset", "parquet"])
def test_shards_have_the_facts_of_records(tmp_path: Path, site: Site, format: str) -> None:
    """As readers find them; all shards have the same columns, whatever is known of the images in them."""
    write_list(tmp_path, *map(site.url, ("/fixtures/exif_rotated.jpg", "/kept/1.jpg", "/fixtures/animated.gif")))
    shards = ("--format", format, "--shard-count", "1", "--resize", "20", "--facts", ",".join(KINDS))
    assert run(tmp_path, "seed", "urls.txt", *LOCAL, *shards).returncode == 0
    store = tmp_path / "urls.crawl" / "images"
    if format == "webdataset":
        rows = [json.loads(sample["json"]) for sample in read_webdataset(tars(store))]
    else:
        rows = pq.ParquetDataset(store).read().to_pylist()
        for row in rows:
            row["exif"] = row["exif"] and json.loads(row["exif"])
    by_url = {row["url"]: row for row in rows}
    found = {record["url"]: record["facts"] for record in records(tmp_path, "urls.crawl")}
    assert {url: {name: by_url[url][name] for name in known} for url, known in found.items()} == found
    assert by_url[site.url("/fixtures/exif_rotated.jpg")]["exif"] == {"orientation": 6}
    assert by_url[site.url("/kept/1.jpg")]["etag"] == '"0"'
    assert by_url[site.url("/fixtures/animated.gif")]["frames"] > 1


def test_every_fact_has_its_column() -> None:
    """Of its own type, in shards of parquet; that an image is like another is found out when it is in its shard."""
    known = {name for name in Facts.__struct_fields__ if not name.startswith("duplicate_")}
    assert known < set(parquet._TYPES) == {*facts.ALWAYS, *facts.KNOWN}


def test_without_facts(tmp_path: Path, site: Site) -> None:
    """They can be left out altogether."""
    write_list(tmp_path, site.url("/photo/1.jpg"))
    assert run(tmp_path, "seed", "urls.txt", *LOCAL, "--facts", "none").returncode == 0
    assert [record["facts"] for record in records(tmp_path, "urls.crawl")] == [None]


@pytest.mark.parametrize("value", ["dhash", "", "none,exif"])
def test_unknown_kinds_are_refused(tmp_path: Path, value: str) -> None:
    """With those that are known."""
    write_list(tmp_path, "http://127.0.0.1/")
    done = run(tmp_path, "seed", "urls.txt", "--facts", value)
    assert done.returncode == 2
    assert "--facts" in done.stderr


def test_unknown_facts_are_passed_over() -> None:
    """A ledger that a later version wrote can be read."""
    data = msgspec.msgpack.encode({"mode": "RGB", "novelty": [1, 2]})
    assert msgspec.msgpack.decode(data, type=Facts) == Facts(mode="RGB")
