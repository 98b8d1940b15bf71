"""The encode stage: frozen VAE latents by image digest, text encodings by caption digest, apart.

Both lie in pools that all datasets of a store share (``pool``), so a dataset with new captions encodes text
only, and a killed run goes on at the shard it was at. A published dataset is an index into the pools:
``samples.parquet``, ``latents.json`` and ``texts.json``. Hard negatives are texts like the captions; the index says
which belong to which. Of a refreshed dataset the shards of the set before it stay where at least half of their rows are
of use, so that nothing is copied either.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter

from softalign.artifacts import DatasetManifest, EncodedManifest, canonical_json
from softalign.config.backbone import BackboneConfig
from softalign.config.runtime import Runtime
from softalign.data.captions.hard_negatives import drawn_edits
from softalign.data.curation.samples import caption_digest
from softalign.data.curation.shards import IndexRow, read_index, shard_name
from softalign.data.encoding.encoders import FrozenEncoders
from softalign.data.encoding.pool import EncodedPool, PoolShard
from softalign.data.encoding.sample_rows import write_samples
from softalign.data.encoding.shard_encoder import EncodeCall, ShardEncoder
from softalign.engines.opening import open_engine
from softalign.engines.work import Engine
from softalign.processes.reporter import Reporter
from softalign.store.store import Store

InputT = TypeVar("InputT")

EMPTY_CAPTION = ""
MAX_TEXTS_PER_SHARD = 512
_log = logging.getLogger(__name__)


def encode(
    dataset: DatasetManifest,
    backbone: BackboneConfig,
    runtime: Runtime,
    store: Store,
    key: str,
    hard_negatives_per_caption: int = 0,
    before: EncodedManifest | None = None,
) -> EncodedManifest:
    """Encode a dataset's images and captions, and publish the index of them.

    Computed in float32, stored in float16. Among the texts is the empty one, for guidance and the soft tokens.

    Args:
        dataset: the curated images and captions.
        backbone: whose VAE and text encoder are used, and the resolution.
        runtime: device, number of reader threads, and which engine encodes.
        store: where the dataset lies and the encodings go.
        key: the stage key of the request.
        hard_negatives_per_caption: how many edits of each caption are encoded too, at most.
        before: the encodings of the dataset that this one is a refresh of, by the same encoders.

    Raises:
        MissingInputError: the base model is not there.
        IntegrityError: a file of the dataset is not what was published.
        DataError: an encoding is not finite.
    """
    work_path = store.work_path("encode", key)
    shard_encoder = ShardEncoder(dataset, backbone, runtime, store.uri, key)
    shards = _read_shards(dataset, store, hard_negatives_per_caption)
    latents, texts = _encode_shards(shards, shard_encoder, before, store, runtime)
    _write_index(work_path / "output", shards, latents, texts, dataset.weights)
    made_by, encoded = shard_encoder.encoders, (latents, texts)
    manifest = _manifest(key, dataset, before, made_by, shards, encoded, hard_negatives_per_caption)
    published = store.publish(manifest, work_path / "output")
    shutil.rmtree(work_path, ignore_errors=True)
    return published


def _encode_shards(
    shards: tuple[DatasetShard, ...],
    shard_encoder: ShardEncoder,
    before: EncodedManifest | None,
    store: Store,
    runtime: Runtime,
) -> tuple[tuple[PoolShard, ...], tuple[PoolShard, ...]]:
    """Return the shards of latents and of text states; those of earlier encodings that are of use are among them."""
    encoders = shard_encoder.encoders
    latents_pool = EncodedPool(store, ("latents",), encoders.latents_spec)
    texts_pool = EncodedPool(store, encoders.text_tensor_names, encoders.texts_spec)
    latents = _of_use(_shards_before(before, "latents.json", store), _digests_of_images(shards), latents_pool)
    texts = _of_use(_shards_before(before, "texts.json", store), _digests_of_texts(shards), texts_pool)
    image_groups, text_groups = _image_groups(shards, _rows(latents)), _text_groups(shards, _rows(texts))
    with open_engine(runtime) as engine:
        latents = _encode_groups(latents, image_groups, latents_pool, "images", engine, shard_encoder)
        texts = _encode_groups(texts, text_groups, texts_pool, "captions", engine, shard_encoder)
    _log.debug("latents: %s; texts: %s", latents_pool.counts, texts_pool.counts)
    return latents, texts


def _read_shards(dataset: DatasetManifest, store: Store, hard_negatives_per_caption: int) -> tuple[DatasetShard, ...]:
    names = (shard_name(index) for index in range(dataset.num_shards))
    return tuple(DatasetShard(dataset, name, store, hard_negatives_per_caption) for name in names)


def _manifest(
    key: str,
    dataset: DatasetManifest,
    before: EncodedManifest | None,
    encoders: FrozenEncoders,
    shards: tuple[DatasetShard, ...],
    encoded: tuple[tuple[PoolShard, ...], tuple[PoolShard, ...]],
    hard_negatives_per_caption: int,
) -> EncodedManifest:
    return EncodedManifest(
        stage_key=key,
        parents=(dataset.digest, *((before.digest,) if before is not None else ())),
        name=dataset.name,
        backbone_digest=encoders.backbone_digest,
        vae_digest=encoders.vae_digest,
        text_encoder_digest=encoders.text_encoder_digest,
        hard_negatives_per_caption=hard_negatives_per_caption,
        num_samples=dataset.num_samples,
        num_val_samples=dataset.num_val_samples,
        num_latents=len(_digests_of_images(shards)),
        num_texts=len(_digests_of_texts(shards)),
        dataset_parent_key=dataset.parent_key,
        **_sizes(*encoded),
    )


def _sizes(latents: tuple[PoolShard, ...], texts: tuple[PoolShard, ...]) -> dict[str, Any]:
    """Return the manifest's sizes, as the shards have them."""
    text_tensors = texts[0].tensors
    return {
        "latent_shape": latents[0].tensors[0].row_shape,
        "text_shape": text_tensors[0].row_shape,
        "pooled_width": text_tensors[1].row_shape[0] if len(text_tensors) > 1 else 0,
        "total_bytes": sum(shard.file.size_bytes for shard in (*latents, *texts)),
    }


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


