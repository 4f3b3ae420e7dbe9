"""
What is known about a stored image beside its record: about its file, its picture, and the response that brought it.

All of it was said by strangers; texts are cut, and what cannot be printed is taken out. Fields may be added: who knows
fewer of them passes the others over.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

#: Longest text, in characters.
MAX_TEXT = 300
#: Kinds of facts that can be asked for.
KINDS = ("response", "image", "exif", "phash")

#: Stands before the name of a column of a list that has the name of one of ours, where both are written.
LIST_PREFIX = "list_"

Text = Annotated[str, msgspec.Meta(max_length=MAX_TEXT)]
Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
#: A few named values.
Few = Annotated[dict[Text, Text | Count | bool], msgspec.Meta(max_length=16)]


class Facts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Facts about one image; what is not known, or was not asked for, has its default."""

    #: What the image was before its transform: Pillow's name of the format, pixels, bytes and the SHA-256 of the file
    #: that came, 64 hexadecimal digits. None where it is stored as it came.
    original_format: Text | None = None
    original_width: Count | None = None
    original_height: Count | None = None
    original_bytes: Count | None = None
    original_sha256: Text | None = None
    #: Pillow's name for the kind of pixels in the file that came, as RGB, L, P, CMYK or I;16.
    mode: Text | None = None
    #: Frames of an animation, or pages, in the file that came.
    frames: Count | None = None
    #: Description of the ICC profile in the file that came.
    icc: Text | None = None
    #: Some of the EXIF of the file that came: see `crawler.consumer.describe.EXIF`.
    exif: Few | None = None
    #: Perceptual hash of the first frame as it came, 16 hexadecimal digits: that of imagehash.phash.
    phash: Text | None = None
    #: Id of the task whose image it is nearly the same as, and the bits in which their hashes differ: of one that was
    #: recorded when another like it was, where that was asked for.
    duplicate_of: Count | None = None
    duplicate_distance: Count | None = None
    #: URL that answered, where it is not that of the task.
    final_url: str | None = None
    #: Headers of the response.
    content_type: Text | None = None
    etag: Text | None = None
    last_modified: Text | None = None
    #: Headers that say what may be done with the image, by lower-case name: see `crawler.worker.licence`.
    licence: Few | None = None
    #: Seconds from the last request for the image to its last byte.
    fetch_seconds: float | None = None
    #: Seconds of a verifier: decoding, and the transform.
    decode_seconds: float | None = None
