"""The images of an encoded dataset, ``samples.parquet``: what training needs of curated rows, and hard negatives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from softalign.data.curation.shards import INDEX_SCHEMA, CaptionedImage, IndexRow, schema_with_weights, write_table

SAMPLE_SCHEMA = {
    **{name: INDEX_SCHEMA[name] for name in ("key", "split", "image_digest", "captions", "caption_digests")},
    "hard_negatives": "lists",
}


@dataclass(frozen=True, slots=True)
class SampleRow(CaptionedImage):
    """One image of an encoded dataset, as ``samples.parquet`` lists it.

    Attributes:
        hard_negatives: for each caption its edits; an edit's encoding is found by its caption digest.
        caption_weights: how often each caption is drawn, relative to the others; empty: all alike.
        weight: how often an epoch draws the image, on average.
    """

    hard_negatives: list[list[str]]
    caption_weights: tuple[float, ...] = ()
    weight: float = 1.0


def write_samples(
    path: Path, rows: Iterable[tuple[IndexRow, list[list[str]]]], source_weights: Mapping[str, float]
) -> None:
    """Write curated rows with their hard negatives; weights are columns where there are some.

    Args:
        path: of the table.
        rows: each with the edits of its captions.
        source_weights: by source, of those whose weight is not 1.
    """
    samples = [_sample(row, edits, source_weights.get(row.source, 1.0)) for row, edits in rows]
    schema = schema_with_weights(SAMPLE_SCHEMA, samples) | ({"weight": "double"} if source_weights else {})
    write_table(path, samples, schema)


def _sample(row: IndexRow, edits: list[list[str]], weight: float) -> SampleRow:
    captioned = (row.key, row.split, row.image_digest, row.captions, row.caption_digests)
    return SampleRow(*captioned, edits, row.caption_weights, weight)
