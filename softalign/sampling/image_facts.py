"""What a drawn image's file says of itself: how it was made, in text chunks of the PNG, for people's tools and ours.

Each fact is a chunk of its own, and all together are JSON under ``softalign``. Nothing in it is secret, and no folder
of a person's machine is named.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Self, TypeVar

from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pydantic import ValidationError, field_validator

from softalign.artifacts import Frozen
from softalign.config.evaluation import UnconditionalBank
from softalign.credentials import without_secrets
from softalign.version import __version__

JSON_KEY = "softalign"
NO_ADAPTER = "none"
_END = b"\0\0\0\0IEND\xaeB`\x82"
"""The last chunk of a PNG: without it the file was cut."""


class ImageFacts(Frozen):
    """What all drawn images have in common.

    Attributes:
        adapter: NAME/VERSION of a registered one, else a hub id, URI or folder's name; ``none``: the base model.
        adapter_sha256: of its weights; empty without one.
        adapter_scale: strength of the tokens; 0 without.
        base_model: a hub id, ``shapes``, or a folder's name.
        base_digest: of the base model's files; of a hub model's id and revision.
        software: what drew it.
    """

    seed: int
    num_inference_steps: int
    adapter: str
    adapter_sha256: str
    adapter_scale: float
    base_model: str
    base_digest: str
    software: str = f"softalign {__version__}"

    @field_validator("*", mode="before")
    @classmethod
    def _hide_secrets(cls, value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(without_secrets, value))
        return without_secrets(value) if isinstance(value, str) else value

    def to_png_info(self) -> PngInfo:
        """Return the facts as text chunks: iTXt (UTF-8) where a text is not ASCII."""
        info, facts = PngInfo(), self.model_dump(mode="json")
        for key, value in facts.items():
            _add(info, key, "\n".join(value) if isinstance(value, list) else str(value))
        _add(info, JSON_KEY, json.dumps(facts))
        return info

    def difference(self, other: Self) -> str:
        """Return the first fact in which another image differs, as ``seed 0, not 1``; empty: none does."""
        mine, others = self.model_dump(), other.model_dump()
        found = (f"{key} {others[key]!r}, not {value!r}" for key, value in mine.items() if value != others[key])
        return next(found, "")


FactsT = TypeVar("FactsT", bound=ImageFacts)


class GeneratedImage(ImageFacts):
    """An image from a prompt; its noise is drawn from ``seed`` and the two indices."""

    prompt: str
    prompt_index: int
    image_index: int
    guidance_scale: float
    unconditional_bank: UnconditionalBank
    divide_by_guidance: bool = False


class EditedImage(ImageFacts):
    """A picture edited by two prompts; see ``FlowEditSettings``.

    Attributes:
        image_sha256: of the picture's file.
        resolution_px: to which it was scaled and cropped; None: not at all.
    """

    image_sha256: str
    source_prompt: str
    target_prompt: str
    resolution_px: int | None
    n_max: int
    n_min: int
    n_avg: int
    source_guidance_scale: float
    target_guidance_scale: float


class SheetOfImages(ImageFacts):
    """A picture of images: of how many of which prompts."""

    prompts: tuple[str, ...]
    num_images: int
    guidance_scale: float
    unconditional_bank: UnconditionalBank
    divide_by_guidance: bool = False


def facts_in(path: Path, kind: type[FactsT]) -> FactsT | None:
    """Return what a file says of itself; None where it is no whole image, or says nothing of this kind."""
    text = text_in(path)
    if text is None:
        return None
    try:
        return kind.model_validate_json(text)
    except ValidationError:
        return None


def text_in(path: Path) -> str | None:
    """Return the JSON in which a file says how it was drawn; None where it is no whole PNG or has none."""
    try:
        with path.open("rb") as file, Image.open(file, formats=["PNG"]) as image:
            text = image.info.get(JSON_KEY)
            file.seek(-len(_END), os.SEEK_END)
            return text if isinstance(text, str) and file.read() == _END else None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None


def _add(info: PngInfo, key: str, text: str) -> None:
    if text.isascii():
        info.add_text(key, text)
    else:
        info.add_itxt(key, text)
