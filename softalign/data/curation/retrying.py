"""A published dataset's images looked at again: those that failed, or whether the others are what they were."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from softalign.config.curation import CurationConfig
from softalign.data.curation.changes import list_samples_of
from softalign.data.curation.dedup import duplicate_of
from softalign.data.curation.pipeline import NUM_READERS
from softalign.data.curation.published import OpenedDataset
from softalign.data.curation.reading import open_sample, read_sample
from softalign.data.curation.rejections import TO_TRY_AGAIN, ItemError, Reason, Rejection
from softalign.data.curation.samples import ListedSample
from softalign.processes.reporter import Reporter
from softalign.store.read_ahead import map_ahead

BY_CONTENT: frozenset[Reason] = frozenset(
    {
        "animated",
        "aspect_ratio",
        "corrupt_image",
        "exact_duplicate",
        "too_many_bytes",
        "too_many_pixels",
        "too_small",
        "unsupported_format",
    }
)
"""Why an image was left out for what its file holds, as far as its file alone says so."""
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
    """Return which of a dataset's images have other content now, by source and name, with the present digest.

    Those that were kept have other bytes; those that were left out for what they hold would be judged otherwise
    (near-duplicates are not looked at). One that cannot be read now is none: that is no other content. Of several
    listings of one name those count that were kept.

    Args:
        config: what the dataset was made by.
        dataset: the published dataset.

    Raises:
        SoftAlignError: a source's table is not there or cannot be used, or its place does not answer.
    """
    kept: dict[Place, set[str]] = {}
    has_sources = False
    for row in (sample.row for sample in dataset.samples()):
        has_sources = bool(row.source_digest)
        kept.setdefault((row.source, row.file_name), set()).add(row.source_digest or row.image_digest)
    is_by_file = config.image_format == "keep" or has_sources
    with TemporaryDirectory(prefix="softalign-") as folder:
        left_out = _left_out(dataset, kept)
        chosen = (one for one in list_samples_of(config, Path(folder)) if one.flaw is None)
        by_place = [((one.source, one.filename), one) for one in chosen]
        listed = [one for place, one in by_place if place in kept]
        judged = [(one, left_out[place]) for place, one in by_place if place in left_out]
        with Reporter("recheck", "images", len(listed)) as images:
            read = map_ahead(lambda one: _digest_of(one, config, is_by_file=is_by_file), listed, NUM_READERS)
            digests = list(images.over(read))
        verdicts = list(map_ahead(lambda pair: _verdict(*pair, config), judged, NUM_READERS))
    found: dict[Place, list[str]] = {}
    for one, digest in zip(listed, digests, strict=True):
        found.setdefault((one.source, one.filename), []).append(digest)
    changed = {place: now[-1] for place, now in found.items() if all(now) and not kept[place] <= set(now)}
    changed |= {(one.source, one.filename): now for (one, _), now in zip(judged, verdicts, strict=True) if now}
    return {f"{source}/{name}": digest for (source, name), digest in sorted(changed.items())}


def _left_out(dataset: OpenedDataset, kept: Container[Place]) -> dict[Place, Rejection]:
    """Return what was left out for its content, by names that mean one listing."""
    found: dict[Place, Rejection | None] = {}
    for one in dataset.rejections():
        if one.caption_index < 0 and (place := (one.source, one.file_name)) not in kept:
            found[place] = one if place not in found and one.reason in BY_CONTENT else None
    return {place: one for place, one in found.items() if one is not None}


def _verdict(listed: ListedSample, before: Rejection, config: CurationConfig) -> str:
    """Return the digest of an image that is judged otherwise than before; empty where it is not, or cannot be read."""
    if twin := duplicate_of(before):
        digest = _digest_of(listed, config, is_by_file=config.image_format == "keep")
        return "" if digest.startswith(twin) else digest
    found = [(one.reason, one.detail) for one in read_sample(listed, config).rejections if one.caption_index < 0]
    is_same = (before.reason, before.detail) in found or any(reason in TO_TRY_AGAIN for reason, _ in found)
    return "" if is_same else _digest_of(listed, config, is_by_file=True)


def _digest_of(listed: ListedSample, config: CurationConfig, *, is_by_file: bool) -> str:
    """Return the digest of an image's file, or else of the image as it is saved anew; empty where it cannot be read."""
    try:
        if not is_by_file:
            return open_sample(listed, (), config).image_digest
        return hashlib.sha256(listed.images.read(listed.filename)).hexdigest()
    except ItemError:
        return ""


def _passing(listed: list[ListedSample], config: CurationConfig) -> Iterator[Place]:
    read = map_ahead(lambda one: read_sample(one, config), listed, NUM_READERS)
    for one, found in zip(listed, read, strict=True):
        if not any(rejection.reason in TO_TRY_AGAIN for rejection in found.rejections):
            yield one.source, one.filename
