"""How the work is run: devices, processes, checkpoints, timeouts. Nothing here changes a result."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from softalign.artifacts import Frozen
from softalign.config.base import MAX_COUNT, Count, Positive


class Runtime(Frozen):
    """How the work is run. Nothing here changes a result, so nothing here is part of a digest."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    num_processes: Count = Field(1, description="training processes on each machine, one per GPU; 1 inside torchrun")
    num_nodes: Count = Field(1, description="machines that train together; each runs this recipe with its NODE_RANK")
    rendezvous_endpoint: Annotated[str, Field(pattern=r"^[^:/]+:\d+$")] | None = Field(
        None, description="host:port of the machine with NODE_RANK 0; needed with several machines"
    )
    micro_batch_size: Count | Literal["auto"] | None = Field(
        "auto", description="pairs per denoiser call; auto: half the grid, or what fits into free memory; null: all"
    )
    compile: bool = Field(
        False, description="torch.compile for the denoiser's blocks in training; minutes to start, other last bits"
    )
    generation_batch_size: Count = 16
    num_workers: Annotated[int, Field(ge=1, le=MAX_COUNT)] = 2
    checkpoint_every_steps: Count = 50
    keep_checkpoints: Count = Field(2, description="the newest so many; the best validation's is kept besides")
    checkpoint_uri: str | None = Field(
        None, description="where checkpoints are copied to; unset: into the store, unless that is a local folder"
    )
    stall_timeout_s: Positive = Field(600.0, description="a child that writes no line for so long is killed")
    hang_timeout_s: Positive | None = Field(
        None, description="a training step that takes so long ends its process with all stacks (0.9 stall_timeout_s)"
    )
    tracking_uri: str | None = Field(None, description="MLflow; unset: MLFLOW_TRACKING_URI, else sqlite in the store")

    @model_validator(mode="after")
    def _check_nodes(self) -> Self:
        if (self.num_nodes > 1) != (self.rendezvous_endpoint is not None):
            raise ValueError("rendezvous_endpoint belongs to num_nodes above 1, and has no effect without")
        return self

    @model_validator(mode="after")
    def _fill_timeouts(self) -> Self:
        if self.hang_timeout_s is None:
            object.__setattr__(self, "hang_timeout_s", 0.9 * self.stall_timeout_s)
        elif self.hang_timeout_s >= self.stall_timeout_s:
            raise ValueError(
                "hang_timeout_s is not below stall_timeout_s: a child would be killed before it says where"
            )
        return self
