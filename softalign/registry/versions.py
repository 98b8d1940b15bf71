"""Looking up registered versions: references, aliases and the tags that carry what was registered."""

from __future__ import annotations

import json
import logging
import re
from typing import Any

from softalign.artifacts import (
    SCHEMA_VERSION,
    ComparisonReport,
    FileEntry,
    Frozen,
    FrozenT,
    read_known,
    require_format,
)
from softalign.config.registration import LEDGER_SUFFIX
from softalign.errors import ConfigError, IntegrityError, RegistryError
from softalign.registry.hostile import is_safe_path

logger = logging.getLogger(__name__)

CHAMPION = "champion"
STAGE_KEY_TAG = "softalign.stage_key"
FILES_TAG = "softalign.files"
"""JSON list of the version's files with size and sha256: what a pull is verified against."""
WEIGHTS_TAG = "softalign.weights_sha256"
BASE_MODEL_TAG = "softalign.base_model"
COMPARISON_TAG = "softalign.comparison"
"""The version's ComparisonReport: what the next candidate is compared with."""

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_REFERENCE = re.compile(rf"(?:models:/+)?(?P<name>{_NAME})(?:@(?P<alias>[A-Za-z0-9_-]+)|/(?P<version>[0-9]+))")


class Reference(Frozen):
    """A registered version, by alias or by number (exactly one of them is set)."""

    name: str
    alias: str = ""
    version: int = 0

    def __str__(self) -> str:
        """Return the short form, ``NAME@ALIAS`` or ``NAME/VERSION``."""
        return f"{self.name}@{self.alias}" if self.alias else f"{self.name}/{self.version}"


class RegisteredFiles(Frozen):
    """What a registry holds for one version."""

    name: str
    version: int
    source: str
    files: tuple[FileEntry, ...]


def parse_reference(text: str) -> Reference:
    """Return what ``models:/NAME@ALIAS``, ``models:/NAME/3``, ``NAME@ALIAS`` or ``NAME/3`` means.

    Raises:
        ConfigError: it is none of these.
    """
    match = _REFERENCE.fullmatch(text)
    if match is None:
        raise ConfigError(
            "This is not a reference to a registered version.",
            expected="NAME@ALIAS or NAME/VERSION, with or without models:/",
            found=text,
            fix="for example softalign-shapes@champion or softalign-shapes/3",
        )
    return Reference(name=match["name"], alias=match["alias"] or "", version=int(match["version"] or 0))


def pin_of(name: str, version: int, weights_sha256: str) -> str:
    """Return how comparisons name a version: by its number and its content."""
    return f"{name}/{version}#{weights_sha256}"


def known(kind: type[FrozenT], stored: Any, where: str) -> FrozenT:
    """Return a stored record; fields that are not known here are left out with a warning.

    Raises:
        ValidationError: what is known is not right.
    """
    record, ignored = read_known(kind, stored)
    if ignored:
        logger.warning("%s has fields that are not known here, of a newer softalign: %s", where, ", ".join(ignored))
    return record


def find_model(client: Any, name: str) -> Any:
    """Return a registered model.

    Raises:
        RegistryError: unknown; lists the names there are. Or a history, which is nobody's adapter.
    """
    from mlflow.exceptions import MlflowException

    if name.endswith(LEDGER_SUFFIX):
        model = name.removesuffix(LEDGER_SUFFIX)
        raise RegistryError(
            f"{name!r} is the history of {model!r}, and no adapter.",
            expected=f"a name that does not end in {LEDGER_SUFFIX}",
            found=name,
            fix=f"`softalign history {model}` shows it",
        )
    try:
        return client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        known = client.search_registered_models(max_results=100)
        names = sorted(model.name for model in known if not model.name.endswith(LEDGER_SUFFIX))
        raise RegistryError(
            f"No model is registered as {name!r}.",
            expected=f"one of {', '.join(names)}" if names else "a registered name (this registry holds none)",
            found=name,
            fix="check the name and MLFLOW_TRACKING_URI, or register an adapter first",
        ) from error


def is_registered(client: Any, name: str) -> bool:
    """Return whether a model of this name is registered."""
    return bool(client.search_registered_models(f"name = '{name}'", max_results=1))


