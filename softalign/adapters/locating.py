"""Where an adapter is: a folder, a URI or a registered version; and which one it is, wherever it lies."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

from softalign.adapters.hub import hub_adapter
from softalign.artifacts import Adapter
from softalign.config.training import TrainConfig
from softalign.credentials import secrets_of
from softalign.errors import ConfigError, IntegrityError, MissingInputError
from softalign.store.adapter_files import CONFIG_FILENAME, WEIGHTS_FILENAME
from softalign.store.files import cache_dir, is_local, local_path_of, private_cache, read_bytes, write_atomically
from softalign.store.offline import OFFLINE_VARIABLE, is_offline

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def resolved(config: TrainConfig) -> TrainConfig:
    """Return the configuration with the content of the adapter it starts from in the place of the adapter's URI.

    The same weights at another place are the same request; other weights at the same place are another.

    Raises:
        MissingInputError: there is no adapter.
        IntegrityError: its configuration cannot be read.
    """
    if config.init_from is None:
        return config
    where = f"{config.init_from.rstrip('/')}/{CONFIG_FILENAME}"
    if config.init_from.startswith("models:/"):
        from softalign.registry import pull

        where = str(pull(config.init_from) / CONFIG_FILENAME)
    try:
        weights_sha256 = str(json.loads(read_bytes(where))["weights_sha256"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise IntegrityError("This is no adapter configuration.", found=str(error), where=where) from error
    return config.model_copy(update={"init_from": f"sha256:{weights_sha256}"})


def resolve_adapter(source: str | Path | Adapter, revision: str | None = None) -> Path:
    """Return a local folder with an adapter's files; remote ones are copied to the cache.

    Args:
        source: a folder, an fsspec URI, ``models:/NAME@ALIAS``, ``models:/NAME/3``, or a hub id (OWNER/NAME).
        revision: of a hub id: a branch, tag or commit.

    Raises:
        MissingInputError: there is no adapter there, or it cannot be fetched offline.
        ConfigError: ``revision`` is of something that has none.
        StorageUnavailableError: the place did not answer.
    """
    uri = source.uri if isinstance(source, Adapter) else str(source)
    secrets_of(uri, is_noted=True)
    is_of_hub = _HUB_ID.fullmatch(uri) is not None and not local_path_of(uri).exists()
    if revision is not None and not is_of_hub:
        raise ConfigError(
            "Only an adapter on the hub has a revision.", expected="a hub id (OWNER/NAME)", found=uri, where="revision"
        )
    if is_of_hub:
        return hub_adapter(uri, revision)
    if uri.startswith("models:/"):
        from softalign.registry import pull

        return pull(uri)
    if is_local(uri):
        folder = local_path_of(uri)
        if "@" in uri and not folder.exists():
            raise MissingInputError(
                "There is no such adapter folder.", found=uri, fix=f"a registered version is models:/{uri}"
            )
        return folder
    return _copied(uri)


def _copied(uri: str) -> Path:
    """Return the cache's copy of an adapter in another store; offline the last one."""
    folder = cache_dir() / "adapters" / hashlib.sha256(uri.encode()).hexdigest()[:32]
    if is_offline():
        if not (folder / WEIGHTS_FILENAME).is_file():
            raise MissingInputError(
                f"This adapter was not loaded before, and its store is not asked: {OFFLINE_VARIABLE} is set.",
                where=uri,
                fix=f"load it once without {OFFLINE_VARIABLE}",
            )
        return folder
    private_cache()
    for name in (CONFIG_FILENAME, WEIGHTS_FILENAME):
        try:
            data = read_bytes(f"{uri.rstrip('/')}/{name}")
        except MissingInputError as error:
            raise MissingInputError(
                "This is no adapter folder.", expected=f"{CONFIG_FILENAME} and {WEIGHTS_FILENAME}", where=uri
            ) from error
        path = folder / name
        if not path.is_file() or path.read_bytes() != data:
            write_atomically(path, data)
    return folder
