"""Names of flow runs, which tell the runs of one deployment apart."""

from __future__ import annotations

import hashlib
from datetime import datetime
from pathlib import PurePosixPath

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


def name_of(flow: str, recipe: str, overrides: tuple[str, ...], moment: datetime, run_id: str) -> str:
    """Return ``retrain-shapes-set1a2b3c-20261126-0142-9f3e``; ``set...`` digests the overrides, where there are any.

    Args:
        flow: the flow's name without its prefix.
        recipe: a recipe's name or path; of a path the file's name is taken.
        overrides: in order; the same ones give the same digest.
        moment: when the run was to start.
        run_id: its end tells runs of one minute apart.
    """
    digest = hashlib.sha256("\n".join(overrides).encode()).hexdigest()[:_DIGEST_CHARS]
    stem = PurePosixPath(recipe).name.removesuffix(".yaml").removesuffix(".yml")
    parts = [flow, stem, *([f"set{digest}"] if overrides else []), f"{moment:%Y%m%d-%H%M}", run_id[-_ID_CHARS:]]
    return "-".join(parts)
