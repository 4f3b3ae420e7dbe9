"""
Verify one image: the only module that meets Pillow, and it runs only in verifiers (and in tests).

"Verified" means that every frame decodes completely. What a file is, is judged by its first bytes, never by its name
or by what a server called it.
"""

from __future__ import annotations

import copy  # noqa: F401  (a decoder loads it late, and in a sandbox it could not)
import errno
import io
import re
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

from crawler.consumer.png import check_pixels, read_layout
from crawler.errors import ImageRefused
from crawler.model import Image
from crawler.reasons import Reason
from crawler.settings import Limits

#: Most frames of one image.
MAX_FRAMES = 10_000
#: Pixels of all frames together, as a multiple of `Limits.max_pixels`: half a gigapixel by default. In GIF and WebP 64
#: million took 0.7 s, so that all are judged well within the ten seconds that a verifier has.
FRAMES_FACTOR = 8
#: What a pixel of these formats counts: their decoders hold more copies of the whole picture than others do, and the
#: memory of a verifier is measured by `Limits.max_pixels`. Measured at 64 million pixels: 16 and 11.5 bytes for each,
#: at most 8 for the others.
WEIGHTS = {"WEBP": 2.0, "AVIF": 1.5}
#: First bytes that are looked at to tell what a file is.
HEAD_SIZE = 4096

