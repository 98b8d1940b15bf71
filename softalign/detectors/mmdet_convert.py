"""The official mmdet checkpoint as a folder that transformers loads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from softalign.backbones.frozen_pipeline import silence_libraries
from softalign.detectors.identity import CONVERSION_FILENAME, WEIGHTS_FILENAME, Conversion
from softalign.detectors.mmdet_names import UNUSED, to_transformers_names
from softalign.detectors.mmdet_sizes import configuration_of
from softalign.errors import CompatibilityError, DataError, MissingInputError
from softalign.store.files import require_free_folder, sha256_of_file


def read_checkpoint(path: Path) -> dict[str, torch.Tensor]:
    """Return the weights of an mmdet checkpoint; nothing in the file is run.

    Raises:
        MissingInputError: there is no such file.
        DataError: it holds more than tensors and plain values, or no weights.
    """
    if not path.is_file():
        raise MissingInputError("There is no such checkpoint.", where=str(path), fix="check the path")
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise DataError(
            "The checkpoint cannot be read as plain tensors.",
            expected="a .pth file of tensors, numbers and texts: other objects are code, and are not loaded",
            found=str(error).splitlines()[0],
            where=str(path),
            fix="download the checkpoint again, or save its state_dict alone",
        ) from error
    state = stored.get("state_dict", stored) if isinstance(stored, Mapping) else None
    if not isinstance(state, Mapping) or not state or not all(isinstance(t, torch.Tensor) for t in state.values()):
        raise DataError(
            "The checkpoint holds no weights.",
            expected="tensors by name, or those under 'state_dict'",
            found=type(stored).__name__,
            where=str(path),
        )
    return dict(state)


def converted_model(state: Mapping[str, torch.Tensor]) -> Any:
    """Return transformers' model with the weights of mmdet's, every one of them placed and none made up.

    Two things of transformers' model are not of the network (``mmdet_names.UNUSED``) and keep their starting values.

    Raises:
        CompatibilityError: weights that are not of this network, missing, or of other shapes.
    """
    from transformers import Mask2FormerForUniversalSegmentation

    config = configuration_of(state)
    with torch.device("meta"):
        model = Mask2FormerForUniversalSegmentation(config)
    placed = {name: tensor.float() for name, tensor in to_transformers_names(state).items()}
    _require_same(placed, {name: tensor for name, tensor in model.state_dict().items() if name not in UNUSED})
    width = model.state_dict()[UNUSED[0]].shape[0]
    loss_weights = torch.ones(config.num_labels + 1)
    loss_weights[-1] = config.no_object_weight
    rest = dict(zip(UNUSED, (torch.ones(width), torch.zeros(width), loss_weights), strict=True))
    model.load_state_dict({**placed, **rest}, assign=True)
    return model.eval()


def convert_checkpoint(path: Path, to: Path) -> Conversion:
    """Write an mmdet checkpoint as a folder of transformers, and return what is recorded of its origin.

    Raises:
        MissingInputError: there is no such checkpoint.
        DataError: it holds more than tensors, or no weights.
        CompatibilityError: it is of another network.
        ConfigError: the folder is not free.
    """
    require_free_folder(to)
    silence_libraries()
    model = converted_model(read_checkpoint(path))
    model.save_pretrained(to)
    conversion = Conversion(
        checkpoint_sha256=sha256_of_file(path), weights_sha256=sha256_of_file(to / WEIGHTS_FILENAME)
    )
    (to / CONVERSION_FILENAME).write_text(conversion.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return conversion


def _require_same(placed: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> None:
    faults = [f"no {name}" for name in wanted if name not in placed]
    faults += [f"{name} has no place" for name in placed if name not in wanted]
    faults += [
        f"{name} is {tuple(placed[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in placed and placed[name].shape != tensor.shape
    ]
    if faults:
        raise CompatibilityError(
            "The checkpoint's weights do not make up the network.",
            expected=f"{len(wanted)} weights",
            found=f"{len(faults)} faults: {', '.join(faults[:3])}",
            fix="download the checkpoint again",
        )
