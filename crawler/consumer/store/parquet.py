"""
Shards in parquet: a row for each image, its bytes in a column that Hugging Face `datasets` reads as images.

    image    struct<bytes: binary, path: string>; path is the image's name in the shard
    …        columns of the list, then the facts; see `facts.py`
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from crawler.consumer.store.tar import Sample

#: Rows in a group: what a reader holds in memory to have one image. Source: the default of `datasets` for images.
ROWS = 100
#: Bytes of images after which a group ends before that.
GROUP_SIZE = 64_000_000

#: The type in which `datasets` keeps images.
_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
#: Types of the facts, which are columns of every shard, so that readers can take all shards together; what lists bring
#: beside is as it comes.
_TYPES = {
    "key": pa.string(),
    "url": pa.string(),
    "sha256": pa.string(),
    "bytes": pa.int64(),
    "width": pa.int32(),
    "height": pa.int32(),
    "format": pa.string(),
    "http_status": pa.int16(),
    "final_url": pa.string(),
    "content_type": pa.string(),
    "etag": pa.string(),
    "last_modified": pa.string(),
    "original_format": pa.string(),
    "original_width": pa.int32(),
    "original_height": pa.int32(),
    "original_bytes": pa.int64(),
    "original_sha256": pa.string(),
    "mode": pa.string(),
    "frames": pa.int32(),
    "icc": pa.string(),
    "exif": pa.string(),
    "phash": pa.string(),
    "licence": pa.string(),
    "fetch_seconds": pa.float64(),
    "decode_seconds": pa.float64(),
}
#: Those with parts, whose names are never the same for two images: text in JSON.
_MIXED = ("exif", "licence")
#: What makes `datasets` decode the column, in the metadata of the schema.
_FEATURES = {b"huggingface": json.dumps({"info": {"features": {"image": {"_type": "Image"}}}}).encode()}


def write(part: Path, kept: list[Sample], new: Path) -> None:
    """Write the samples *kept* of a part into a file of their own; in memory is one group of images."""
    with open(part, "rb") as source:
        facts = [json.loads(_read(source, sample.facts.offset, sample.facts.size)) for sample in kept]
        columns = _columns(facts)
        schema = pa.schema([("image", _IMAGE), *((name, column.type) for name, column in columns.items())], _FEATURES)
        with pq.ParquetWriter(new, schema, compression=_compression(columns)) as writer:
            for start, end in _groups(kept):
                images = [_image(source, sample) for sample in kept[start:end]]
                arrays = [pa.array(images, _IMAGE), *(column[start:end] for column in columns.values())]
                writer.write_table(pa.table(arrays, schema=schema))


def copy(path: Path | BinaryIO, gone: set[str], new: Path) -> None:
    """Write what is in a file into another one, without the images called as *gone*."""
    source = pq.ParquetFile(path)
    schema = source.schema_arrow
    with pq.ParquetWriter(new, schema, compression=_compression(schema.names)) as writer:
        for group in range(source.num_row_groups):
            table = source.read_row_group(group)
            names = table["image"].combine_chunks().field("path").to_pylist()
            writer.write_table(table.filter(pa.array([name not in gone for name in names])))


def _compression(columns: Iterable[str]) -> dict[str, str]:
    """Return how each column is packed: images are packed already."""
    return {"image.bytes": "none", "image.path": "zstd", **{name: "zstd" for name in columns if name != "image"}}


def _read(source: Any, offset: int, size: int) -> bytes:
    source.seek(offset)
    content: bytes = source.read(size)
    return content


def _image(source: Any, sample: Sample) -> dict[str, Any]:
    return {"bytes": _read(source, sample.image.offset, sample.image.size), "path": sample.image.name}


def _columns(facts: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the columns of all rows: those of the list in the order in which they are first met, then the facts."""
    names = [name for name in dict.fromkeys(name for row in facts for name in row) if name not in (*_TYPES, "image")]
    return {name: _column(name, [row.get(name) for row in facts]) for name in (*names, *_TYPES)}


def _column(name: str, values: list[Any]) -> Any:
    if name in _MIXED:
        values = [None if value is None else json.dumps(value, ensure_ascii=False) for value in values]
    try:
        column = pa.array(values, _TYPES.get(name))
    except (pa.ArrowInvalid, pa.ArrowTypeError):  # of several kinds
        column = pa.array([None if value is None else str(value) for value in values], pa.string())
    # Other shards have texts where this one has nothing.
    return column.cast(pa.string()) if pa.types.is_null(column.type) else column


def _groups(kept: list[Sample]) -> Iterator[tuple[int, int]]:
    start = size = 0
    for position, sample in enumerate(kept):
        if position > start and (position - start >= ROWS or size + sample.image.size > GROUP_SIZE):
            yield start, position
            start, size = position, 0
        size += sample.image.size
    yield start, len(kept)


class ParquetContents:
    """
    What is in a parquet file.

    Args:
        source: The file: its path, or itself, open.
    """

    def __init__(self, source: Path | BinaryIO) -> None:
        if isinstance(source, Path):
            os.stat(source)  # for an error as others have it, where there is none
        self._file = pq.ParquetFile(source)
        table = self._file.read(["image.path", "bytes"])
        names = [image["path"] for image in table["image"].to_pylist()]
        self._sizes = dict(zip(names, table["bytes"].to_pylist(), strict=True))
        self._rows = {name: row for row, name in enumerate(names)}
        self._group = functools.lru_cache(maxsize=1)(self._read_group)

    def sizes(self) -> dict[str, int]:
        """Return the size of each image: see `Contents.sizes`."""
        return self._sizes

    def digest(self, name: str) -> str:
        """Return the SHA-256 of an image: see `Contents.digest`."""
        if name not in self._rows:
            raise FileNotFoundError(f"there is no {name} in the shard")
        row = self._rows[name]
        for group in range(self._file.num_row_groups):
            count = self._file.metadata.row_group(group).num_rows
            if row < count:
                return hashlib.sha256(self._group(group)[row].as_buffer()).hexdigest()
            row -= count
        raise FileNotFoundError(f"there is no {name} in the shard")

    def _read_group(self, group: int) -> Any:
        return self._file.read_row_group(group, ["image.bytes"])["image"].combine_chunks().field("bytes")
