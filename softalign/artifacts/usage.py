"""What a stage cost: kept beside its record as ``usage.json``, which no digest covers, so that a rerun knows it too."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, Self

from pydantic import Field

from softalign.artifacts.frozen import Frozen


class Usage(Frozen):
    """What the attempts at a stage took on this machine, the failed ones included.

    Attributes:
        attempts: how often it was begun.
        wall_s: seconds of work; waiting for other runs, or between attempts, is none.
        gpu_s: seconds that it held a GPU, times the number of GPUs; 0 on a CPU.
        cpu_s: processor seconds of this process and its children, all threads.
        slot_wait_s: seconds of waiting for a GPU slot.
        read_bytes: what came from the store; of a store in a local folder, what was read to verify it.
        written_bytes: what went into the store.
        peak_memory_bytes: the largest resident memory of one of its child processes; None: it had none.
        rates: how many a second, by what was counted (steps, images), in the last attempt.
    """

    schema_version: Literal[1] = 1
    attempts: int = 0
    wall_s: float = 0.0
    gpu_s: float = 0.0
    cpu_s: float = 0.0
    slot_wait_s: float = 0.0
    read_bytes: int = 0
    written_bytes: int = 0
    peak_memory_bytes: int | None = None
    rates: dict[str, float] = Field(default_factory=dict)

    def plus(self, other: Self) -> Self:
        """Return the sum; of memory the larger, of rates the other's where both have one."""
        peaks = [peak for peak in (self.peak_memory_bytes, other.peak_memory_bytes) if peak is not None]
        return type(self)(
            attempts=self.attempts + other.attempts,
            wall_s=round(self.wall_s + other.wall_s, 3),
            gpu_s=round(self.gpu_s + other.gpu_s, 3),
            cpu_s=round(self.cpu_s + other.cpu_s, 3),
            slot_wait_s=round(self.slot_wait_s + other.slot_wait_s, 3),
            read_bytes=self.read_bytes + other.read_bytes,
            written_bytes=self.written_bytes + other.written_bytes,
            peak_memory_bytes=max(peaks, default=None),
            rates={**self.rates, **other.rates},
        )

    def to_text(self, num_stages: int = 1) -> str:
        """Return it in a line for people; of the sum of several stages with their number."""
        parts = [f"{self.cpu_s:,.1f} s of CPU", f"{self.gpu_s:,.1f} s of GPU" if self.gpu_s else "no GPU"]
        parts += [f"{self.read_bytes / 1e6:,.1f} MB read from the store", f"{self.written_bytes / 1e6:,.1f} MB written"]
        if self.peak_memory_bytes is not None:
            parts.append(f"{self.peak_memory_bytes / 1e6:,.0f} MB of memory at most")
        if num_failed := max(self.attempts - num_stages, 0):
            parts.append(f"{num_failed} failed attempt{'s' if num_failed > 1 else ''} included")
        return ", ".join(parts)


def total_usage(usages: Iterable[Usage]) -> Usage:
    """Return the sum of what several stages cost; rates of several stages have none."""
    total = Usage()
    for usage in usages:
        total = total.plus(usage)
    return total.model_copy(update={"rates": {}})
