"""
What a run is told to do with an image before it is stored: filters, transforms and facts.
"""

from __future__ import annotations

import enum

import msgspec


class _Frozen(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the structs below."""


class Filters(_Frozen, frozen=True, kw_only=True):
    """Which images are wanted, beside `Limits`; width and height are those of the file, before EXIF turns it."""

    #: Pixels, None for no limit.
    min_width: int = 0
    max_width: int | None = None
    #: Pixels, None for no limit.
    min_height: int = 0
    max_height: int | None = None
    #: Width × height; the most is `Limits.max_pixels`.
    min_pixels: int = 0
    #: Of the longer side to the shorter, 1 for a square; None for no limit.
    min_aspect_ratio: float = 1.0
    max_aspect_ratio: float | None = None
    #: Size of the file; the most is `Limits.max_bytes`.
    min_bytes: int = 0


class Fit(enum.StrEnum):
    """How an image is brought to a size of N pixels; the other side follows, rounded, and is at least one pixel."""

    #: The shorter side becomes N.
    KEEP_RATIO = "keep-ratio"
    #: The longer side becomes N.
    KEEP_RATIO_LARGEST = "keep-ratio-largest"
    #: The shorter side becomes N, and the middle N × N pixels are kept.
    CENTER_CROP = "center-crop"
    #: The longer side becomes N, and white is put around it, to N × N.
    BORDER = "border"


class Frames(enum.StrEnum):
    """What becomes of an animation."""

    #: Its first frame is an image.
    FIRST = "first"
    #: It stays one, where the format that is written has animations.
    ALL = "all"


class Transform(_Frozen, frozen=True, kw_only=True):
    """What is made of every image: upright, in sRGB, without metadata, of one format, perhaps of another size."""

    #: Size N in pixels, 0 to leave the size as it is.
    size: int = 0
    fit: Fit = Fit.KEEP_RATIO
    #: Whether images whose side that counts for `fit` is N or less keep their size, uncropped and without a border.
    only_if_bigger: bool = False
    #: Format that is written, a key of `QUALITIES`.
    format: str = "JPEG"
    #: Of the encoder, 1 to 100; PNG has none and loses nothing.
    quality: int = 95
    frames: Frames = Frames.FIRST


#: Formats that can be written, by Pillow's names, and the quality of each where nothing is said.
QUALITIES = {"JPEG": 95, "PNG": 100, "WEBP": 95, "AVIF": 80}
#: Those of them that have animations.
ANIMATED = ("PNG", "WEBP", "AVIF")


class Treatment(_Frozen, frozen=True, kw_only=True):
    """All that is done with an image."""

    filters: Filters = Filters()
    #: None keeps the bytes that came.
    transform: Transform | None = None
    #: Kinds of facts that records have, of `crawler.facts.KINDS`.
    facts: tuple[str, ...] = ("response", "image", "exif")


def describe(transform: Transform | None) -> str:
    """Return the options of `seed` that ask for *transform*, for messages."""
    if transform is None:
        return "no transform"
    words = [f"--resize {transform.size}", f"--resize-mode {transform.fit}"] if transform.size else []
    if transform.only_if_bigger:
        words.append("--resize-only-if-bigger")
    words.append(f"--encode {transform.format.lower()}")
    if transform.format != "PNG":
        words.append(f"--quality {transform.quality}")
    return " ".join([*words, f"--frames {transform.frames}"])
