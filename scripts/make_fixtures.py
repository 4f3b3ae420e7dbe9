#!/usr/bin/env python3
"""
Make the small images of fixtures/, good and broken, and their MANIFEST.tsv.

    python scripts/make_fixtures.py [FOLDER]

The pictures are drawn with fixed seeds, so that the same version of Pillow makes the same bytes again. Another version
may compress differently: then the digests change, and names, outcomes and purposes do not.
"""

from __future__ import annotations

import hashlib
import io
import random
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image, ImageDraw

#: Pixels of every picture unless its purpose says otherwise, (width, height).
SIZE = (160, 120)
#: EXIF tag that says which way up a picture is, and its value for "turn by 90 degrees".
ORIENTATION, TURNED = 0x0112, 6


class Fixture(NamedTuple):
    """One file."""

    name: str
    #: `stored`, or the reason for which a crawl of it fails.
    outcome: str
    purpose: str
    make: Callable[[], bytes]


def picture(seed: int, mode: str = "RGB") -> Image.Image:
    """Draw a picture of SIZE that is different for each *seed*: boxes over a gradient."""
    chance = random.Random(seed)
    image = Image.merge("RGB", [Image.linear_gradient("L").resize(SIZE).rotate(90 * turn) for turn in range(3)])
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        left, top = chance.randrange(SIZE[0]), chance.randrange(SIZE[1])
        colour = (chance.randrange(256), chance.randrange(256), chance.randrange(256))
        draw.rectangle((left, top, left + chance.randrange(8, 60), top + chance.randrange(8, 60)), fill=colour)
    return image.convert(mode)


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    """Return *image* as the bytes of a file of the format *kind*."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def see_through() -> Image.Image:
    """Draw a picture whose left half is transparent."""
    image = picture(3, "RGBA")
    alpha = Image.new("L", SIZE, 255)
    alpha.paste(0, (0, 0, SIZE[0] // 2, SIZE[1]))
    image.putalpha(alpha)
    return image


def sixteen_bit() -> Image.Image:
    """Draw a gradient of 16-bit gray values."""
    values = b"".join(struct.pack("<H", (x * 400 + y * 3) & 0xFFFF) for y in range(SIZE[1]) for x in range(SIZE[0]))
    return Image.frombytes("I;16", SIZE, values)


def animation(kind: str) -> bytes:
    """Return an animation of four pictures."""
    frames = [picture(40 + number) for number in range(4)]
    return encode(frames[0], kind, save_all=True, append_images=frames[1:], duration=100, loop=0)


def turned() -> bytes:
    """Return a JPEG that asks to be turned when shown."""
    exif = Image.Exif()
    exif[ORIENTATION] = TURNED
    return encode(picture(23), "JPEG", exif=exif)


def cut(data: bytes) -> bytes:
    """Return the first half of *data*."""
    return data[: len(data) // 2]


def flipped(data: bytes) -> bytes:
    """Return a PNG with 40 bytes inverted in the middle of its pixels."""
    middle = len(data) // 2
    return data[:middle] + bytes(byte ^ 0xFF for byte in data[middle : middle + 40]) + data[middle + 40 :]


def bomb() -> bytes:
    """Return a PNG of 20,000 x 20,000 black pixels of one bit: 50 MB of zeros behind 50 kB."""
    side = 20_000
    packer = zlib.compressobj(9)
    pixels = b"".join(packer.compress(bytes(1 + side // 8)) for _ in range(side)) + packer.flush()
    return gray_png(side, side, 1, pixels)


def gray_png(width: int, height: int, bits: int, pixels: bytes) -> bytes:
    """Return a gray PNG with the compressed *pixels* as they are, right or wrong, under right checksums."""
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def chunk(kind: bytes, data: bytes) -> bytes:
    """Return one chunk of a PNG. Source: PNG specification, third edition, section 5.3."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


PAGE = b"<!DOCTYPE html>\n<html><head><title>Log in</title></head><body><p>Please log in.</p></body></html>\n"
DRAWING = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n<svg xmlns="http://www.w3.org/2000/svg" width="160" height="120">'
    b'<rect width="160" height="120" fill="teal"/></svg>\n'
)
POSTSCRIPT = (
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 160 120\n%%EndComments\n"
    b"newpath 0 0 moveto 160 120 lineto stroke\nshowpage\n%%EOF\n"
)
PDF = b"%PDF-1.4\n1 0 obj\n<< /Type /Catalog >>\nendobj\ntrailer\n<< /Root 1 0 R >>\n%%EOF\n"

