"""A registered version whose files were lost, as with a bucket whose registry's database was kept: they come back."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from softalign.artifacts import FileEntry
from softalign.errors import IntegrityError
from softalign.registry.versions import registered_files

logger = logging.getLogger(__name__)
MODEL_FOLDER = "model"
"""Within the files of a version's run."""


def restore_files(client: Any, version: Any, model_path: Path, files: tuple[FileEntry, ...]) -> None:
    """Upload a version's files again if some are not there any more.

    Args:
        client: of the registry.
        version: as the registry has it.
        model_path: the folder with the files as they are made now.
        files: what is in it.

    Raises:
        IntegrityError: they are gone, and what is made now is not what was registered.
        RegistryError: the version was not registered by this library.
    """
    registered, where = registered_files(version).files, f"models:/{version.name}/{version.version}"
    present = set(_paths(client, version.run_id, MODEL_FOLDER))
    missing = sorted(entry.path for entry in registered if f"{MODEL_FOLDER}/{entry.path}" not in present)
    if not missing:
        return
    made = {(entry.path, entry.sha256) for entry in files}
    changed = sorted(entry.path for entry in registered if (entry.path, entry.sha256) not in made)
    if changed:
        raise IntegrityError(
            "The files of the registered version are gone, and other ones would be uploaded now.",
            expected="the files that were registered",
            found=f"other content of {', '.join(changed)}",
            where=where,
            fix="restore the registry's artifacts from a backup, or delete that version and register again",
        )
    client.log_artifacts(version.run_id, str(model_path), MODEL_FOLDER)
    logger.warning("%s had lost %s: its files are uploaded again", where, ", ".join(missing))


def _paths(client: Any, run_id: str, folder: str) -> Iterator[str]:
    for item in client.list_artifacts(run_id, folder):
        if item.is_dir:
            yield from _paths(client, run_id, item.path)
        else:
            yield item.path
