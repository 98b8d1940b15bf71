"""The base of records and configurations, their canonical JSON and digests, and format versions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from copy import deepcopy
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from softalign.errors import CompatibilityError
from softalign.version import __version__


def canonical_json(value: Any) -> bytes:
    """Return JSON with sorted keys and no white space, the form that digests are taken of."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def digest_of(value: Any) -> str:
    """Return the sha256 hex digest of a JSON value's canonical form."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def require_format(stored: Any, known: int, what: str, *, where: str, fix: str) -> None:
    """Refuse stored JSON whose ``schema_version`` is not the one that is read and written here.

    Args:
        stored: what was parsed; without a version it passes, as its reader says what else is wrong with it.
        known: the version that is read.
        what: what it is, as the beginning of a sentence.
        where: its place.
        fix: what can be done instead of installing another softalign.

    Raises:
        CompatibilityError: it is of an older or newer format; says which, and which softalign wrote it, if it does.
    """
    version = stored.get("schema_version", known) if isinstance(stored, dict) else known
    if version == known or not isinstance(version, int):
        return
    writer = stored.get("library_version")
    age, way = ("an older", "install the softalign that wrote it")
    if version > known:
        age, way = "a newer", f"update softalign{f' to {writer} or later' if isinstance(writer, str) else ''}"
    raise CompatibilityError(
        f"{what} is of {age} format than this library reads.",
        expected=f"schema_version {known}, which softalign {__version__} writes",
        found=f"schema_version {version}{f', written by softalign {writer}' if writer else ''}",
        where=where,
        fix=f"{way}; or {fix}",
    )


class Frozen(BaseModel):
    """Base of records and configurations: immutable, and a field nobody declared is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)


class FileEntry(Frozen):
    """One file of a published prefix, as listed in its ``files.json``."""

    path: str
    size_bytes: int
    sha256: str


FrozenT = TypeVar("FrozenT", bound=Frozen)


def read_known(
    kind: type[FrozenT], stored: Any, optional: Collection[str] = (), strict: Collection[str] = ()
) -> tuple[FrozenT, tuple[str, ...]]:
    """Return a stored record and the places of its fields that are not known here, which are left out.

    For what other people's versions write into a registry: a field more must not make the rest unreadable.

    Args:
        kind: of the record.
        stored: the parsed JSON.
        optional: fields that are left out too where their content is not understood.
        strict: fields below which nothing may be left out.

    Raises:
        ValidationError: what is known is not right.
    """
    try:
        return kind.model_validate(stored), ()
    except ValidationError as error:
        extra = (item["loc"] for item in error.errors() if item["type"] == "extra_forbidden")
        wrong: list[tuple[str | int, ...]] = [place for place in extra if place[0] not in strict]
        wrong += [(item["loc"][0],) for item in error.errors() if item["loc"] and item["loc"][0] in optional]
        if not wrong:
            raise
    kept = deepcopy(stored)
    for place in wrong:
        _remove(kept, place)
    return kind.model_validate(kept), tuple(dict.fromkeys(".".join(map(str, place)) for place in wrong))


def _remove(stored: Any, place: tuple[str | int, ...]) -> None:
    *above, last = place
    for part in above:
        if isinstance(stored, dict) and part not in stored:  # removed with what it was in
            return
        stored = stored[part]
    if isinstance(stored, dict):
        stored.pop(last, None)
