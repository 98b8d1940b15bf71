"""Finding a published dataset by what people call it: its place, its stage key or digest, or its name."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from softalign.artifacts import DatasetManifest
from softalign.errors import ConfigError, IntegrityError, MissingInputError
from softalign.store.files import is_local, local_path_of, open_filesystem, read_bytes
from softalign.store.reaching import reaching
from softalign.store.store import Store
from softalign.store.written import written_at

_HEX = re.compile(r"[0-9a-f]{6,64}")
_MAX_SHOWN = 8


@dataclass(frozen=True, slots=True)
class _Listed:
    """A dataset of a store, and when its record was written (Unix seconds)."""

    dataset: DatasetManifest
    written_at: float


def find_dataset(reference: str, store: Store) -> DatasetManifest:
    """Return the published dataset that a reference names.

    Args:
        reference: the path or URI of a dataset's folder or of its ``manifest.json`` (a word without a slash is a path
            only where a dataset lies there); six or more digits of its stage key or digest; its name (the newest of
            that name), or ``NAME~1`` for the one before, ``NAME~2`` and so on.
        store: where keys, digests and names are looked up.

    Raises:
        MissingInputError: there is no such dataset; says which there are.
        ConfigError: several are meant by these digits.
        IntegrityError: its record is damaged.
        StorageUnavailableError: the store did not answer.
    """
    if "/" in reference or (Path(reference) / DatasetManifest.filename).is_file():
        return _at(reference.rstrip("/").removesuffix(f"/{DatasetManifest.filename}"))
    listed = published_datasets(store)
    name, _, back = reference.partition("~")
    named = [dataset for dataset in listed if dataset.name == name]
    if named and (back.isdigit() or not back):
        number = int(back or 0)
        if number < len(named):
            return named[number]
    digits = [one for one in listed if one.stage_key.startswith(reference) or one.digest.startswith(reference)]
    if _HEX.fullmatch(reference) and len(digits) == 1:
        return digits[0]
    if _HEX.fullmatch(reference) and digits:
        raise ConfigError(
            "Several datasets begin with these digits.",
            found=", ".join(one.stage_key[:16] for one in digits[:_MAX_SHOWN]),
            where=store.uri,
            fix="give more digits of the stage key",
        )
    raise _missing(reference, listed, store)


def published_datasets(store: Store) -> list[DatasetManifest]:
    """Return a store's datasets, the newest first; records of other formats, or damaged ones, are passed over."""
    uri = f"{store.uri}/{DatasetManifest.stage}"
    filesystem, path = open_filesystem(uri)
    with reaching(uri):
        filesystem.invalidate_cache()
        entries = filesystem.glob(f"{path}/*/{DatasetManifest.filename}", detail=True)
    found = []
    for name, entry in sorted(entries.items()):
        with suppress(MissingInputError, IntegrityError):
            dataset = store.find(DatasetManifest, str(name).rsplit("/", 2)[1])
            if dataset is not None:
                found.append(_Listed(dataset, written_at(entry)))
    newest = sorted(found, key=lambda one: (-one.written_at, one.dataset.stage_key))
    return [one.dataset for one in newest]


def _at(uri: str) -> DatasetManifest:
    """Return the dataset in a folder; on an object store its files lie one level below its record."""
    place = str(local_path_of(uri).absolute()) if is_local(uri) else uri
    for prefix in (place, place.rpartition("/")[0]):
        try:
            record = DatasetManifest.from_json(read_bytes(f"{prefix}/{DatasetManifest.filename}"), prefix)
        except MissingInputError:
            continue
        return record if is_local(uri) else record.model_copy(update={"uri": f"{prefix}/{record.files_digest[:16]}"})
    raise MissingInputError(
        "There is no published dataset.",
        expected=f"a folder with {DatasetManifest.filename}",
        found="none",
        where=uri,
        fix="name the folder that `softalign curate` printed",
    )


def _missing(reference: str, listed: list[DatasetManifest], store: Store) -> MissingInputError:
    shown = ", ".join(f"{one.name} ({one.stage_key[:12]})" for one in listed[:_MAX_SHOWN])
    return MissingInputError(
        "There is no such dataset in the store.",
        expected="a dataset's folder, stage key, digest or name (NAME~1: the one before the newest)",
        found=f"{reference!r}; the store has {shown or 'none'}" + (", ..." * (len(listed) > _MAX_SHOWN)),
        where=store.uri,
        fix="name one of these, or add --store",
    )
