"""A published dataset is looked at again: images that can be had by now, or were replaced, make a newer version.

What a request asks for stays the same, so a newer version lies under a key of its own, and ``newer.json`` beside the
older one's record leads to it. No digest covers that file or ``tries.json``, which counts.
"""

from __future__ import annotations

import json
import logging
from contextlib import suppress

from softalign.artifacts import DatasetManifest, Frozen, Record, digest_of
from softalign.config.curation import WEIGHTS, ShapesSource
from softalign.data.curation.published import OpenedDataset
from softalign.data.curation.rejections import TO_TRY_AGAIN
from softalign.data.curation.reuse import Beside
from softalign.errors import IntegrityError, MissingInputError, SoftAlignError
from softalign.stages.asked_before import published_requests, request_of
from softalign.stages.newer import NEWER_FILENAME, Newer, beside_uri, newest
from softalign.stages.requests import StageInputs, StageRequest, curate_request
from softalign.store.files import create_file, overwrite_file, read_bytes
from softalign.store.store import Store

logger = logging.getLogger(__name__)
TRIES_FILENAME = "tries.json"
MENDED = "curation.mended"
"""The content of a newer version's request: a digest of what was mended."""
REPLACED = "curation.replaced"
"""Likewise, of images that have other bytes under the same name and size."""
SHAPES = ShapesSource.model_fields["type"].default
_TABLES = ("annotations_uri", "table_uri")
"""Fields of a source that say where its captions are: others may be of the same images."""


class Tries(Frozen):
    """How often images that failed were tried again."""

    tries: int


def has_failures(dataset: DatasetManifest) -> bool:
    """Return whether images are missing that may be had another time."""
    return any(one.reason in TO_TRY_AGAIN for one in dataset.rejected)


def renewal(given: StageInputs, record: Record) -> StageRequest | None:
    """Try a dataset's failed images again, and return the request of a newer version if some are mended, else None.

    A place that is away meanwhile is no reason to refuse what is published.
    """
    if not isinstance(record, DatasetManifest) or not has_failures(record):
        return None
    store, tries = given.store, tries_of(record, given.store)
    if tries >= given.recipe.runtime.image_tries:
        return None
    from softalign.data.curation.retrying import mended

    try:
        found = mended(given.recipe.curation, OpenedDataset(record, store))
        _keep_tries(record, tries + 1, store)
    except IntegrityError:
        raise
    except SoftAlignError as error:
        logger.warning("Images that failed were not tried again: %s", error.what)
        return None
    if not found:
        return None
    logger.info("Of the images that failed, %d can be used now", len(found))
    request = curate_request(given)
    content = request.content | _replaced(record, store) | {MENDED: digest_of([record.stage_key, found])}
    return request.model_copy(update={"content": content})


def _replaced(record: DatasetManifest, store: Store) -> dict[str, str]:
    """Return what a recheck had found of a dataset, which stays so when images are mended."""
    with suppress(MissingInputError):
        return {name: digest for name, digest in request_of(record, store).content.items() if name == REPLACED}
    return {}


def recheck_request(given: StageInputs, record: DatasetManifest) -> StageRequest | None:
    """Read a published dataset's images again; return the request of a newer version if some were replaced, else None.

    Raises:
        SoftAlignError: a source's table is not there or cannot be used, or its place does not answer.
    """
    from softalign.data.curation.retrying import replaced

    found = replaced(given.recipe.curation, OpenedDataset(record, given.store))
    if not found:
        return None
    logger.info("%d images have other content than when they were curated", len(found))
    request = curate_request(given)
    return request.model_copy(update={"content": request.content | {REPLACED: digest_of([record.stage_key, found])}})


def note_newer(given: StageInputs, dataset: Record) -> None:
    """Lead from the version that was found so far to a newer one."""
    first = given.store.find(DatasetManifest, curate_request(given).key)
    before = newest(first, given.store) if first is not None else None
    if isinstance(before, DatasetManifest) and isinstance(dataset, DatasetManifest) and before != dataset:
        _keep_tries(dataset, tries_of(before, given.store), given.store)
        content = json.dumps(Newer(key=dataset.stage_key).model_dump()).encode()
        create_file(beside_uri(before, NEWER_FILENAME, given.store), content)


def tries_of(dataset: DatasetManifest, store: Store) -> int:
    """Return how often a dataset's failed images were tried again."""
    try:
        return Tries.model_validate_json(read_bytes(beside_uri(dataset, TRIES_FILENAME, store))).tries
    except MissingInputError:
        return 0


def version_beside(given: StageInputs, key: str, parent_key: str) -> Beside | None:
    """Return the version that the dataset to be curated can go by: its parent, or the newest that is like it.

    Args:
        given: what the stage starts from.
        key: of the request that is answered.
        parent_key: of the dataset before the last caption changes; empty: there is none.
    """
    path = given.store.request_path("curate", key)
    asked = StageRequest.model_validate_json(path.read_bytes()) if path.is_file() else curate_request(given)
    goes_by_parent = parent_key and REPLACED not in asked.content
    found = given.store.find(DatasetManifest, parent_key) if goes_by_parent else None
    if found is not None:
        return Beside(newest(found, given.store).stage_key)
    alike = [
        (written_at, prefix.rpartition("/")[2], request)
        for written_at, prefix, request in published_requests("curate", given.store)
        if _likeness(request) == _likeness(asked)
    ]
    for _, other, request in sorted(alike, key=lambda one: (-one[0], one[1])):
        if _is_published(other, given.store):
            return Beside(other, is_compared=_state(request) != _state(asked))
    return None


def _is_published(key: str, store: Store) -> bool:
    try:
        return store.find(DatasetManifest, key) is not None
    except SoftAlignError:  # of another format, or damaged: no use here
        return False


def _state(request: StageRequest) -> tuple[object, object]:
    """Return what says that the sources' tables and images are the same."""
    content = {name: digest for name, digest in request.content.items() if name != MENDED}
    return content, [_without(source, WEIGHTS) for source in request.config["curation"].get("sources", ())]


def _likeness(request: StageRequest) -> object:
    """Return what two requests have in common if an image that both have is found the same in both."""
    curation = dict(request.config["curation"])
    curation.pop("caption_changes", None)
    curation["sources"] = [
        _without(source, WEIGHTS if source.get("type") == SHAPES else (*WEIGHTS, *_TABLES))
        for source in curation["sources"]
    ]
    of_filters = {name: digest for name, digest in request.content.items() if name.startswith("curation.filters")}
    made_by = [request.config.get(name) for name in ("decoder", "hashes", "fitting")]
    return request.library_version, curation, made_by, of_filters


def _without(source: dict[str, object], fields: tuple[str, ...]) -> dict[str, object]:
    return {name: value for name, value in source.items() if name not in fields}


def _keep_tries(dataset: DatasetManifest, tries: int, store: Store) -> None:
    content = json.dumps(Tries(tries=tries).model_dump()).encode()
    overwrite_file(beside_uri(dataset, TRIES_FILENAME, store), content)
