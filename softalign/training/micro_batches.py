"""How many pairs go through the denoiser at once: chosen from free memory, halved when that was too many.

The gradient does not depend on it (``pair_grid``); sums do, in their last bits, so a run keeps its choice.

Shape legend: N pairs.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from softalign.errors import TrainingError

logger = logging.getLogger(__name__)

USABLE_SHARE = 0.7
"""Of the free memory: the rest is for the allocator's gaps, for collectives and, on a CPU, for other processes."""
OUT_OF_MEMORY_MESSAGES = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
)
"""What has no error class of its own: PyTorch's CPU allocator (Linux; Windows), and what CUDA's libraries allocate."""
CGROUP_PATH = Path("/sys/fs/cgroup")

ResultT = TypeVar("ResultT")


class MicroBatches:
    """The present size, the same for all passes of a step.

    Args:
        size: pairs per denoiser call; None: the whole grid.
    """

    def __init__(self, size: int | None) -> None:
        self.size = size

    def run(self, work: Callable[[int | None], ResultT], num_pairs: int) -> ResultT:
        """Return ``work(size)``; where memory runs out, halve the size, say so, and do all of the work again.

        Args:
            work: must leave nothing behind when it fails.
            num_pairs: how many pairs the work has: what the whole grid means.

        Raises:
            TrainingError: not even one pair fits.
        """
        while True:
            try:
                return work(self.size)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                message = str(error).splitlines()[0]
            self._halve(num_pairs, message)  # here, where the failed pass's frames and tensors are gone

    def _halve(self, num_pairs: int, message: str) -> None:
        failed = min(self.size or num_pairs, num_pairs)
        if failed <= 1:
            raise TrainingError(
                "The memory is too small for one pair.",
                found=message,
                where="runtime.micro_batch_size 1",
                fix="free memory, use a larger device, or a smaller backbone.resolution_px",
            )
        self.size = failed // 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        logger.warning("out of memory at %d pairs per denoiser call: going on with %d (%s)", failed, self.size, message)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether an error says that memory ran out, on CUDA or on the CPU."""
    return isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in OUT_OF_MEMORY_MESSAGES)


def free_bytes(device: torch.device) -> int:
    """Return how much memory new tensors can have: CUDA's free and cached bytes, or what the system can give."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    import psutil

    return min(int(psutil.virtual_memory().available), _container_free_bytes())


def _container_free_bytes() -> int:
    """Return what this process's container may still take (cgroup v2); where there is no limit, a large number.

    The kernel drops files from its cache when memory is needed, so the inactive ones do not count as taken.
    """
    try:
        names = ("memory.max", "memory.current", "memory.stat")
        limit, used, statistics = ((CGROUP_PATH / name).read_text().strip() for name in names)
        cached = dict(line.split() for line in statistics.splitlines())["inactive_file"]
        return sys.maxsize if limit == "max" else int(limit) - int(used) + int(cached)
    except (OSError, ValueError, KeyError):
        return sys.maxsize


def choose_size(predict: Callable[[int], Tensor], num_pairs: int, device: torch.device, num_sharing: int = 1) -> int:
    """Return how many pairs of a denoiser's forward pass, kept for the backward pass, fit into free memory.

    Args:
        predict: the live tokens' prediction of a number of pairs, with its graph.
        num_pairs: the most that will ever be asked for.
        device: where ``predict`` computes.
        num_sharing: processes on this machine that share the memory (on a CPU).
    """
    if num_pairs < 2:
        return num_pairs
    try:
        if device.type == "cuda":
            pass_bytes(predict, 1, device)  # its libraries take their workspaces at the first call
        first, second = pass_bytes(predict, 1, device), pass_bytes(predict, 2, device)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return 1
    per_pair, fixed = max(second - first, 1), max(2 * first - second, 0)
    budget = USABLE_SHARE * free_bytes(device) / num_sharing - fixed
    size = max(1, min(num_pairs, int(budget // per_pair)))
    logger.info(
        "micro-batch: %d of %d pairs per denoiser call (%.1f MB each, %.0f MB usable)",
        size,
        num_pairs,
        per_pair / 1e6,
        budget / 1e6,
    )
    return size


def pass_bytes(predict: Callable[[int], Tensor], num_pairs: int, device: torch.device) -> int:
    """Return what a forward pass with its graph takes: CUDA's own peak; on a CPU, the tensors kept for backward, twice.

    Twice is a margin for what a CPU's allocator does not count: the layers' temporaries and the backward pass's own.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        predict(num_pairs).float().square().sum().backward()  # type: ignore[no-untyped-call]
        return int(torch.cuda.max_memory_allocated(device) - before)
    kept: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        prediction = predict(num_pairs)
    del prediction
    return 2 * sum(kept.values())
