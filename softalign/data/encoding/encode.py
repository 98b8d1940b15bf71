"""The encode stage: frozen VAE latents by image digest, text encodings by caption digest, apart.

Both lie in pools that all datasets of a store share (``pool``), so a dataset with new captions encodes text
only, and a killed run goes on at the shard it was at. A published dataset is an index into the pools:
``samples.parquet``, ``latents.json`` and ``texts.json``, which is empty where training encodes texts itself. Hard
negatives are texts like the captions; the index says which belong to which. Of a refreshed dataset the shards of the
set before it stay where at least half of their rows are of use, so that nothing is copied either.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter

from softalign.artifacts import DatasetManifest, EncodedManifest, TextMode, canonical_json
from softalign.backbones.frozen_pipeline import resolve_device
from softalign.backbones.sizes import model_sizes
from softalign.config.backbone import BackboneConfig
from softalign.config.runtime import Runtime
from softalign.config.training import NegativesConfig
from softalign.data.curation.shards import shard_name
from softalign.data.encoding.budget import EncodedBytes, require_room
from softalign.data.encoding.encoders import FrozenEncoders
from softalign.data.encoding.groups import (
    DatasetShard,
    Group,
    digests_of_images,
    digests_of_texts,
    image_groups,
    say_edits,
    text_groups,
)
from softalign.data.encoding.pool import EncodedPool, PoolShard, ShardRequest
from softalign.data.encoding.quarantine import Losses
from softalign.data.encoding.sample_rows import write_samples
from softalign.data.encoding.shard_encoder import EncodeCall, ShardEncoder
from softalign.engines.opening import open_engine
from softalign.engines.work import Engine
from softalign.processes.reporter import Reporter
from softalign.store.store import Store

InputT = TypeVar("InputT")

_log = logging.getLogger(__name__)

NO_EDITS = NegativesConfig()
"""Captions alone are encoded."""


def encode(
    dataset: DatasetManifest,
    backbone: BackboneConfig,
    runtime: Runtime,
    store: Store,
    key: str,
    negatives: NegativesConfig = NO_EDITS,
    before: EncodedManifest | None = None,
    text: TextMode = "stored",
) -> EncodedManifest:
    """Encode a dataset's images and captions, and publish the index of them.

    Computed in float32, stored in float16. Among the texts is the empty one, for guidance and the soft tokens. How many
    bytes will be written is logged before.

    Args:
        dataset: the curated images and captions.
        backbone: whose VAE and text encoder are used, and the resolution.
        runtime: device, threads, engine, how much may be written, and how much of the dataset may be damaged.
        store: where the dataset lies and the encodings go.
        key: the stage key of the request; what lacks damaged shards is published under another one.
        negatives: how many edits of each caption are encoded too, at most, and which.
        before: the encodings of the dataset that this one is a refresh of, by the same encoders.
        text: whether text states are stored, or left to training.

    Raises:
        MissingInputError: the base model is not there.
        IntegrityError: more of the dataset than may be is not what was published.
        DataError: an encoding is not finite.
        ConfigError: more would be written than ``runtime.encode_budget_gb``.
        StorageUnavailableError: the disk of a local store has no room for it.
    """
    work_path = store.work_path("encode", key)
    manifest = _Encoding(dataset, backbone, runtime, store, before, text).make(key, negatives, work_path / "output")
    published = store.publish(manifest, work_path / "output")
    shutil.rmtree(work_path, ignore_errors=True)
    return published


@dataclass(frozen=True, slots=True)
class _Encoding:
    """What is encoded, by what, and where; see ``encode``."""

    dataset: DatasetManifest
    backbone: BackboneConfig
    runtime: Runtime
    store: Store
    before: EncodedManifest | None
    text: TextMode

    def make(self, key: str, negatives: NegativesConfig, output: Path) -> EncodedManifest:
        """Encode all, write the index into a folder, and return the manifest of it."""
        dataset, before = self.dataset, self.before
        shard_encoder = ShardEncoder(dataset, self.backbone, self.runtime, self.store.uri, key)
        losses = Losses(dataset, self.store, self.runtime.max_corrupt_share)
        listed = _read_shards(dataset, losses, negatives)
        say_edits(listed, negatives)
        work = _find_work(listed, shard_encoder, before, self.store, self.text, losses)
        encoded = _encode_all(work, shard_encoder, self.store, self.runtime)
        _write_index(output, work.shards, encoded, {one.source: one.weight for one in dataset.weights})
        losses.note(key, output)
        facts = _counts(work.shards, losses) | _made_by(shard_encoder.encoders)
        facts |= _sizes(encoded) | _text_shapes(encoded.texts, before, shard_encoder, self.runtime)
        return EncodedManifest(
            stage_key=losses.key_of(key),
            parents=(dataset.digest, *((before.digest,) if before is not None else ())),
            name=dataset.name,
            hard_negatives_per_caption=negatives.num_hard,
            dataset_parent_key=dataset.parent_key,
            text=self.text,
            **facts,
        )


class _PoolWork(Generic[InputT]):
    """What a dataset needs of one pool.

    Args:
        kept: shards of earlier encodings that are of use.
        groups: all else.
        pool: where some of the groups may be already.

    Attributes:
        found: of each group its shard, if it is there.
        todo: of each other group what is to be done.
    """

    def __init__(self, kept: tuple[PoolShard, ...], groups: Sequence[Group[InputT]], pool: EncodedPool) -> None:
        self.kept, self.groups = kept, groups
        self.found = [pool.find(group.inputs) for group in groups]
        self.todo: list[ShardRequest[InputT] | None] = [
            None if shard else pool.request(group.inputs) for group, shard in zip(groups, self.found, strict=True)
        ]
        _log.debug("%s", pool.counts)

    @property
    def num_missing(self) -> int:
        """Rows that will be written, whether they are encoded or copied."""
        return sum(len(request.inputs) for request in self.todo if request)


@dataclass(frozen=True, slots=True)
class _Work:
    """What a dataset needs of both pools; its shards are those that are left."""

    shards: tuple[DatasetShard, ...]
    latents: _PoolWork[Any]
    texts: _PoolWork[Any]


@dataclass(frozen=True, slots=True)
class _Encoded:
    """The shards of a dataset's encodings."""

    latents: tuple[PoolShard, ...]
    texts: tuple[PoolShard, ...]


