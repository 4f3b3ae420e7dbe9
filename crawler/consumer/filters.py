"""Refuse images that a run does not want, by what their header says, before anything is decoded."""

from __future__ import annotations

from crawler.errors import ImageRefused
from crawler.reasons import Reason
from crawler.treatment import Filters


def judge_bytes(filters: Filters, size: int) -> None:
    """Refuse a file of *size* bytes that is too small; one that is too large was never downloaded."""
    if size < filters.min_bytes:
        raise ImageRefused(Reason.TOO_FEW_BYTES, f"{size} bytes")


def judge_size(filters: Filters, size: tuple[int, int]) -> None:
    """
    Refuse a picture for its size.

    Args:
        filters: What is wanted.
        size: (width, height) in pixels of the first frame, as the file has it: before EXIF turns it.

    Raises:
        ImageRefused: The first of the reasons below that fits.
    """
    width, height = size
    ratio = max(size) / min(size)
    for refused, reason in (
        (width < filters.min_width, Reason.TOO_NARROW),
        (filters.max_width is not None and width > filters.max_width, Reason.TOO_WIDE),
        (height < filters.min_height, Reason.TOO_SHORT),
        (filters.max_height is not None and height > filters.max_height, Reason.TOO_TALL),
        (width * height < filters.min_pixels, Reason.TOO_FEW_PIXELS),
        (ratio < filters.min_aspect_ratio, Reason.TOO_SQUARE),
        (filters.max_aspect_ratio is not None and ratio > filters.max_aspect_ratio, Reason.TOO_ELONGATED),
    ):
        if refused:
            raise ImageRefused(reason, f"{width} x {height}")
