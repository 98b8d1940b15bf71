"""Where the work of a stage that falls into parts is done: in processes of this machine or of a Ray cluster."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from softalign.artifacts import Frozen
from softalign.config.base import Count, NonNegative


class LocalEngine(Frozen):
    """Processes of this machine: the stage's own alone, or several that read and decode images for it.

    Bytes do not depend on their number. What a process that died was at is done again; an item that kills each of them
    is named.
    """

    name: Literal["local"] = Field("local", description="this machine")
    num_processes: Count | Literal["auto"] = Field(
        "auto",
        description="that read and decode images, and where there is no GPU run models too; 1: the stage's own alone; "
        "auto: to read images one for each core, at most 16, once that has taken 3 s; models in the stage's own",
    )


class RayEngine(Frozen):
    """Processes of a Ray cluster read images, encode, generate and detect; the stage's own process publishes.

    A call that loses its process or machine is done again elsewhere, and bytes do not depend on where it was done.
    """

    name: Literal["ray"] = Field("ray", description="processes of a Ray cluster; needs the extra `ray`")
    address: str | None = Field(
        "auto",
        description="auto: the cluster that runs on this machine, or RAY_ADDRESS; host:port, ray://host:port; "
        "null: processes of this machine, for the stage alone",
    )
    num_cpus_per_task: NonNegative = Field(1.0, description="cores that each call takes; also its threads in torch")
    num_gpus_per_task: NonNegative = Field(
        1.0,
        description="GPUs that each call of a model takes, where runtime.device and the cluster have any; below "
        "1 several share one",
    )
    items_per_call: Count = Field(
        64, description="images that curation reads in a call; encode's calls are shards, evaluate's are batches"
    )


Engine = Annotated[LocalEngine | RayEngine, Field(discriminator="name")]
