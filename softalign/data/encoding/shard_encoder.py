"""What makes one shard of encodings: of a group of images or texts, in this process or on another machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from softalign.artifacts import DatasetManifest
from softalign.backbones.frozen_pipeline import resolve_device
from softalign.backbones.loading import load_backbone
from softalign.config.backbone import BackboneConfig
from softalign.config.runtime import Runtime
from softalign.data.curation.shards import IndexRow
from softalign.data.encoding.encoders import FrozenEncoders
from softalign.data.encoding.pool import PoolShard, ShardRequest, make_shard, pool_folder
from softalign.data.encoding.preprocessing import preprocess
from softalign.data.encoding.quarantine import repair
from softalign.engines.work import Work
from softalign.errors import CompatibilityError
from softalign.store.read_ahead import map_ahead
from softalign.store.store import Store

Counted = Callable[[Iterable[Any]], Iterable[Any]]
"""Passes inputs on, and counts them."""


@dataclass(frozen=True, slots=True)
class EncodeCall:
    """One shard to make; ``source`` is the shard of the dataset that its images lie in, empty for texts."""

    request: ShardRequest[Any]
    source: str


class ShardEncoder:
    """Makes shards with the frozen encoders, which are loaded when first needed.

    Args:
        dataset: the curated images and captions.
        backbone: whose VAE and text encoder are used, and the resolution.
        runtime: device and number of reader threads.
        store_uri: where the dataset lies and the encodings go.
        key: the stage key of the request.
    """

    def __init__(
        self, dataset: DatasetManifest, backbone: BackboneConfig, runtime: Runtime, store_uri: str, key: str
    ) -> None:
        self._arguments = (dataset, backbone, runtime, store_uri, key)
        self._dataset, self.backbone, self._runtime = dataset, backbone, runtime
        self._store, self._key = Store(store_uri), key

    @cached_property
    def encoders(self) -> FrozenEncoders:
        """The encoders, on the CPU until something is encoded."""
        frozen = load_backbone(self.backbone, device=torch.device("cpu"), dtype=torch.float32)
        return FrozenEncoders(frozen, self.backbone.resolution_px)

    def work(self, counted: Counted) -> Work[EncodeCall, PoolShard]:
        """Return this as work for an engine; ``counted`` hears of inputs that this process encodes."""
        made = partial(self.encode, counted=counted)
        return Work(_encode, self._arguments, uses_model=True, made=made, name_of=_name_of)

    def encode(self, call: EncodeCall, counted: Counted = iter) -> PoolShard:
        """Return the shard of a call; see ``pool.make_shard``.

        Raises:
            CompatibilityError: the base model here is another one than the pool's.
        """
        encode_rows = partial(self._rows_of, call, counted)
        return make_shard(call.request, encode_rows, self._store, self._store.work_path("encode", self._key))

    def _rows_of(self, call: EncodeCall, counted: Counted, inputs: list[Any]) -> tuple[Tensor, ...]:
        encoders = self.encoders.to(resolve_device(self._runtime))
        spec = encoders.latents_spec if call.source else encoders.texts_spec
        if pool_folder(call.request.tensor_names, spec) != call.request.folder:
            raise CompatibilityError(
                "The base model of this machine is another one than the run's.",
                expected=call.request.folder,
                found=pool_folder(call.request.tensor_names, spec),
                where=self.backbone.model,
                fix="put the same files of the base model on all machines",
            )
        if not call.source:
            return encoders.text_states_of(counted(inputs)).tensors()
        return (encoders.latents_of(self._pixels(call.source, counted(inputs), encoders.resolution_px)),)

    def _pixels(self, name: str, rows: Iterable[IndexRow], resolution_px: int) -> Iterator[Tensor]:
        """Yield the prepared images (3, R, R) of some rows of a shard, read and decoded ahead."""
        tar_path = self._store.fetch_file(self._dataset, f"{name}.tar", repair(self._dataset, self._store))

        def read(row: IndexRow) -> Tensor:
            with tar_path.open("rb") as tar:
                tar.seek(row.offset_bytes)
                return preprocess(tar.read(row.size_bytes), resolution_px)

        return map_ahead(read, rows, self._runtime.num_threads)


def _name_of(call: EncodeCall) -> str:
    return f"{call.request.folder}: {len(call.request.inputs)} of {call.source or 'the captions'}"


def _encode(*arguments: Any) -> Callable[[EncodeCall], PoolShard]:
    return ShardEncoder(*arguments).encode
