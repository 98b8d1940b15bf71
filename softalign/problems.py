"""What is wrong with a recipe or record, in plain words: what is needed, what was found, which name was meant.

The rules are pydantic's; its wording is for programmers. ``NEEDS`` has a sentence for each kind of error that the
models of ``softalign.config`` can raise.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

MAX_FOUND_CHARS = 120
_NAME = "lower-case letters, digits and dashes, with a letter or digit first"
PATTERNS = {
    r"^[a-z0-9][a-z0-9-]*$": _NAME,
    r"^[A-Za-z0-9][A-Za-z0-9._-]*$": "letters, digits, dots, underscores and dashes, with a letter or digit first",
    r"^(overall_(base|untrained|adapter|champion)|num_images_per_arm|denoiser_calls_per_image|"
    r"adapter_vs_(base|untrained|champion)/\w[\w .:-]*(/ci_low|/ci_high)?)$": (
        "a number of the comparison: overall_ARM or adapter_vs_ARM/TASK, /ci_low or /ci_high after it"
    ),
    r"^(auto|none|[A-Za-z0-9][A-Za-z0-9._-]*/[0-9]+#[0-9a-f]{64})$": (
        "auto, none, or a version with its digest as the registry says it: NAME/3#sha256"
    ),
    r"^(never|when_decided|after [1-9][0-9]*)$": "never, when_decided, or after N rounds, such as after 2",
    r"^[^:/]+:\d+$": "a host and a port, such as node0:29500",
}
"""What the patterns of text fields ask for."""
PURPOSES = {
    "Recipe.name": "the recipe's name, which the adapter gets too, such as `name: cats`",
    "Recipe.curation": "where images and captions come from, such as `curation: {name: cats, sources: "
    "[{type: coco, annotations_uri: captions.json, images_uri: images}]}`",
    "Recipe.register": "the name under which the adapter is registered, such as `register: {name: softalign-cats}`",
    "CurationConfig.name": "the dataset's name, such as `name: cats`",
    "CurationConfig.sources": "a list of captions tables with their images, such as "
    "`sources: [{type: coco, annotations_uri: captions.json, images_uri: images}]`",
    "MetricConfig.name": "clip_score or pick_score, such as `name: clip_score`",
    "MetricConfig.model": "a CLIP, a folder or a hub id, such as `model: openai/clip-vit-large-patch14`",
    "CocoSource.annotations_uri": "the captions file, such as `annotations_uri: captions.json`",
    "CocoSource.images_uri": "the folder of the images, such as `images_uri: images`",
    "ParquetSource.table_uri": "the table of captions, such as `table_uri: captions.parquet`",
    "ParquetSource.images_uri": "the folder of the images, such as `images_uri: images`",
    "TableSource.table_uri": "the table of captions, such as `table_uri: captions.csv`",
    "FolderSource.images_uri": "the folder of the images and their text files, such as `images_uri: images`",
    "WebDatasetSource.shards_uri": "the tar files, such as `shards_uri: shards/{000..012}.tar`",
    "HFSource.dataset_uri": "the dataset's folder, such as `dataset_uri: flickr/train`",
    "ClipScoreFilter.model": "the CLIP model, such as `model: openai/clip-vit-base-patch32`",
    "ClipScoreFilter.min_score": "the lowest cosine of an image and its caption, such as `min_score: 0.2`",
    "ImageClassFilter.model": "the image classifier, a folder or hub id, such as `model: OWNER/NAME`",
    "ImageClassFilter.labels": "the classes whose images are left out, such as `labels: [nsfw]`",
    "DistanceConfig.reference": "statistics of the reference's images, such as `reference: photographs.npz`",
    "DistanceConfig.features": "FID's Inception weights or a vision model, such as `features: facebook/dinov2-base`",
    "Guard.metric": "the number that is held to a bound, such as `metric: overall_adapter`",
    "RegisterConfig.name": "the name under which the adapter is registered, such as `name: softalign-cats`",
}
"""What each field that must be given is for, with an example."""


def problems(error: ValidationError, model: type[BaseModel] | None = None) -> list[str]:
    """Return a sentence for each problem of a mapping, with its place as in ``--set``.

    Args:
        error: what pydantic says.
        model: what the mapping should have been; with it a sentence also says which field was meant.
    """
    found: dict[tuple[str, str], list[ErrorDetails]] = {}
    items = error.errors()
    for item in items:
        if item["type"] == "too_short" and any(_is_below(other, item) for other in items):
            continue  # pydantic counts the sound entries of a list: the others have their own sentences
        if item["type"] == "default_factory_not_called":
            continue  # the field that the default follows has its own sentence
        where = ".".join(str(part) for part in location(item["loc"], model))
        kind = item["type"] if item["type"] in {"missing", "value_error"} else ""
        found.setdefault((where, kind), []).append(item)
    return [_sentence(where, items, model) for (where, _), items in found.items()]


def _is_below(other: ErrorDetails, item: ErrorDetails) -> bool:
    return len(other["loc"]) > len(item["loc"]) and other["loc"][: len(item["loc"])] == item["loc"]


def _sentence(where: str, items: Sequence[ErrorDetails], model: type[BaseModel] | None) -> str:
    """Return one problem; several items are the ways in which a value fits none of several kinds."""
    prefix, item = f"{where}: " if where else "", items[0]
    if item["type"] == "value_error":
        return "; ".join(f"{prefix}{each['msg'].removeprefix('Value error, ')}" for each in items)
    if item["type"] == "missing":
        return f"{where} is missing: {_purpose(item['loc'], model)}"
    if item["type"] == "extra_forbidden":
        if kind := _kind_without(item["loc"], model):
            return f"{prefix}it has no effect with {kind}; remove it"
        return f"{prefix}there is no such field{_meant_field(item['loc'], model)}"
    needs = list(dict.fromkeys(need_of(each, _kinds_at(each["loc"], model)) for each in items))
    return f"{prefix}{', or '.join(needs)} (found {_found(item)}){''.join(map(_meant_choice, items))}"


def need_of(item: ErrorDetails, kinds: Sequence[str] = ()) -> str:
    """Return what one of pydantic's errors asks for; ``kinds`` are those that may stand at its place."""
    need = NEEDS.get(item["type"])
    if item["type"] in {"union_tag_invalid", "union_tag_not_found"} and isinstance(item["input"], dict):
        return f"its {item['ctx']['discriminator'].strip(chr(39) + '()_')} must be one of {', '.join(kinds)}"
    return need(item.get("ctx", {})) if need is not None else "another value is needed"


