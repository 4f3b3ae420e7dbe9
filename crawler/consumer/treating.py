"""What is made and noted of one image while its frames are decoded. Runs in verifiers, and in tests."""

from __future__ import annotations

import contextlib

import PIL.Image as Pillow

from crawler.consumer.describe import exif_of, phash_of, profile_of
from crawler.consumer.filters import judge_size
from crawler.consumer.transform import Made, Transformer
from crawler.facts import Facts
from crawler.model import Image
from crawler.settings import Limits
from crawler.treatment import Treatment


class Treating:
    """
    One image under treatment.

    Args:
        treatment: What a run was told.
        image: Opened, nothing of it decoded yet.
        limits: Of these, `max_pixels` counts.

    Raises:
        ImageRefused: Its header shows that it is not wanted, or cannot become what is.
    """

    def __init__(self, treatment: Treatment, image: Pillow.Image, limits: Limits) -> None:
        judge_size(treatment.filters, image.size)
        asked = treatment.transform
        self._wanted = treatment.facts
        self._transformer = Transformer(asked, image, limits.max_pixels) if asked else None
        self._came = Image(format=str(image.format), width=image.width, height=image.height)
        self._mode = image.mode
        self._profile = profile_of(image) if "image" in self._wanted else None
        self._exif = exif_of(image) if "exif" in self._wanted else None
        self._phash: str | None = None
        self._frames = 0

    @property
    def needs_pixels(self) -> bool:
        """Tell whether pixels are looked at, so that it is not enough to know that they could be had."""
        return self._transformer is not None or "phash" in self._wanted

    def draft(self, image: Pillow.Image) -> None:
        """Have a JPEG decoded no further than is needed; all of its data are read all the same."""
        # 1. A hash is that of all pixels.
        if "phash" in self._wanted:
            return
        # 2. So many as the transform needs.
        if self._transformer:
            self._transformer.draft(image)
        # 3. None: half the time of a full decode.
        else:
            image.draft("L", (1, 1))

    def take(self, frame: Pillow.Image) -> None:
        """Take the next frame, which is decoded."""
        self._frames += 1
        if self._frames == 1 and "phash" in self._wanted:
            with contextlib.suppress(ValueError):  # pixels that have no grey, as LAB
                self._phash = phash_of(frame)
        if self._transformer:
            self._transformer.take(frame)

    def made(self) -> Made:
        """Return what became of the image, all of which is decoded now."""
        made = self._transformer.make() if self._transformer else Made(self._came)
        return made._replace(facts=self._facts() if self._wanted else None)

    def _facts(self) -> Facts:
        facts: dict[str, str | int | None] = {"phash": self._phash}
        if "image" in self._wanted:
            # A PNG whose pixels were only checked has one.
            facts |= {"mode": self._mode, "icc": self._profile, "frames": self._frames or 1}
        if self._transformer:
            came = self._came
            facts |= {"original_format": came.format, "original_width": came.width, "original_height": came.height}
        return Facts(exif=self._exif, **facts)  # type: ignore[arg-type]
