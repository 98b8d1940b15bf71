"""One step on the pair grid in chunks of pairs: the gradient does not depend on how many fit into memory at once.

Every objective is a target per pair and a function of the pairs' errors, so ``d loss / d err`` of each pair is all that
a chunk needs for its share of the gradient. For objectives linear in the errors it is known beforehand; softrepa
computes all errors once without gradient first. A grid that fits into one chunk takes a single pass.

Shape legend: B images, P prompts (the first B are the images' own), N pairs in a list, M in a chunk, C H W latents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from softalign.objective import (
    Alignment,
    LossTerms,
    agsm_loss,
    align,
    score_matching_loss,
    softrepa_loss,
    squared_error,
)
from softalign.soft_tokens import NEGATIVE_BANK, POSITIVE_BANK, SoftTokens

if TYPE_CHECKING:
    from softalign.config import ObjectiveConfig


@dataclass(frozen=True)
class Pairs:
    """A list of pairs: image indices, prompt indices and the bank of each."""

    images_N: Tensor
    prompts_N: Tensor
    banks_N: Tensor

    @property
    def is_match_N(self) -> Tensor:
        """Which pairs are an image with its own caption."""
        return self.images_N == self.prompts_N

    def __len__(self) -> int:
        """How many pairs."""
        return self.images_N.shape[0]

    def chunks(self, size: int | None) -> Iterator[tuple[slice, Pairs]]:
        """Yield consecutive chunks of at most ``size`` pairs with their places; one chunk if ``size`` is None."""
        step = size or max(1, len(self))
        for start in range(0, len(self), step):
            place = slice(start, start + step)
            yield place, Pairs(self.images_N[place], self.prompts_N[place], self.banks_N[place])


Predict = Callable[[Pairs, SoftTokens], Tensor]
"""The denoiser on a list of pairs with these soft tokens: (N, C, H, W)."""


@dataclass(frozen=True)
class GridResult:
    """What one step found; the gradient has been added to the tokens' ``grad``.

    ``alignment`` is None for objectives without one; ``errors_N`` are those of the trained ``pairs``.
    """

    loss: LossTerms
    errors_N: Tensor
    pairs: Pairs
    alignment: Alignment | None


def num_banks(config: ObjectiveConfig) -> int:
    """Return how many banks an objective trains: two for agsm with dual banks, else one."""
    return 2 if config.name == "agsm" and config.banks == "dual" else 1


def live_pairs(mask_BP: Tensor, config: ObjectiveConfig) -> Pairs:
    """Return the pairs whose predictions need a gradient: all candidates, or the matching ones alone."""
    needs_negatives = config.name == "softrepa" or (config.name == "agsm" and config.gamma_negative != 0.0)
    matches_BP = torch.eye(*mask_BP.shape, dtype=torch.bool, device=mask_BP.device)
    return _pairs(mask_BP if needs_negatives else matches_BP, config)


def _pairs(mask_BP: Tensor, config: ObjectiveConfig) -> Pairs:
    images_N, prompts_N = mask_BP.nonzero(as_tuple=True)
    other_bank = NEGATIVE_BANK if num_banks(config) == 2 else POSITIVE_BANK
    return Pairs(images_N, prompts_N, torch.where(images_N == prompts_N, POSITIVE_BANK, other_bank))


def predict_grid(
    predict: Predict, tokens: SoftTokens, mask_BP: Tensor, config: ObjectiveConfig, size: int | None
) -> Tensor:
    """Return predictions of all candidates without gradient, (B, P, C, H, W), 0 where masked."""
    pairs = _pairs(mask_BP, config)
    with torch.no_grad():
        predictions_N = torch.cat([predict(chunk, tokens) for _, chunk in pairs.chunks(size)])
    grid = predictions_N.new_zeros(*mask_BP.shape, *predictions_N.shape[1:])
    grid[pairs.images_N, pairs.prompts_N] = predictions_N
    return grid


def backward_grid(
    predict: Predict,
    live: SoftTokens,
    ema: SoftTokens,
    target_BCHW: Tensor,
    mask_BP: Tensor,
    config: ObjectiveConfig,
    micro_batch_size: int | None = None,
) -> GridResult:
    """Compute the loss of a grid and add its gradient to the live tokens.

    Args:
        predict: the denoiser on pairs.
        live: the tokens being trained.
        ema: their average, which judges (agsm alone uses it).
        target_BCHW: epsilon or velocity of each image.
        mask_BP: candidates, see ``objective.candidate_mask``.
        config: the objective.
        micro_batch_size: pairs per denoiser call; None: all at once.
    """
    pairs = live_pairs(mask_BP, config)
    alignment: Alignment | None = None
    targets_N = target_BCHW[pairs.images_N]
    if config.name == "agsm":
        alignment = align(predict_grid(predict, ema, mask_BP, config, micro_batch_size), target_BCHW, mask_BP, config)
        targets_N = alignment.targets_BPCHW[pairs.images_N, pairs.prompts_N]

    def loss_of(errors_N: Tensor) -> LossTerms:
        return _loss(errors_N, pairs, mask_BP, config)

    if micro_batch_size is None or micro_batch_size >= len(pairs):
        errors_N = squared_error(predict(pairs, live), targets_N)
        loss_of(errors_N).total.backward()  # type: ignore[no-untyped-call]
    else:
        errors_N = _backward_chunks(predict, live, pairs, targets_N, loss_of, config, micro_batch_size)
    errors_N = errors_N.detach()
    return GridResult(loss=loss_of(errors_N), errors_N=errors_N, pairs=pairs, alignment=alignment)


def _backward_chunks(
    predict: Predict,
    live: SoftTokens,
    pairs: Pairs,
    targets_N: Tensor,
    loss_of: Callable[[Tensor], LossTerms],
    config: ObjectiveConfig,
    size: int,
) -> Tensor:
    if config.name == "softrepa":  # not linear in the errors: all of them first
        with torch.no_grad():
            first = [squared_error(predict(chunk, live), targets_N[place]) for place, chunk in pairs.chunks(size)]
        at_errors_N = torch.cat(first)
    else:
        at_errors_N = torch.zeros(len(pairs), dtype=targets_N.dtype, device=targets_N.device)
    at_errors_N.requires_grad_(True)
    (slopes_N,) = torch.autograd.grad(loss_of(at_errors_N).total, at_errors_N)
    errors = []
    for place, chunk in pairs.chunks(size):
        errors_M = squared_error(predict(chunk, live), targets_N[place])
        (slopes_N[place] * errors_M).sum().backward()  # type: ignore[no-untyped-call]
        errors.append(errors_M.detach())
    return torch.cat(errors)


def _loss(errors_N: Tensor, pairs: Pairs, mask_BP: Tensor, config: ObjectiveConfig) -> LossTerms:
    if config.name == "agsm":
        return agsm_loss(errors_N, pairs.is_match_N)
    if config.name == "score_matching":
        return score_matching_loss(errors_N)
    errors_BP = errors_N.new_zeros(mask_BP.shape).index_put((pairs.images_N, pairs.prompts_N), errors_N)
    return softrepa_loss(errors_BP, mask_BP, config)