class DatasetShard:
    """One shard of the dataset: its rows, and the hard negatives of their captions."""

    def __init__(self, dataset: DatasetManifest, name: str, store: Store, hard_negatives_per_caption: int) -> None:
        self.name = name
        self.rows = read_index(store.fetch_file(dataset, f"{name}.parquet"))
        self.hard_negatives = [_hard_negatives(row, hard_negatives_per_caption) for row in self.rows]

    def texts(self) -> Iterator[tuple[str, str]]:
        """Yield all captions and hard negatives by their digests; some come more than once."""
        for row, edits in zip(self.rows, self.hard_negatives, strict=True):
            yield from zip(row.caption_digests, row.captions, strict=True)
            yield from ((caption_digest(edit), edit) for edits_of_one in edits for edit in edits_of_one)


def _hard_negatives(row: IndexRow, number: int) -> list[list[str]]:
    """Return edits of each of an image's captions; no edit says what another of the captions says."""
    if number == 0:
        return [[] for _ in row.captions]
    return [[edit.text for edit in drawn_edits(caption, number, row.captions)] for caption in row.captions]


@dataclass(frozen=True, slots=True)
class _Group(Generic[InputT]):
    """What becomes one shard of a pool: its inputs by digest; for images the shard of the dataset they lie in."""

    inputs: dict[str, InputT]
    source: str = ""


def _digests_of_images(dataset: tuple[DatasetShard, ...]) -> frozenset[str]:
    return frozenset(row.image_digest for shard in dataset for row in shard.rows)


def _digests_of_texts(dataset: tuple[DatasetShard, ...]) -> frozenset[str]:
    return frozenset({caption_digest(EMPTY_CAPTION), *(digest for shard in dataset for digest, _ in shard.texts())})


def _image_groups(dataset: tuple[DatasetShard, ...], known: set[str]) -> list[_Group[IndexRow]]:
    """Return one group for each shard of the dataset that holds images that are not known; then they are."""
    groups: list[_Group[IndexRow]] = []
    for shard in dataset:
        rows = {row.image_digest: row for row in shard.rows if row.image_digest not in known}
        known.update(rows)
        if rows:
            groups.append(_Group(rows, shard.name))
    return groups


def _text_groups(dataset: tuple[DatasetShard, ...], known: set[str]) -> list[_Group[str]]:
    """Return the empty caption's group, then for each shard of the dataset those of its new texts; then they are known.

    Of a refresh few are new: they are taken together, whatever shards they are of.
    """
    empty = caption_digest(EMPTY_CAPTION)
    groups = [] if empty in known else [_Group({empty: EMPTY_CAPTION})]
    is_refresh = bool(known)
    known.add(empty)
    for shards in [dataset] if is_refresh else [(shard,) for shard in dataset]:
        texts = (item for shard in shards for item in shard.texts())
        new = iter({digest: text for digest, text in texts if digest not in known}.items())
        while group := dict(islice(new, MAX_TEXTS_PER_SHARD)):
            known.update(group)
            groups.append(_Group(group))
    return groups


def _encode_groups(
    kept: tuple[PoolShard, ...],
    groups: Sequence[_Group[InputT]],
    pool: EncodedPool,
    unit: str,
    engine: Engine,
    encoder: ShardEncoder,
) -> tuple[PoolShard, ...]:
    """Return the shards that are kept and the groups' own, and report how many inputs are done."""
    found = [pool.find(group.inputs) for group in groups]
    todo = [None if shard else pool.request(group.inputs) for group, shard in zip(groups, found, strict=True)]
    calls = (EncodeCall(request, group.source) for group, request in zip(groups, todo, strict=True) if request)
    shards, num_kept = list(kept), len(_rows(kept))
    num_done = num_kept
    total = num_kept + sum(len(group.inputs) for group in groups)
    with Reporter("encode", unit, total, num_reused=num_kept) as count:
        made = engine.map(encoder.work(count.over), calls)
        count.begin()
        for shard, request in zip(found, todo, strict=True):
            shards.append(shard or next(made))
            num_done += len(shards[-1].digests)
            if request and count.done < num_done - len(request.copied):  # encoded by another process
                count.reach(num_done - len(request.copied))
            count.skip_to(num_done)
    return tuple(shards)


def _write_index(
    folder: Path,
    dataset: tuple[DatasetShard, ...],
    latents: tuple[PoolShard, ...],
    texts: tuple[PoolShard, ...],
    weights: Mapping[str, float],
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rows = ((row, edits) for shard in dataset for row, edits in zip(shard.rows, shard.hard_negatives, strict=True))
    write_samples(folder / "samples.parquet", rows, weights)
    for name, shards in (("latents.json", latents), ("texts.json", texts)):
        (folder / name).write_bytes(canonical_json([shard.model_dump(mode="json") for shard in shards]))
