"""A new version of a dataset from changed captions: the recipe of it, whose stages then reuse what did not change."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import ValidationError

from softalign.artifacts import DatasetManifest, EncodedManifest, Record
from softalign.config.curation import CurationConfig
from softalign.config.recipe import Recipe
from softalign.data.curation.changes import CaptionEdit, list_samples_of, read_edits, to_lines
from softalign.data.curation.filters import filter_captions, load_evaluation_sets
from softalign.data.curation.published import OpenedDataset
from softalign.data.curation.rejections import REPAIRS
from softalign.data.curation.samples import HeldImage, ListedSample
from softalign.data.versions.changes_table import read_changes
from softalign.errors import DataError, MissingInputError
from softalign.stages.asked_before import request_of
from softalign.stages.newer import newest
from softalign.stages.requests import StageInputs, curate_request
from softalign.stages.table import row_of
from softalign.stages.what_changed import changes
from softalign.store.files import create_file, read_bytes
from softalign.store.store import REQUEST_FILENAME, Store

logger = logging.getLogger(__name__)
FOLDER = "captions"
"""Of a store: changes of captions, named by their content."""


@dataclass(frozen=True, slots=True)
class Refresh:
    """What a refresh asks for.

    Attributes:
        dataset: what is refreshed.
        recipe: with the dataset's curation and the changes: its ``curate`` is the new version.
        num_edits: captions that come, go or are reworded.
        changes_uri: the changes, as the store keeps them.
        applied: the new version where it is published already; None: it is to be made.
    """

    dataset: DatasetManifest
    recipe: Recipe
    num_edits: int
    changes_uri: str
    applied: DatasetManifest | None = None

    @property
    def override(self) -> str:
        """What makes the dataset's recipe one of the new version, for ``--set``."""
        return f"curation.caption_changes={json.dumps(list(self.recipe.curation.caption_changes))}"


def prepare_refresh(dataset: DatasetManifest, captions: str, store: Store, recipe: Recipe | None = None) -> Refresh:
    """Keep changes of captions in the store and return the recipe of the new version.

    Where the dataset is what came of these very changes, it is the new version: a retry changes nothing.

    Args:
        dataset: what is changed; its sources must be as they were when it was curated, unless it has the
            changes and there is no recipe.
        captions: the table of changes; see ``softalign.data.versions.changes_table``.
        store: where the dataset is published.
        recipe: whose model the new version is for; None: the recipe is good for curating alone.

    Raises:
        MissingInputError: the table or a source is not there, or the dataset does not say what it was made of.
        DataError: rows of the table cannot be used, or the sources have changed since.
        ConfigError: the store refused access.
        StorageUnavailableError: the store did not answer.
    """
    curation = _curation_of(dataset, store)
    base = recipe or Recipe.model_validate(
        {"name": dataset.name, "curation": curation.model_dump(), "register": {"name": dataset.name}}
    )
    base = base.model_copy(update={"curation": curation})
    done = _done_before(dataset, captions, base, store)
    if done is None or recipe is not None:  # of which a stage may run
        _require_same_sources(dataset, base, store)
    if done is not None:
        return _said(done)
    edits = _edits(captions, OpenedDataset(dataset, store), curation)
    _warn_of_refused(edits, curation)
    data = to_lines(edits)
    uri = f"{store.uri}/{FOLDER}/{hashlib.sha256(data).hexdigest()[:32]}.jsonl"
    create_file(uri, data)
    refreshed = curation.model_copy(update={"caption_changes": (*curation.caption_changes, uri)})
    refreshed_recipe = base.model_copy(update={"curation": refreshed})
    return _said(Refresh(dataset, refreshed_recipe, len(edits), uri, _find_dataset(refreshed_recipe, store)))


def edits_between(before: DatasetManifest, after: DatasetManifest, store: Store) -> tuple[CaptionEdit, ...]:
    """Return the caption changes that a dataset has more than an earlier one of the same sources.

    Changes that are no longer in the store explain nothing: a warning says so.

    Raises:
        StorageUnavailableError: the store did not answer.
    """
    if not after.parent_key:
        return ()
    try:
        later = _curation_of(after, store)
        if after.parent_key == before.stage_key:
            return read_edits(later.caption_changes[-1:])
        earlier = _curation_of(before, store)
        number = len(earlier.caption_changes)
        if earlier.sources == later.sources and later.caption_changes[:number] == earlier.caption_changes:
            return read_edits(later.caption_changes[number:])
    except (MissingInputError, DataError) as error:
        logger.warning("Which captions were changed by a refresh is not told: %s", error.what)
    return ()


