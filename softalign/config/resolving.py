"""What a recipe leaves open, filled in: merged as plain data, preset above family, what was said above both.

Validation comes after, once; what nobody fills in here has the default of its field.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import NoneType
from typing import Any, Literal, get_args

from pydantic import BaseModel

from softalign.artifacts import Family
from softalign.config.backbone import BackboneConfig
from softalign.config.families import FAMILIES, is_embedded
from softalign.config.objective import OBJECTIVES
from softalign.config.optimizer import SCHEDULES
from softalign.config.paths import lookup, put
from softalign.config.presets import BELONGS_TO, NO_EFFECT, PRESETS, PRESETS_BY_FAMILY, Validations
from softalign.config.renamed import carry_over
from softalign.config.soft_tokens import KIND_KEY, TOKENS, MMDiTTokensConfig, UNetTokensConfig
from softalign.config.training import TrainConfig

Origin = Literal["recipe", "--set", "preset", "family", "default"]
"""Where a value comes from."""
TAGS = ("name", "type", "schedule")
"""Fields that say which of several kinds an object is, so they count as said."""
MAX_DEPTH = 6
"""No section lies deeper; what YAML nests in itself does."""
KINDS: dict[str, tuple[str, Mapping[str, type[BaseModel]]]] = {
    "train.objective": ("name", OBJECTIVES),
    "train.optimizer": ("schedule", SCHEDULES),
    "train.soft_tokens": (KIND_KEY, TOKENS),
}
"""Sections of several kinds: the key that says which, and the kinds; the first where the key is absent."""


@dataclass(frozen=True, slots=True)
class Resolution:
    """A recipe's plain data with what it left open.

    Attributes:
        data: to be validated.
        origins: of the values that were filled in, by path.
        renamed: old paths of fields that an earlier version called otherwise, by the present path.
    """

    data: dict[str, Any]
    origins: dict[str, Origin]
    renamed: dict[str, str]


def resolve(given: dict[str, Any]) -> Resolution:
    """Return what a recipe says with the numbers of its preset and family where it says nothing.

    Resolving what was resolved changes nothing. What is wrong stays as it is: validation says so.

    Raises:
        ValueError: a field of an earlier version cannot be carried over.
    """
    data: dict[str, Any] = _said(given)
    renamed = carry_over(data)
    family = _family_of(data)
    if family is None:
        return Resolution(data, {}, renamed)
    if lookup(data, f"train.soft_tokens.{KIND_KEY}") is None:
        put(data, f"train.soft_tokens.{KIND_KEY}", FAMILIES[family].kind)
    _drop_nulls(data)
    said = _said(data)
    origins: dict[str, Origin] = {}
    for path, (value, origin) in _layers(data, family).items():
        if lookup(said, path) is None and _has_effect(path, data, said):
            filled = _in_steps(value, data)
            if filled is not None and put(data, path, filled):
                origins[path] = origin
    return Resolution(data, origins, renamed)


def _said(value: Any, depth: int = 0) -> Any:
    """Return a copy as plain data, as deep as sections go: of an object the fields that were set, and its kind.

    So an object in a recipe leaves open what it was not given, like a section of a file.
    """
    if depth > MAX_DEPTH:
        return value
    if isinstance(value, BaseModel):
        fields = type(value).model_fields
        names = [name for name in fields if name in value.model_fields_set or name in TAGS]
        kind = {KIND_KEY: value.kind} if isinstance(value, UNetTokensConfig | MMDiTTokensConfig) else {}
        return {fields[name].alias or name: _said(getattr(value, name), depth + 1) for name in names} | kind
    if isinstance(value, dict):
        return {name: _said(inner, depth + 1) for name, inner in value.items()}
    return [_said(inner, depth + 1) for inner in value] if isinstance(value, list | tuple) else value


def _family_of(data: dict[str, Any]) -> Family | None:
    """Return the family that a recipe names or leaves open; None where it names none that there is."""
    section = data.get("backbone") or {}
    name = section.get("family", _default(BackboneConfig, "family")) if isinstance(section, dict) else None
    return next((family for family in FAMILIES if family == name), None)


def _default(model: type[BaseModel], field: str) -> Any:
    return model.model_fields[field].default


def _drop_nulls(data: dict[str, Any]) -> None:
    """Take null for left open in the sections of several kinds, where it stands for no value."""
    for path in KINDS:
        section, kind = lookup(data, path), _kind_at(path, data)
        if isinstance(section, dict) and kind is not None:
            for field in [name for name, value in section.items() if value is None]:
                if field not in kind.model_fields or NoneType not in get_args(kind.model_fields[field].annotation):
                    del section[field]


def _kind_at(path: str, data: dict[str, Any]) -> type[BaseModel] | None:
    """Return which kind a section is of; None where it names none that there is."""
    key, kinds = KINDS[path]
    name = lookup(data, f"{path}.{key}") or next(iter(kinds))
    return next((model for kind, model in kinds.items() if kind == name), None)


def _layers(data: dict[str, Any], family: Family) -> dict[str, tuple[Any, Origin]]:
    """Return what open fields get, by path, and whose number that is."""
    has_other_tokens = lookup(data, f"train.soft_tokens.{KIND_KEY}") != FAMILIES[family].kind  # validation says so
    layers: dict[str, tuple[Any, Origin]] = {
        path: (value, "family")
        for path, value in FAMILIES[family].defaults.items()
        if not (has_other_tokens and path.startswith("train.soft_tokens."))
    }
    suite, model, side = (lookup(data, path) for path in ("evaluate.suite", "backbone.model", "backbone.resolution_px"))
    if is_embedded(suite) or is_embedded(model):
        layers["evaluate.resolution_px"] = (side or _default(BackboneConfig, "resolution_px"), "default")
    named = lookup(data, "train.objective.preset")
    preset = next((preset for preset in PRESETS if preset == named), None)
    if preset is not None:
        numbers = {**PRESETS[preset], **PRESETS_BY_FAMILY.get((preset, family), {})}
        layers |= {path: (value, "preset") for path, value in numbers.items()}
    return layers


def _has_effect(path: str, data: dict[str, Any], said: dict[str, Any]) -> bool:
    """Return whether an open field is there in this recipe and would change anything."""
    section, _, field = path.rpartition(".")
    kind = _kind_at(section, data) if section in KINDS else None
    is_there = kind is None or field in kind.model_fields
    belongs_to = BELONGS_TO.get(path)
    is_moot = any(lookup(data, other) == value for other, value in NO_EFFECT.get(path, {}).items())
    return is_there and not is_moot and (belongs_to is None or lookup(said, belongs_to) is None)


def _in_steps(value: Any, data: dict[str, Any]) -> Any:
    """Return a default's value; of a number of validations the steps, None if there are no validations."""
    if not isinstance(value, Validations):
        return value
    interval = lookup(data, "train.validate_every_steps")
    interval = _default(TrainConfig, "validate_every_steps") if interval is None else interval
    return value.number * interval if isinstance(interval, int) and interval > 0 else None
