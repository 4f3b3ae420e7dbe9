"""What becomes of images that are transformed: sizes, colours, orientation, alpha, animations."""

from __future__ import annotations

import io
import math
import random
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import PIL.Image as Pillow
import pytest
from PIL import ImageChops, ImageStat

from crawler.consumer.image import treat
from crawler.errors import ImageRefused
from crawler.facts import KINDS
from crawler.reasons import Reason
from crawler.settings import Limits
from crawler.treatment import Fit, Frames, Transform, Treatment
from tests.conftest import ROOT

#: What it tries is the same on every Python; that crawls run there is seen by others.
pytestmark = pytest.mark.once

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


@pytest.mark.parametrize("fit", ["keep-ratio", "keep-ratio-largest"])
@pytest.mark.parametrize(("times", "of"), [(7, 4), (9, 4), (5, 2), (11, 4), (9, 2)])
def test_closer_than_averages_of_areas(times: int, of: int, fit: str) -> None:
    """Whether its decoder reduces a JPEG or not, the picture is closer to the reference than what averages areas."""
    sides = (64 * times // of, 96 * times // of) if fit == "keep-ratio" else (32 * times // of, 64 * times // of)
    content = saved(texture(sides), "JPEG", quality=95)
    picture = transformed(content, size=64, fit=Fit(fit), format="PNG")
    with Pillow.open(io.BytesIO(content)) as opened:
        reference = opened.resize(picture.size, Pillow.Resampling.LANCZOS)
        large = opened.resize((sides[0] * of, sides[1] * of), Pillow.Resampling.NEAREST)
    assert distance(picture, reference) < distance(large.reduce(times), reference)


def texture(size: tuple[int, int]) -> Pillow.Image:
    """Return a picture as of a photograph: details of all sizes, whose colours change more slowly than their light."""
    chance, whole = random.Random(3), Pillow.new("RGB", size)
    for step, mode, share in ((64, "RGB", 1.0), (32, "RGB", 0.4), (16, "L", 0.3), (8, "L", 0.25), (4, "L", 0.2)):
        width, height = -(-size[0] // step), -(-size[1] // step)
        part = Pillow.frombytes(mode, (width, height), chance.randbytes(len(mode) * width * height))
        whole = Pillow.blend(whole, part.resize(size, Pillow.Resampling.BICUBIC).convert("RGB"), share)
    return whole


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


# ------------------------------------------------------------------ kinds of pixels


def linear_profile(space: bytes) -> bytes:
    """Return an ICC profile with the colours of sRGB, or grey, whose values are proportional to light."""
    curve = b"curv\0\0\0\0" + struct.pack(">I", 0)
    points = {b"rXYZ": (0.4360, 0.2225, 0.0139), b"gXYZ": (0.3851, 0.7169, 0.0971), b"bXYZ": (0.1431, 0.0606, 0.7141)}
    name = b"desc\0\0\0\0" + struct.pack(">I", 7) + b"linear\0" + bytes(78)
    tags = {b"desc": name, b"wtpt": _xyz(0.9642, 1, 0.8249)}
    if space == b"RGB ":
        tags |= {name: _xyz(*point) for name, point in points.items()}
        tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    else:
        tags |= {b"kTRC": curve}
    directory, data = struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        directory += name + struct.pack(">II", 132 + 12 * len(tags) + len(data), len(content))
        data += content + bytes(-len(content) % 4)
    body = directory + data
    head = struct.pack(">I4sI4s4s4s", 128 + len(body), b"\0\0\0\0", 0x02400000, b"mntr", space, b"XYZ ")
    head += bytes(12) + b"acsp" + bytes(28) + _xyz(0.9642, 1, 0.8249)[8:]
    return head.ljust(128, b"\0") + body


def _xyz(*parts: float) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(part * 65536) for part in parts))


def plain(mode: str, color: Any) -> Pillow.Image:
    """Return a picture of one color."""
    return Pillow.new(mode, (40, 30), color)


def palette() -> bytes:
    """Return a PNG with a palette, whose left half cannot be seen and whose right half is red."""
    picture = Pillow.new("P", (40, 30), 1)
    picture.putpalette([0, 0, 0, 255, 0, 0])
    picture.paste(0, (0, 0, 20, 30))
    return saved(picture, "PNG", transparency=0)


def floats(low: float, high: float) -> bytes:
    """Return a TIFF of fractions, its left half *low* and its right half *high*."""
    picture = Pillow.new("F", (40, 30), high)
    picture.paste(low, (0, 0, 20, 30))
    return saved(picture, "TIFF")


#: What sRGB has for a value of 55 that is proportional to light. Source: IEC 61966-2-1, 5.2.
LIGHT = round(255 * (1.055 * (55 / 255) ** (1 / 2.4) - 0.055))


