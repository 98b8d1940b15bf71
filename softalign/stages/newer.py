"""Which version of a published dataset counts: ``newer.json`` beside its record leads to the one after it."""

from __future__ import annotations

from softalign.artifacts import DatasetManifest, Frozen, Record
from softalign.errors import MissingInputError
from softalign.store.files import read_bytes
from softalign.store.store import Store

NEWER_FILENAME = "newer.json"


class Newer(Frozen):
    """Where the newer version of a dataset lies."""

    key: str


def newest(record: Record, store: Store) -> Record:
    """Return the newest version of a published dataset: itself, unless something of it was mended or replaced.

    Raises:
        StorageUnavailableError: the store did not answer.
    """
    seen = set[str]()
    while isinstance(record, DatasetManifest) and record.stage_key not in seen:
        seen.add(record.stage_key)
        try:
            newer = Newer.model_validate_json(read_bytes(beside_uri(record, NEWER_FILENAME, store)))
        except MissingInputError:
            break
        record = store.find(DatasetManifest, newer.key) or record
    return record


def beside_uri(dataset: DatasetManifest, filename: str, store: Store) -> str:
    """Return the place of a file beside a dataset's record."""
    return f"{store.prefix(dataset.stage, dataset.stage_key)}/{filename}"
