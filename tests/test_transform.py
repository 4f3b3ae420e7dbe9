"""What becomes of images that are transformed: sizes, colours, orientation, alpha, animations."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from typing import Any

import PIL.Image as Pillow
import pytest
from PIL import ImageChops, ImageStat

from crawler.consumer.image import treat
from crawler.errors import ImageRefused
from crawler.reasons import Reason
from crawler.settings import Limits
from crawler.treatment import Fit, Transform, Treatment
from tests.conftest import ROOT

PHOTO = ROOT / "fixtures" / "ImageUrl_0.jpg"


@pytest.fixture(autouse=True)
def as_in_a_verifier() -> Iterator[None]:
    """Put back what verifying sets for its whole process."""
    kept = Pillow.MAX_IMAGE_PIXELS
    yield
    Pillow.MAX_IMAGE_PIXELS = kept


def scene(size: tuple[int, int], mode: str = "RGB") -> Pillow.Image:
    """Return a smooth picture whose four corners differ."""
    ramp = Pillow.linear_gradient("L")
    across, down = ramp.rotate(90).resize(size), ramp.resize(size)
    waves = Pillow.radial_gradient("L").resize(size)
    return Pillow.merge("RGB", (across, down, waves)).convert(mode)


def saved(picture: Pillow.Image, format: str, **options: Any) -> bytes:
    """Return *picture* as a file."""
    file = io.BytesIO()
    picture.save(file, format, **options)
    return file.getvalue()


def transformed(content: bytes, max_pixels: int = 64_000_000, **asked: Any) -> Pillow.Image:
    """Return what becomes of an image, decoded; what is said of it is what it is."""
    made = treat(io.BytesIO(content), Limits(max_pixels=max_pixels), Treatment(transform=Transform(**asked)))
    assert made.data is not None
    opened = Pillow.open(io.BytesIO(made.data))
    assert (opened.format, opened.size) == (made.image.format, (made.image.width, made.image.height))
    assert opened.format == asked.get("format", "JPEG")
    opened.load()
    return opened


def distance(one: Pillow.Image, other: Pillow.Image) -> float:
    """Return the root of the mean square of the differences of two pictures, 0 to 255."""
    assert one.size == other.size
    means = ImageStat.Stat(ImageChops.difference(one.convert("RGB"), other.convert("RGB"))).rms
    return math.sqrt(sum(mean * mean for mean in means) / len(means))


# ------------------------------------------------------------------ sizes


@pytest.mark.parametrize(
    ("fit", "given", "expected"),
    [
        ("keep-ratio", (640, 427), (384, 256)),
        ("keep-ratio", (427, 640), (256, 384)),
        ("keep-ratio", (100, 50), (512, 256)),
        ("keep-ratio", (256, 256), (256, 256)),
        ("keep-ratio", (1000, 333), (769, 256)),
        ("keep-ratio-largest", (640, 427), (256, 171)),
        ("keep-ratio-largest", (427, 640), (171, 256)),
        ("keep-ratio-largest", (100, 50), (256, 128)),
        ("keep-ratio-largest", (2000, 1), (256, 1)),
        ("center-crop", (640, 427), (256, 256)),
        ("center-crop", (51, 100), (256, 256)),
        ("border", (640, 427), (256, 256)),
        ("border", (3, 100), (256, 256)),
    ],
)
@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_size(format: str, fit: str, given: tuple[int, int], expected: tuple[int, int]) -> None:
    """Each mode has its size, for what is decoded at a lower scale and for what is not; small images grow."""
    picture = transformed(saved(scene(given), format), size=256, fit=Fit(fit))
    assert picture.size == expected


@pytest.mark.parametrize(
    ("fit", "given", "expected"),
    [
        ("keep-ratio", (640, 256), (640, 256)),
        ("keep-ratio", (640, 257), (638, 256)),
        ("keep-ratio-largest", (256, 10), (256, 10)),
        ("keep-ratio-largest", (257, 10), (256, 10)),
        ("center-crop", (640, 256), (640, 256)),
        ("center-crop", (640, 257), (256, 256)),
        ("border", (256, 10), (256, 10)),
        ("border", (257, 10), (256, 256)),
    ],
)
def test_only_if_bigger(fit: str, given: tuple[int, int], expected: tuple[int, int]) -> None:
    """An image whose side that counts is N or less keeps its size, and is neither cropped nor bordered."""
    picture = transformed(saved(scene(given), "JPEG"), size=256, fit=Fit(fit), only_if_bigger=True)
    assert picture.size == expected


def test_size_is_kept() -> None:
    """Without a size an image is only encoded anew."""
    assert transformed(saved(scene((123, 45)), "PNG"), format="WEBP").size == (123, 45)


def test_no_room_in_the_format() -> None:
    """What the target cannot hold, or more pixels than are allowed, is refused before it is decoded."""
    long = saved(Pillow.new("L", (16_384, 2)), "PNG")
    for asked in ({"format": "WEBP"}, {"size": 9, "fit": Fit.KEEP_RATIO}):
        with pytest.raises(ImageRefused) as caught:
            transformed(long[:100], max_pixels=100_000, **asked)
        assert caught.value.reason is Reason.TRANSFORM_FAILED


# ------------------------------------------------------------------ closeness


@pytest.mark.parametrize("fit", ["keep-ratio", "keep-ratio-largest"])
@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_close_to_reference(format: str, fit: str) -> None:
    """A picture is close to what a Lanczos filter makes of all pixels."""
    content = saved(scene((1900, 1300)), format, quality=95) if format == "JPEG" else saved(scene((1900, 1300)), format)
    picture = transformed(content, size=256, fit=Fit(fit), format="PNG")
    with Pillow.open(io.BytesIO(content)) as opened:
        reference = opened.convert("RGB").resize(picture.size, Pillow.Resampling.LANCZOS)
    assert distance(picture, reference) < 1.0


def test_crop_is_the_middle() -> None:
    """The crop is what is in the middle after resizing."""
    content = saved(scene((600, 300)), "PNG")
    picture = transformed(content, size=100, fit=Fit.CENTER_CROP, format="PNG")
    whole = transformed(content, size=100, format="PNG")
    assert distance(picture, whole.crop((50, 0, 150, 100))) == 0


def test_border_is_white() -> None:
    """The image is in the middle, and white around it."""
    content = saved(Pillow.new("RGB", (300, 100), "red"), "PNG")
    picture = transformed(content, size=90, fit=Fit.BORDER, format="PNG")
    expected = Pillow.new("RGB", (90, 90), "white")
    expected.paste(Pillow.new("RGB", (90, 30), "red"), (0, 30))
    assert distance(picture, expected) == 0


# ------------------------------------------------------------------ orientation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [0, 64])
def test_upright(orientation: int, size: int) -> None:
    """However a camera was held the picture is upright, and its EXIF is gone."""
    upright = scene((192, 128))
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    stored = upright.transpose(Pillow.Transpose(undo[orientation])) if orientation > 1 else upright
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    picture = transformed(saved(stored, "JPEG", quality=95, exif=exif), size=size, format="PNG")
    reference = upright.resize((96, 64), Pillow.Resampling.LANCZOS) if size else upright
    assert distance(picture, reference) < 2.5
    assert not picture.getexif()
