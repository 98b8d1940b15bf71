"""The encode stage: frozen VAE latents by image digest, text encodings by caption digest, apart.

Both lie in pools that all datasets of a store share (``pool``), so a dataset with new captions encodes text
only, and a killed run goes on at the shard it was at. A published dataset is an index into the pools:
``samples.parquet``, ``latents.json`` and ``texts.json``. Hard negatives are texts like the captions; the index says
which belong to which.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import Tensor

from softalign.artifacts import DatasetManifest, EncodedManifest, canonical_json
from softalign.backbones.frozen_pipeline import resolve_device
from softalign.backbones.loading import load_backbone
from softalign.config.backbone import BackboneConfig
from softalign.config.runtime import Runtime
from softalign.data.captions.hard_negatives import drawn_edits
from softalign.data.curation.samples import caption_digest
from softalign.data.curation.shards import INDEX_SCHEMA, CaptionedImage, IndexRow, read_index, shard_name, write_table
from softalign.data.encoding.encoders import FrozenEncoders
from softalign.data.encoding.pool import EncodedPool, PoolShard
from softalign.data.encoding.preprocessing import preprocess
from softalign.processes.reporter import Reporter
from softalign.store.read_ahead import map_ahead
from softalign.store.store import Store

InputT = TypeVar("InputT")

EMPTY_CAPTION = ""
MAX_TEXTS_PER_SHARD = 512
SAMPLE_SCHEMA = {
    **{name: INDEX_SCHEMA[name] for name in ("key", "split", "image_digest", "captions", "caption_digests")},
    "hard_negatives": "lists",
}
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SampleRow(CaptionedImage):
    """One image of an encoded dataset, as ``samples.parquet`` lists it.

    Attributes:
        hard_negatives: for each caption its edits; an edit's encoding is found by its caption digest.
    """

    hard_negatives: list[list[str]]


def encode(
    dataset: DatasetManifest,
    backbone: BackboneConfig,
    runtime: Runtime,
    store: Store,
    key: str,
    hard_negatives_per_caption: int = 0,
) -> EncodedManifest:
    """Encode a dataset's images and captions, and publish the index of them.

    Computed in float32, stored in float16. The empty caption is always among the texts: guidance and the soft tokens'
    start need it.

    Args:
        dataset: the curated images and captions.
        backbone: whose VAE and text encoder are used, and the resolution.
        runtime: device and number of reader threads.
        store: where the dataset lies and the encodings go.
        key: the stage key of the request.
        hard_negatives_per_caption: how many edits of each caption are encoded too, at most.

    Raises:
        MissingInputError: the base model is not there.
        IntegrityError: a file of the dataset is not what was published.
        DataError: an encoding is not finite.
    """
    work_path = store.work_path("encode", key)
    encoders = _load_encoders(backbone, runtime)
    shards = _read_shards(dataset, store, hard_negatives_per_caption)
    latents_pool = EncodedPool(store, ("latents",), encoders.latents_spec, work_path)
    latents = _encode_images(shards, latents_pool, encoders, runtime.num_threads)
    texts_pool = EncodedPool(store, encoders.text_tensor_names, encoders.texts_spec, work_path)
    texts = _encode_texts(shards, texts_pool, encoders)
    _log.debug("latents: %s; texts: %s", latents_pool.counts, texts_pool.counts)
    _write_index(work_path / "output", shards, latents, texts)
    manifest = _manifest(dataset, encoders, latents, texts, key, hard_negatives_per_caption)
    published = store.publish(manifest, work_path / "output")
    shutil.rmtree(work_path, ignore_errors=True)
    return published


def _load_encoders(backbone: BackboneConfig, runtime: Runtime) -> FrozenEncoders:
    frozen = load_backbone(backbone, device=torch.device("cpu"), dtype=torch.float32)
    return FrozenEncoders(frozen, backbone.resolution_px).to(resolve_device(runtime))


def _read_shards(dataset: DatasetManifest, store: Store, hard_negatives_per_caption: int) -> tuple[DatasetShard, ...]:
    names = (shard_name(index) for index in range(dataset.num_shards))
    return tuple(DatasetShard(dataset, name, store, hard_negatives_per_caption) for name in names)


def _manifest(
    dataset: DatasetManifest,
    encoders: FrozenEncoders,
    latents: tuple[PoolShard, ...],
    texts: tuple[PoolShard, ...],
    key: str,
    hard_negatives_per_caption: int,
) -> EncodedManifest:
    channels, height, width = latents[0].tensors[0].row_shape
    text_length, text_width = texts[0].tensors[0].row_shape
    return EncodedManifest(
        stage_key=key,
        parents=(dataset.digest,),
        name=dataset.name,
        backbone_digest=encoders.backbone_digest,
        vae_digest=encoders.vae_digest,
        text_encoder_digest=encoders.text_encoder_digest,
        latent_shape=(channels, height, width),
        text_shape=(text_length, text_width),
        pooled_width=texts[0].tensors[1].row_shape[0] if len(texts[0].tensors) > 1 else 0,
        hard_negatives_per_caption=hard_negatives_per_caption,
        num_samples=dataset.num_samples,
        num_val_samples=dataset.num_val_samples,
        num_latents=sum(len(shard.digests) for shard in latents),
        num_texts=sum(len(shard.digests) for shard in texts),
        total_bytes=sum(shard.file.size_bytes for shard in (*latents, *texts)),
    )


class DatasetShard:
    """One shard of the dataset: its rows, the hard negatives of their captions, and its images on demand."""

    def __init__(self, dataset: DatasetManifest, name: str, store: Store, hard_negatives_per_caption: int) -> None:
        self._dataset, self._name, self._store = dataset, name, store
        self.rows = read_index(store.fetch(dataset, under=f"{name}.parquet") / f"{name}.parquet")
        self.hard_negatives = [_hard_negatives(row, hard_negatives_per_caption) for row in self.rows]

    def texts(self) -> Iterator[tuple[str, str]]:
        """Yield all captions and hard negatives by their digests; some come more than once."""
        for row, edits in zip(self.rows, self.hard_negatives, strict=True):
            yield from zip(row.caption_digests, row.captions, strict=True)
            yield from ((caption_digest(edit), edit) for edits_of_one in edits for edit in edits_of_one)

    def pixels(self, rows: Iterable[IndexRow], resolution_px: int, num_threads: int) -> Iterator[Tensor]:
        """Yield the prepared images (3, R, R) of some rows, read and decoded ahead."""
        tar_path = self._store.fetch(self._dataset, under=f"{self._name}.tar") / f"{self._name}.tar"

        def read(row: IndexRow) -> Tensor:
            with tar_path.open("rb") as tar:
                tar.seek(row.offset_bytes)
                return preprocess(tar.read(row.size_bytes), resolution_px)

        return map_ahead(read, rows, num_threads)


def _hard_negatives(row: IndexRow, number: int) -> list[list[str]]:
    """Return edits of each of an image's captions; no edit says what another of the captions says."""
    if number == 0:
        return [[] for _ in row.captions]
    return [[edit.text for edit in drawn_edits(caption, number, row.captions)] for caption in row.captions]


