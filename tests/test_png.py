"""Pixels of a PNG are checked without being made; whatever a full decode refuses is refused."""

from __future__ import annotations

import io
import random
import struct
import warnings
import zlib
from pathlib import Path

import pytest
from PIL import Image as Pillow

from crawler.consumer import image, png
from crawler.errors import ImageRefused
from crawler.model import Image
from crawler.reasons import Reason
from crawler.settings import Limits
from crawler.treatment import Transform, Treatment


def chunk(name: bytes, content: bytes) -> bytes:
    """Return a chunk with its checksum."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def made(rows: list[bytes], width: int, height: int, depth: int = 8, colour: int = 2, parts: int = 1) -> bytes:
    """Return a PNG with *rows*, each with its filter before it, in so many chunks."""
    data = zlib.compress(b"".join(rows))
    size = -(-len(data) // parts)
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    pixels = b"".join(chunk(b"IDAT", data[n : n + size]) for n in range(0, len(data), size))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


#: Those who look at pixels.
PIXELS_USED = (Treatment(transform=Transform(size=8)), Treatment(facts=("phash",)))


def judge(content: bytes, treatment: Treatment | None = None) -> Image | Reason:
    """Return the facts about an image, or why it is refused."""
    try:
        return image.treat(io.BytesIO(content), Limits(), treatment or Treatment()).image
    except ImageRefused as error:
        return error.reason


@pytest.mark.parametrize(
    ("depth", "colour", "stride"),
    [(1, 0, 2), (16, 0, 11), (8, 2, 16), (2, 3, 3), (8, 4, 11), (16, 6, 41)],
)
def test_layout(depth: int, colour: int, stride: int) -> None:
    """A row has its filter and its samples, rounded up to whole bytes."""
    assert png.read_layout(io.BytesIO(made([b"\0"], 5, 7, depth, colour))) == (stride, 7)


@pytest.mark.parametrize("name", ["oi1n0g16", "oi9n2c16"])
def test_chunks(name: str, corpora: Path) -> None:
    """Data may come in one chunk or in chunks of one byte."""
    with (corpora / "pngsuite" / f"{name}.png").open("rb") as file:
        layout = png.read_layout(file)
        assert layout is not None
        png.check_pixels(file, layout)


def test_interlaced_is_decoded(corpora: Path) -> None:
    """Where rows lie otherwise, the image is decoded as it was."""
    content = (corpora / "pngsuite" / "basi2c08.png").read_bytes()
    assert png.read_layout(io.BytesIO(content)) is None
    assert isinstance(judge(content), Image)


@pytest.mark.parametrize("parts", [1, 7])
def test_missing_rows(parts: int) -> None:
    """An image whose data end well, but before its last row, is truncated; a full decode makes black of the rest."""
    rows = [b"\0" + bytes(range(30))] * 10
    assert isinstance(judge(made(rows, 10, 10, parts=parts)), Image)
    assert judge(made(rows[:-1], 10, 10, parts=parts)) is Reason.IMAGE_TRUNCATED


@pytest.mark.parametrize("colour", [0, 2, 4, 6])
@pytest.mark.parametrize("shown", [b"\0", b"\x01"])
@pytest.mark.parametrize("treatment", PIXELS_USED)
def test_missing_rows_where_pixels_are_used(treatment: Treatment, shown: bytes, colour: int) -> None:
    """The same where pixels are made of them, also of an image that is black to its last row."""
    rows = [b"\0" + shown * (10 * png.SAMPLES[colour])] * 10
    assert isinstance(judge(made(rows, 10, 10, colour=colour), treatment), Image)
    assert judge(made(rows[:-1], 10, 10, colour=colour), treatment) is Reason.IMAGE_TRUNCATED


@pytest.mark.parametrize("place", [0, 5, 9])
def test_unknown_filter(place: int) -> None:
    """A row with a filter that does not exist is broken, wherever it is."""
    rows = [bytes([number % 5]) + bytes(30) for number in range(10)]
    assert isinstance(judge(made(rows, 10, 10)), Image)
    rows[place] = b"\x05" + bytes(30)
    assert judge(made(rows, 10, 10)) is Reason.IMAGE_BROKEN


def test_rows_across_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Filters are found also where pieces of the data begin in the middle of rows."""
    monkeypatch.setattr(png, "PIECE", 7)
    rows = [bytes([number % 5]) + bytes([255] * 30) for number in range(50)]
    assert isinstance(judge(made(rows, 10, 50, parts=9)), Image)
    rows[-1] = b"\x05" + bytes(30)
    assert judge(made(rows, 10, 50, parts=9)) is Reason.IMAGE_BROKEN