@pytest.mark.parametrize(
    ("content", "left", "right"),
    [
        pytest.param(saved(plain("CMYK", (0, 255, 255, 0)), "JPEG", quality=95), (255, 0, 0), (255, 0, 0), id="CMYK"),
        pytest.param(saved(plain("CMYK", (0, 0, 0, 127)), "TIFF"), (128,) * 3, (128,) * 3, id="CMYK, black"),
        pytest.param(saved(plain("I;16", 0x8080), "PNG"), (128,) * 3, (128,) * 3, id="16 bits"),
        pytest.param(saved(plain("I;16", 255), "TIFF"), (1,) * 3, (1,) * 3, id="16 bits, dark"),
        pytest.param(saved(plain("I", 0x7FFFFFFF), "TIFF"), (0,) * 3, (0,) * 3, id="32 bits, of one value"),
        pytest.param(floats(0.0, 0.5), (0,) * 3, (128,) * 3, id="fractions"),
        pytest.param(floats(-1000.0, 1000.0), (0,) * 3, (255,) * 3, id="beyond fractions"),
        pytest.param(palette(), (255,) * 3, (255, 0, 0), id="palette with transparency"),
        pytest.param(saved(plain("1", 1), "PNG"), (255,) * 3, (255,) * 3, id="1 bit"),
        pytest.param(saved(plain("LA", (0, 51)), "PNG"), (204,) * 3, (204,) * 3, id="grey with alpha"),
        pytest.param(saved(plain("RGBA", (255, 0, 0, 51)), "PNG"), (255, 204, 204), (255, 204, 204), id="alpha"),
        pytest.param(saved(plain("RGB", "red"), "PNG", transparency=(255, 0, 0)), (255,) * 3, (255,) * 3, id="key"),
        pytest.param(saved(plain("YCbCr", (255, 128, 128)), "TIFF"), (255,) * 3, (255,) * 3, id="YCbCr"),
        pytest.param(
            saved(plain("RGB", (55, 55, 255)), "PNG", icc_profile=linear_profile(b"RGB ")),
            (LIGHT, LIGHT, 255),
            (LIGHT, LIGHT, 255),
            id="profile",
        ),
        pytest.param(
            saved(plain("RGBA", (55, 55, 55, 255)), "PNG", icc_profile=linear_profile(b"RGB ")),
            (LIGHT,) * 3,
            (LIGHT,) * 3,
            id="profile and alpha",
        ),
        pytest.param(
            saved(plain("L", 55), "PNG", icc_profile=linear_profile(b"GRAY")),
            (LIGHT,) * 3,
            (LIGHT,) * 3,
            id="profile of grey",
        ),
        pytest.param(
            saved(plain("LA", (55, 255)), "PNG", icc_profile=linear_profile(b"GRAY")),
            (LIGHT,) * 3,
            (LIGHT,) * 3,
            id="profile of grey, and alpha",
        ),
        pytest.param(
            saved(plain("CMYK", (0, 255, 255, 0)), "JPEG", quality=95, icc_profile=linear_profile(b"RGB ")),
            (255, 0, 0),
            (255, 0, 0),
            id="profile of other pixels",
        ),
        pytest.param(
            saved(plain("RGB", "red"), "PNG", icc_profile=b"junk"), (255, 0, 0), (255, 0, 0), id="broken profile"
        ),
    ],
)
@pytest.mark.parametrize("size", [0, 15])
def test_colors(content: bytes, left: tuple[int, ...], right: tuple[int, ...], size: int) -> None:
    """Every kind of pixels has its colours, on white where they cannot be seen."""
    picture = transformed(content, size=size, format="JPEG", quality=100).convert("RGB")
    for expected, column in ((left, 0), (right, picture.width - 1)):
        found = picture.getpixel((column, picture.height // 2))
        assert isinstance(found, tuple)
        # JPEG keeps colours at half the resolution, and rounds.
        assert max(abs(one - other) for one, other in zip(found, expected, strict=True)) <= 3


@pytest.mark.parametrize("format", ["PNG", "WEBP", "AVIF"])
def test_alpha_is_kept(format: str) -> None:
    """Where the format has it; edges do not show colours that could not be seen."""
    picture = Pillow.new("RGBA", (100, 100), (255, 0, 0, 255))
    picture.paste((0, 255, 0, 0), (0, 0, 50, 100))
    made = transformed(saved(picture, "PNG"), size=25, format=format, quality=100 if format != "PNG" else 95)
    assert made.mode == "RGBA"
    seen = Pillow.new("RGB", made.size, "white")
    seen.paste(made, mask=made.getchannel("A"))
    assert made.getpixel((0, 12))[3] == 0  # type: ignore[index]
    for column in range(made.width):
        _, green, blue = seen.getpixel((column, 12))  # type: ignore[misc]
        assert abs(green - blue) <= 12


def test_grey_stays_grey() -> None:
    """Where the format has it."""
    grey = saved(scene((90, 60), "L"), "PNG")
    assert {format: transformed(grey, format=format).mode for format in ("JPEG", "PNG", "WEBP")} == {
        "JPEG": "L",
        "PNG": "L",
        "WEBP": "RGB",
    }


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_no_metadata(format: str) -> None:
    """EXIF, profile, comment and texts of the image that came are not in what is stored."""
    exif = Pillow.Exif()
    exif[0x010F] = "secret"
    content = saved(
        scene((60, 40)), "JPEG", exif=exif, comment=b"secret", icc_profile=linear_profile(b"RGB ") + b"secret"
    )
    made = treat(io.BytesIO(content), Limits(), Treatment(transform=Transform(format=format, quality=80)))
    assert made.data is not None
    assert b"secret" in content
    assert b"secret" not in made.data
    assert b"linear" not in made.data


# ------------------------------------------------------------------ animations


def animation(format: str) -> bytes:
    """Return three frames that differ in color and time, shown twice."""
    frames = [Pillow.new("RGB", (60, 40), color) for color in ("red", "lime", "blue")]
    times = {"duration": [100, 200, 300], "loop": 2}
    return saved(frames[0], format, save_all=True, append_images=frames[1:], **times)


@pytest.mark.parametrize("given", ["GIF", "WEBP", "PNG", "AVIF"])
@pytest.mark.parametrize("format", ["PNG", "WEBP", "AVIF"])
def test_animation_is_kept(given: str, format: str) -> None:
    """All frames, their order and their times, at the new size."""
    picture = transformed(animation(given), size=20, format=format, frames=Frames.ALL)
    assert picture.n_frames == 3  # type: ignore[attr-defined]
    for number, color in enumerate(((255, 0, 0), (0, 255, 0), (0, 0, 255))):
        picture.seek(number)
        picture.load()
        assert picture.size == (30, 20)
        found = picture.convert("RGB").getpixel((15, 10))
        assert isinstance(found, tuple)
        assert max(abs(one - other) for one, other in zip(found, color, strict=True)) <= 8
        assert picture.info["duration"] == (number + 1) * 100
    if given in ("WEBP", "PNG") and format in ("WEBP", "PNG"):
        assert picture.info["loop"] == 2


@pytest.mark.parametrize("given", ["GIF", "WEBP", "PNG", "AVIF"])
@pytest.mark.parametrize(("format", "frames"), [("JPEG", Frames.ALL), ("WEBP", Frames.FIRST), ("PNG", Frames.FIRST)])
def test_first_frame(given: str, format: str, frames: Frames) -> None:
    """Else the first frame is an image."""
    picture = transformed(animation(given), size=20, format=format, frames=frames)
    assert getattr(picture, "n_frames", 1) == 1
    found = picture.convert("RGB").getpixel((15, 10))
    assert isinstance(found, tuple)
    assert max(abs(one - other) for one, other in zip(found, (255, 0, 0), strict=True)) <= 3


def test_pages_are_no_animation() -> None:
    """Of a TIFF the first page is taken."""
    pages = [Pillow.new("RGB", size, "red") for size in ((60, 40), (10, 90))]
    content = saved(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    picture = transformed(content, size=20, format="WEBP", frames=Frames.ALL)
    assert (picture.size, getattr(picture, "n_frames", 1)) == ((30, 20), 1)


def test_a_broken_later_frame_is_refused() -> None:
    """Though only the first one is kept."""
    with pytest.raises(ImageRefused) as caught:
        transformed(animation("GIF")[:-40], size=20)
    assert caught.value.reason is Reason.IMAGE_TRUNCATED


# ------------------------------------------------------------------ what others made to break decoders


@pytest.mark.parametrize(
    "asked",
    [
        Transform(size=64),
        Transform(size=33, fit=Fit.BORDER, format="WEBP", frames=Frames.ALL),
    ],
)
def test_corpora(corpora: Path, asked: Transform) -> None:
    """A transform refuses what is refused without it, for the same reason, and makes an image of all else."""
    stored = refused = 0
    for path in (path for path in sorted(corpora.rglob("*")) if path.is_file()):
        content = path.read_bytes()
        with_it = outcome(content, Treatment(transform=asked, facts=KINDS))
        assert (path.name, with_it) == (path.name, outcome(content, Treatment(facts=KINDS)))
        stored += with_it is None
        refused += with_it is not None
    assert stored > 750
    assert refused > 300


def outcome(content: bytes, asked: Treatment) -> Reason | None:
    """Return why an image is refused, None where it is not; what is made of it decodes."""
    try:
        made = treat(io.BytesIO(content), Limits(), asked)
    except ImageRefused as error:
        return error.reason
    if made.data is not None:
        with Pillow.open(io.BytesIO(made.data)) as opened:
            opened.load()
            assert opened.size == (made.image.width, made.image.height)
    return None
