"""The options of `seed` that say what is done with an image before it is stored."""

from __future__ import annotations

import math
from typing import Any

import click

from crawler.cli.common import with_options
from crawler.errors import UsageError

#: Largest N of --resize.
MAX_SIZE = 16_383
FITS = ("keep-ratio", "keep-ratio-largest", "center-crop", "border")
#: What --encode takes; names of formats in lower case.
ENCODINGS = ("jpeg", "png", "webp", "avif")
#: What --facts is by default.
KINDS = "response,image,exif"
_FACTS_HELP = "What records tell beside the outcome; also phash, a perceptual hash; or none."


def _facts(context: click.Context, parameter: click.Parameter, value: str) -> tuple[str, ...]:
    from crawler.facts import KINDS as known

    names = {name.strip().lower() for name in value.split(",")}
    if unknown := sorted(names.difference(known, {"none"})):
        raise click.BadParameter(f"{unknown[0]!r} is no kind of facts: give some of {', '.join(known)}, or none")
    if "none" in names and len(names) > 1:
        raise click.BadParameter("none goes with no other kind")
    return tuple(kind for kind in known if kind in names)


_PIXELS = click.IntRange(min=1)
_RATIO = click.FloatRange(min=1)

treatment_options = with_options(
    click.option("--min-width", type=_PIXELS, metavar="N", help="Pixels, as the file has them before EXIF turns it."),
    click.option("--max-width", type=_PIXELS, metavar="N", help="Pixels."),
    click.option("--min-height", type=_PIXELS, metavar="N", help="Pixels."),
    click.option("--max-height", type=_PIXELS, metavar="N", help="Pixels."),
    click.option("--min-pixels", type=_PIXELS, metavar="N", help="Smallest width x height."),
    click.option("--min-aspect-ratio", type=_RATIO, metavar="X", help="Longer side / shorter side, at least."),
    click.option("--max-aspect-ratio", type=_RATIO, metavar="X", help="Longer side / shorter side, at most."),
    click.option("--min-bytes", type=_PIXELS, metavar="N", help="Smallest file."),
    click.option("--resize", type=click.IntRange(1, MAX_SIZE), metavar="N", help="Bring images to N pixels."),
    click.option("--resize-mode", type=click.Choice(FITS), help="What N is; see README. [keep-ratio]"),
    click.option("--resize-only-if-bigger", is_flag=True, help="Leave the size of smaller images as it is."),
    click.option("--encode", type=click.Choice(ENCODINGS), help="Write images anew. [jpeg with --resize, else not]"),
    click.option("--quality", type=click.IntRange(1, 100), help="Of what is encoded. [95; avif 80]"),
    click.option("--frames", type=click.Choice(["first", "all"]), help="Of animations encoded anew. [first]"),
    click.option("--facts", metavar="KINDS", callback=_facts, default=KINDS, show_default=True, help=_FACTS_HELP),
)


def read_treatment(options: dict[str, Any]) -> Any:
    """
    Return what the options say.

    Raises:
        UsageError: One of them has no meaning without another, or beside it.
    """
    from crawler.treatment import Treatment

    facts = options["facts"]
    if options["near_duplicates"] is not None and "phash" not in facts:  # they are found by it
        facts += ("phash",)
    return Treatment(filters=_filters(options), transform=_transform(options), facts=facts)


def _filters(options: dict[str, Any]) -> Any:
    from crawler.treatment import Filters

    given = {name: options[name] for name in Filters.__struct_fields__ if options[name] is not None}
    for what in ("width", "height", "aspect_ratio"):
        least, most = given.get(f"min_{what}", 0), given.get(f"max_{what}", math.inf)
        if least > most:
            raise UsageError(f"--min-{what} {least} is more than --max-{what} {most}".replace("_", "-"))
    return Filters(**given)


def _transform(options: dict[str, Any]) -> Any:
    from crawler.treatment import QUALITIES, Fit, Frames, Transform

    if not options["resize"]:
        _refuse(options, ("resize_mode", "resize_only_if_bigger"), "--resize")
        if not options["encode"]:
            _refuse(options, ("quality", "frames"), "--resize or --encode")
            return None
    format = (options["encode"] or "jpeg").upper()
    if format == "PNG":
        _refuse(options, ("quality",), "another --encode than png, which loses nothing")
    return Transform(
        size=options["resize"] or 0,
        fit=Fit(options["resize_mode"] or FITS[0]),
        only_if_bigger=options["resize_only_if_bigger"],
        format=format,
        quality=options["quality"] or QUALITIES[format],
        frames=Frames(options["frames"] or "first"),
    )


def _refuse(options: dict[str, Any], names: tuple[str, ...], needed: str) -> None:
    """Refuse options that are given, of *names*, where what they need is not."""
    for name in names:
        if options[name]:
            raise UsageError(f"--{name.replace('_', '-')} goes with {needed}")
