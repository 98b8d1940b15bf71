"""What a child process is asked to do, as a record; ``worker`` does it, and answers with the stage's record."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from softalign.artifacts import Adapter, Arm, DatasetManifest, EncodedManifest, EvalReport, Frozen
from softalign.config.recipe import Recipe
from softalign.store.holder import Held


class StageJob(Frozen):
    """What every job has: ``store`` is a URI, ``key`` the stage key, ``held`` its leases."""

    recipe: Recipe
    store: str
    key: str
    held: tuple[Held, ...] = ()


class EncodeJob(StageJob):
    """Encode a dataset for the recipe's backbone; ``before`` is the set of the dataset that it is a refresh of."""

    stage: Literal["encode"] = "encode"
    dataset: DatasetManifest
    before: EncodedManifest | None = None


class TrainJob(StageJob):
    """Train soft tokens on an encoded set."""

    stage: Literal["train"] = "train"
    encoded: EncodedManifest


class EvaluateJob(StageJob):
    """Generate and score one arm, with its adapter if it has one; of the champion a folder with its files.

    ``lent`` is the same arm with another number of images of each prompt.
    """

    stage: Literal["evaluate"] = "evaluate"
    arm: Arm
    adapter: Adapter | None
    champion_path: str = ""
    lent: EvalReport | None = None


Job = EncodeJob | TrainJob | EvaluateJob
WORKER = "softalign.stages.worker"
"""The module that a child process runs."""
_JOBS: TypeAdapter[Job] = TypeAdapter(Annotated[Job, Field(discriminator="stage")])


def to_json(job: Job) -> str:
    """Return a job as a child reads it."""
    return job.model_dump_json(by_alias=True)


def from_json(data: bytes) -> Job:
    """Return the job of what ``to_json`` made."""
    return _JOBS.validate_json(data)
