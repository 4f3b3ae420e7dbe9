"""What is an image, and what is said of what is none."""

from __future__ import annotations

import errno
import io
import random
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import PIL.Image as Pillow
import pytest
from PIL import PngImagePlugin

from crawler.consumer import image, sniff
from crawler.consumer.image import verify
from crawler.errors import ImageRefused
from crawler.model import Image
from crawler.reasons import Reason
from crawler.settings import FORMATS, Limits
from tests.conftest import ROOT

MANIFEST = [line.split("\t") for line in (ROOT / "fixtures/MANIFEST.tsv").read_text().splitlines()[1:]]

LIMITS = Limits()


@pytest.fixture(autouse=True)
def as_in_a_verifier() -> Iterator[None]:
    """Put back what verifying sets for its whole process."""
    kept = Pillow.MAX_IMAGE_PIXELS
    yield
    Pillow.MAX_IMAGE_PIXELS = kept


def judge(content: bytes, limits: Limits = LIMITS) -> Image | Reason:
    """Return the facts about an image, or the reason why it is refused."""
    try:
        return verify(io.BytesIO(content), limits)
    except ImageRefused as error:
        return error.reason


def saved(format: str, size: tuple[int, int] = (40, 30), mode: str = "RGB", frames: int = 1, **options: Any) -> bytes:
    """Return an image of noise, of several frames where asked for."""
    noise = random.Random(7)
    bands = len(Pillow.new(mode, (1, 1)).getbands())
    pictures = [Pillow.frombytes(mode, size, noise.randbytes(size[0] * size[1] * bands)) for _ in range(frames)]
    file = io.BytesIO()
    if frames > 1:
        options |= {"save_all": True, "append_images": pictures[1:]}
    pictures[0].save(file, format, **options)
    return file.getvalue()


@pytest.mark.parametrize(("name", "outcome"), [(row[0], row[2]) for row in MANIFEST])
def test_fixtures(name: str, outcome: str) -> None:
    """Every fixture ends as its manifest says."""
    result = judge((ROOT / "fixtures" / name).read_bytes())
    assert ("stored" if isinstance(result, Image) else result) == outcome


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("frames", [1, 3])
def test_facts(format: str, frames: int) -> None:
    """Format, width and height are told as they are, for one frame and for several."""
    if frames > 1 and format in ("JPEG", "BMP"):
        frames = 1
    assert judge(saved(format, (40, 30), frames=frames)) == Image(format=format, width=40, height=30)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_kinds(mode: str, progressive: bool) -> None:
    """The short cut for JPEG tells the size of the image, not of what it decodes."""
    content = saved("JPEG", (400, 300), mode, progressive=progressive)
    assert judge(content) == Image(format="JPEG", width=400, height=300)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "WEBP", "BMP"])
@pytest.mark.parametrize("part", [0.3, 0.6, 0.95])
def test_cut(format: str, part: float) -> None:
    """An image that is cut is told as truncated."""
    content = saved(format, (200, 150))
    assert judge(content[: int(len(content) * part)]) is Reason.IMAGE_TRUNCATED


#: Where the image's data end in each format: cutting only what comes then loses none.
END_OF_DATA: dict[str, Callable[[bytes], int]] = {
    "jpg": lambda content: content.rindex(b"\xff\xd9"),
    "png": lambda content: content.rindex(b"IEND") - 4,
    "gif": len,
    "webp": len,
}


