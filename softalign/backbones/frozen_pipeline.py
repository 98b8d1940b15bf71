"""Loading a diffusers pipeline frozen, whole or in parts, on its device, with errors that say what is missing."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import nn

from softalign.artifacts import Family
from softalign.backbones.locating import reachable_model, resolve_model
from softalign.config.backbone import BackboneConfig
from softalign.config.families import FAMILIES
from softalign.config.runtime import Runtime
from softalign.errors import CompatibilityError, ConfigError, MissingInputError

Part = Literal["denoiser", "vae", "text"]
"""What can be loaded of a pipeline, besides its scheduler."""
ALL_PARTS: tuple[Part, ...] = ("denoiser", "vae", "text")
_COMPONENTS: dict[Part, tuple[str, ...]] = {
    "denoiser": ("unet", "transformer"),
    "vae": ("vae",),
    "text": (
        *("text_encoder", "text_encoder_2", "text_encoder_3"),
        *("tokenizer", "tokenizer_2", "tokenizer_3"),
    ),
}


def resolve_device(runtime: Runtime) -> torch.device:
    """Return the device to compute on; ``auto`` is CUDA where there is one.

    Raises:
        ConfigError: CUDA was asked for and is not there.
    """
    if runtime.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "There is no CUDA device.", expected="a CUDA device", found="none", fix="set runtime.device to auto or cpu"
        )
    if runtime.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(runtime.device)


def working_device(module: nn.Module) -> torch.device:
    """Return where a module works: of one that accelerate keeps elsewhere until it is called, where it will be then."""
    hooks = (getattr(part, "_hf_hook", None) for part in module.modules())
    places = (getattr(hook, "execution_device", None) for hook in hooks)
    place = next((found for found in places if found is not None), None)
    return next(module.parameters()).device if place is None else torch.device(place)


def backbone_dtype(device: torch.device) -> torch.dtype:
    """Return the frozen model's dtype: bf16 on CUDA, fp32 elsewhere."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def load_frozen_pipeline(
    pipeline_class: Any,
    config: BackboneConfig,
    *,
    device: torch.device,
    dtype: torch.dtype,
    parts: tuple[Part, ...] = ALL_PARTS,
    **options: Any,
) -> Any:
    """Return a diffusers pipeline with all its modules frozen and in eval mode.

    Args:
        pipeline_class: of diffusers.
        config: which model.
        device: where it goes.
        dtype: of all its modules but the VAE, which is float32 always.
        parts: what is loaded; the pipeline goes without the rest.
        options: further arguments of ``from_pretrained``.

    Raises:
        MissingInputError: the model is neither a local folder nor reachable on the hub, or it is gated.
        CompatibilityError: it is a model of another pipeline.
    """
    silence_libraries()
    model = resolve_model(config)
    with explained_access(model):
        require_family(model, config)
        if "vae" in parts:
            options["vae"] = _load_vae(config)
        options.update(_left_out(pipeline_class, parts))
        pipeline = pipeline_class.from_pretrained(model, revision=config.revision, dtype=dtype, **options)
    for module in pipeline.components.values():
        if isinstance(module, nn.Module):
            module.requires_grad_(False).eval()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def require_family(model: str, config: BackboneConfig) -> None:
    """Refuse a model whose pipeline is not that of its configuration's family; nothing is loaded.

    Args:
        model: its folder, or its hub id.
        config: of the model.

    Raises:
        CompatibilityError: names the families that fit.
        OSError: there is no such model; see ``explained_access``.
    """
    fitting = families_of_pipeline(model, config.revision)
    if config.family not in fitting:
        raise CompatibilityError(
            "The base model does not belong to this family.",
            expected=f"{FAMILIES[config.family].pipeline} ({config.family})",
            found=FAMILIES[fitting[0]].pipeline,
            where=f"backbone.model {config.model}",
            fix=f"set backbone.family to {' or '.join(fitting)}",
        )


def _left_out(pipeline_class: Any, parts: tuple[Part, ...]) -> dict[str, None]:
    """Return the arguments that keep a pipeline's other parts from being loaded."""
    known = inspect.signature(pipeline_class.__init__).parameters
    names = (name for part in ALL_PARTS if part not in parts for name in _COMPONENTS[part])
    return {name: None for name in names if name in known}


def _load_vae(config: BackboneConfig) -> nn.Module:
    """Return the model's own VAE, or the one that takes its place."""
    from diffusers import AutoencoderKL

    own = {"subfolder": "vae", "revision": config.revision}
    with explained_access(config.vae or config.model, "backbone.vae" if config.vae else "backbone.model"):
        replaced = config.vae and reachable_model(config.vae, filename="config.json", field="backbone.vae")
        vae: nn.Module = AutoencoderKL.from_pretrained(
            replaced or resolve_model(config), dtype=torch.float32, **({} if config.vae else own)
        )
    return vae


def present_parts(pipeline: Any, *names: str) -> tuple[Any, ...]:
    """Return those of a pipeline's parts that are there."""
    return tuple(part for name in names if (part := getattr(pipeline, name, None)) is not None)


def families_of_pipeline(model: str, revision: str | None = None) -> tuple[Family, ...]:
    """Return the families whose pipeline a model's ``model_index.json`` names.

    Raises:
        CompatibilityError: no family has such a pipeline.
        OSError: there is no such model; see ``explained_access``.
    """
    from diffusers import DiffusionPipeline

    found = str(DiffusionPipeline.load_config(model, revision=revision).get("_class_name"))
    fitting = tuple(family for family, record in FAMILIES.items() if record.pipeline == found)
    if not fitting:
        raise CompatibilityError(
            "No family has such a pipeline.",
            expected=", ".join(dict.fromkeys(record.pipeline for record in FAMILIES.values())),
            found=found,
            where=model,
        )
    return fitting


@contextmanager
def explained_access(model: str, field: str = "backbone.model") -> Iterator[None]:
    """Turn the libraries' errors about a model that cannot be read into ours.

    Args:
        model: the folder or hub id.
        field: what names it in a recipe.

    Raises:
        MissingInputError: the model is neither a local folder nor reachable on the hub, or it is gated.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        if _is_access_denied(error):
            raise MissingInputError(
                "The hub does not give the base model to this account: it is gated or private.",
                expected="a token of an account that accepted the model's licence",
                found=str(error).splitlines()[0],
                where=model,
                fix=f"accept the licence on the model's page, huggingface.co/{model}, and set HF_TOKEN to a read token "
                f"of that account; if there is no such page, correct {field}",
            ) from error
        raise MissingInputError(
            "The base model cannot be loaded.",
            expected="a folder in diffusers layout or a reachable hub id",
            found=str(error).splitlines()[0],
            where=model,
            fix=f"check {field} and the connection",
        ) from error


def _is_access_denied(error: BaseException) -> bool:
    """Return whether the hub refused the model; diffusers wraps its answer into other errors."""
    from huggingface_hub.errors import GatedRepoError

    cause: BaseException | None = error
    while cause is not None:
        status = getattr(getattr(cause, "response", None), "status_code", None)
        if isinstance(cause, GatedRepoError) or status in {401, 403}:
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def silence_libraries() -> None:
    """Leave out the libraries' component bars and advice; downloads still show their progress."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