def _encode_images(
    dataset: tuple[DatasetShard, ...], pool: EncodedPool, encoders: FrozenEncoders, num_threads: int
) -> tuple[PoolShard, ...]:
    """Return the latents' shards: one for each shard of the dataset that holds new images."""

    def latents_of(shard: DatasetShard, rows: Iterable[IndexRow]) -> tuple[Tensor]:
        return (encoders.latents_of(shard.pixels(rows, encoders.resolution_px, num_threads)),)

    groups: list[_Group[IndexRow]] = []
    known: set[str] = set()
    for shard in dataset:
        rows = {row.image_digest: row for row in shard.rows if row.image_digest not in known}
        known.update(rows)
        if rows:
            groups.append(_Group(rows, partial(latents_of, shard)))
    return _encode_groups(groups, pool, "images")


def _encode_texts(
    dataset: tuple[DatasetShard, ...], pool: EncodedPool, encoders: FrozenEncoders
) -> tuple[PoolShard, ...]:
    """Return the texts' shards: the empty caption's, then for each shard of the dataset those of its new texts."""

    def states_of(texts: Iterable[str]) -> tuple[Tensor, ...]:
        return encoders.text_states_of(texts).tensors()

    groups = [{caption_digest(EMPTY_CAPTION): EMPTY_CAPTION}]
    known = set(groups[0])
    for shard in dataset:
        new = iter({digest: text for digest, text in shard.texts() if digest not in known}.items())
        while group := dict(islice(new, MAX_TEXTS_PER_SHARD)):
            known.update(group)
            groups.append(group)
    return _encode_groups([_Group(group, states_of) for group in groups], pool, "captions")


@dataclass(frozen=True)
class _Group(Generic[InputT]):
    """What becomes one shard of a pool: its inputs by digest, and what encodes them."""

    inputs: dict[str, InputT]
    encode: Callable[[Iterable[InputT]], tuple[Tensor, ...]]

    def encode_counted(self, count: Reporter, inputs: list[InputT]) -> tuple[Tensor, ...]:
        """Encode some of the inputs and count them on."""
        return self.encode(count.over(inputs))


def _encode_groups(groups: Sequence[_Group[InputT]], pool: EncodedPool, unit: str) -> tuple[PoolShard, ...]:
    """Return the groups' shards, and report how many inputs are done."""
    shards, num_done = [], 0
    with Reporter("encode", unit, sum(len(group.inputs) for group in groups)) as count:
        count.begin()
        for group in groups:
            shards.append(pool.shard_of(group.inputs, partial(group.encode_counted, count)))
            num_done += len(group.inputs)
            count.skip_to(num_done)
    return tuple(shards)


def _write_index(
    folder: Path,
    dataset: tuple[DatasetShard, ...],
    latents: tuple[PoolShard, ...],
    texts: tuple[PoolShard, ...],
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    samples = [
        SampleRow(row.key, row.split, row.image_digest, row.captions, row.caption_digests, edits)
        for shard in dataset
        for row, edits in zip(shard.rows, shard.hard_negatives, strict=True)
    ]
    write_table(folder / "samples.parquet", samples, SAMPLE_SCHEMA)
    for name, shards in (("latents.json", latents), ("texts.json", texts)):
        (folder / name).write_bytes(canonical_json([shard.model_dump(mode="json") for shard in shards]))
