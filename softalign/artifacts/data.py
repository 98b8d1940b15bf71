"""The records of curated and of encoded data."""

from __future__ import annotations

from typing import ClassVar, Literal

from softalign.artifacts.frozen import Frozen
from softalign.artifacts.record import Record, Stage

TextMode = Literal["stored", "online"]
"""Whether ``encode`` stores the texts' encodings, or training makes them as it needs them."""


class ReasonCount(Frozen):
    """How many images, or captions of kept ones, were rejected for one reason."""

    reason: str
    count: int


class SourceWeight(Frozen):
    """How often an epoch draws each image of a source, on average."""

    source: str
    weight: float


class DatasetManifest(Record):
    """Curated WebDataset shards: ``shard-000000.tar`` with ``shard-000000.parquet`` beside each.

    Attributes:
        parent_key: stage key of the dataset that this one is with caption changes; empty: of none.
        num_merged_captions: how many captions are those of exact duplicates of an image.
        repaired: how many captions were mended, by what; ``repaired.parquet`` lists them as ``rejected.parquet`` does.
        weights: of the sources whose images an epoch draws more or less than once.
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
    weights: tuple[SourceWeight, ...] = ()


class EncodedManifest(Record):
    """Latent shards (keyed by image digest) and text shards (keyed by caption digest) of one backbone.

    Attributes:
        num_texts: how many different texts it has, stored or not; the empty one among them.
        dataset_parent_key: of the dataset; its ``parent_key``.
        text: whether the text states are stored, or training runs the text encoders itself.
        num_lost_shards: of the dataset, which were damaged and so left out; ``lost.json`` names them.
        num_lost_samples: in these.
    """

    stage: ClassVar[Stage] = "encode"
    filename: ClassVar[str] = "manifest.json"
    later_fields: ClassVar[tuple[str, ...]] = ("dataset_parent_key", "text", "num_lost_shards", "num_lost_samples")

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
    text: TextMode = "stored"
    num_lost_shards: int = 0
    num_lost_samples: int = 0
