"""
Turn a verified image into what a run asked for: upright, in sRGB, of the size and the format it wants.

    frame ─▶ plain pixels ─▶ resized ─▶ sRGB ─▶ upright ─▶ cropped or bordered ─▶ alpha on white ─▶ encoded

Colours are converted after resizing, where there are fewer pixels. Only verifiers run this (and tests).
"""

from __future__ import annotations

import functools
import io
import re
from typing import Any, NamedTuple

import PIL.Image as Pillow
from PIL import ImageCms

from crawler.errors import ImageRefused
from crawler.facts import Facts
from crawler.model import Image
from crawler.reasons import Reason
from crawler.treatment import ANIMATED, Fit, Frames, Transform

#: How many times larger than wanted an image is, at least, when it is averaged by whole numbers before the filter.
GAP = 1.5
#: The same for a JPEG that its decoder reduces, which it does better. Measured on 200 photographs at 256 px, how far
#: the result is from a Lanczos filter over all pixels: 48.7 dB; with 1.5, and the bicubic filter, the same in a tenth
#: more time. OpenCV's INTER_AREA has 44.1.
DRAFT_GAP = 1.1
#: Most pixels of a side that can be written. Source: the formats' own fields for it, and what encoders leave of them.
LARGEST = {"JPEG": 65_500, "PNG": 1_000_000, "WEBP": 16_383, "AVIF": 65_536}
#: Formats whose frames follow each other in time; those of a TIFF are pages.
MOVING = ("GIF", "PNG", "WEBP", "AVIF")
#: Profiles that are kept ready.
PROFILES = 8
#: Number of the field of EXIF that says how an image is turned upright, and what is done for each of its values.
#: Source: EXIF 2.32, 4.6.4.
ORIENTATION = 0x0112
UPRIGHT = {
    2: Pillow.Transpose.FLIP_LEFT_RIGHT,
    3: Pillow.Transpose.ROTATE_180,
    4: Pillow.Transpose.FLIP_TOP_BOTTOM,
    5: Pillow.Transpose.TRANSPOSE,
    6: Pillow.Transpose.ROTATE_270,
    7: Pillow.Transpose.TRANSVERSE,
    8: Pillow.Transpose.ROTATE_90,
}
#: What encoders are told beside the quality. One thread: a verifier may start none.
OPTIONS: dict[str, dict[str, Any]] = {"AVIF": {"speed": 8, "max_threads": 1}}
#: What encoders say when they get no memory. Source: `WebPEncodingError` of libwebp; what that of AVIF was seen to say
#: of large pictures in a verifier.
NO_MEMORY = re.compile(r"encoding error [12]\b|Out of memory|Encoding of color planes failed")

_SRGB = ImageCms.createProfile("sRGB")


class Plan(NamedTuple):
    """What happens to the size of a picture."""

    #: (width, height) in pixels after resizing, before cropping or bordering.
    size: tuple[int, int]
    #: Whether it is cropped or bordered as well.
    is_fitted: bool


class Made(NamedTuple):
    """What became of an image."""

    image: Image
    #: The file, None where it stays as it came.
    data: bytes | None = None
    #: None where none are wanted of a verifier.
    facts: Facts | None = None


def plan(transform: Transform, size: tuple[int, int]) -> Plan:
    """Return what *transform* does to the size of a picture of *size* (width, height)."""
    by_shorter = transform.fit in (Fit.KEEP_RATIO, Fit.CENTER_CROP)
    side = min(size) if by_shorter else max(size)
    if not transform.size or (transform.only_if_bigger and side <= transform.size):
        return Plan(size, is_fitted=False)
    width, height = (max(1, round(pixels * transform.size / side)) for pixels in size)
    return Plan((width, height), is_fitted=transform.fit in (Fit.CENTER_CROP, Fit.BORDER))