def _at_least_entries(context: dict[str, Any]) -> str:
    number = context["min_length"]
    return "at least one entry is needed" if number == 1 else f"at least {number} entries are needed"


def _one_of(context: dict[str, Any]) -> str:
    choices = _choices(context)
    return f"it must be {choices[0]}" if len(choices) == 1 else f"it must be one of {', '.join(choices)}"


def _plain(text: str) -> Callable[[dict[str, Any]], str]:
    return lambda _: text


NEEDS: dict[str, Callable[[dict[str, Any]], str]] = {
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), _plain("a whole number is needed")),
    "int_parsing_size": _plain("a smaller number is needed"),
    **dict.fromkeys(("float_type", "float_parsing"), _plain("a number is needed")),
    "invalid-json-value": _plain("text, a number, true, false, null, a list or a mapping of these is needed"),
    "finite_number": _plain("a finite number is needed"),
    **dict.fromkeys(("bool_type", "bool_parsing"), _plain("true or false is needed")),
    "string_type": _plain("text is needed; put quotes around what looks like a number, a date, yes or no"),
    "string_unicode": _plain("text is needed, without halves of characters"),
    "string_too_short": _plain("it must not be empty"),
    "string_too_long": lambda context: f"at most {context['max_length']} characters are allowed",
    "string_pattern_mismatch": lambda context: f"it must be {PATTERNS.get(context['pattern'], context['pattern'])}",
    "literal_error": _one_of,
    "greater_than": lambda context: f"it must be above {context['gt']:g}",
    "greater_than_equal": lambda context: f"it must be at least {context['ge']:g}",
    "less_than": lambda context: f"it must be below {context['lt']:g}",
    "less_than_equal": lambda context: f"it must be at most {context['le']:g}",
    "multiple_of": lambda context: f"it must be a multiple of {context['multiple_of']:g}",
    **dict.fromkeys(("tuple_type", "list_type"), _plain("a list is needed, such as [a, b]")),
    "too_short": _at_least_entries,
    "too_long": lambda context: f"at most {context['max_length']} entries are allowed",
    **dict.fromkeys(
        ("model_type", "model_attributes_type", "dict_type", "union_tag_invalid", "union_tag_not_found"),
        _plain("a section is needed, with fields of its own"),
    ),
    "recursion_loop": _plain("it must not refer to itself"),
    "json_invalid": _plain("valid JSON is needed"),
}
"""What each kind of pydantic's errors asks for, in words; those with sentences of their own are in ``_sentence``."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``; did you mean X?`` for the known word that is most like this one, or nothing where none is."""
    lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), lower, n=1, cutoff=0.6)
    return f"; did you mean {lower[close[0]]}?" if close else ""


