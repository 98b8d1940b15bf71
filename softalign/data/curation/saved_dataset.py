"""Hugging Face datasets saved to disk: which Arrow files one consists of; they are read as tables."""

from __future__ import annotations

import json
from typing import Any

from softalign.config.curation import HttpConfig
from softalign.data.curation.names import is_url
from softalign.data.curation.parts import SourceFile, files_of, read_file
from softalign.data.curation.urls import HTTP_DEFAULTS
from softalign.errors import DataError, MissingInputError
from softalign.store.files import open_filesystem

_STATE = "state.json"
_SPLITS = "dataset_dict.json"


def saved_files(uri: str, http: HttpConfig = HTTP_DEFAULTS) -> tuple[SourceFile, ...]:
    """Return the Arrow files of a dataset that ``save_to_disk`` wrote, in its order.

    Raises:
        MissingInputError: there is no such dataset, or it has several splits; says which.
        DataError: its list of files cannot be used.
        ConfigError: access was refused.
        StorageUnavailableError: the store did not answer.
    """
    folder = uri.rstrip("/")
    state = _read(folder, _STATE, http)
    if state is None:
        raise _no_dataset(folder, http)
    listed = state.get("_data_files") if isinstance(state, dict) else None
    names = [entry.get("filename") if isinstance(entry, dict) else None for entry in listed or ()]
    if not names or not all(isinstance(name, str) and "/" not in name and "\\" not in name for name in names):
        raise DataError(
            "The dataset's list of files cannot be used.",
            expected="a list _data_files with a filename each",
            found=f"{listed!r}"[:300],
            where=f"{folder}/{_STATE}",
            fix="save the dataset again with save_to_disk",
        )
    if is_url(folder):
        return tuple(file for name in names for file in files_of(f"{folder}/{name}", bool, http))
    filesystem, path = open_filesystem(folder)
    return tuple(SourceFile(filesystem, f"{path}/{name}", f"{folder}/{name}") for name in names)


def _read(folder: str, name: str, http: HttpConfig) -> Any:
    """Return what a JSON file says; None where there is none."""
    try:
        return json.loads(read_file(f"{folder}/{name}", http))
    except MissingInputError:
        return None
    except (ValueError, RecursionError) as error:
        raise DataError("This file is not valid JSON.", found=str(error)[:300], where=f"{folder}/{name}") from error


def _no_dataset(folder: str, http: HttpConfig) -> MissingInputError:
    found = _read(folder, _SPLITS, http)
    splits = found.get("splits") if isinstance(found, dict) else None
    names = [str(name) for name in splits] if isinstance(splits, list) else []
    return MissingInputError(
        "This is a dataset of several splits." if names else "There is no saved dataset here.",
        expected=f"a folder with {_STATE}",
        found=f"splits {', '.join(names)}" if names else "none",
        where=folder,
        fix=f"name a split's folder, such as {folder}/{names[0]}" if names else "correct dataset_uri of this source",
    )
