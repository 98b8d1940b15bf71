"""The records of curated and of encoded data."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from softalign.artifacts.frozen import Frozen
from softalign.artifacts.record import Record, Stage


class ReasonCount(Frozen):
    """How many images, or captions of kept ones, were rejected for one reason."""

    reason: str
    count: int


class DatasetManifest(Record):
    """Curated WebDataset shards: ``shard-000000.tar`` with ``shard-000000.parquet`` beside each.

    Attributes:
        parent_key: stage key of the dataset that this one is with caption changes; empty: of none.
        num_merged_captions: how many captions are those of exact duplicates of an image.
        repaired: how many captions were mended, by what; ``repaired.parquet`` lists them as ``rejected.parquet`` does.
        weights: of the sources, by name, whose images an epoch draws more or less than once.
    """

    stage: ClassVar[Stage] = "curate"
    filename: ClassVar[str] = "manifest.json"
    later_fields: ClassVar[tuple[str, ...]] = ("parent_key", "num_merged_captions", "repaired", "weights")

    name: str
    num_samples: int
    num_captions: int
    num_val_samples: int
    num_shards: int
    total_bytes: int
    num_seen: int
    rejected: tuple[ReasonCount, ...] = ()
    parent_key: str = ""
    num_merged_captions: int = 0
    repaired: tuple[ReasonCount, ...] = ()
    weights: dict[str, float] = Field({})


class EncodedManifest(Record):
    """Latent shards (keyed by image digest) and text shards (keyed by caption digest) of one backbone.

    Attributes:
        dataset_parent_key: of the dataset; its ``parent_key``.
    """

    stage: ClassVar[Stage] = "encode"
    filename: ClassVar[str] = "manifest.json"
    later_fields: ClassVar[tuple[str, ...]] = ("dataset_parent_key",)

    name: str
    backbone_digest: str
    vae_digest: str
    text_encoder_digest: str
    latent_shape: tuple[int, int, int]
    text_shape: tuple[int, int]
    pooled_width: int
    hard_negatives_per_caption: int
    num_samples: int
    num_val_samples: int
    num_latents: int
    num_texts: int
    total_bytes: int
    dataset_parent_key: str = ""
