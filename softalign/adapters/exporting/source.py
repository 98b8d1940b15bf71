"""What is exported: an adapter's files on this machine, verified, and the name it goes by."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from softalign.adapters.files import AdapterConfig, load_adapter, read_adapter_config
from softalign.adapters.locating import resolve_adapter
from softalign.errors import ConfigError, MissingInputError
from softalign.method.soft_tokens import SoftTokens
from softalign.registry import Reference, parse_reference, pull_version
from softalign.store.files import is_local, local_path_of


@dataclass(frozen=True)
class Source:
    """An adapter whose weights are those of its configuration.

    Attributes:
        folder: its files; nothing is changed in it.
        name: letters, digits, dots and dashes alone.
        config: of the adapter.
        tokens: its live tokens.
    """

    folder: Path
    name: str
    config: AdapterConfig
    tokens: SoftTokens


@dataclass(frozen=True)
class Asking:
    """How a registry is asked; see ``pull_version``. ``registry`` names it, and is called if one is needed."""

    registry: Callable[[], str | None] = lambda: None
    offline: bool | None = None
    timeout_s: float | None = None


def find_source(reference: str, revision: str | None = None, asking: Asking | None = None) -> Source:
    """Return the adapter of a reference, verified.

    Args:
        reference: a folder, ``NAME@ALIAS`` or ``NAME/3`` (with or without ``models:/``), an fsspec URI, or a hub id.
            A folder of that name comes first, then a registered version, then the hub.
        revision: of a hub id.
        asking: how a registry is asked.

    Raises:
        ConfigError, MissingInputError: there is no adapter there; ``revision`` is of something that has none.
        IntegrityError, CompatibilityError: its files are damaged, or of another format.
        RegistryError, StorageUnavailableError: the registry does not know it, or did not answer.
    """
    asking, registered = asking or Asking(), _registered(reference)
    if registered is None and is_local(reference) and "/" not in reference and not local_path_of(reference).exists():
        raise MissingInputError(
            "There is no such adapter folder.",
            expected="a folder, NAME@ALIAS, NAME/VERSION, a URI, or a hub id",
            found=reference,
            fix=f"a registered version is {reference}@champion, or {reference}/1",
        )
    if registered is None or revision is not None:
        folder, name = resolve_adapter(reference, revision), reference.rstrip("/").rpartition("/")[2]
    else:
        pulled = pull_version(
            reference, tracking_uri=asking.registry(), offline=asking.offline, timeout_s=asking.timeout_s
        )
        folder, name = pulled.path, f"{pulled.name}-{pulled.version}"
    config, tokens = read_adapter_config(folder), load_adapter(folder)
    return Source(folder, re.sub(r"[^A-Za-z0-9.-]+", "-", name).strip(".-") or "adapter", config, tokens)


def _registered(reference: str) -> Reference | None:
    """Return which registered version is meant; None: none, or a folder is of that name."""
    if is_local(reference) and local_path_of(reference).exists():
        return None
    try:
        return parse_reference(reference)
    except ConfigError:
        if reference.startswith("models:/"):
            raise
        return None