def location(parts: Sequence[str | int], model: type[BaseModel] | None) -> tuple[str | int, ...]:
    """Return where an error is, without the names of kinds (of sources, of tokens, of types) that pydantic puts in."""
    if model is None:
        return tuple(parts)
    kept: list[str | int] = []
    models: list[type[BaseModel]] = [model]
    is_key = False
    for index, part in enumerate(parts):
        fields = [field for one in models for name, field in _fields(one) if name == part]
        is_last_word = index == len(parts) - 1 and bool(models)
        if is_key or fields or isinstance(part, int):
            kept.append(part)
            models = [inner for field in fields for inner in _models_in(field)] if fields and not is_key else models
            is_key = not is_key and any(get_origin(field) is dict for field in fields)
        elif named := [one for one in models if part in _kinds_of(one)]:
            models = named
        elif is_last_word and part != "[key]":  # pydantic's word behind a key that is itself wrong
            kept.append(part)
    return tuple(kept)


def models_at(parts: Sequence[str | int], model: type[BaseModel] | None) -> list[type[BaseModel]]:
    """Return the models whose fields may stand at a place; more than one where there are several kinds."""
    models: list[type[BaseModel]] = [model] if model is not None else []
    for part in parts:
        fields = [field for one in models for name, field in _fields(one) if name == part]
        if fields:
            models = [inner for field in fields for inner in _models_in(field)]
        elif named := [one for one in models if part in _kinds_of(one)]:
            models = named
    return models