def test_animation_is_decoded() -> None:
    """Each frame of an animated PNG is decoded: a second one that is damaged is refused."""
    frames = [Pillow.new("RGB", (20, 20), color) for color in ("red", "blue")]
    file = io.BytesIO()
    frames[0].save(file, "PNG", save_all=True, append_images=frames[1:])
    content = file.getvalue()
    assert isinstance(judge(content), Image)
    place = content.index(b"fdAT")
    length = struct.unpack(">I", content[place - 4 : place])[0]
    damaged = chunk(b"fdAT", content[place + 4 : place + 8] + bytes(length - 4))
    assert judge(content[: place - 4] + damaged + content[place + 8 + length :]) is Reason.IMAGE_BROKEN


def test_refuses_what_a_full_decode_refuses(corpora: Path) -> None:
    """Files of others, damaged at places that a seed chooses, checksums made good again: none passes but whole ones."""
    chance = random.Random(7)
    files = [path for path in sorted((corpora / "pngsuite").glob("*.png")) if path.stat().st_size < 20_000]
    tried = refused = 0
    for path in files:
        for _ in range(12):
            content = bytearray(path.read_bytes())
            content[chance.randrange(8, len(content))] = chance.randrange(256)
            mended = _with_checksums(bytes(content))
            layout = png.read_layout(io.BytesIO(mended))
            if layout is None or _decodes(mended) or _has_all_rows(mended, layout):
                continue
            tried += 1
            refused += isinstance(judge(mended), Reason)
    assert tried > 50
    assert refused == tried


@pytest.mark.parametrize("treatment", PIXELS_USED)
def test_no_more_passes_where_pixels_are_used(treatment: Treatment, corpora: Path) -> None:
    """What is refused of damaged files is refused as well where their pixels are made."""
    chance = random.Random(8)
    files = [path for path in sorted((corpora / "pngsuite").glob("*.png")) if path.stat().st_size < 20_000]
    refused = 0
    for path in files:
        for _ in range(8):
            content = bytearray(path.read_bytes())
            content[chance.randrange(8, len(content))] = chance.randrange(256)
            mended = _with_checksums(bytes(content))
            if isinstance(judge(mended), Reason):
                refused += 1
                assert isinstance(judge(mended, treatment), Reason)
    assert refused > 100


def _with_checksums(content: bytes) -> bytes:
    """Return a PNG whose chunks have the checksums of what is in them; what follows the last whole one is cut."""
    place, whole = 8, content[:8]
    while place + 12 <= len(content):
        length, name = struct.unpack(">I4s", content[place : place + 8])
        if place + 12 + length > len(content):
            break
        whole += chunk(name, content[place + 8 : place + 8 + length])
        place += 12 + length
    return whole


def _has_all_rows(content: bytes, layout: png.Layout) -> bool:
    """Tell whether what is wrong comes after the last row: Pillow refuses some data that go on without an end."""
    inflater = zlib.decompressobj()
    try:
        rows = inflater.decompress(b"".join(png._compressed(io.BytesIO(content))))[: layout.stride * layout.rows]
    except zlib.error:
        return False
    return len(rows) == layout.stride * layout.rows and max(rows[:: layout.stride]) <= png.MAX_FILTER


def _decodes(content: bytes) -> bool:
    """Tell whether Pillow decodes all of an image."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it has to say of metadata
        try:
            with Pillow.open(io.BytesIO(content), formats=("PNG",)) as opened:
                opened.load()
        except Exception:  # whatever it raises
            return False
    return True