def _encode_all(work: _Work, shard_encoder: ShardEncoder, store: Store, runtime: Runtime) -> _Encoded:
    predicted = EncodedBytes(work.latents.num_missing, work.texts.num_missing, model_sizes(shard_encoder.backbone))
    _log.info(predicted.said)
    require_room(predicted, runtime, store)
    with open_engine(runtime) as engine:
        latents = _encode_groups(work.latents, "images", engine, shard_encoder)
        return _Encoded(latents, _encode_groups(work.texts, "captions", engine, shard_encoder))


def _sizes(encoded: _Encoded) -> dict[str, Any]:
    return {
        "latent_shape": encoded.latents[0].tensors[0].row_shape,
        "total_bytes": sum(shard.file.size_bytes for shard in (*encoded.latents, *encoded.texts)),
    }


def _find_work(
    shards: tuple[DatasetShard, ...],
    shard_encoder: ShardEncoder,
    before: EncodedManifest | None,
    store: Store,
    text: TextMode,
    losses: Losses,
) -> _Work:
    encoders = shard_encoder.encoders
    pool = EncodedPool(store, ("latents",), encoders.latents_spec)
    lost = losses.leave_out(((shard.name, shard.rows) for shard in shards), pool.lacks)
    shards = tuple(shard for shard in shards if shard.name not in lost)
    kept = _of_use(_shards_before(before, "latents.json", store), digests_of_images(shards), pool)
    latents = _PoolWork(kept, image_groups(shards, _rows(kept)), pool)
    if text == "online":
        return _Work(shards, latents, _PoolWork((), (), pool))
    pool = EncodedPool(store, encoders.text_tensor_names, encoders.texts_spec)
    kept = _of_use(_shards_before(before, "texts.json", store), digests_of_texts(shards), pool)
    return _Work(shards, latents, _PoolWork(kept, text_groups(shards, _rows(kept)), pool))