@pytest.mark.parametrize(
    "name", [row[0] for row in MANIFEST if row[2] == "stored" and row[0].rpartition(".")[2] in END_OF_DATA]
)
def test_cut_anywhere(name: str) -> None:
    """Every cut that loses data of the image is found: 100 places all over it, and each of the last 40 bytes."""
    content = (ROOT / "fixtures" / name).read_bytes()
    suffix = "png" if name == "wrong_extension.jpg" else name.rpartition(".")[2]
    end = END_OF_DATA[suffix](content)
    places = {end * part // 100 for part in range(100)} | set(range(max(0, end - 40), end))
    assert len(places) > min(100, end - 1)
    assert [place for place in sorted(places) if isinstance(judge(content[:place]), Image)] == []


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_cut_between_frames(format: str) -> None:
    """An animation that lacks whole frames is refused, though each one it has is complete."""
    content = saved(format, (12, 9), frames=4)
    places = range(len(content) // 4, len(content) - 12)
    assert [place for place in places if isinstance(judge(content[:place]), Image)] == []


def test_junk_after_gif() -> None:
    """What comes after the trailer of a GIF is no part of it."""
    assert isinstance(judge(saved("GIF", frames=3) + b"junk"), Image)


@pytest.mark.parametrize("format", FORMATS)
def test_formats(format: str) -> None:
    """Of the formats that can be decoded, those that a run does not accept are refused."""
    content = saved(format)
    others = tuple(name for name in FORMATS if name != format)
    assert judge(content, Limits(formats=others)) is Reason.FORMAT_REFUSED
    assert isinstance(judge(content, Limits(formats=(format,))), Image)


def test_formats_never_interpreted() -> None:
    """No setting lets a format in that Pillow hands to an interpreter, nor any other beside the known ones."""
    limits = Limits(formats=("EPS", "PPM", "ICO", "PDF", "WMF"))
    assert judge((ROOT / "fixtures/drawing.eps").read_bytes(), limits) is Reason.FORMAT_REFUSED
    assert judge(saved("PPM"), limits) is Reason.FORMAT_REFUSED
    assert judge(saved("TGA"), limits) is Reason.NOT_AN_IMAGE


@pytest.mark.parametrize("format", ["AVIF", "TIFF"])
def test_cut_without_end(format: str) -> None:
    """A format without a prescribed end is refused when cut, too."""
    content = saved(format, (200, 150))
    assert judge(content[: len(content) // 2]) in (Reason.IMAGE_TRUNCATED, Reason.IMAGE_BROKEN)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_later_frame_broken(format: str) -> None:
    """Every frame counts: an animation cut in its last frame is refused."""
    content = saved(format, (64, 64), frames=4)
    if format == "TIFF":
        # The last page's data come before its directory: point them beyond the end of the file.
        with Pillow.open(io.BytesIO(content)) as opened:
            opened.seek(3)
            last = opened.tag_v2[273][0]  # type: ignore[attr-defined]
        before, found, after = content.rpartition(last.to_bytes(4, "little"))
        assert found
        content = before + len(content).to_bytes(4, "little") + after
    else:
        content = content[:-600]
    assert judge(content) in (Reason.IMAGE_TRUNCATED, Reason.IMAGE_BROKEN)


def test_frames_missing() -> None:
    """An animated PNG with fewer frames than it announces is refused."""
    content = saved("PNG", frames=3)
    at = content.index(b"acTL")
    chunk = content[at : at + 4] + (4).to_bytes(4, "big") + content[at + 8 : at + 12]
    content = content[:at] + chunk + zlib.crc32(chunk).to_bytes(4, "big") + content[at + 16 :]
    assert judge(content) is Reason.IMAGE_TRUNCATED


def test_png_suite(corpora: Path) -> None:
    """Every good file of PngSuite is accepted, and every corrupt one refused."""
    files = sorted((corpora / "pngsuite").glob("*.png"))
    accepted = {file.name for file in files if isinstance(judge(file.read_bytes()), Image)}
    assert accepted == {file.name for file in files if not file.name.startswith("x")}
    assert len(files) > 170


def test_hostile(corpora: Path) -> None:
    """No file made to break decoders does more than be refused with a reason about images."""
    expected = {
        Reason.NOT_AN_IMAGE,
        Reason.FORMAT_REFUSED,
        Reason.IMAGE_TRUNCATED,
        Reason.IMAGE_BROKEN,
        Reason.TOO_MANY_PIXELS,
        Reason.EMPTY,
        Reason.SVG,
        Reason.HTML,
    }
    files = [file for file in sorted(corpora.rglob("*")) if file.is_file()]
    refused = {result for file in files if isinstance(result := judge(file.read_bytes()), Reason)}
    assert refused <= expected
    assert {Reason.IMAGE_BROKEN, Reason.IMAGE_TRUNCATED, Reason.TOO_MANY_PIXELS, Reason.FORMAT_REFUSED} <= refused


def test_jpeg_short_cut(corpora: Path) -> None:
    """The short cut for JPEG refuses whatever a full decode refuses: whole files, cut ones and damaged ones."""
    files = [file for file in [*corpora.rglob("*"), *(ROOT / "fixtures").iterdir()] if file.is_file()]
    jpegs = [content for file in sorted(files) if (content := file.read_bytes()).startswith(b"\xff\xd8\xff")]
    chance = random.Random(1)
    tried = refused = 0
    for content in jpegs:
        for variant in (content, *_damaged(content, chance)):
            is_whole = _decodes_fully(variant)
            tried += 1
            refused += not is_whole
            assert isinstance(judge(variant), Image) == is_whole
    assert tried > 500
    assert refused > 200


def _damaged(content: bytes, chance: random.Random) -> Iterator[bytes]:
    for _ in range(6):
        yield content[: chance.randrange(3, len(content))]
    for flips in (1, 5, 50, 200):
        damaged = bytearray(content)
        for _ in range(flips):
            damaged[chance.randrange(3, len(damaged))] = chance.randrange(256)
        yield bytes(damaged)


def _decodes_fully(content: bytes) -> bool:
    """Decode every pixel of a JPEG with nothing spared; too large counts as refused."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Pillow.open(io.BytesIO(content), formats=("JPEG",)) as opened:
                opened.load()
                return 0 < opened.width * opened.height <= Limits().max_pixels
        except Exception:
            return False


def test_first_of_several_pictures() -> None:
    """A JPEG that announces further pictures which a server cut off is the JPEG that everybody sees."""
    content = saved("MPO", (200, 150), frames=2)
    end_of_first = content.index(b"\xff\xd9") + 2
    assert b"MPF\0" in content[:end_of_first]
    assert judge(content[:end_of_first]) == Image(format="JPEG", width=200, height=150)


def test_too_many_pixels_by_header() -> None:
    """An image over the limit is refused by its header, before anything is decoded."""
    content = saved("PNG", (100, 100))
    assert judge(content[:100], Limits(max_pixels=9_999)) is Reason.TOO_MANY_PIXELS
    assert judge(content, Limits(max_pixels=10_000)) == Image(format="PNG", width=100, height=100)


def test_later_page_too_large() -> None:
    """Each page is judged by its own header, not by that of the first."""
    pages = [Pillow.new("L", size) for size in ((10, 10), (100, 101))]
    file = io.BytesIO()
    pages[0].save(file, "TIFF", save_all=True, append_images=pages[1:])
    assert judge(file.getvalue(), Limits(max_pixels=10_099)) is Reason.TOO_MANY_PIXELS
    assert judge(file.getvalue(), Limits(max_pixels=10_100)) == Image(format="TIFF", width=10, height=10)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(saved("WEBP", (100, 90)), id="VP8"),
        pytest.param(saved("WEBP", (100, 90), lossless=True), id="VP8L"),
        pytest.param(saved("WEBP", (100, 90), frames=2), id="VP8X"),
    ],
)
def test_webp_by_header(content: bytes) -> None:
    """A WebP's pixels count double, and are counted before its decoder sees it."""
    assert judge(content[:40], Limits(max_pixels=17_999)) is Reason.TOO_MANY_PIXELS
    assert judge(content, Limits(max_pixels=18_000)) == Image(format="WEBP", width=100, height=90)
    assert judge(content[:40], Limits(max_pixels=18_000)) is Reason.IMAGE_TRUNCATED


def test_largest_webp() -> None:
    """The largest size there is, in a file of 30 bytes, costs nothing."""
    content = b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0" + b"\0" * 4 + b"\xff" * 6
    assert judge(content) is Reason.TOO_MANY_PIXELS


def test_avif_weight() -> None:
    """An AVIF's pixels count half as much again."""
    content = saved("AVIF", (100, 90))
    assert judge(content, Limits(max_pixels=13_499)) is Reason.TOO_MANY_PIXELS
    assert judge(content, Limits(max_pixels=13_500)) == Image(format="AVIF", width=100, height=90)


@pytest.mark.parametrize("factor", [1.5, 3])
def test_bomb_of_gif(factor: float) -> None:
    """Pillow's own limit, where it warns and where it raises, is told as too many pixels."""
    content = saved("GIF", (300, 200), "L")
    assert judge(content, Limits(max_pixels=int(60_000 / factor))) is Reason.TOO_MANY_PIXELS


def test_too_many_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of frames is bounded."""
    monkeypatch.setattr(image, "MAX_FRAMES", 5)
    assert judge(saved("GIF", frames=6)) is Reason.TOO_MANY_PIXELS
    assert isinstance(judge(saved("GIF", frames=5)), Image)


def test_too_many_pixels_together() -> None:
    """The pixels of all frames together are bounded."""
    size, frames = (40, 30), image.FRAMES_FACTOR + 1
    assert judge(saved("GIF", size, frames=frames), Limits(max_pixels=1200)) is Reason.TOO_MANY_PIXELS
    assert isinstance(judge(saved("GIF", size, frames=frames - 1), Limits(max_pixels=1200)), Image)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (saved("WEBP", (100, 90)), "100 x 90, where a pixel of WEBP counts as 2, is over --max-pixels 8000"),
        (saved("GIF", (100, 90)), "Image size (9000 pixels) exceeds limit of 8000 pixels: see --max-pixels"),
        (saved("GIF", (80, 100), frames=9), "its first 9 frames together are over 8 times --max-pixels 8000"),
    ],
)
def test_what_is_said_of_too_many_pixels(content: bytes, said: str) -> None:
    """Which limit it was, and what counts against it."""
    with pytest.raises(ImageRefused) as caught:
        verify(io.BytesIO(content), Limits(max_pixels=8_000))
    assert (caught.value.reason, caught.value.detail) == (Reason.TOO_MANY_PIXELS, said)


def test_large_text() -> None:
    """A large editing history in a PNG is no reason to refuse its pixels."""
    texts = PngImagePlugin.PngInfo()
    texts.add_itxt("XML:com.adobe.xmp", "x" * 3_000_000, zip=True)
    assert isinstance(judge(saved("PNG", pnginfo=texts)), Image)


def test_bad_metadata() -> None:
    """Junk in place of EXIF is no reason to refuse the pixels."""
    assert isinstance(judge(saved("JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff junk")), Image)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", Reason.EMPTY),
        (b"<!DOCTYPE html><html><body>", Reason.HTML),
        (b"\xef\xbb\xbf \r\n<HTML>", Reason.HTML),
        ("\ufeff<html>".encode("utf-16-le"), Reason.HTML),
        (b"<!-- a comment --><html>", Reason.HTML),
        (b'<?xml version="1.0"?><!DOCTYPE html><html xmlns="http://www.w3.org/1999/xhtml">', Reason.HTML),
        (b"<html><body><svg></svg>", Reason.HTML),
        (b"<!-- a comment --><html><body><svg></svg>", Reason.HTML),
        (b"<div><svg></svg></div>", Reason.HTML),
        (b'<svg xmlns="http://www.w3.org/2000/svg">', Reason.SVG),
        (b"<?xml version='1.0'?>\n<!-- drawn by hand -->\n<svg:svg xmlns:svg='x'>", Reason.SVG),
        (b"<!DOCTYPE svg PUBLIC '-//W3C//DTD SVG 1.1//EN'><svg >", Reason.SVG),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", Reason.NOT_AN_IMAGE),
        (b'{"error": "not found"}', Reason.NOT_AN_IMAGE),
        (b"%PDF-1.7\n", Reason.NOT_AN_IMAGE),
        (b"PK\x03\x04", Reason.NOT_AN_IMAGE),
        (b"\x1f\x8b\x08\x00", Reason.NOT_AN_IMAGE),
        (b"\0" * 100, Reason.NOT_AN_IMAGE),
        (b"x", Reason.NOT_AN_IMAGE),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", Reason.FORMAT_REFUSED),
        (b"8BPS\0\1", Reason.FORMAT_REFUSED),
        (b"\0\0\1\0\1\0", Reason.FORMAT_REFUSED),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", Reason.FORMAT_REFUSED),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", Reason.FORMAT_REFUSED),
        (b"\0\0\0\x0cjP  \r\n\x87\n", Reason.FORMAT_REFUSED),
        (b"\xff\x0a", Reason.FORMAT_REFUSED),
        (b"P6\n1 1\n255\n\0\0\0", Reason.FORMAT_REFUSED),
        (b"\xff\xd8\xff", Reason.IMAGE_TRUNCATED),
        (b"\x89PNG\r\n\x1a\n", Reason.IMAGE_TRUNCATED),
        (b"GIF89a", Reason.IMAGE_TRUNCATED),
    ],
)
def test_told_apart(content: bytes, reason: Reason) -> None:
    """What is no image is told by what it is instead."""
    assert judge(content) is reason


class _Unreadable(io.BytesIO):
    """A file on a disk that fails beyond the first bytes."""

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell() >= sniff.HEAD_SIZE:
            raise OSError(errno.EIO, "Input/output error")
        return super().read(size)


def test_disk_fails() -> None:
    """A disk that fails is not held against the image."""
    with pytest.raises(ImageRefused) as caught:
        verify(_Unreadable(saved("PNG", (200, 200))), Limits())
    assert caught.value.reason is Reason.INTERNAL
