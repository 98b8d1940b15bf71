"""A published dataset's images looked at again: those that failed, or whether the others are what they were."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from softalign.config.curation import CurationConfig
from softalign.data.curation.changes import list_samples_of
from softalign.data.curation.pipeline import NUM_READERS
from softalign.data.curation.published import OpenedDataset
from softalign.data.curation.reading import open_sample, read_sample
from softalign.data.curation.rejections import TO_TRY_AGAIN, ItemError
from softalign.data.curation.samples import ListedSample
from softalign.processes.reporter import Reporter
from softalign.store.read_ahead import map_ahead

Place = tuple[str, str]
"""A source's name and a file name of it."""


def mended(config: CurationConfig, dataset: OpenedDataset) -> tuple[Place, ...]:
    """Return which of a dataset's failed images can be read now, or are refused for another reason, sorted.

    Args:
        config: what the dataset was made by.
        dataset: the published dataset.

    Raises:
        SoftAlignError: a source's table is not there or cannot be used, or its place does not answer.
    """
    failed = {(one.source, one.file_name) for one in dataset.rejections() if one.reason in TO_TRY_AGAIN}
    with TemporaryDirectory(prefix="softalign-") as folder:  # for what a source renders
        listed = list_samples_of(config, Path(folder))
        chosen = [one for one in listed if one.flaw is None and (one.source, one.filename) in failed]
        return tuple(sorted(_passing(chosen, config)))


def replaced(config: CurationConfig, dataset: OpenedDataset) -> dict[str, str]:
    """Return which of a dataset's images have other bytes now, by source and name, with the present digest.

    One that cannot be read now is left out: that is no other content.

    Args:
        config: what the dataset was made by.
        dataset: the published dataset.

    Raises:
        SoftAlignError: a source's table is not there or cannot be used, or its place does not answer.
    """
    kept = {(one.row.source, one.row.file_name): one.row.image_digest for one in dataset.samples()}
    with TemporaryDirectory(prefix="softalign-") as folder:
        listed = [one for one in list_samples_of(config, Path(folder)) if (one.source, one.filename) in kept]
        with Reporter("recheck", "images", len(listed)) as images:
            found = images.over(map_ahead(lambda one: _digest_of(one, config), listed, NUM_READERS))
            digests = {(one.source, one.filename): digest for one, digest in zip(listed, found, strict=True)}
    changed = {place: digest for place, digest in digests.items() if digest and digest != kept[place]}
    return {f"{source}/{name}": digest for (source, name), digest in sorted(changed.items())}


def _digest_of(listed: ListedSample, config: CurationConfig) -> str:
    """Return the digest of an image as the dataset would store it; empty where it cannot be read now."""
    try:
        if config.image_format != "keep":
            return open_sample(listed, (), config).image_digest
        return hashlib.sha256(listed.images.read(listed.filename)).hexdigest()
    except ItemError:
        return ""


def _passing(listed: list[ListedSample], config: CurationConfig) -> Iterator[Place]:
    read = map_ahead(lambda one: read_sample(one, config), listed, NUM_READERS)
    for one, found in zip(listed, read, strict=True):
        if not any(rejection.reason in TO_TRY_AGAIN for rejection in found.rejections):
            yield one.source, one.filename