GOOD = (
    Fixture("ImageUrl_0.jpg", "stored", "JPEG, baseline", lambda: encode(picture(0), "JPEG")),
    Fixture("ImageUrl_1.jpg", "stored", "JPEG, progressive", lambda: encode(picture(1), "JPEG", progressive=True)),
    Fixture("ImageUrl_2.png", "stored", "PNG, RGB", lambda: encode(picture(2), "PNG")),
    Fixture("ImageUrl_3.png", "stored", "PNG with alpha", lambda: encode(see_through(), "PNG")),
    Fixture("ImageUrl_4.gif", "stored", "GIF, one frame", lambda: encode(picture(4, "P"), "GIF")),
    Fixture("ImageUrl_5.webp", "stored", "WebP, lossy", lambda: encode(picture(5), "WEBP")),
    Fixture("ImageUrl_6.bmp", "stored", "BMP", lambda: encode(picture(6), "BMP")),
    Fixture("ImageUrl_7.tiff", "stored", "TIFF", lambda: encode(picture(7), "TIFF", compression="tiff_lzw")),
    Fixture("ImageUrl_8.jpg", "stored", "JPEG, gray", lambda: encode(picture(8, "L"), "JPEG")),
    Fixture("ImageUrl_9.png", "stored", "PNG, 16 bits of gray", lambda: encode(sixteen_bit(), "PNG")),
    Fixture("animated.gif", "stored", "GIF of four frames", lambda: animation("GIF")),
    Fixture("animated.webp", "stored", "WebP of four frames", lambda: animation("WEBP")),
    Fixture("cmyk.jpg", "stored", "JPEG, CMYK", lambda: encode(picture(22, "CMYK"), "JPEG")),
    Fixture("exif_rotated.jpg", "stored", "JPEG that EXIF turns by 90 degrees", turned),
    Fixture("palette.png", "stored", "PNG with a palette", lambda: encode(picture(24, "P"), "PNG")),
    Fixture("bilevel.png", "stored", "PNG of one bit a pixel", lambda: encode(picture(25, "1"), "PNG")),
    Fixture("one_pixel.png", "stored", "smallest size there is", lambda: encode(Image.new("RGB", (1, 1)), "PNG")),
    Fixture("same_bytes.jpg", "stored", "bytes of ImageUrl_0.jpg by another name", lambda: encode(picture(0), "JPEG")),
    Fixture("wrong_extension.jpg", "stored", "PNG named .jpg", lambda: encode(picture(26), "PNG")),
    Fixture("no_extension", "stored", "JPEG without an extension", lambda: encode(picture(27), "JPEG")),
    Fixture(
        "trailing_junk.jpg", "stored", "1,000 bytes after the end", lambda: encode(picture(28), "JPEG") + b"#" * 1000
    ),
)

BROKEN = (
    Fixture("truncated.jpg", "image_truncated", "first half of a JPEG", lambda: cut(encode(picture(50), "JPEG"))),
    Fixture("truncated.png", "image_truncated", "first half of a PNG", lambda: cut(encode(picture(51), "PNG"))),
    Fixture("truncated.gif", "image_truncated", "first half of a GIF", lambda: cut(encode(picture(52, "P"), "GIF"))),
    Fixture(
        "flipped.png",
        "image_broken",
        "40 bytes inverted: only a checksum tells",
        lambda: flipped(encode(picture(53), "PNG")),
    ),
    Fixture(
        "undecodable.png",
        "image_broken",
        "PNG whose pixels are no deflate stream",
        lambda: gray_png(*SIZE, 8, b"#" * 200),
    ),
    Fixture("bomb.png", "too_many_pixels", "400 million pixels in 50 kB", bomb),
    Fixture("empty.jpg", "empty", "no bytes at all", lambda: b""),
    Fixture("page.jpg", "html", "web page named .jpg", lambda: PAGE),
    Fixture("drawing.svg", "svg", "SVG drawing", lambda: DRAWING),
    Fixture("drawing.eps", "format_refused", "EPS, which would start Ghostscript", lambda: POSTSCRIPT),
    Fixture("icon.ico", "format_refused", "ICO", lambda: encode(picture(54), "ICO", sizes=[(32, 32)])),
    Fixture("notes.jpg", "not_an_image", "plain text named .jpg", lambda: b"this is no image\n" * 20),
    Fixture("zeros.png", "not_an_image", "1,000 zero bytes", lambda: bytes(1000)),
    Fixture("document.pdf", "not_an_image", "PDF", lambda: PDF),
)


def make(folder: Path) -> None:
    """Write every fixture and the manifest into *folder*, which is made where it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["name\tsha256\toutcome\tpurpose"]
    for fixture in (*GOOD, *BROKEN):
        data = fixture.make()
        (folder / fixture.name).write_bytes(data)
        lines.append("\t".join((fixture.name, hashlib.sha256(data).hexdigest(), fixture.outcome, fixture.purpose)))
    (folder / "MANIFEST.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[1] / "fixtures")