def find_version(client: Any, reference: Reference) -> Any:
    """Return the registered version a reference names.

    Raises:
        RegistryError: no such alias or version; lists those there are.
    """
    from mlflow.exceptions import MlflowException

    try:  # one request where it is there
        if reference.alias:
            return client.get_model_version_by_alias(reference.name, reference.alias)
        return client.get_model_version(reference.name, str(reference.version))
    except MlflowException as error:
        if error.error_code not in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
            raise
    model = find_model(client, reference.name)
    known = {int(version.version): version for version in versions_of(client, reference.name)}
    number = int(model.aliases.get(reference.alias, 0)) if reference.alias else reference.version
    if number in known:
        return known[number]
    aliases = ", ".join(
        f"{alias} -> {version}{'' if int(version) in known else ' (deleted)'}"
        for alias, version in sorted(model.aliases.items())
    )
    lacking = f"alias {reference.alias!r}" if reference.alias and not number else f"version {number}"
    gone = f": its alias {reference.alias!r} names one that was deleted" if reference.alias and number else ""
    raise RegistryError(
        f"{reference.name!r} has no {lacking}{gone}.",
        expected=f"aliases: {aliases or 'none'}; versions: {', '.join(map(str, sorted(known))) or 'none'}",
        found=str(reference),
        fix=f"use one of these; `softalign promote {reference.name} --version N` sets the champion",
    )


def versions_of(client: Any, name: str, stage_key: str = "") -> list[Any]:
    """Return a model's versions in order, all of them or those registered under a stage key."""
    condition = f"name = '{name}'" + (f" and tags.`{STAGE_KEY_TAG}` = '{stage_key}'" if stage_key else "")
    found: list[Any] = []
    token: str | None = None
    while True:
        page = client.search_model_versions(condition, max_results=200, page_token=token)
        found.extend(page)
        token = page.token
        if not token:
            return sorted(found, key=lambda version: int(version.version))


def comparison_of(client: Any, name: str, version: int | None) -> ComparisonReport | None:
    """Return the scores a version was registered with; None without a version or where it carries none.

    Raises:
        IntegrityError: the tag holds no comparison.
        CompatibilityError: the comparison is of another format version.
    """
    if version is None:
        return None
    stored = client.get_model_version(name, str(version)).tags.get(COMPARISON_TAG)
    if not stored:
        return None
    where, fix = f"models:/{name}/{version}", f"make another version champion: `softalign promote {name} --version N`"
    try:
        payload = json.loads(stored)
        require_format(payload, SCHEMA_VERSION, "The champion's comparison", where=where, fix=fix)
        return known(ComparisonReport, payload, f"{where}, tag {COMPARISON_TAG}")
    except (ValueError, RecursionError) as error:
        raise IntegrityError(
            "The champion's scores cannot be read.",
            found=str(error)[:200],
            where=f"{where}, tag {COMPARISON_TAG}",
            fix=fix,
        ) from error


def registered_files(version: Any) -> RegisteredFiles:
    """Return what a version consists of, from its tags.

    Raises:
        RegistryError: the version was not registered by this library.
        IntegrityError: its file list is damaged or names a path outside of the version's folder.
    """
    where = f"models:/{version.name}/{version.version}"
    stored = version.tags.get(FILES_TAG)
    if not stored:
        raise RegistryError(
            "This version carries no file list, so nothing could be verified.",
            expected=f"a tag {FILES_TAG}, as `softalign register` writes it",
            found=f"tags {', '.join(sorted(version.tags)) or 'none'}",
            where=where,
            fix="register the adapter with softalign, or load it with the tool that registered it",
        )
    try:
        files = tuple(known(FileEntry, entry, f"{where}, tag {FILES_TAG}") for entry in json.loads(stored))
        is_safe = all(is_safe_path(entry.path) for entry in files)
    except (ValueError, TypeError, RecursionError) as error:
        raise IntegrityError("The version's file list is damaged.", found=str(error)[:200], where=where) from error
    if not is_safe:
        raise IntegrityError(
            "The version's file list names a path outside of its folder.",
            expected="relative paths",
            found=", ".join(entry.path for entry in files),
            where=where,
            fix="do not use this version; look at who wrote its tags",
        )
    return RegisteredFiles(name=version.name, version=int(version.version), source=version.source, files=files)
