"""How images are kept: as files or in shards, what they are called, and when a shard is full."""

from __future__ import annotations

import enum

import msgspec


class Format(enum.StrEnum):
    """What a store is made of."""

    #: A file for each image.
    FILES = "files"
    #: Tar files with an image, its facts and its caption in a row.
    WEBDATASET = "webdataset"
    #: Parquet files with a row for each image, its bytes among the columns.
    PARQUET = "parquet"

    @property
    def ending(self) -> str:
        """Return how the names of shards end, "" where there are none."""
        return {"webdataset": ".tar", "parquet": ".parquet"}.get(self.value, "")


class Naming(enum.StrEnum):
    """What files are called."""

    #: By their content: one file for the same bytes.
    DIGEST = "digest"
    #: By the number of their task.
    INDEX = "index"
    #: By their URL, as far as that is safe, and the number of their task.
    URL = "url"


class Storage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How images are kept."""

    format: Format = Format.FILES
    #: Of files; images in shards are called by the number of their task.
    name: Naming = Naming.DIGEST
    #: Images after which a shard is full.
    shard_count: int = 10_000
    #: Bytes after which a shard is full.
    shard_size: int = 1_000_000_000
    #: Seconds after which a shard is closed though it is not full.
    shard_age: float = 3600.0
    #: Column of the lists whose text goes beside an image as its caption, None for none.
    caption_column: str | None = None

    @property
    def is_sharded(self) -> bool:
        """Tell whether many images share a file."""
        return self.format is not Format.FILES

    @property
    def is_owned(self) -> bool:
        """Tell whether names count the tasks of one crawl, so that no other may keep images in the same place."""
        return self.is_sharded or self.name is not Naming.DIGEST

    def layout(self) -> str:
        """Return, in words, what may not change while a crawl goes on."""
        if not self.is_sharded:
            return f"--format {self.format} --name {self.name}"
        caption = f" --caption-column {self.caption_column}" if self.caption_column else ""
        return f"--format {self.format}{caption}"
