"""
Who is measured: crawler, what a user would pick instead, and the floor.

Each is an environment of its own, a command, the settings among which its best is looked for, and where its images are.
All give a fetch ten seconds and try once, so that they have the same work.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

HERE = Path(__file__).parent
#: Seconds that a fetch may take.
TIMEOUT = "10"


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One program."""

    name: str
    #: What it does with an image, for the table.
    does: str
    #: What pip installs, none where the program comes with the system.
    packages: tuple[str, ...] = ()
    #: Threads (for img2dataset and crawler: of each of two processes; for Scrapy: requests) to choose among.
    settings: tuple[int, ...]
    #: Makes the command of (folder of environments, list, folder for images, setting).
    command: Callable[[Path, Path, Path, int], list[str]]
    #: Where its images are below its folder, or the tars in which they are, as glob patterns.
    images: tuple[str, ...]
    #: Whether it keeps what was served byte for byte.
    exact: bool = True
    #: Shorter side in pixels of what it makes, 0 where it leaves sizes as they are.
    side: int = 0
    #: Name of the one of ours that does the same, which it is held against.
    beside: str = "crawler"
    #: How its version is told.
    version: tuple[str, ...] = ()


def _ours(*options: str) -> Callable[[Path, Path, Path, int], list[str]]:
    def command(environments: Path, urls: Path, out: Path, threads: int) -> list[str]:
        program = [str(environments / "crawler" / "bin" / "crawler"), "-q", "seed", str(urls), "-o", str(out)]
        tried = ["--allow-net", "127.0.0.0/8", "--timeout", TIMEOUT, "--attempts", "1", "--threads", str(threads)]
        return [*program, *tried, *options]

    return command


def _floor(environments: Path, urls: Path, out: Path, threads: int) -> list[str]:
    return [
        str(environments / "floor" / "bin" / "python"),
        "-P",
        str(HERE / "floor.py"),
        str(urls),
        str(out),
        str(threads),
    ]


def _img2dataset(*options: str) -> Callable[[Path, Path, Path, int], list[str]]:
    def command(environments: Path, urls: Path, out: Path, threads: int) -> list[str]:
        program = [str(environments / "img2dataset" / "bin" / "img2dataset"), f"--url_list={urls}"]
        tried = [f"--thread_count={threads}", f"--timeout={TIMEOUT}", "--retries=0"]
        shards = ["--number_sample_per_shard=500", "--processes_count=2", "--enable_wandb=False"]
        return [*program, f"--output_folder={out}", *shards, *tried, *options]

    return command


def _scrapy(environments: Path, urls: Path, out: Path, threads: int) -> list[str]:
    python = str(environments / "scrapy" / "bin" / "python")
    return [python, "-P", str(HERE / "scrapy_images.py"), str(urls), str(out), str(threads)]


def _aria2c(environments: Path, urls: Path, out: Path, threads: int) -> list[str]:
    # Its own resolver takes a name that has no IPv6 address for one that has none at all.
    options = [
        "--quiet",
        "--no-conf",
        "--async-dns=false",
        "--file-allocation=none",
        f"--timeout={TIMEOUT}",
        f"--connect-timeout={TIMEOUT}",
    ]
    return ["aria2c", *options, "--max-tries=1", f"--dir={out}", f"--input-file={urls}", f"-j{threads}"]


def _wget2(environments: Path, urls: Path, out: Path, threads: int) -> list[str]:
    options = ["--quiet", "--no-config", f"--timeout={TIMEOUT}", "--tries=1", "--no-robots", "--no-hsts"]
    return ["wget2", *options, f"--max-threads={threads}", "-P", str(out), "-i", str(urls)]


