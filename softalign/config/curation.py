"""Sources, filters and shards."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from softalign.artifacts import Frozen
from softalign.config.base import MAX_NAME_CHARS, Count, Ratio, StageConfig


class ShapesSource(Frozen):
    """Scenes of the embedded world, rendered to PNG files with a captions table, then read like any other source."""

    type: Literal["shapes"] = "shapes"
    num_scenes: Count = 1200
    captions_per_scene: Count = 2
    incomplete_share: Ratio = 0.1
    wrong_share: Ratio = 0.05
    table: Literal["coco", "parquet"] = "coco"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0

    @model_validator(mode="after")
    def _check_shares(self) -> Self:
        if self.incomplete_share + self.wrong_share > 1.0:
            raise ValueError("incomplete_share and wrong_share add up to more than 1")
        return self


class CocoSource(Frozen):
    """A COCO captions file (``images``, ``annotations``) and its image folder."""

    type: Literal["coco"] = "coco"
    annotations_uri: str
    images_uri: str


class ParquetSource(Frozen):
    """A Parquet table, one row per caption: an image path relative to ``images_uri``, and the caption."""

    type: Literal["parquet"] = "parquet"
    table_uri: str
    images_uri: str
    image_column: str = "file_name"
    caption_column: str = "caption"


Source = Annotated[ShapesSource | CocoSource | ParquetSource, Field(discriminator="type")]


class FilterConfig(Frozen):
    """What a sample must fulfil; every rejection is counted under the filter's name."""

    min_side_px: Count = 32
    max_aspect_ratio: Annotated[float, Field(ge=1.0)] = 3.0
    min_caption_chars: Count = 3
    max_caption_chars: Count = 1000
    drop_exact_duplicates: bool = True
    max_hash_distance: Annotated[int, Field(ge=-1, le=64)] = Field(
        2, description="perceptual hash bits that may differ between duplicates; -1: no perceptual deduplication"
    )

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        if self.min_caption_chars > self.max_caption_chars:
            raise ValueError("min_caption_chars is above max_caption_chars: no caption could pass")
        return self


class CurationConfig(StageConfig):
    """Sources -> filters -> shards."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=MAX_NAME_CHARS)]
    sources: Annotated[tuple[Source, ...], Field(min_length=1)]
    filters: FilterConfig = FilterConfig()
    val_share: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.05
    samples_per_shard: Count = 512
