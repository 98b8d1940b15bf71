"""The recipe reference, ``softalign/config/README.md``: ``python -m softalign.config.reference`` writes it.

The JSON schema says sections, types, ranges, defaults and descriptions; ``families`` and ``presets`` what follows them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from softalign.config.families import FAMILIES, DenoiserKind
from softalign.config.presets import PRESETS, PRESETS_BY_FAMILY, Validations
from softalign.config.schema import recipe_schema
from softalign.config.soft_tokens import TOKENS

REFERENCE_PATH = Path(__file__).with_name("README.md")
_HEAD = """\
# The recipe, field by field

Written by `python -m softalign.config.reference` from the schema (`softalign recipe --schema`); do not edit it.

A recipe is a YAML file of these sections; `--set section.field=value` overrides a field. What it leaves open follows,
in this order: the preset (`train.objective.preset`), the family (`backbone.family`), the field's default. `softalign
recipe RECIPE` shows the result, each value with where it comes from. "-" as a default: the field must be given.
"""
_WORDS = {
    "integer": "whole number",
    "number": "number",
    "boolean": "`true`, `false`",
    "string": "text",
    "null": "`null`",
}
_COLUMNS = "| field | type | default | by family or preset | |\n| --- | --- | --- | --- | --- |"


def reference_text() -> str:
    """Return the reference as Markdown."""
    schema = recipe_schema()
    tables = dict.fromkeys(_tables(schema, schema["$defs"], ""))  # several kinds of a section may share one below
    return "\n".join([_HEAD, *tables])


def _tables(
    model: Mapping[str, Any],
    models: Mapping[str, Any],
    path: str,
    kind: str = "",
    first: Mapping[str, Any] | None = None,
) -> Iterator[str]:
    """Yield a section's table, then those of the sections in it; without fields of its ``first`` kind."""
    known = {} if first is None else first["properties"]
    plain = {name: field for name, field in model["properties"].items() if not _sections(field, models)}
    own = {name: field for name, field in plain.items() if known.get(name) != field}
    rows = [_row(f"{path}.{name}" if path else name, field, model) for name, field in own.items()]
    more = ["The other fields are those of the first kind.", ""] if len(own) < len(plain) else []
    heading = f"## `{path}`{kind}" if path else "## The recipe itself"
    yield "\n".join([heading, "", str(model["description"]).replace("``", "`"), "", _COLUMNS, *rows, "", *more])
    for name, field in model["properties"].items():
        place, sections = f"{path}.{name}" if path else name, _sections(field, models)
        for section in sections:
            kind = _kind(section) if len(sections) > 1 else ""
            yield from _tables(section, models, place, kind, None if section is sections[0] else sections[0])


def _sections(field: Mapping[str, Any], models: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the sections that a field may be; none if it is a plain value."""
    inner = field.get("items", field)
    references = [
        choice["$ref"] for choice in (inner, *inner.get("oneOf", ()), *inner.get("anyOf", ())) if "$ref" in choice
    ]
    return [models[reference.rpartition("/")[2]] for reference in references]


def _denoiser(section: Mapping[str, Any]) -> DenoiserKind | None:
    """Return for which kind of denoiser a section's soft tokens are; None: it has none."""
    fields = section["properties"].keys()
    return next((tokens.kind for tokens in TOKENS.values() if tokens.model_fields.keys() == fields), None)


def _kind(section: Mapping[str, Any]) -> str:
    """Return which of several kinds a section is, for its heading."""
    said = next(
        (f"`{name}: {field['const']}`" for name, field in section["properties"].items() if "const" in field), ""
    )
    denoiser = _denoiser(section)
    return f" of {TOKENS[denoiser].kind_name}" if denoiser else f" with {said}"


def _row(path: str, field: Mapping[str, Any], section: Mapping[str, Any]) -> str:
    name = path.rpartition(".")[2]
    is_required = name in section.get("required", ())
    default = "-" if is_required else f"`{_value(field['default'])}`" if "default" in field else ""
    followed = _followed(path, _denoiser(section), has_presets=_has_presets(section))
    return f"| `{name}` | {_type(field)} | {default} | {followed} | {field['description']} |"


def _has_presets(section: Mapping[str, Any]) -> bool:
    """Return whether presets have numbers for a section of this kind: for agsm, and with its restarts."""
    tags = {field["const"] for field in section["properties"].values() if "const" in field}
    return not tags or bool(tags & {"agsm", *(numbers["train.optimizer.schedule"] for numbers in PRESETS.values())})


def _type(field: Mapping[str, Any]) -> str:
    """Return what a value may be, in words."""
    if "anyOf" in field:
        return ", or ".join(dict.fromkeys(_type(choice) for choice in field["anyOf"]))
    if "const" in field or "enum" in field:
        return ", ".join(f"`{_value(value)}`" for value in field.get("enum", [field.get("const")]))
    if field["type"] == "array":
        return f"list of {_type(field['items'])}"
    words = {
        "integer": "whole number",
        "number": "number",
        "boolean": "`true`, `false`",
        "string": "text",
        "null": "`null`",
    }
    return words[field["type"]] + _range(field)


def _range(field: Mapping[str, Any]) -> str:
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    limits = [f"{sign} {field[name]:g}" for name, sign in signs.items() if name in field and abs(field[name]) < 10**12]
    if "multipleOf" in field:
        limits.append(f"a multiple of {field['multipleOf']:g}")
    return f" {', '.join(limits)}" if limits else ""


def _followed(path: str, denoiser: DenoiserKind | None, *, has_presets: bool) -> str:
    """Return what a field gets by family, of those with this kind of denoiser if it is of one, and by preset."""
    by_value: dict[str, list[str]] = {}
    for family, record in FAMILIES.items():
        if path in record.defaults and denoiser in (None, record.kind):
            by_value.setdefault(_value(record.defaults[path]), []).append(family)
    for preset, numbers in PRESETS.items() if has_presets else ():
        if path in numbers:
            by_value.setdefault(_value(numbers[path]), []).append(f"preset {preset}")
    for (preset, family), numbers in PRESETS_BY_FAMILY.items():
        if path in numbers:
            by_value.setdefault(_value(numbers[path]), []).append(f"preset {preset} with {family}")
    return "; ".join(f"`{value}`: {', '.join(names)}" for value, names in by_value.items())


def _value(value: Any) -> str:
    if isinstance(value, Validations):
        return f"{value.number} x train.validate_every_steps"
    return value if isinstance(value, str) else json.dumps(value)


if __name__ == "__main__":
    REFERENCE_PATH.write_text(reference_text(), encoding="utf-8")
