"""``data_report.html`` beside a published dataset: made of it, so no digest covers it."""

from __future__ import annotations

import logging
from contextlib import suppress

from softalign.artifacts import DatasetManifest
from softalign.data.curation.published import OpenedDataset
from softalign.data.versions.pages.data_page import render_dataset
from softalign.errors import StorageUnavailableError
from softalign.store.files import create_file
from softalign.store.store import Store

REPORT_FILENAME = "data_report.html"
logger = logging.getLogger(__name__)


def report_uri(dataset: DatasetManifest, store: Store) -> str:
    """Return where a dataset's page lies."""
    return f"{store.prefix(dataset.stage, dataset.stage_key)}/{REPORT_FILENAME}"


def keep_report(dataset: DatasetManifest, store: Store) -> None:
    """Put the page beside a published dataset; one that is there stays.

    A store that is away meanwhile costs the page alone: the dataset stays, and ``softalign data report`` makes it.

    Raises:
        IntegrityError: the dataset is not what was published.
    """
    with suppress(StorageUnavailableError):
        uri = report_uri(dataset, store)
        create_file(uri, render_dataset(OpenedDataset(dataset, store)).encode())
        logger.info("What was kept and left out, and why: %s", uri)