def log_lineage(asked: Refresh, records: Sequence[Record], store: Store) -> None:
    """Say in the registry, where one is meant, what came of a refresh; one that is away costs a warning.

    Args:
        asked: the refresh.
        records: what its stages published: the dataset, and its encodings if it was encoded.
        store: where.
    """
    from softalign.registry import RefreshFacts, log_refresh

    child = next(one for one in records if isinstance(one, DatasetManifest))
    encoded = next((one for one in records if isinstance(one, EncodedManifest)), None)
    log_refresh(RefreshFacts(asked.recipe, asked.dataset, child, asked.changes_uri, asked.num_edits, encoded), store)


def published_dataset(recipe: Recipe, store: Store) -> DatasetManifest:
    """Return the dataset that a recipe curates.

    Raises:
        MissingInputError: it is not published.
    """
    found = _find_dataset(recipe, store)
    if found is None:
        raise MissingInputError(
            "The recipe's dataset is not published, or its sources have changed since.",
            where=store.uri,
            fix="run `softalign curate` first: captions are refreshed of what is there",
        )
    return found


def _find_dataset(recipe: Recipe, store: Store) -> DatasetManifest | None:
    found = row_of("curate").published(curate_request(StageInputs(recipe, store)).key, store)
    return found if isinstance(found, DatasetManifest) else None


def _done_before(dataset: DatasetManifest, captions: str, recipe: Recipe, store: Store) -> Refresh | None:
    """Return the refresh that a dataset came of, if it was one with these very changes.

    What a row means is told by the dataset that was refreshed: images that it names may be gone from this one.
    """
    changes, parent = recipe.curation.caption_changes, store.find(DatasetManifest, dataset.parent_key or "none")
    refreshed = newest(parent, store) if parent is not None and changes else None
    if not isinstance(refreshed, DatasetManifest):
        return None
    repair = recipe.curation.filters.captions.repair
    try:
        edits = read_changes(captions, OpenedDataset(refreshed, store), _source_names(recipe.curation), repair=repair)
    except DataError:  # of that dataset they were not, so they are of this one
        return None
    if to_lines(edits) != read_bytes(changes[-1]):
        return None
    return Refresh(refreshed, recipe, len(edits), changes[-1], dataset)


def _said(asked: Refresh) -> Refresh:
    if asked.applied is not None:
        made = f"{asked.applied.name} {asked.applied.stage_key[:16]}"
        logger.info("The %d caption changes are in %s already", asked.num_edits, made)
    return asked


def _source_names(curation: CurationConfig) -> list[str]:
    return [f"{index}-{source.type}" for index, source in enumerate(curation.sources)]


def _edits(captions: str, dataset: OpenedDataset, curation: CurationConfig) -> tuple[CaptionEdit, ...]:
    with TemporaryDirectory(prefix="softalign-") as folder:  # for what a source renders
        listed = list_samples_of(curation, Path(folder))
        return read_changes(captions, dataset, _source_names(curation), listed, repair=curation.filters.captions.repair)


def _warn_of_refused(edits: Sequence[CaptionEdit], curation: CurationConfig) -> None:
    """Say which captions that come are left out by the dataset's filters, as any other caption would be."""
    load_evaluation_sets(curation.filters)
    refused: dict[str, list[str]] = {}
    for edit in edits:
        listed = ListedSample(edit.source, edit.file_name, HeldImage(b""), (edit.caption,))
        for one in filter_captions(listed, curation.filters).rejections if edit.caption else ():
            if one.caption_index >= 0 and one.reason not in REPAIRS:
                refused.setdefault(one.reason, []).append(f"{edit.caption[:80]!r} of {edit.file_name[:80]}")
    for reason, captions in sorted(refused.items()):
        logger.warning("The filters leave out %d new captions: %s, such as %s", len(captions), reason, captions[0])


def _curation_of(dataset: DatasetManifest, store: Store) -> CurationConfig:
    where = f"{store.prefix(dataset.stage, dataset.stage_key)}/{REQUEST_FILENAME}"
    try:
        return CurationConfig.model_validate(request_of(dataset, store).config["curation"])
    except (MissingInputError, ValidationError, KeyError) as error:
        raise MissingInputError(
            "The dataset does not say what it was made of.",
            expected=f"a {REQUEST_FILENAME} of this version beside its record, in this store",
            found=type(error).__name__,
            where=where,
            fix="name the dataset's store with --store, or curate it anew",
        ) from error


def _require_same_sources(dataset: DatasetManifest, recipe: Recipe, store: Store) -> None:
    """Refuse a dataset that would come out otherwise today: a refresh of it would mix two states of the sources."""
    now = curate_request(StageInputs(recipe, store))
    published = store.find(DatasetManifest, now.key)
    if published is None or newest(published, store).stage_key != dataset.stage_key:
        found = "; ".join(change.text for change in changes(request_of(dataset, store), now)) or "another format"
        raise DataError(
            "The dataset's sources are not what it was curated of.",
            expected=f"stage key {dataset.stage_key[:16]}",
            found=found,
            where=dataset.uri,
            fix="run `softalign curate` with its recipe, and refresh what comes of it",
        )
