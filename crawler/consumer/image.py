"""
Verify one image, and transform it where that is asked for; this runs only in verifiers (and in tests).

"Verified" means that every frame decodes completely. What a file is, is judged by its first bytes, never by its name
or by what a server called it.
"""

from __future__ import annotations

import copy  # noqa: F401  (a decoder loads it late, and in a sandbox it could not)
import errno
import io
import warnings
from typing import BinaryIO

import PIL.Image as Pillow
from PIL import (  # noqa: F401  (importing a plugin is what registers its format)
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from crawler.consumer.filters import judge_bytes
from crawler.consumer.png import check_pixels, read_layout
from crawler.consumer.sniff import HEAD_SIZE, ends_early, format_of, refuse_by_head, webp_size
from crawler.consumer.transform import Made
from crawler.consumer.treating import Treating
from crawler.errors import ImageRefused
from crawler.model import Image
from crawler.reasons import Reason
from crawler.settings import Limits
from crawler.treatment import Treatment

#: Most frames of one image.
MAX_FRAMES = 10_000
#: Pixels of all frames together, as a multiple of `Limits.max_pixels`: half a gigapixel by default. In GIF and WebP 64
#: million took 0.7 s, so that all are judged well within the ten seconds that a verifier has.
FRAMES_FACTOR = 8
#: What a pixel of these formats counts: their decoders hold more copies of the whole picture than others do, and the
#: memory of a verifier is measured by `Limits.max_pixels`. Measured at 64 million pixels: 16 and 11.5 bytes for each,
#: at most 8 for the others.
WEIGHTS = {"WEBP": 2.0, "AVIF": 1.5}

# All that Pillow loads late would not be found in a sandbox.
Pillow.preinit()
# One verifier per core is enough parallelism.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1
# A large editing history among the texts of a PNG is no reason to refuse its pixels; Pillow's 1 MB is too little.
PngImagePlugin.MAX_TEXT_CHUNK = 16 * 1024 * 1024
ImageFile.LOAD_TRUNCATED_IMAGES = False
# Pillow opens a JPEG that announces further pictures as MPO and wants them all; servers often cut these off, and what
# everybody sees is the first, a plain JPEG.
Pillow.register_open("JPEG", JpegImagePlugin.JpegImageFile, Pillow.OPEN["JPEG"][1])


def verify(file: BinaryIO, limits: Limits) -> Image:
    """
    Decode the image in *file* completely and tell what it is.

    Args:
        file: Open at its beginning; it can seek.
        limits: Of these, `max_pixels` and `formats` count.

    Returns:
        Format, and width and height in pixels of the first frame.

    Raises:
        ImageRefused: It is no image that can be stored; the reason says why.
    """
    return treat(file, limits, Treatment(facts=())).image


def treat(file: BinaryIO, limits: Limits, treatment: Treatment) -> Made:
    """
    Verify the image in *file*, and make of it what *treatment* says.

    Returns:
        Facts about what is to be stored, and its bytes where they are others than those of the file.

    Raises:
        ImageRefused: As `verify` does, and where the transform cannot be done.
    """
    head = file.read(HEAD_SIZE)
    refuse_by_head(head)
    format = format_of(head, limits.formats)
    judge_bytes(treatment.filters, file.seek(0, io.SEEK_END))
    file.seek(0)
    Pillow.MAX_IMAGE_PIXELS = limits.max_pixels
    # Pillow's other warnings are about metadata, not about pixels.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Pillow.DecompressionBombWarning)
        try:
            return _decode(file, format, limits, treatment)
        except ImageRefused:
            raise
        # Decoders raise nearly anything for hostile bytes, beside what they promise.
        except Exception as error:
            raise _translate(error, file, head) from error


def _decode(file: BinaryIO, format: str, limits: Limits, treatment: Treatment) -> Made:
    """Open the image, judge its size from the header, then decode all of it."""
    if format == "WEBP":
        # Its decoder takes the memory for two whole pictures before it tells the size of one.
        _judge_size(webp_size(file), format, limits.max_pixels)
    with Pillow.open(file, formats=(format,)) as image:
        _judge_size(image.size, str(image.format), limits.max_pixels)
        treating = Treating(treatment, image, limits)
        if format == "PNG":
            is_animated = bool(getattr(image, "is_animated", False))
            # Checks what loading does not: the checksums of all chunks. It uses the object up.
            image.verify()
        else:
            _decode_frames(image, limits, treating)
    if format == "PNG":
        layout = None if is_animated else read_layout(file)
        is_in_doubt = layout is not None
        # Pixels that nobody looks at are not made, if they can be checked without.
        if layout is None or treating.needs_pixels:
            with Pillow.open(file, formats=(format,)) as image:
                _decode_frames(image, limits, treating)
                # What is wrong with them has shown, but for rows that are missing: Pillow leaves these empty.
                is_in_doubt = is_in_doubt and _ends_empty(image)
        if layout is not None and is_in_doubt:
            check_pixels(file, layout)
    if format == "GIF":
        _require_trailer(file)
    return treating.made()


def _decode_frames(image: Pillow.Image, limits: Limits, treating: Treating) -> None:
    """Decode one frame after the other, within the limits on their number and their pixels together."""
    if image.format == "JPEG":
        treating.draft(image)
    pixels = 0
    for number in range(MAX_FRAMES + 1):
        try:
            image.seek(number)
        except EOFError:
            return
        _judge_size(image.size, str(image.format), limits.max_pixels)
        pixels += image.width * image.height
        if pixels > limits.max_pixels * FRAMES_FACTOR:
            said = f"{FRAMES_FACTOR} times --max-pixels {limits.max_pixels}"
            raise ImageRefused(Reason.TOO_MANY_PIXELS, f"its first {number + 1} frames together are over {said}")
        image.load()
        treating.take(image)
    raise ImageRefused(Reason.TOO_MANY_PIXELS, f"more than {MAX_FRAMES} frames")


def _ends_empty(image: Pillow.Image) -> bool:
    """Tell whether nothing but zeros is in the last row, which a decoder that was cut off has left as it was made."""
    width, height = image.size
    return not image.crop((0, height - 1, width, height)).tobytes().strip(b"\0")


def _require_trailer(file: BinaryIO) -> None:
    """Refuse a GIF that ends between two frames; Pillow, which stopped where it saw no more, takes that for the end."""
    file.seek(-1, io.SEEK_CUR)
    if file.read(1) != b";":
        raise ImageRefused(Reason.IMAGE_TRUNCATED, "no trailer after the last frame")


def _judge_size(size: tuple[int, int], format: str, max_pixels: int) -> None:
    """Refuse a picture of *size* (width, height) that has no pixels, or too many for its format."""
    width, height = size
    weight = WEIGHTS.get(format, 1.0)
    if width * height * weight > max_pixels:
        counted = f", where a pixel of {format} counts as {weight:g}," if weight > 1 else ""
        raise ImageRefused(Reason.TOO_MANY_PIXELS, f"{width} x {height}{counted} is over --max-pixels {max_pixels}")
    if width < 1 or height < 1:
        raise ImageRefused(Reason.IMAGE_BROKEN, f"{width} x {height}")


def _translate(error: Exception, file: BinaryIO, head: bytes) -> ImageRefused:
    """Turn what Pillow raised into a reason. Which exception it is says little; the file's end says more."""
    detail = f"{type(error).__name__}: {error}"
    # 1. Too large.
    if isinstance(error, Pillow.DecompressionBombWarning | Pillow.DecompressionBombError):
        return ImageRefused(Reason.TOO_MANY_PIXELS, f"{str(error).partition(',')[0]}: see --max-pixels")
    # A verifier's limit on memory is the other face of the limit on pixels: kinds of pixels differ in what they take.
    if isinstance(error, MemoryError):
        said = "it takes more memory than a verifier has, which grows with --max-pixels"
        return ImageRefused(Reason.TOO_MANY_PIXELS, said)
    # 2. Our own disk, not the image.
    if isinstance(error, OSError) and error.errno == errno.EIO:
        return ImageRefused(Reason.INTERNAL, detail)
    # 3. Not what the first bytes promised.
    if isinstance(error, UnidentifiedImageError):
        detail = "its header does not decode"
        if head[4:8] == b"ftyp" and b"avi" not in head[:64]:
            return ImageRefused(Reason.FORMAT_REFUSED, "HEIF is not accepted")
    # 4. An image, cut or broken.
    cut = isinstance(error, EOFError) or "truncated" in str(error).lower() or ends_early(file, head)
    return ImageRefused(Reason.IMAGE_TRUNCATED if cut else Reason.IMAGE_BROKEN, detail)