class Transformer:
    """
    Transform one image.

    Args:
        transform: What is asked for.
        image: Opened, nothing of it decoded yet.
        max_pixels: Most that a picture may have after resizing.

    Raises:
        ImageRefused: With TRANSFORM_FAILED where the format or the limit has no room for the result.
    """

    def __init__(self, transform: Transform, image: Pillow.Image, max_pixels: int) -> None:
        self._transform = transform
        self._max_pixels = max_pixels
        self._animate = transform.frames is Frames.ALL and transform.format in ANIMATED and image.format in MOVING
        #: Size of the whole image, and what a decoder left of it: (left, upper, right, lower). None for all.
        self._drafted: tuple[tuple[int, int], tuple[float, float, float, float]] | None = None
        self._pictures: list[Pillow.Image] = []
        self._durations: list[int] = []
        self._loop = 1
        self._plan(image.size)

    def draft(self, image: Pillow.Image) -> None:
        """Have a JPEG decoded at a lower scale, where enough is left; all of its data are read all the same."""
        full = image.size
        width, height = (round(side * DRAFT_GAP) for side in self._plan(full).size)
        drafted = image.draft(None, (width, height))
        self._drafted = (full, drafted[1]) if drafted and image.size != full else None

    def take(self, frame: Pillow.Image) -> None:
        """
        Take the next frame, which is decoded.

        Raises:
            ImageRefused: With TRANSFORM_FAILED where its pixels cannot be converted.
        """
        if self._pictures and not self._animate:
            return
        self._loop = frame.info.get("loop", 1)
        self._durations.append(int(frame.info.get("duration") or 0))
        try:
            self._pictures.append(self._shape(frame))
        except (OSError, ValueError) as error:
            raise ImageRefused(Reason.TRANSFORM_FAILED, f"cannot be converted: {error}") from error

    def make(self) -> Made:
        """
        Encode what was taken.

        Raises:
            ImageRefused: With TRANSFORM_FAILED where the encoder cannot.
            MemoryError: The encoder got too little.
        """
        first, *others = _alike(self._pictures)
        options = {"quality": self._transform.quality, **OPTIONS.get(self._transform.format, {})}
        if others:
            options |= {"save_all": True, "append_images": others, "duration": self._durations, "loop": self._loop}
        file = io.BytesIO()
        try:
            first.save(file, self._transform.format, **options)
        except (OSError, ValueError, RuntimeError) as error:
            if NO_MEMORY.search(str(error)):
                raise MemoryError(str(error)) from error
            raise ImageRefused(Reason.TRANSFORM_FAILED, f"cannot be encoded: {error}") from error
        facts = Image(format=self._transform.format, width=first.width, height=first.height)
        return Made(facts, file.getvalue())

    def _plan(self, size: tuple[int, int]) -> Plan:
        found = plan(self._transform, size)
        width, height = found.size
        if max(found.size) > LARGEST[self._transform.format] or width * height > self._max_pixels:
            raise ImageRefused(Reason.TRANSFORM_FAILED, f"it would be resized to {width} x {height}")
        return found

    def _shape(self, frame: Pillow.Image) -> Pillow.Image:
        full, box = self._drafted or (frame.size, None)
        planned = self._plan(full)
        # Both before loading plain pixels, which forget them.
        turn, profile = UPRIGHT.get(frame.getexif().get(ORIENTATION, 1)), frame.info.get("icc_profile")
        picture = _resize(_plain(frame), planned.size, box)
        picture = _to_srgb(picture, profile)
        if picture is frame:
            # What can be opened reaches for the current folder when it is saved, which a sandbox does not have.
            picture = frame.copy()
        if turn is not None:
            picture = picture.transpose(turn)
        if planned.is_fitted:
            picture = _fit(picture, self._transform)
        if self._transform.format == "JPEG":
            picture = _on_white(picture)
        picture.info = {}  # encoders would write some of it
        return picture


def _plain(frame: Pillow.Image) -> Pillow.Image:
    """Return *frame* as L, LA, RGB, RGBA or CMYK, with 8 bits of each."""
    if frame.mode.startswith("I") or frame.mode == "F":
        return _to_8_bits(frame)
    if frame.has_transparency_data and frame.mode not in ("LA", "RGBA"):
        return frame.convert("RGBA")
    if frame.mode in ("L", "LA", "RGB", "RGBA", "CMYK"):
        return frame
    return frame.convert("L" if frame.mode == "1" else "RGB")


