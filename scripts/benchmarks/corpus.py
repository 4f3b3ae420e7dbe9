"""
The images of the benchmarks: real photographs that Python packages ship, cut and encoded anew to what the web is like.

Each image is of a window, size, brightness and quality of its own, drawn from its number: the same packages and the
same Pillow make the same files. A corpus that is there is used again.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageEnhance

#: Packages whose wheels contain photographs, and which files these are.
PACKAGES = ("scikit-image==0.26.0", "scikit-learn==1.9.1", "ultralytics==8.4.190", "matplotlib==3.11.2")
PHOTOGRAPHS = (
    "skimage/data/astronaut.png",
    "skimage/data/chelsea.png",
    "skimage/data/coffee.png",
    "skimage/data/hubble_deep_field.jpg",
    "skimage/data/ihc.png",
    "skimage/data/motorcycle_left.png",
    "skimage/data/retina.jpg",
    "skimage/data/rocket.jpg",
    "sklearn/datasets/images/china.jpg",
    "sklearn/datasets/images/flower.jpg",
    "ultralytics/assets/bus.jpg",
    "ultralytics/assets/zidane.jpg",
    "matplotlib/mpl-data/sample_data/grace_hopper.jpg",
)
#: Files in one folder.
FOLDER_SIZE = 1_000


class Kind(NamedTuple):
    """What the images of a corpus are like."""

    name: str
    #: Median of the longer side in pixels, and how far it spreads (sigma of its logarithm).
    side_px: int
    spread: float
    #: JPEG and WebP quality, from and to.
    quality: tuple[int, int]
    #: Of a hundred images, the numbers from which PNG, WebP and GIF begin; those before are JPEG.
    mix: tuple[int, int, int]


WEB = Kind("web", 640, 0.30, (80, 95), (90, 95, 99))
SMALL = Kind("small", 230, 0.08, (82, 93), (100, 100, 100))


class Picture(NamedTuple):
    """One image of a corpus."""

    #: Path below the corpus, which is its path on the server too.
    path: str
    sha256: str
    size: int


def build(folder: Path, kind: Kind, count: int) -> list[Picture]:
    """
    Return *count* images of *kind* below *folder*, made where they are not there yet.

    Args:
        folder: Where corpora and photographs are kept.
        kind: What they are like.
        count: How many.
    """
    for manifest in folder.glob(f"{kind.name}-*.json"):
        if int(manifest.stem.rpartition("-")[2]) >= count:
            return [Picture(*row) for row in json.loads(manifest.read_text())[:count]]
    photographs = _photographs(folder / "photographs")
    jobs = [(str(folder), kind, number, photographs) for number in range(count)]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        made = list(pool.map(_make, jobs, chunksize=32))
    (folder / f"{kind.name}-{count}.json").write_text(json.dumps(made))
    return made


def _photographs(folder: Path) -> list[str]:
    if not all((folder / name).exists() for name in PHOTOGRAPHS):
        install = ["install", "--quiet", "--no-deps", "--upgrade", "--target", str(folder), *PACKAGES]
        subprocess.run([sys.executable, "-m", "pip", *install], check=True)
    return [str(folder / name) for name in PHOTOGRAPHS]


def _make(job: tuple[str, Kind, int, list[str]]) -> Picture:
    folder, kind, number, photographs = job
    chance = random.Random(f"{kind.name} {number}")
    image = _window(_load(chance.choice(photographs)), kind, chance)
    png, webp, gif = kind.mix
    place = number % 100
    suffix = "jpg" if place < png else "png" if place < webp else "webp" if place < gif else "gif"
    path = Path(folder, kind.name, str(number // FOLDER_SIZE), f"{number:06d}.{suffix}")
    path.parent.mkdir(parents=True, exist_ok=True)
    if suffix in ("jpg", "webp"):
        image.save(path, quality=chance.randint(*kind.quality))
    else:
        image.save(path)
    content = path.read_bytes()
    return Picture(str(path.relative_to(folder)), hashlib.sha256(content).hexdigest(), len(content))


@cache
def _load(path: str) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def _window(photograph: Image.Image, kind: Kind, chance: random.Random) -> Image.Image:
    """Cut a window of a common shape out of *photograph* and bring it to a size of the kind."""
    shape = chance.choice((4 / 3, 3 / 2, 16 / 9, 1.0, 3 / 4, 2 / 3))
    side = min(1600.0, max(120.0, kind.side_px * math.exp(chance.gauss(0, kind.spread))))
    size = (round(side), round(side / shape)) if shape >= 1 else (round(side * shape), round(side))
    full = min(photograph.width / size[0], photograph.height / size[1]) * chance.uniform(0.6, 1.0)
    width, height = size[0] * full, size[1] * full
    left, top = chance.uniform(0, photograph.width - width), chance.uniform(0, photograph.height - height)
    image = photograph.resize(size, Image.Resampling.BICUBIC, (left, top, left + width, top + height), 2.0)
    if chance.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return ImageEnhance.Brightness(image).enhance(chance.uniform(0.85, 1.15))
