"""Whether a registered version still is in its store's own registry: a record alone is no registration."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from softalign.artifacts import ModelVersion, Record
from softalign.registry.connection import EMBEDDED, SQLITE, registry_of_store
from softalign.store.files import open_filesystem
from softalign.store.reaching import reaching
from softalign.store.store import Store


def is_in_registry(record: Record, store: Store) -> bool:
    """Return whether a version is where its record says; a server is not asked, and counted as having it.

    So a plan of a finished recipe makes no request, and needs neither server nor rights.
    """
    if not isinstance(record, ModelVersion) or record.tracking_uri != EMBEDDED or not store.is_local:
        return True
    path = Path(registry_of_store(store).removeprefix(SQLITE))
    if not path.is_file():
        return False
    question = "SELECT count(*) FROM model_versions WHERE name = ? AND version = ? AND run_id = ?"
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            (number,) = database.execute(question, (record.name, record.version, record.run_id)).fetchone()
    except sqlite3.Error:  # locked, or no registry at all: who registers says what is wrong with it
        return True
    return bool(number)


def withdraw(record: ModelVersion, store: Store) -> None:
    """Take back the record of a version that is in no registry any more; without it its prefix does not exist.

    Raises:
        LeaseLostError: another process works on it by now.
        StorageUnavailableError: the store did not answer.
    """
    store.require_held()
    uri = f"{store.prefix(record.stage, record.stage_key)}/{record.filename}"
    filesystem, path = open_filesystem(uri)
    with reaching(uri):
        filesystem.rm_file(path)
