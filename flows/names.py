"""Names of flow runs, which tell the runs of one deployment apart."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any

from prefect.runtime import flow_run

_DIGEST_CHARS = 6
_ID_CHARS = 4


def run_name() -> str:
    """Return the name of the present flow run, from its flow, parameters, first start and id."""
    parameters = flow_run.parameters
    return name_of(
        flow_run.flow_name.removeprefix("softalign-"),
        parameters["recipe"],
        tuple(parameters["overrides"]),
        flow_run.scheduled_start_time,
        flow_run.id,
    )


def name_of(
    flow: str, recipe: str | Mapping[str, Any], overrides: tuple[str, ...], moment: datetime, run_id: str
) -> str:
    """Return ``retrain-shapes-set1a2b3c-20261126-0142-9f3e``; ``set...`` digests the overrides, where there are any.

    Args:
        flow: the flow's name without its prefix.
        recipe: a recipe's name, path or address, of which the file's name is taken, or the recipe itself, of which its
            name is, and a digest.
        overrides: in order; the same ones give the same digest.
        moment: when the run was to start.
        run_id: its end tells runs of one minute apart.
    """
    if isinstance(recipe, str):
        stem, said = PurePosixPath(recipe).name.removesuffix(".yaml").removesuffix(".yml"), [*overrides]
    else:
        stem, said = str(recipe.get("name", "recipe")), [json.dumps(recipe, sort_keys=True, default=str), *overrides]
    digest = hashlib.sha256("\n".join(said).encode()).hexdigest()[:_DIGEST_CHARS]
    parts = [flow, stem, *([f"set{digest}"] if said else []), f"{moment:%Y%m%d-%H%M}", run_id[-_ID_CHARS:]]
    return "-".join(parts)
