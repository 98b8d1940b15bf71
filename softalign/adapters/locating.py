"""Where an adapter is: a folder, a URI or a registered version; and which one it is, wherever it lies."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from softalign.artifacts import Adapter
from softalign.config.training import TrainConfig
from softalign.errors import IntegrityError, MissingInputError
from softalign.store.adapter_files import CONFIG_FILENAME, WEIGHTS_FILENAME
from softalign.store.files import is_local, local_path_of, private_cache, read_bytes, write_atomically


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


def resolve_adapter(source: str | Path | Adapter) -> Path:
    """Return a local folder with an adapter's files; remote ones are copied to the cache.

    Raises:
        MissingInputError: there is no adapter there.
    """
    uri = source.uri if isinstance(source, Adapter) else str(source)
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
    folder = private_cache() / "adapters" / hashlib.sha256(uri.encode()).hexdigest()[:32]
    for name in (CONFIG_FILENAME, WEIGHTS_FILENAME):
        try:
            data = read_bytes(f"{uri.rstrip('/')}/{name}")
        except MissingInputError as error:
            raise MissingInputError(
                "This is no adapter folder.", expected=f"{CONFIG_FILENAME} and {WEIGHTS_FILENAME}", where=uri
            ) from error
        write_atomically(folder / name, data)
    return folder