def _read_shards(dataset: DatasetManifest, losses: Losses, negatives: NegativesConfig) -> tuple[DatasetShard, ...]:
    names = (shard_name(index) for index in range(dataset.num_shards))
    return tuple(DatasetShard(name, losses.rows_of(name), negatives) for name in names)


def _made_by(encoders: FrozenEncoders) -> dict[str, Any]:
    return {
        "backbone_digest": encoders.backbone_digest,
        "vae_digest": encoders.vae_digest,
        "text_encoder_digest": encoders.text_encoder_digest,
    }


def _counts(shards: tuple[DatasetShard, ...], losses: Losses) -> dict[str, Any]:
    return {
        "num_samples": sum(len(shard.rows) for shard in shards),
        "num_val_samples": sum(row.split == "val" for shard in shards for row in shard.rows),
        "num_latents": len(digests_of_images(shards)),
        "num_texts": len(digests_of_texts(shards)),
        "num_lost_shards": losses.num_shards,
        "num_lost_samples": losses.num_samples,
    }


def _text_shapes(
    texts: tuple[PoolShard, ...], before: EncodedManifest | None, shard_encoder: ShardEncoder, runtime: Runtime
) -> dict[str, Any]:
    """Return the manifest's shapes of text states: of what is stored, of the set before, or else of one text."""
    if not texts and before is not None:
        return {"text_shape": before.text_shape, "pooled_width": before.pooled_width}
    if texts:
        shapes = tuple(tensor.row_shape for tensor in texts[0].tensors)
    else:
        shapes = shard_encoder.encoders.to(resolve_device(runtime)).text_shapes()
    return {"text_shape": shapes[0], "pooled_width": shapes[1][0] if len(shapes) > 1 else 0}


def _shards_before(before: EncodedManifest | None, name: str, store: Store) -> tuple[PoolShard, ...]:
    if before is None:
        return ()
    return tuple(TypeAdapter(list[PoolShard]).validate_json(store.fetch_file(before, name).read_bytes()))


def _of_use(shards: tuple[PoolShard, ...], needed: frozenset[str], pool: EncodedPool) -> tuple[PoolShard, ...]:
    """Return the shards that still are in the pool, and of use to at least half."""
    useful = (shard for shard in shards if 2 * len(needed.intersection(shard.digests)) >= len(shard.digests))
    return tuple(shard for shard in useful if pool.find(dict.fromkeys(shard.digests)) is not None)


def _rows(shards: tuple[PoolShard, ...]) -> set[str]:
    return {digest for shard in shards for digest in shard.digests}


def _encode_groups(work: _PoolWork[Any], unit: str, engine: Engine, encoder: ShardEncoder) -> tuple[PoolShard, ...]:
    """Return the shards that are kept and the groups' own, and report how many inputs are done."""
    pairs = list(zip(work.groups, work.todo, strict=True))
    calls = (EncodeCall(request, group.source) for group, request in pairs if request)
    shards, num_kept = list(work.kept), len(_rows(work.kept))
    num_done = num_kept
    total = num_kept + sum(len(group.inputs) for group in work.groups)
    if total == 0:
        return ()
    with Reporter("encode", unit, total, num_reused=num_kept) as count:
        made = engine.map(encoder.work(count.over), calls)
        count.begin()
        for shard, request in zip(work.found, work.todo, strict=True):
            shards.append(shard or next(made))
            num_done += len(shards[-1].digests)
            if request and count.done < num_done - len(request.copied):  # encoded by another process
                count.reach(num_done - len(request.copied))
            count.skip_to(num_done)
    return tuple(shards)


def _write_index(
    folder: Path,
    dataset: tuple[DatasetShard, ...],
    encoded: _Encoded,
    weights: Mapping[str, float],
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rows = ((row, edits) for shard in dataset for row, edits in zip(shard.rows, shard.hard_negatives, strict=True))
    write_samples(folder / "samples.parquet", rows, weights)
    for name, shards in (("latents.json", encoded.latents), ("texts.json", encoded.texts)):
        (folder / name).write_bytes(canonical_json([shard.model_dump(mode="json") for shard in shards]))
