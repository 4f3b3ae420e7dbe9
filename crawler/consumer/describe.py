"""What an opened image says of itself: its EXIF, its profile, its perceptual hash. Runs in verifiers, and in tests."""

from __future__ import annotations

import contextlib
import functools
import io
import math
from operator import mul
from statistics import median

import PIL.Image as Pillow
from PIL import ImageCms

from crawler.facts import MAX_TEXT

#: What is kept of EXIF: name, directory and number of the field. Nothing that tells where somebody was, nor serial
#: numbers, names of owners or comments; of a position only that there is one.
#: Source: EXIF 2.32, 4.6.4 and 4.6.5.
EXIF = (
    ("orientation", 0, 0x0112),
    ("make", 0, 0x010F),
    ("model", 0, 0x0110),
    ("datetime", 0, 0x0132),
    ("artist", 0, 0x013B),
    ("copyright", 0, 0x8298),
    ("datetime_original", 0x8769, 0x9003),
)
#: Number of the directory with a position.
GPS = 0x8825
#: Sides of the picture and of the square of frequencies from which the hash is made.
SIDE, LOW = 32, 8


def exif_of(image: Pillow.Image) -> dict[str, str | int | bool] | None:
    """Return the fields of `EXIF` that an image has, and `gps` where it has a position; None where it has none."""
    if "exif" not in image.info and image.format not in ("TIFF", "AVIF"):
        return None
    found: dict[str, str | int | bool] = {}
    try:
        exif = image.getexif()
        for name, directory, number in EXIF:
            value = (exif.get_ifd(directory) if directory else exif).get(number)
            if isinstance(value, str) and (text := printable(value)):
                found[name] = text
            elif isinstance(value, int) and 0 <= value < 1 << 32:
                found[name] = value
        if GPS in exif:
            found["gps"] = True
    except Exception:  # what is wrong with metadata says nothing about the picture
        return found or None
    return found or None


def printable(text: str) -> str:
    """Return a text of EXIF, which Pillow reads as Latin-1, as UTF-8 if it is that; cut, no control characters."""
    with contextlib.suppress(UnicodeError):
        text = text.encode("latin-1").decode("utf-8")
    return "".join(letter if letter.isprintable() else " " for letter in text[:MAX_TEXT]).strip()


def profile_of(image: Pillow.Image) -> str | None:
    """Return the description of an image's ICC profile, "" for one that cannot be read; None where it has none."""
    data = image.info.get("icc_profile")
    if not data:
        return None
    try:
        return printable(ImageCms.ImageCmsProfile(io.BytesIO(data)).profile.profile_description or "")
    except (OSError, ValueError, TypeError, ImageCms.PyCMSError):
        return ""


def phash_of(frame: Pillow.Image) -> str:
    """
    Return the perceptual hash of a decoded frame, as imagehash.phash(frame) does with its defaults.

    Which of the 64 lowest frequencies of the picture, made 32 × 32 in grey, are above their median; row by row, the
    first one the highest bit.
    """
    small = frame.convert("L").resize((SIDE, SIDE), Pillow.Resampling.LANCZOS)
    pixels = small.tobytes()
    waves = _waves()
    # Rounded, so that what is nothing in a picture of one colour does not become something by errors of rounding.
    columns = [pixels[column::SIDE] for column in range(SIDE)]
    along = [[sum(map(mul, wave, column)) for column in columns] for wave in waves]
    low = [round(sum(map(mul, wave, row)), 6) for row in along for wave in waves]
    middle = median(low)
    bits = "".join("1" if value > middle else "0" for value in low)
    return f"{int(bits, 2):016x}"


@functools.cache
def _waves() -> list[list[float]]:
    """Return the lowest waves of the cosine transform (its second kind), sampled."""
    return [[2 * math.cos(math.pi * k * (2 * n + 1) / (2 * SIDE)) for n in range(SIDE)] for k in range(LOW)]
