"""How detectors compute: float32 on every device, without the shortcuts that change numbers between machines."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def exact_arithmetic() -> Iterator[None]:
    """Compute without gradients, without TF32 and with deterministic convolutions; global settings are put back.

    TF32 is what cuDNN takes for float32 by default: it keeps 10 of 23 bits, enough to move a score over a threshold.
    """
    is_tf32_allowed = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with (
            torch.inference_mode(),
            torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False),
        ):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = is_tf32_allowed
