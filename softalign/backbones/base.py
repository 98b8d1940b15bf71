"""Loading the frozen model, wherever it lies, and saying which one it is."""

from __future__ import annotations

import hashlib
import json
import os
from typing import Any

import torch
from torch import nn

from softalign.artifacts import canonical_json
from softalign.config import BackboneConfig, Family, Runtime
from softalign.errors import CompatibilityError, ConfigError, MissingInputError

PREDICTION_TYPES: dict[Family, str] = {"sd15": "epsilon", "sd21": "v_prediction"}


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


def backbone_dtype(device: torch.device) -> torch.dtype:
    """Return the frozen model's dtype: bf16 on CUDA, fp32 elsewhere."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def resolve_model(config: BackboneConfig) -> str:
    """Return what ``from_pretrained`` takes: the embedded model's folder, a local folder or a hub id."""
    if config.model == "shapes":
        from softalign.shapes import weights_path

        return str(weights_path())
    return config.model


def load_pipeline(config: BackboneConfig, *, device: torch.device, dtype: torch.dtype) -> Any:
    """Return the diffusers pipeline of a backbone: frozen, in eval mode, without safety checker.

    Raises:
        MissingInputError: the model is neither a local folder nor reachable on the hub.
        CompatibilityError: the model predicts something else than its family does.
    """
    _silence_libraries()
    from diffusers import StableDiffusionPipeline

    model = resolve_model(config)
    try:
        pipeline = StableDiffusionPipeline.from_pretrained(
            model, revision=config.revision, dtype=dtype, safety_checker=None, requires_safety_checker=False
        )
    except (OSError, ValueError) as error:
        raise MissingInputError(
            "The base model cannot be loaded.",
            expected="a folder in diffusers layout or a reachable hub id",
            found=str(error).splitlines()[0],
            where=model,
            fix="check backbone.model; for gated models accept the licence on the hub and set HF_TOKEN",
        ) from error
    check_prediction_type(config, pipeline.scheduler.config.prediction_type)
    for module in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        module.requires_grad_(False).eval()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def _silence_libraries() -> None:
    """Leave out the libraries' component bars and advice; downloads still show their progress."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()


def check_prediction_type(config: BackboneConfig, found: str) -> None:
    """Refuse a model whose scheduler predicts something else than its family.

    Raises:
        CompatibilityError: they differ.
    """
    expected = PREDICTION_TYPES[config.family]
    if found != expected:
        fitting = next((family for family, kind in PREDICTION_TYPES.items() if kind == found), "another family")
        raise CompatibilityError(
            "The base model does not belong to this family.",
            expected=f"prediction_type {expected} ({config.family})",
            found=f"prediction_type {found}",
            where=f"backbone.model {config.model}",
            fix=f"set backbone.family to {fitting}",
        )


def component_digest(module: nn.Module) -> str:
    """Return the sha256 of a diffusers or transformers component: its configuration and every weight's bytes.

    Taken in float32, so that a stored half-precision model has one digest on every device.
    """
    digest = hashlib.sha256()
    config: Any = module.config
    fields = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    public = {name: value for name, value in fields.items() if not name.startswith("_")}
    for volatile in ("torch_dtype", "dtype", "transformers_version", "name_or_path"):
        public.pop(volatile, None)
    digest.update(canonical_json(json.loads(json.dumps(public, default=str))))
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()