def _to_8_bits(frame: Pillow.Image) -> Pillow.Image:
    """Return grey of 16 or 32 bits or of fractions as L: 0 to 65535, else 0 to 1, else from least to most."""
    # What has 32 bits already would be copied, and of the largest pictures there is no room for another one.
    wide = frame.convert("I") if frame.mode.startswith("I;") else frame
    low, high = wide.getextrema()
    assert isinstance(low, int | float) and isinstance(high, int | float)  # noqa: PT018  (of one band)
    whole = 65535.0 if wide.mode == "I" else 1.0
    if low < 0 or high > whole:
        scale = 255 / max(high - low, 1)
    else:
        low, scale = 0, 255 / whole
    offset = 0.5 - low * scale
    return wide.point(lambda value: value * scale + offset).convert("L")


def _resize(
    picture: Pillow.Image, size: tuple[int, int], box: tuple[float, float, float, float] | None
) -> Pillow.Image:
    if size == picture.size:
        return picture
    is_smaller = size[0] * size[1] < picture.width * picture.height
    # A decoder's reducing leaves so few pixels that the better filter costs little, and needs it: see `DRAFT_GAP`.
    filter = Pillow.Resampling.BICUBIC if is_smaller and box is None else Pillow.Resampling.LANCZOS
    # Pillow weighs colours with their alpha, so that what cannot be seen does not show at edges.
    return picture.resize(size, filter, box, reducing_gap=GAP)


def _to_srgb(picture: Pillow.Image, profile: bytes | None) -> Pillow.Image:
    """Convert colours from *profile*, where it is one that fits; CMYK without one by the plain rule."""
    converter = _converter(profile, picture.mode) if profile else None
    if converter is not None and picture.mode == "LA":
        grey = ImageCms.applyTransform(picture.getchannel("L"), converter)
        assert grey is not None
        return Pillow.merge("LA", (grey.convert("L"), picture.getchannel("A")))
    if converter is not None:
        mode = picture.mode
        converted = ImageCms.applyTransform(picture, converter)
        assert converted is not None
        return converted.convert("L") if mode == "L" else converted
    return picture.convert("RGB") if picture.mode == "CMYK" else picture


@functools.lru_cache(maxsize=PROFILES)
def _converter(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return what converts pixels of *mode* from *profile* to sRGB; None where it is that, or cannot be used."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if (source.profile.profile_description or "").startswith("sRGB"):
            return None
        given = "L" if mode == "LA" else mode
        return ImageCms.buildTransform(source, _SRGB, given, "RGBA" if mode == "RGBA" else "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):  # of another kind of pixels, or broken
        return None


def _fit(picture: Pillow.Image, transform: Transform) -> Pillow.Image:
    """Cut the middle out of *picture*, or put it in the middle of white."""
    size = transform.size
    left, upper = (picture.width - size) // 2, (picture.height - size) // 2
    if transform.fit is Fit.CENTER_CROP:
        return picture.crop((left, upper, left + size, upper + size))
    whole = Pillow.new(picture.mode, (size, size), "white")
    whole.paste(picture, (-left, -upper))
    return whole


def _on_white(picture: Pillow.Image) -> Pillow.Image:
    if picture.mode not in ("LA", "RGBA"):
        return picture
    plain = Pillow.new(picture.mode[:-1], picture.size, "white")
    plain.paste(picture.convert(plain.mode), mask=picture.getchannel("A"))
    return plain


def _alike(pictures: list[Pillow.Image]) -> list[Pillow.Image]:
    """Return frames of one mode; one alone keeps its own."""
    modes = {picture.mode for picture in pictures}
    if len(modes) == 1:
        return pictures
    mode = "RGBA" if modes & {"LA", "RGBA"} else "RGB"
    return [picture.convert(mode) for picture in pictures]


def warm_up(transform: Transform) -> None:
    """Use once all that a transform may use, so that nothing has to be loaded in a sandbox."""
    for mode in ("I;16", "F", "P", "LA", "L", "RGB", "RGBA", "CMYK", "LAB"):
        picture = Pillow.new(mode, (9, 6))
        picture.info["icc_profile"] = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
        transformer = Transformer(transform, picture, max_pixels=1 << 62)
        for _ in range(2):
            transformer.take(picture)
        transformer.make()