def field_paths(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield the dotted path of every field that ``--set`` reaches, sections included."""
    for name, annotation in _fields(model):
        path = f"{prefix}{name}"
        yield path
        if not any(getattr(part, "__origin__", None) is tuple for part in (annotation, *get_args(annotation))):
            for inner in _models_in(annotation):
                if inner is not model:  # what holds another of its kind has no end of paths
                    yield from field_paths(inner, f"{path}.")


def _fields(model: type[BaseModel]) -> list[tuple[str, Any]]:
    return [(field.alias or name, field.annotation) for name, field in model.model_fields.items()]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [inner for part in get_args(annotation) for inner in _models_in(part)]


def _kinds_of(model: type[BaseModel]) -> dict[Any, str]:
    """Return by which tag a model is told from others of its place: the tag, and the field that says it, if one does.

    Such a field takes one value; where a section's kind is said elsewhere in the recipe, its model has a ``kind``.
    """
    fields = {name: get_args(field.annotation) for name, field in model.model_fields.items()}
    tags = {values[0]: name for name, values in fields.items() if len(values) == 1 and isinstance(values[0], str)}
    return tags | ({kind: ""} if (kind := getattr(model, "kind", None)) else {})


def _kind_without(parts: Sequence[str | int], model: type[BaseModel] | None) -> str:
    """Return in words which kind a section is of, if it lacks a field that others of its kinds have."""
    if len(parts) < 2:
        return ""
    *place, tag, field = parts
    kinds = models_at(place, model)
    own = next((one for one in kinds if tag in _kinds_of(one)), None)
    if own is None or not any(field in one.model_fields for one in kinds):
        return ""
    section = next((part for part in reversed(place) if isinstance(part, str)), "")
    said_by = _kinds_of(own)[tag]
    return (
        f"the {section if said_by == 'name' else said_by} {tag!r}" if said_by else str(getattr(own, "kind_name", tag))
    )


def _kinds_at(parts: Sequence[str | int], model: type[BaseModel] | None) -> list[str]:
    return [kind for one in models_at(parts, model) for kind in sorted(_kinds_of(one))]


def _joined(parts: Sequence[str | int]) -> str:
    return "".join(f"{part}." for part in parts)


def _purpose(parts: Sequence[str | int], model: type[BaseModel] | None) -> str:
    names = [f"{one.__name__}.{parts[-1]}" for one in models_at(parts[:-1], model)]
    return next((PURPOSES[name] for name in names if name in PURPOSES), "it must be given")


def _meant_field(parts: Sequence[str | int], model: type[BaseModel] | None) -> str:
    """Return which field was meant: one of the same place with a like name, or one of this name elsewhere."""
    if model is None:
        return ""
    word = str(parts[-1])
    here = {name for one in models_at(parts[:-1], model) for name, _ in _fields(one)}
    elsewhere = sorted({path for path in field_paths(model) if path.rpartition(".")[2] == word})
    if elsewhere and len(elsewhere) <= 3:
        return f"; did you mean {' or '.join(elsewhere)}?"
    meant = did_you_mean(word, here)
    if meant:
        return meant.replace("did you mean ", f"did you mean {_joined(location(parts[:-1], model))}")
    return f"; fields here: {', '.join(sorted(here))}"


def _meant_choice(item: ErrorDetails) -> str:
    context = item.get("ctx", {})
    if item["type"] == "literal_error" and isinstance(item["input"], str):
        return did_you_mean(item["input"], _choices(context))
    if item["type"] == "union_tag_invalid":
        return did_you_mean(str(context["tag"]), context["expected_tags"].replace("'", "").split(", "))
    return ""


def _choices(context: dict[str, Any]) -> list[str]:
    """Return the values of a literal, from ``'a', 'b' or 'c'``."""
    return [word.strip().strip("'") for word in context["expected"].replace(" or ", ", ").split(", ")]


def _found(item: ErrorDetails) -> str:
    """Return what was found in place of what is needed; of a section of no known kind, the kind."""
    is_kind = item["type"] in {"union_tag_invalid", "union_tag_not_found"} and isinstance(item["input"], dict)
    return _shown(item.get("ctx", {}).get("tag") if is_kind else item["input"])


def _shown(value: Any) -> str:
    """Return a value as a recipe would have it, cut to a readable length."""
    if value is None or isinstance(value, bool):
        text = {None: "nothing", True: "true", False: "false"}[value]
    elif isinstance(value, float) and not math.isfinite(value):
        text = "not a number" if math.isnan(value) else "infinity"
    elif isinstance(value, dict):
        text = "a section" if value else "an empty section"
    else:
        text = repr(value) if isinstance(value, str | int | float | list) else str(value)
    return text if len(text) <= MAX_FOUND_CHARS else f"{text[:MAX_FOUND_CHARS]}..."
