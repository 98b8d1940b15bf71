"""How the work is run: devices, processes, checkpoints, timeouts. Nothing here changes a result."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from softalign.artifacts import Frozen
from softalign.config.base import Count, NonNegative, Positive, Ratio
from softalign.config.engine import Engine, LocalEngine


class Runtime(Frozen):
    """How the work is run. Nothing here changes a result, so nothing here is part of a digest.

    What ``max_corrupt_share`` lets pass is another result, and has another digest for what it lacks.
    """

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: CUDA where there is one, else the CPU")
    num_processes: Count = Field(1, description="training processes on each machine, one per GPU; 1 inside torchrun")
    num_nodes: Count = Field(1, description="machines that train together; each runs this recipe with its NODE_RANK")
    rendezvous_endpoint: Annotated[str, Field(pattern=r"^[^:/]+:\d+$")] | None = Field(
        None, description="host:port of the machine with NODE_RANK 0; belongs to several machines"
    )
    micro_batch_size: Count | Literal["auto"] | None = Field(
        "auto",
        description="pairs of image and caption per denoiser call in training; auto: half the grid, or what fits into "
        "free memory; null: all",
    )
    compile: bool = Field(
        False, description="torch.compile for the denoiser's blocks in training; minutes to start, other last bits"
    )
    generation_batch_size: Count = Field(16, description="images that evaluation generates at a time")
    num_threads: Count = Field(2, description="torch's threads in training, and threads that read and decode images")
    checkpoint_every_steps: Count = Field(50, description="updates between checkpoints")
    keep_checkpoints: Count = Field(
        2, description="newest checkpoints that are kept; the best validation's is kept besides"
    )
    checkpoint_uri: str | None = Field(
        None, description="URI that checkpoints are copied to; null: the store's, unless that is a local folder"
    )
    stall_timeout_s: Positive = Field(
        600.0,
        description="seconds: a child process that writes no line for so long is killed, and a training step that "
        "takes 0.9 of it ends its process with all stacks",
    )
    max_failed_share: Ratio = Field(
        1.0, description="share of the images that their place may refuse, lack or break off before curation stops"
    )
    max_corrupt_share: Ratio = Field(
        0.0,
        description="share of a dataset's samples that damaged shards may cost before encoding stops; 0: none. A set "
        "with losses has another key and digest, and says so",
    )
    image_tries: Count = Field(
        3, description="how often runs try images again that their place did not give, before they take them for lost"
    )
    encode_budget_gb: Positive | None = Field(
        None, description="GB that encode may write, at most; null: as much as a local store's disk has room for"
    )
    engine: Engine = Field(LocalEngine(), description="who reads images, encodes, generates and detects")
    tracking_uri: str | None = Field(
        None, description="the MLflow registry; null: MLFLOW_TRACKING_URI, else a database in the store"
    )
    price_per_gpu_hour: NonNegative | None = Field(
        None, description="what an hour of one GPU costs; the end of a run then says what its stages cost"
    )
    price_per_cpu_hour: NonNegative | None = Field(None, description="what an hour of one processor core costs")
    currency: str = Field("", description="of both prices, for the text: EUR")

    @field_validator("engine", mode="before")
    @classmethod
    def _is_local_unless_told(cls, engine: Any) -> Any:
        """Let ``runtime.engine.num_processes`` be set where a recipe names no engine: that is this machine."""
        is_local = isinstance(engine, dict) and engine.keys() <= LocalEngine.model_fields.keys() - {"name"}
        return {"name": LocalEngine().name, **engine} if is_local else engine

    @model_validator(mode="after")
    def _check_nodes(self) -> Self:
        if (self.num_nodes > 1) != (self.rendezvous_endpoint is not None):
            raise ValueError("rendezvous_endpoint belongs to num_nodes above 1, and has no effect without")
        return self

    @property
    def hang_timeout_s(self) -> float:
        """Seconds after which a hanging training step ends its process: before it would be killed without a word."""
        return 0.9 * self.stall_timeout_s