#: How files begin that can be decoded, by Pillow's name of the format. Most published flaws of Pillow are in the
#: other formats, and some of those are handed to an interpreter: no setting lets them in.
_MAGIC = {
    name: re.compile(pattern, re.DOTALL)
    for name, pattern in (
        ("JPEG", rb"\xff\xd8\xff"),
        ("PNG", rb"\x89PNG\r\n\x1a\n"),
        ("GIF", rb"GIF8[79]a"),
        ("WEBP", rb"RIFF....WEBP"),
        ("AVIF", rb"....ftyp(?:avi[fs]|m[is]f1)"),
        ("BMP", rb"BM"),
        ("TIFF", rb"II(?:[*+]\0|\0\*)|MM(?:\0[*+]|\*\0)"),
    )
}
#: How files of image formats begin that are known, and refused.
_REFUSED_MAGIC: tuple[tuple[str, re.Pattern[bytes]], ...] = tuple(
    (name, re.compile(pattern, re.DOTALL))
    for name, pattern in (
        ("EPS", rb"%!PS|\xc5\xd0\xd3\xc6"),
        ("PSD", rb"8BPS"),
        ("ICO", rb"\0\0[\x01\x02]\0[^\0]"),
        ("JPEG 2000", rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51"),
        ("JPEG XL", rb"\xff\x0a|\0\0\0\x0cJXL "),
        ("JPEG XR", rb"II\xbc"),
        ("HEIF", rb"....ftyp(?:hei[cmsx]|hev[cmsx])"),
        ("PNM", rb"P[1-7]\s"),
        ("DDS", rb"DDS "),
        ("ICNS", rb"icns"),
        ("QOI", rb"qoif"),
        ("MNG", rb"\x8a[MJ]NG|\x8bJNG"),
        ("FLIF", rb"FLIF"),
        ("WMF or EMF", rb"\xd7\xcd\xc6\x9a|\x01\0\0\0.{36} EMF"),
        ("SGI", rb"\x01\xda[\0\x01][\x01\x02]"),
        ("FITS", rb"SIMPLE  ="),
        ("XCF", rb"gimp xcf"),
        ("DjVu", rb"AT&TFORM"),
    )
)
#: Byte order marks and white space before a document's first tag.
_BLANK = b"\xef\xbb\xbf\xff\xfe \t\r\n\f"
#: How web pages begin, in lower case. Source: WHATWG MIME Sniffing, "identifying a resource with an unknown MIME type".
_HTML = re.compile(
    rb"<(?:!doctype html|html|head|script|iframe|h1|div|font|table|a|style|title|b|body|br|p|meta)[\s>/]|<!--"
)

#: Where each of the three kinds of WebP says its size. Source: RFC 9649, sections 2.5 to 2.7.
_WEBP_SIZE = re.compile(rb".{12}(?:VP8X.{8}(.{3})(.{3})|VP8L.{4}/(.{4})|VP8 .{7}\x9d\x01\x2a(.{2})(.{2}))", re.DOTALL)

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
    head = file.read(HEAD_SIZE)
    refuse_by_head(head)
    format = _format_of(head, limits.formats)
    Pillow.MAX_IMAGE_PIXELS = limits.max_pixels
    # Pillow's other warnings are about metadata, not about pixels.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Pillow.DecompressionBombWarning)
        try:
            return _decode(file, format, limits)
        except ImageRefused:
            raise
        # Decoders raise nearly anything for hostile bytes, beside what they promise.
        except Exception as error:
            raise _translate(error, file, head) from error


def refuse_by_head(head: bytes) -> None:
    """
    Refuse what the first bytes show to be no image, or one of a format that is not decoded.

    Args:
        head: Up to `HEAD_SIZE` bytes.

    Raises:
        ImageRefused: With EMPTY, HTML, SVG, NOT_AN_IMAGE (other XML) or FORMAT_REFUSED.
    """
    if not head:
        raise ImageRefused(Reason.EMPTY, "no bytes")
    # UTF-16 is read as ASCII with zeros between.
    text = head.replace(b"\0", b"").lstrip(_BLANK).lower()
    if text.startswith(b"<"):
        _refuse_markup(text)
    for name, magic in _REFUSED_MAGIC:
        if magic.match(head):
            raise ImageRefused(Reason.FORMAT_REFUSED, f"{name} is not accepted")


def _format_of(head: bytes, accepted: tuple[str, ...]) -> str:
    """Return the format that the first bytes promise, so that no decoder but its own ever sees the file."""
    format = next((name for name, magic in _MAGIC.items() if magic.match(head)), None)
    if format is None:
        raise ImageRefused(Reason.NOT_AN_IMAGE, "unknown kind of data")
    if format not in accepted:
        raise ImageRefused(Reason.FORMAT_REFUSED, f"{format} is not among the accepted formats")
    return format


def _refuse_markup(text: bytes) -> None:
    """Refuse SVG, web pages and other XML, given in lower case; comments and declarations may come first."""
    # A web page may hold a drawing, and a drawing a piece of a web page: what comes first is the whole.
    whole = re.search(rb"<(?:(?:\w+:)?(svg)|!doctype html|html)[\s>]", text)
    if whole and whole[1] and re.match(rb"<(?:\w+:)?svg|<\?xml|<!--|<!doctype svg", text):
        raise ImageRefused(Reason.SVG, "an SVG document")
    if whole or _HTML.match(text):
        raise ImageRefused(Reason.HTML, "a web page")
    if text.startswith(b"<?xml"):
        raise ImageRefused(Reason.NOT_AN_IMAGE, "an XML document")


def _decode(file: BinaryIO, format: str, limits: Limits) -> Image:
    """Open the image, judge its size from the header, then decode all of it."""
    if format == "WEBP":
        # Its decoder takes the memory for two whole pictures before it tells the size of one.
        _judge_size(_webp_size(file), format, limits.max_pixels)
    with Pillow.open(file, formats=(format,)) as image:
        facts = Image(format=format, width=image.width, height=image.height)
        _judge_size(image.size, str(image.format), limits.max_pixels)
        if format == "PNG":
            is_animated = bool(getattr(image, "is_animated", False))
            # Checks what loading does not: the checksums of all chunks. It uses the object up.
            image.verify()
        else:
            _decode_frames(image, limits)
    if format == "PNG":
        layout = None if is_animated else read_layout(file)
        if layout is not None:
            check_pixels(file, layout)
        else:
            with Pillow.open(file, formats=(format,)) as image:
                _decode_frames(image, limits)
    if format == "GIF":
        _require_trailer(file)
    return facts


def _decode_frames(image: Pillow.Image, limits: Limits) -> None:
    """Decode one frame after the other, within the limits on their number and their pixels together."""
    if image.format == "JPEG":
        # Reads every entropy-coded byte as a full decode does, but spares computing most pixels: half the time.
        image.draft("L", (1, 1))
    pixels = 0
    for number in range(MAX_FRAMES + 1):
        try:
            image.seek(number)
        except EOFError:
            return
        _judge_size(image.size, str(image.format), limits.max_pixels)
        pixels += image.width * image.height
        if pixels > limits.max_pixels * FRAMES_FACTOR:
            raise ImageRefused(
                Reason.TOO_MANY_PIXELS, f"over {limits.max_pixels * FRAMES_FACTOR} in {number + 1} frames"
            )
        image.load()
    raise ImageRefused(Reason.TOO_MANY_PIXELS, f"more than {MAX_FRAMES} frames")


def _require_trailer(file: BinaryIO) -> None:
    """Refuse a GIF that ends between two frames; Pillow, which stopped where it saw no more, takes that for the end."""
    file.seek(-1, io.SEEK_CUR)
    if file.read(1) != b";":
        raise ImageRefused(Reason.IMAGE_TRUNCATED, "no trailer after the last frame")


def _webp_size(file: BinaryIO) -> tuple[int, int]:
    """Return width and height that the header of a WebP tells; 1 x 1 where it is none, which the decoder refuses."""
    file.seek(0)
    found = _WEBP_SIZE.match(file.read(HEAD_SIZE))
    file.seek(0)
    if found is None:
        return 1, 1
    numbers = [int.from_bytes(group, "little") for group in found.groups() if group is not None]
    # 1. VP8L: both in one number, less 1. 2. VP8X: less 1. 3. VP8: two bits of each say how to scale it.
    if found[3] is not None:
        return (numbers[0] & 0x3FFF) + 1, (numbers[0] >> 14 & 0x3FFF) + 1
    if found[1] is not None:
        return numbers[0] + 1, numbers[1] + 1
    return numbers[0] & 0x3FFF, numbers[1] & 0x3FFF


def _judge_size(size: tuple[int, int], format: str, max_pixels: int) -> None:
    """Refuse a picture of *size* (width, height) that has no pixels, or too many for its format."""
    width, height = size
    weight = WEIGHTS.get(format, 1.0)
    if width * height * weight > max_pixels:
        raise ImageRefused(Reason.TOO_MANY_PIXELS, f"{width} x {height}" + (f" of {format}" if weight > 1 else ""))
    if width < 1 or height < 1:
        raise ImageRefused(Reason.IMAGE_BROKEN, f"{width} x {height}")


def _translate(error: Exception, file: BinaryIO, head: bytes) -> ImageRefused:
    """Turn what Pillow raised into a reason. Which exception it is says little; the file's end says more."""
    detail = f"{type(error).__name__}: {error}"
    # 1. Too large.
    if isinstance(error, Pillow.DecompressionBombWarning | Pillow.DecompressionBombError):
        return ImageRefused(Reason.TOO_MANY_PIXELS, str(error))
    # A verifier's limit on memory is the other face of the limit on pixels: kinds of pixels differ in what they take.
    if isinstance(error, MemoryError):
        return ImageRefused(Reason.TOO_MANY_PIXELS, "decoding takes more memory than a verifier may use")
    # 2. Our own disk, not the image.
    if isinstance(error, OSError) and error.errno == errno.EIO:
        return ImageRefused(Reason.INTERNAL, detail)
    # 3. Not what the first bytes promised.
    if isinstance(error, UnidentifiedImageError):
        detail = "its header does not decode"
        if head[4:8] == b"ftyp" and b"avi" not in head[:64]:
            return ImageRefused(Reason.FORMAT_REFUSED, "HEIF is not accepted")
    # 4. An image, cut or broken.
    cut = isinstance(error, EOFError) or "truncated" in str(error).lower() or _ends_early(file, head)
    return ImageRefused(Reason.IMAGE_TRUNCATED if cut else Reason.IMAGE_BROKEN, detail)


def _ends_early(file: BinaryIO, head: bytes) -> bool:
    """Tell whether the file lacks the end that its format prescribes; TIFF and AVIF prescribe none."""
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - 4096))
    tail = file.read()
    if head.startswith(b"\xff\xd8"):
        return b"\xff\xd9" not in tail
    if head.startswith(b"\x89PNG"):
        return b"IEND" not in tail
    if head.startswith(b"GIF8"):
        return not tail.rstrip(b"\0").endswith(b";")
    if head.startswith(b"RIFF"):
        return size < int.from_bytes(head[4:8], "little") + 8
    return head.startswith(b"BM") and size < int.from_bytes(head[2:6], "little")
