"""The ranks of one training run: each takes a share of every grid's pairs, and all go on with the same numbers.

Only the adapter has gradients, at most a few megabytes of them, and a step runs several backward passes (one per
micro-batch). So there is no wrapper that hooks into backward: its buckets would never fill before the last pass, and it
would have to be told to stay silent in all passes but one. The gradient is summed once per step instead. Every rank
computes the whole grid's loss from all ranks' errors and differentiates its own pairs, so the sum over ranks is the
single process's gradient, for any objective and any share.

Shape legend: N pairs of the grid, M pairs of this rank.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor

from softalign.errors import ConfigError


@dataclass(frozen=True)
class ProcessGroup:
    """The ranks that train together. One process alone is a group of one, which communicates nothing.

    Attributes:
        rank: this process's number; 0 writes files.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_leader(self) -> bool:
        """Whether this is the rank that writes files."""
        return self.rank == 0

    def share(self, num_pairs: int) -> slice:
        """Return which consecutive pairs are this rank's: as many as any other's, or one more."""
        return slice(num_pairs * self.rank // self.size, num_pairs * (self.rank + 1) // self.size)

    def gather(self, values_M: Tensor, num_pairs: int) -> Tensor:
        """Return all ranks' values (N, ...) in the pairs' order, without gradient.

        Args:
            values_M: this rank's, for the pairs of ``share(num_pairs)``.
            num_pairs: N.
        """
        if self.size == 1:
            return values_M.detach()
        from accelerate.utils import gather

        largest = -(-num_pairs // self.size)
        padded = values_M.new_zeros(largest, *values_M.shape[1:])
        padded[: len(values_M)] = values_M.detach()
        parts = gather(padded).split(largest)
        others = [ProcessGroup(rank, self.size).share(num_pairs) for rank in range(self.size)]
        return torch.cat([part[: place.stop - place.start] for part, place in zip(parts, others, strict=True)])

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replace the gradients by their sums over ranks; a parameter that no pair of this rank used counts as 0."""
        if self.size == 1:
            return
        from accelerate.utils import reduce

        every = list(parameters)
        gradients = [torch.zeros_like(one) if one.grad is None else one.grad for one in every]
        total = reduce(torch.cat([gradient.flatten() for gradient in gradients]), reduction="sum")
        for one, part in zip(every, total.split([one.numel() for one in every]), strict=True):
            one.grad = part.view_as(one).clone()

    def largest(self, values: Iterable[int], device: torch.device) -> list[int]:
        """Return the largest of all ranks' values, place by place: what one rank knows, all then know."""
        mine = list(values)
        if self.size == 1:
            return mine
        from accelerate.utils import gather

        every = gather(torch.tensor([mine], dtype=torch.int64, device=device))
        return [int(value) for value in every.max(dim=0).values]

    def require_same(self, digest: str, device: torch.device) -> None:
        """Refuse, on every rank, to train together when the ranks were asked for different runs.

        Raises:
            ConfigError: they were.
        """
        leaders = self.from_leader(digest.encode()).decode()
        (is_other_anywhere,) = self.largest([int(leaders != digest)], device)
        if is_other_anywhere:
            raise ConfigError(
                "The training processes were started with different recipes, data, models or library versions.",
                expected=f"run {leaders}, as rank 0",
                found=f"run {digest} on rank {self.rank}" if leaders != digest else "another on another rank",
                fix="start all machines with the same recipe and settings",
            )

    def from_leader(self, data: bytes) -> bytes:
        """Return rank 0's bytes on every rank; the others' argument is ignored. Waits for rank 0."""
        if self.size == 1:
            return data
        from accelerate.utils import broadcast_object_list

        box = [data if self.is_leader else b""]
        broadcast_object_list(box)
        return bytes(box[0])


ALONE = ProcessGroup()
"""One process."""


def join_group(device: torch.device, timeout_s: float | None) -> tuple[ProcessGroup, torch.device]:
    """Return this process's group and its device, after waiting for the other ranks.

    A process without torchrun's environment, or with a world of one, is alone.

    Args:
        device: where to compute; on CUDA each rank of a machine gets its own device (NCCL), on the CPU gloo is used.
        timeout_s: seconds a rank waits for the others, here and in every exchange; None: torch's own limit.

    Raises:
        ConfigError: this machine has fewer GPUs than processes.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return ALONE, device
    from accelerate import PartialState

    num_local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if device.type == "cuda" and num_local > torch.cuda.device_count():
        raise ConfigError(
            "There are fewer GPUs than training processes on this machine.",
            expected=f"at least {num_local}",
            found=f"{torch.cuda.device_count()}",
            fix="lower runtime.num_processes",
        )
    limit = {} if timeout_s is None else {"timeout": timedelta(seconds=timeout_s)}
    state = PartialState(cpu=device.type == "cpu", **limit)
    return ProcessGroup(state.process_index, state.num_processes), state.device


def leave_group(group: ProcessGroup) -> None:
    """Leave the process group in order: a rank that just exits looks to the others like one that has crashed."""
    if group.size > 1:
        from accelerate import PartialState

        PartialState().destroy_process_group()
