"""Images that their place did not give when a dataset was curated, tried again: they alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from softalign.config.curation import CurationConfig
from softalign.data.curation.changes import list_samples_of
from softalign.data.curation.pipeline import NUM_READERS, read_sample
from softalign.data.curation.published import OpenedDataset
from softalign.data.curation.rejections import TO_TRY_AGAIN
from softalign.data.curation.samples import ListedSample
from softalign.store.read_ahead import map_ahead

Place = tuple[str, str]
"""A source's name and a file name of it."""


def mended(config: CurationConfig, dataset: OpenedDataset, work_path: Path) -> tuple[Place, ...]:
    """Return which of a dataset's failed images can be read now, or are refused for another reason, sorted.

    Args:
        config: what the dataset was made by.
        dataset: the published dataset.
        work_path: a folder for what a source renders.

    Raises:
        SoftAlignError: a source's table is not there or cannot be used, or its place does not answer.
    """
    failed = {(one.source, one.file_name) for one in dataset.rejections() if one.reason in TO_TRY_AGAIN}
    listed = list_samples_of(config, work_path)
    chosen = [one for one in listed if one.flaw is None and (one.source, one.filename) in failed]
    return tuple(sorted(_passing(chosen, config)))


def _passing(listed: list[ListedSample], config: CurationConfig) -> Iterator[Place]:
    read = map_ahead(lambda one: read_sample(one, config), listed, NUM_READERS)
    for one, found in zip(listed, read, strict=True):
        if not any(rejection.reason in TO_TRY_AGAIN for rejection in found.rejections):
            yield one.source, one.filename
