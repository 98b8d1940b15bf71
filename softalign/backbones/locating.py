"""Where a backbone's model lies, and a short digest of what lies there."""

from __future__ import annotations

import hashlib
from pathlib import Path

from softalign.artifacts import digest_of
from softalign.config.backbone import BackboneConfig
from softalign.errors import MissingInputError
from softalign.store.files import sha256_of_file
from softalign.store.offline import hub_silence

WHOLE_FILE_BYTES = 64 << 20
"""Larger weight files are known by size and the first and last megabyte: a check against swaps, not against forgery."""
HOW_ELSE = {"backbone.model": " (`softalign generate`: --base)"}
"""How commands without a recipe name a model, by the recipe's field."""


def resolve_model(config: BackboneConfig) -> str:
    """Return what ``from_pretrained`` takes: the embedded model's folder, a local folder or a hub id.

    Raises:
        MissingInputError: the model is on the hub, which cannot be asked, and not cached here.
    """
    if config.is_embedded:
        from softalign.shapes import weights_path

        return str(weights_path(config.family))
    return reachable_model(config.model, config.revision)


def is_hub_id(model: str) -> bool:
    """Return whether a model's name could be an id of the Hugging Face hub."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(model)
    except HFValidationError:
        return False
    return True


def reachable_model(
    model: str,
    revision: str | None = None,
    *,
    filename: str = "model_index.json",
    field: str = "backbone.model",
    role: str = "base model",
) -> str:
    """Return a model's name, or where the hub cannot be asked the folder of its copy in the hub's cache.

    The libraries would ask for each file for most of a minute, and then blame the file.

    Args:
        model: a local folder or a hub id; anything else is left to who loads it.
        revision: of a hub id.
        filename: which every such model has at its top.
        field: what names the model in a recipe.
        role: what the model is here, for the message.

    Raises:
        MissingInputError: the hub cannot be asked, and there is no copy.
    """
    if Path(model).is_dir() or not is_hub_id(model) or not (silence := hub_silence()):
        return model
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(model, filename, revision=revision)
    if isinstance(cached, str):
        return str(Path(cached).parent)
    raise MissingInputError(
        f"The {role} cannot be loaded: it is not cached here, and the hub cannot be asked.",
        expected=f"a folder with {filename}, a cached model, or a hub that answers",
        found=silence,
        where=model,
        fix=f"set {field} to a local folder{HOW_ELSE.get(field, '')}, or load it once with the hub in reach",
    )


def model_folder(backbone: BackboneConfig) -> Path | None:
    """Return the local folder of a backbone's model, or None for a hub id."""
    if backbone.is_embedded:
        from softalign.shapes import weights_path

        return weights_path(backbone.family)
    folder = Path(backbone.model)
    return folder if folder.is_dir() else None


def model_fingerprint(backbone: BackboneConfig) -> str:
    """Return a digest of a local model folder's content; of a hub model, its id and revision are all there is.

    The same of a VAE that takes the place of the model's own.
    """
    folder = model_folder(backbone)
    model = digest_of([backbone.model, backbone.revision]) if folder is None else _folder_fingerprint(folder)
    if backbone.vae is None:
        return model
    vae = Path(backbone.vae)
    return digest_of([model, _folder_fingerprint(vae) if vae.is_dir() else backbone.vae])


def files_fingerprint(model: str, revision: str | None) -> str:
    """Return a digest of what a model's folder or file holds; of a hub model, its id and revision are all there is."""
    place = Path(model)
    if place.is_file():
        return _file_fingerprint(place)
    return _folder_fingerprint(place) if place.is_dir() else digest_of([model, revision])


def _folder_fingerprint(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return digest_of([[path.relative_to(folder).as_posix(), _file_fingerprint(path)] for path in files])


def _file_fingerprint(path: Path) -> str:
    size = path.stat().st_size
    if size <= WHOLE_FILE_BYTES:
        return sha256_of_file(path)
    with path.open("rb") as file:
        head = file.read(1 << 20)
        file.seek(-(1 << 20), 2)
        return hashlib.sha256(size.to_bytes(8, "big") + head + file.read()).hexdigest()
