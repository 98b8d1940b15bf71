"""Fields of earlier versions: where their values go, so that old recipes and overrides keep working."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from softalign.config.paths import lookup, put
from softalign.config.runtime import Runtime
from softalign.config.soft_tokens import KIND_KEY
from softalign.config.training import TrainConfig

logger = logging.getLogger(__name__)

Convert = Callable[[Any, Mapping[str, Any]], Any]
"""From an old value and the whole recipe to the new value.

It raises a ValueError that says what to write instead where there is none.
"""
WARNED_VARIABLE = "SOFTALIGN_RECIPE_WARNED"
"""In the environment of a process whose parent has warned already."""
GONE = object()
"""The field is left out: what it said is so anyway."""
UNCHANGED = object()
"""This value is no old one."""


@dataclass(frozen=True, slots=True)
class Renamed:
    """What became of a field: the path of the one that has its value now (none: empty), and the value there."""

    new: str = ""
    convert: Convert = lambda value, _: value


def _values(new: Mapping[Any, Any], otherwise: str = "") -> Convert:
    """Return a conversion by table; other values are no old ones, or with ``otherwise`` an error that says it."""

    def convert(value: Any, _: Mapping[str, Any]) -> Any:
        for old in new:
            if value == old and value is not True:  # which equals 1
                return new[old]
        if not otherwise:
            return UNCHANGED
        if value is not None:
            raise ValueError(f"{otherwise} (found {value!r})")
        return GONE

    return convert


def _num_hard(value: Any, data: Mapping[str, Any]) -> Any:
    batch_size = lookup(data, "train.batch_size") or TrainConfig.model_fields["batch_size"].default
    num = lookup(data, "train.negatives.num_negatives")
    num = batch_size - 1 if num is None and isinstance(batch_size, int) else num
    if value is None or value == 0:
        return GONE
    is_share = isinstance(value, int | float) and isinstance(num, int) and 0 <= value <= 1
    number = math.floor(num * value + 0.5) if is_share else 0
    if number == 0:
        raise ValueError(
            "train.negatives.hard_share is gone: train.negatives.num_hard is the number of hard negatives of an image "
            f"(found {value!r} of {num} negatives, which is none); write how many"
        )
    return number


def _edits(value: Any, data: Mapping[str, Any]) -> Any:
    num_hard = lookup(data, "train.negatives.num_hard")
    if not num_hard or value in (None, num_hard):
        return GONE  # edits that no training looks at, or as many as are encoded now
    raise ValueError(
        "encode.hard_negatives_per_caption is gone: as many edits of each caption are encoded as "
        f"train.negatives.num_hard says, which is {num_hard}; remove it, or set train.negatives.num_hard to {value}"
    )


def _hang(value: Any, data: Mapping[str, Any]) -> Any:
    stall = lookup(data, "runtime.stall_timeout_s") or Runtime.model_fields["stall_timeout_s"].default
    if value is None or (isinstance(stall, int | float) and value == 0.9 * stall):
        return GONE
    raise ValueError(
        "runtime.hang_timeout_s is gone: it is 0.9 of runtime.stall_timeout_s; "
        "remove it, and set runtime.stall_timeout_s where that is too short or too long"
    )


RENAMED: dict[str, Renamed] = {
    "train.select": Renamed("train.export_step"),
    "train.noise_sharing": Renamed("train.noise_sharing", _values({"paper": "shared"})),
    "train.objective.temperature_mode": Renamed(
        "train.objective.temperature",
        _values({"calibrated": "calibrated", "fixed": GONE}, "train.objective.temperature is a number or calibrated"),
    ),
    "train.objective.temperature_factor": Renamed(
        convert=_values({1: GONE}, "train.objective.temperature_factor is gone: a calibrated temperature has factor 1")
    ),
    "train.soft_tokens.placement": Renamed(f"train.soft_tokens.{KIND_KEY}"),
    "train.soft_tokens.position": Renamed(
        convert=_values({"after_bos": GONE, "append": GONE}, "train.soft_tokens.position is gone; remove it")
    ),
    "train.negatives.hard_share": Renamed("train.negatives.num_hard", _num_hard),
    "encode.hard_negatives_per_caption": Renamed(convert=_edits),
    "curation.sources.*.table": Renamed(
        convert=_values({"coco": GONE, "parquet": GONE}, "the table of rendered scenes is gone; remove it")
    ),
    "register.policy.is_gain_significant": Renamed("register.policy.requires_significant_gain"),
    "runtime.num_workers": Renamed("runtime.num_threads"),
    "runtime.hang_timeout_s": Renamed(convert=_hang),
}
"""By the old path; ``*`` stands for each entry of a list. A later row may look at what an earlier one made."""


def drop_other_spelling(data: dict[str, Any], path: str) -> None:
    """Take out what an override of a field replaces under the field's other name, old or new, in place.

    Args:
        data: a recipe in which the override is applied already.
        path: of the field that it sets, as it spells it.
    """
    for old, renamed in RENAMED.items():
        if not renamed.new or renamed.new == old or path not in (old, renamed.new):
            continue
        is_old = path == old
        if is_old and not _is_carried(lookup(data, old), renamed, data):
            continue
        section, _, field = (renamed.new if is_old else old).rpartition(".")
        other = lookup(data, section)
        if isinstance(other, dict):
            other.pop(field, None)


def _is_carried(value: Any, renamed: Renamed, data: Mapping[str, Any]) -> bool:
    try:
        return renamed.convert(value, data) not in (GONE, UNCHANGED)
    except ValueError:  # ``carry_over`` raises it
        return False


def carry_over(data: dict[str, Any]) -> dict[str, str]:
    """Give the values of a recipe's old fields to the new ones, in place, and say in warnings how they are spelled.

    Returns the old path of each new field that got a value.

    Raises:
        ValueError: a value has no counterpart, or both spellings are there; says what to write instead.
    """
    origins: dict[str, str] = {}
    for pattern, renamed in RENAMED.items():
        for section, path in list(_places(data, pattern.split("."))):
            field = path.rpartition(".")[2]
            was = section[field]
            value = renamed.convert(was, data)
            if value is UNCHANGED:
                continue
            del section[field]
            if renamed.new not in ("", path) and value is not GONE and lookup(data, renamed.new) not in (None, value):
                raise ValueError(f"{path} is an earlier name of {renamed.new}, and both are given; remove {path}")
            is_kept = bool(renamed.new) and value is not GONE
            if is_kept and put(data, renamed.new, value):
                origins[renamed.new] = path
            if is_kept and not renamed.new.endswith(KIND_KEY):
                spelled = f"{renamed.new}: {json.dumps(value)}"
                _warn(f"{path if renamed.new != path else f'{path}: {was}'} is now {spelled}")
            else:
                _warn(f"{path} is gone and has no effect; remove it")
    return origins


@cache
def _warn(note: str) -> None:
    """Warn once in a run, which reads its recipe more than once, in more than one process."""
    if WARNED_VARIABLE not in os.environ:
        logger.warning("warning: the recipe has a field of an earlier version: %s", note)


def _places(data: Any, parts: list[str], at: tuple[str, ...] = ()) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield the sections that hold a field, and its path there."""
    head, *rest = parts
    if head == "*":
        for index, item in enumerate(data if isinstance(data, list) else ()):
            yield from _places(item, rest, (*at, str(index)))
    elif isinstance(data, dict) and head in data:
        if rest:
            yield from _places(data[head], rest, (*at, head))
        else:
            yield data, ".".join((*at, head))
