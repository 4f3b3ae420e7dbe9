"""What the bytes of a file tell before anything is decoded: what it is, how large, and whether its end is there."""

from __future__ import annotations

import io
import re
from typing import BinaryIO

from crawler.errors import ImageRefused
from crawler.reasons import Reason

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


def format_of(head: bytes, accepted: tuple[str, ...]) -> str:
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


def webp_size(file: BinaryIO) -> tuple[int, int]:
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


def ends_early(file: BinaryIO, head: bytes) -> bool:
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
