"""From a listed sample to one with its image: captions checked, the image read, decoded once and stored."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from softalign.config.curation import CurationConfig
from softalign.config.runtime import Runtime
from softalign.data.curation.filters import filter_captions, image_rejection, load_evaluation_sets
from softalign.data.curation.image_folder import ImageFolder
from softalign.data.curation.images import inspect_image
from softalign.data.curation.rejections import ItemError, Rejection
from softalign.data.curation.reuse import ReadSample, ToConfirm, known_sample
from softalign.data.curation.samples import ListedSample, Sample
from softalign.data.curation.shards import shard_name
from softalign.data.curation.spooling import PackedShard, ShardToPack, handed_over, pack
from softalign.data.curation.transcoding import transcoding_of

Item = ListedSample | ToConfirm | ShardToPack
Result = ReadSample | PackedShard

HERE = Runtime()
"""The stage's own process does the work."""


def sample_worker(config: CurationConfig, runtime: Runtime) -> Callable[[Item], Result]:
    """Return the function that an engine does an item with: a sample, or a shard whose samples were read before."""
    read = sample_reader(config, runtime)

    def work(item: Item) -> Result:
        if isinstance(item, ShardToPack):
            return pack(item)
        found = read(item)
        if found.sample is None:
            return found
        return replace(found, sample=handed_over(found.sample, _original_of(found.sample, item)))

    return work


def _original_of(sample: Sample, item: ListedSample | ToConfirm) -> str:
    """Return the file of this machine that a sample's image was read from; empty: none, or it is stored as another."""
    images = (item.listed if isinstance(item, ToConfirm) else item).images
    if isinstance(images, ImageFolder) and not sample.source_digest:
        return images.local_path(sample.filename)
    return ""


def sample_reader(config: CurationConfig, runtime: Runtime = HERE) -> Callable[[ListedSample | ToConfirm], ReadSample]:
    """Return the function that reads a listed sample, or confirms one; evaluation sets and models are read anew."""
    load_evaluation_sets(config.filters)

    def read(item: ListedSample | ToConfirm) -> ReadSample:
        return confirm_sample(item, config) if isinstance(item, ToConfirm) else read_sample(item, config)

    if not config.filters.models:
        return read
    from softalign.data.curation.model_filters import model_judge

    judge = model_judge(config.filters, runtime)

    def read_and_judge(item: ListedSample | ToConfirm) -> ReadSample:
        found = read(item)
        if found.sample is None or isinstance(item, ToConfirm):
            return found
        judged = judge(item, found.sample)
        return ReadSample(judged.sample, (*found.rejections, *judged.rejections))

    return read_and_judge


def name_of(item: Item) -> str:
    """Return what an item is called in errors."""
    if isinstance(item, ShardToPack):
        return shard_name(item.index)
    listed = item.listed if isinstance(item, ToConfirm) else item
    return f"{listed.source}: {listed.filename[:200]}"


def confirm_sample(item: ToConfirm, config: CurationConfig) -> ReadSample:
    """Read a sample's image; if its bytes are those of the earlier version, what that found out of them is taken over.

    Raises:
        ConfigError, StorageUnavailableError, MemoryError: as ``read_sample``.
    """
    listed, verdict = item.listed, filter_captions(item.listed, config.filters)
    if verdict.captions:
        with suppress(ItemError):  # which reading it as any other says
            data = listed.images.read(listed.filename, config.filters.max_file_bytes)
            row = item.placed.row
            if hashlib.sha256(data).hexdigest() == (row.source_digest or row.image_digest):
                stored = b"" if row.source_digest else data  # else it is in its shard, as it was saved anew
                sample = known_sample(listed, item.placed, verdict.captions, stored)
                return ReadSample(sample, verdict.rejections, item.placed)
    return read_sample(listed, config)


def read_sample(listed: ListedSample, config: CurationConfig) -> ReadSample:
    """Check a listed sample's captions, then read and check its image; captions are judged first as they cost nothing.

    The one place where an item's failure (``ItemError``) becomes a rejection; every other error is not the item's.

    Raises:
        ConfigError: the image folder cannot be opened, or is refused as a whole.
        StorageUnavailableError: the store did not answer.
        MemoryError: there was none left to decode with.
    """
    if listed.flaw is not None:
        return ReadSample(None, (Rejection(listed.source, listed.filename, listed.flaw.reason, listed.flaw.detail),))
    verdict = filter_captions(listed, config.filters)
    if not verdict.captions:
        return ReadSample(None, verdict.rejections)
    try:
        sample = open_sample(listed, verdict.captions, config)
    except ItemError as error:
        refused = Rejection(listed.source, listed.filename, error.flaw.reason, error.flaw.detail)
        return ReadSample(None, (*verdict.rejections, refused))
    filtered = image_rejection(sample, config.filters)
    return ReadSample(None if filtered else sample, (*verdict.rejections, *((filtered,) if filtered else ())))


def open_sample(listed: ListedSample, captions: tuple[str, ...], config: CurationConfig) -> Sample:
    """Return a sample with its image.

    Raises:
        ItemError: its file cannot be read or decoded, or is above the limits.
    """
    data = listed.images.read(listed.filename, config.filters.max_file_bytes)
    transcoding = transcoding_of(config)
    is_hashed = config.filters.asks_for_hashes
    facts = inspect_image(data, config.filters.max_pixels, transcoding, is_hashed=is_hashed)
    return Sample(
        source=listed.source,
        filename=listed.filename,
        captions=captions,
        image=facts.stored,
        extension=facts.extension,
        image_digest=hashlib.sha256(facts.stored).hexdigest(),
        perceptual_hash=facts.perceptual_hash,
        width_px=facts.width_px,
        height_px=facts.height_px,
        is_animated=facts.is_animated,
        source_digest="" if transcoding is None else hashlib.sha256(data).hexdigest(),
    )