OURS = Contender(
    name="crawler",
    does="verifies, keeps, records",
    settings=(16, 32, 128),
    command=_ours("--per-host", "256", "--robots", "ignore"),
    images=("images/??/*",),
    version=("crawler/bin/crawler", "--version"),
)
DEFAULTS = Contender(
    name="crawler, default politeness",
    does="verifies, keeps, records",
    settings=(32,),
    command=_ours(),
    images=("images/??/*",),
    version=("crawler/bin/crawler", "--version"),
)
FLOOR = Contender(
    name="floor",
    does="verifies, keeps",
    packages=("pycurl",),
    settings=(4, 8, 16),
    command=_floor,
    images=("??/*",),
)
IMG2DATASET = Contender(
    name="img2dataset",
    does="decodes, keeps JPEG, turns others into JPEG",
    packages=("img2dataset==1.47.0",),
    settings=(16, 32, 128),
    command=_img2dataset("--resize_mode=no", "--skip_reencode=True"),
    images=("?????/*.jpg",),
    exact=False,
    version=("img2dataset/bin/pip", "show", "img2dataset"),
)
SCRAPY = Contender(
    name="Scrapy ImagesPipeline",
    does="decodes, keeps JPEG, turns others into JPEG",
    packages=("scrapy==2.19.0", "pillow"),
    settings=(32, 64),
    command=_scrapy,
    images=("full/*.jpg",),
    exact=False,
    version=("scrapy/bin/scrapy", "version"),
)
ARIA2C = Contender(
    name="aria2c",
    does="keeps, verifies nothing",
    settings=(16, 32, 64),
    command=_aria2c,
    images=("*.*",),
    version=("aria2c", "--version"),
)
WGET2 = Contender(
    name="wget2",
    does="keeps, verifies nothing",
    settings=(16, 32, 64),
    command=_wget2,
    images=("*.*",),
    version=("wget2", "--version"),
)
#: Pixels in the scenario of resized images, where all make the same size, format and quality.
SIDE = 256
_OURS_RESIZED = ("--per-host", "256", "--robots", "ignore", "--resize", str(SIDE), "--quality", "95")
_RESIZED = ("--resize_mode=keep_ratio", f"--image_size={SIDE}", "--encode_quality=95")
OURS_RESIZED = replace(
    OURS,
    does="verifies, resizes, keeps, records",
    command=_ours(*_OURS_RESIZED),
    exact=False,
    side=SIDE,
)
IMG2DATASET_RESIZED = replace(
    IMG2DATASET,
    does="decodes, resizes, keeps",
    command=_img2dataset(*_RESIZED),
    side=SIDE,
)
OURS_SHARDED = replace(
    OURS_RESIZED,
    name="crawler, webdataset",
    does="verifies, resizes, keeps in tars, records",
    command=_ours(*_OURS_RESIZED, "--format", "webdataset"),
    images=("images/*.tar",),
    beside="crawler, webdataset",
)
IMG2DATASET_SHARDED = replace(
    IMG2DATASET_RESIZED,
    name="img2dataset, webdataset",
    does="decodes, resizes, keeps in tars",
    command=_img2dataset(*_RESIZED, "--output_format=webdataset"),
    images=("*.tar",),
    beside="crawler, webdataset",
)
ALL = (OURS, DEFAULTS, FLOOR, IMG2DATASET, SCRAPY, ARIA2C, WGET2)


def images(contender: Contender, out: Path) -> Iterator[Path]:
    """Yield the images that a contender left in its folder."""
    for pattern in contender.images:
        yield from (path for path in out.glob(pattern) if path.suffix != ".aria2")


def whole(contender: Contender, path: Path) -> int:
    """Return how many images as they should be are in a file that is no copy of what was served."""
    if path.suffix != ".tar":
        return _is_whole(contender, path)
    # Another program's order of members is its own: a sample is an image and its facts, whichever comes first.
    with tarfile.open(path) as tar:
        members = {member.name: member for member in tar}
        images = [name for name in members if name.endswith(".jpg")]
        described = [name for name in images if f"{name.removesuffix('.jpg')}.json" in members]
        return sum(_is_whole(contender, io.BytesIO(tar.extractfile(members[name]).read())) for name in described)


def _is_whole(contender: Contender, file: Path | io.BytesIO) -> bool:
    if not contender.side:
        return file.stat().st_size > 0
    with Image.open(file) as image:
        image.load()
        return image.format == "JPEG" and min(image.size) == contender.side


def install(environments: Path, wheel: str) -> None:
    """Make an environment for each contender that needs one, and put *wheel* into crawler's and the floor's."""
    wanted = {"crawler": (wheel,), "floor": (wheel, *FLOOR.packages)}
    wanted |= {"img2dataset": IMG2DATASET.packages, "scrapy": SCRAPY.packages}
    for name, packages in wanted.items():
        folder = environments / name
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        if not folder.exists():
            subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([*pip, *packages], check=True)
        if wheel in packages:  # the version may be that of the wheel which is there
            subprocess.run([*pip, "--force-reinstall", "--no-deps", wheel], check=True)


def version(contender: Contender, environments: Path) -> str:
    """Return the version of a contender as it tells it, "" where it tells none."""
    if not contender.version:
        return ""
    command = list(contender.version)
    if "/" in command[0]:
        command[0] = str(environments / command[0])
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout.replace("Version: ", "Version ")
    return next((word for word in said.split() if word[0].isdigit() and "." in word), "")
