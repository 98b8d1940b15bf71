"""What a denoiser reads of a prompt: the text states, and for some families a pooled vector.

Shape legend: N prompts or rows, L text tokens, D text width, P pooled width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class TextStates:
    """Text encodings of N prompts.

    Attributes:
        prompt_embeds_NLD: states of the tokens.
        pooled_NP: pooled states; None for families without (SD1.x, SD2.x).
    """

    prompt_embeds_NLD: Float[Tensor, "N L D"]
    pooled_NP: Float[Tensor, "N P"] | None = None

    def __len__(self) -> int:
        """How many prompts."""
        return self.prompt_embeds_NLD.shape[0]

    def rows(self, index_N: Int[Tensor, " N"] | Sequence[int]) -> Self:
        """Return these rows, in this order."""
        pooled_NP = None if self.pooled_NP is None else self.pooled_NP[index_N]
        return type(self)(self.prompt_embeds_NLD[index_N], pooled_NP)

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> Self:
        """Return the states on a device, in another dtype if one is given; pinned ones come while the host goes on."""
        return type(self)(*(states.to(device, dtype, non_blocking=states.is_pinned()) for states in self.tensors()))

    def pinned(self) -> Self:
        """Return the states in page-locked memory."""
        return type(self)(*(states.pin_memory() for states in self.tensors()))

    def tensors(self) -> tuple[Float[Tensor, "N ..."], ...]:
        """Return what there is: the states, then the pooled ones."""
        return (self.prompt_embeds_NLD,) if self.pooled_NP is None else (self.prompt_embeds_NLD, self.pooled_NP)
