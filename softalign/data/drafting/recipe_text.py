"""The text of a first recipe: what was found as YAML with comments, other readings as comments."""

from __future__ import annotations

import math
import re

import yaml

from softalign.artifacts import Family
from softalign.config.base import MAX_NAME_CHARS
from softalign.config.families import FAMILIES
from softalign.data.drafting.records import Alternative, Found, SourceDraft
from softalign.version import __version__

RESOLUTIONS: dict[Family, int] = {
    family: record.defaults["evaluate.resolution_px"] for family, record in FAMILIES.items()
}
"""The families' own sides in pixels."""


def recipe_text(name: str, found: Found, family: Family, command: str) -> str:
    """Return a recipe in YAML.

    Args:
        name: of recipe, dataset and registered model.
        found: the sources.
        family: of the base model.
        command: what wrote it, for the first line.
    """
    num_images = sum(source.num_images for source in found.sources)
    num_captions = sum(source.num_captions for source in found.sources)
    sources = "".join(_source(source.source) for source in found.sources)
    notes = "; ".join(note for note in found.notes if ": counted in " in note)
    counts = f"{num_images} images, {num_captions} captions{_printable(f'; {notes}' if notes else '')}"
    others = "".join(_alternative(other) for other in found.alternatives)
    return f"""\
# Written by `{_printable(command)}` (softalign {__version__}): {counts}.
# Relative paths start in the folder that softalign runs in. A field that is not here has its default.
name: {_plain(name)}
curation:
  name: {_plain(name)}
  sources:
{sources}{others}\
  val_share: 0.05  # held out for validation and sample images
backbone:
  family: {family}  # {FAMILIES[family].defaults["backbone.model"]} from the hub; for a folder add: model: PATH
  resolution_px: {RESOLUTIONS[family]}  # images are scaled and cropped to this side
train:
  num_steps: 1000
  batch_size: 4
  optimizer: {{learning_rate: 0.001}}
evaluate:
  suite: geneval  # Mask2Former and CLIP look at the images (evaluate.detector)
register:
  name: softalign-{name}
"""


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)


def recipe_name(place: str) -> str:
    """Return a recipe's name made of a folder's or table's name."""
    plain = re.sub(r"[^a-z0-9]+", "-", place.lower()).strip("-")
    return plain[: MAX_NAME_CHARS - len("softalign-")].strip("-") or "images"


def _source(source: SourceDraft) -> str:
    fields = source.to_source().model_dump(mode="json", exclude_unset=True)
    lines = [f"- type: {source.type}", *(f"  {name}: {_quoted(value)}" for name, value in fields.items())]
    return "".join(f"    {line}\n" for line in lines)


def _alternative(other: Alternative) -> str:
    commented = _source(other.source).replace("    ", "    # ", 1).replace("\n    ", "\n    # ")
    return f"    # instead: {other.why}\n{commented}"


def _plain(text: str) -> str:
    """Return a text as YAML, in quotes only where it would be taken for a number, a date, yes or no."""
    return text if yaml.safe_load(text) == text else _quoted(text)


def _quoted(value: str | bool | list[str]) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_quoted, value))}]"
    if isinstance(value, bool):
        return "true" if value else "false"
    return yaml.safe_dump(value, default_style='"', allow_unicode=True, width=math.inf).strip()
