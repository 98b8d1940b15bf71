"""For the card: what an adapter was trained on, beside what the champion was that it is compared with."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from softalign.adapters.files import read_adapter_config
from softalign.artifacts import Adapter, DatasetManifest
from softalign.artifacts.card import DataChange
from softalign.data.changes import dataset_change
from softalign.data.versions.finding import published_datasets
from softalign.errors import SoftAlignError
from softalign.store.store import Store

logger = logging.getLogger(__name__)


def data_change(adapter: Adapter, champion: str, fetch: Callable[[], Path], store: Store) -> DataChange | None:
    """Return how the data of an adapter differ from a champion's; None where that cannot be told.

    A card that lacks it is no reason to stop what it is a card of: the log says why.

    Args:
        adapter: the adapter.
        champion: ``NAME/VERSION``; empty: there is none.
        fetch: returns the champion's files.
        store: where the datasets lie.
    """
    if not champion:
        return None
    try:
        digest = read_adapter_config(fetch()).dataset_digest
        if not digest:  # tokens converted from elsewhere
            return None
        if digest == adapter.dataset_digest:
            return DataChange(before=champion, is_known=True, is_same=True)
        return _between(champion, _dataset(digest, store), _dataset(adapter.dataset_digest, store), store)
    except SoftAlignError as error:
        logger.warning("the card will not say what changed in the data since %s: %s", champion, error)
        return None


def _between(champion: str, before: DatasetManifest | None, after: DatasetManifest | None, store: Store) -> DataChange:
    if before is None or after is None:
        return DataChange(before=champion, is_known=False, is_same=False)
    found = dataset_change(before, after, store)
    return DataChange(
        before=champion,
        is_known=True,
        is_same=False,
        num_images_before=before.num_samples,
        num_images=after.num_samples,
        num_added=found.num_added,
        num_removed=found.num_removed,
        num_recaptioned=found.num_recaptioned,
    )


def _dataset(digest: str, store: Store) -> DatasetManifest | None:
    """Return the dataset of a digest; None where the store has it no more."""
    return next((one for one in published_datasets(store) if one.digest == digest), None)
