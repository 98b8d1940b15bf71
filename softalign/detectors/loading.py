"""Models of detectors from local folders and the hub: safetensors alone, no code of theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from softalign.backbones.frozen_pipeline import silence_libraries
from softalign.backbones.locating import is_hub_id, reachable_model
from softalign.config.evaluation import DetectorConfig
from softalign.errors import CompatibilityError, MissingInputError

CONFIG_FILENAME = "config.json"
SEGMENTER_FIELD, COLORS_FIELD = "evaluate.detector.segmenter", "evaluate.detector.color_classifier"


def located(model: str, revision: str | None, field: str, of: str = "detector") -> str:
    """Return a model's folder or hub id, or the folder of its copy in the hub's cache.

    Args:
        model: the folder or hub id.
        revision: of a hub id.
        field: what names the model.
        of: whose model it is, for the messages.

    Raises:
        MissingInputError: no such folder, or the hub cannot be asked and there is no copy.
    """
    is_folder = Path(model).is_dir()
    if (is_folder and not (Path(model) / CONFIG_FILENAME).is_file()) or not (is_folder or is_hub_id(model)):
        raise MissingInputError(
            f"There is no such model of the {of}.",
            expected=f"a folder with {CONFIG_FILENAME} and model.safetensors, or a hub id",
            found="a folder without it" if is_folder else "no such folder",
            where=f"{field}: {model}",
            fix=f"set {field} to the folder of a model in transformers' layout",
        )
    return reachable_model(model, revision, filename=CONFIG_FILENAME, field=field, role=f"{of}'s model")


def require_models(config: DetectorConfig) -> None:
    """Refuse a detector whose models are not there, before anything is done for it.

    Raises:
        MissingInputError: says which, and what to install or hand over.
    """
    try:
        located(config.segmenter, config.segmenter_revision, SEGMENTER_FIELD)
        located(config.color_classifier, config.color_classifier_revision, COLORS_FIELD)
    except MissingInputError as error:
        raise MissingInputError(
            error.what,
            expected=error.expected,
            found=error.found,
            where=error.where,
            fix=f"{error.fix}; or detect elsewhere and score with `softalign geneval score DIR --detections FILE`",
        ) from error


def loaded(
    kind: Any,
    model: str,
    revision: str | None,
    field: str,
    *,
    of: str = "detector",
    dtype: torch.dtype = torch.float32,
    **options: Any,
) -> Any:
    """Return a model of a transformers class; code that comes with a model is never run.

    Args:
        kind: the class.
        model: a folder or hub id, as ``revision``, ``field`` and ``of`` for ``located``.
        revision: of a hub id.
        field: what names the model.
        of: whose it is.
        dtype: of its weights.
        options: further arguments of ``from_pretrained``.

    Raises:
        MissingInputError: it is not there.
        CompatibilityError: weights are missing, left over or of other shapes; another kind of model; no safetensors.
    """
    given = {"revision": revision, "dtype": dtype, **options}
    made, info = _read(kind, located(model, revision, field, of), given, f"{field}: {model}", of)
    _require_whole(info, kind, f"{field}: {model}", of)
    return made


def _read(kind: Any, place: str, given: dict[str, Any], where: str, of: str) -> tuple[Any, Any]:
    silence_libraries()
    try:
        made, info = kind.from_pretrained(
            place, use_safetensors=True, trust_remote_code=False, output_loading_info=True, **given
        )
    except Exception as error:  # what models of other architectures raise is not bounded
        raise CompatibilityError(
            f"A model of the {of} cannot be loaded.",
            expected=f"a {kind.__name__} in transformers' layout, its weights as safetensors",
            found=" ".join((str(error).strip() or type(error).__name__).split("\n", 2)[:2]),
            where=where,
            fix="look at the folder, or load the model anew",
        ) from error
    return made, info


def _require_whole(info: Any, kind: Any, where: str, of: str) -> None:
    faults = [f"{what} {', '.join(sorted(map(str, info[what]))[:3])}" for what in _FAULTS if info.get(what)]
    if faults:
        raise CompatibilityError(
            f"A model of the {of} has not the weights that its configuration asks for.",
            expected=f"every weight of a {kind.__name__}, and no other",
            found="; ".join(faults),
            where=where,
            fix="name a whole model of this kind",
        )


_FAULTS = ("missing_keys", "mismatched_keys", "unexpected_keys")
