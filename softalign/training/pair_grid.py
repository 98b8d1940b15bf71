"""One step on the pair grid in chunks of pairs: the gradient does not depend on how many fit into memory at once.

Every objective is a target per pair and a function of the pairs' errors, so ``d loss / d err`` of each pair is all that
a chunk needs for its share of the gradient. For objectives linear in the errors it is known beforehand; softrepa
computes all errors once without gradient first. A grid that fits into one chunk takes a single pass.

Shape legend: B images, P prompts (the first B are the images' own), N pairs in a list, M pairs of this rank, K of a
chunk, C H W latents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from softalign.method.objective import (
    Alignment,
    LossTerms,
    agsm_loss,
    align,
    score_matching_loss,
    softrepa_loss,
    squared_error,
)
from softalign.method.soft_tokens import NEGATIVE_BANK, POSITIVE_BANK, SoftTokens
from softalign.training.micro_batches import MicroBatches
from softalign.training.process_group import ALONE, ProcessGroup

if TYPE_CHECKING:
    from softalign.config.objective import ObjectiveConfig


@dataclass(frozen=True)
class Pairs:
    """A list of pairs: image indices, prompt indices and the bank of each.

    They stay on the CPU: indexing a CUDA tensor with them, and reading them, never waits for the device.
    """

    images_N: Int[Tensor, " N"]
    prompts_N: Int[Tensor, " N"]
    banks_N: Int[Tensor, " N"]

    @property
    def is_match_N(self) -> Bool[Tensor, " N"]:
        """Which pairs are an image with its own caption."""
        return self.images_N == self.prompts_N

    def __len__(self) -> int:
        """How many pairs."""
        return self.images_N.shape[0]

    def part(self, place: slice) -> Pairs:
        """Return consecutive pairs."""
        return Pairs(self.images_N[place], self.prompts_N[place], self.banks_N[place])

    def chunks(self, size: int | None) -> Iterator[tuple[slice, Pairs]]:
        """Yield consecutive chunks of at most ``size`` pairs with their places; one chunk if ``size`` is None."""
        step = size or max(1, len(self))
        for start in range(0, len(self), step):
            place = slice(start, start + step)
            yield place, self.part(place)


@dataclass(frozen=True)
class Division:
    """How a grid's pairs are divided: over the ranks, and each rank's share into chunks."""

    micro_batches: MicroBatches
    group: ProcessGroup = ALONE

    @classmethod
    def into_chunks(cls, size: int | None) -> Division:
        """Return the division of one process into chunks of ``size`` pairs; None: the whole grid at once."""
        return cls(MicroBatches(size))


Predict = Callable[[Pairs, SoftTokens], Float[Tensor, "N C H W"]]
"""The denoiser on a list of pairs with these soft tokens: (N, C, H, W)."""


@dataclass(frozen=True)
class GridResult:
    """What one step found; the gradient is in the tokens' ``grad``.

    ``alignment`` is None for objectives without one; ``errors_N`` are those of the trained ``pairs``.
    """

    loss: LossTerms
    errors_N: Float[Tensor, " N"]
    pairs: Pairs
    alignment: Alignment | None


def num_banks(config: ObjectiveConfig) -> int:
    """Return how many banks an objective trains: two for agsm with dual banks, else one."""
    return 2 if config.name == "agsm" and config.banks == "dual" else 1


def live_pairs(mask_BP: Bool[Tensor, "B P"], config: ObjectiveConfig) -> Pairs:
    """Return the pairs whose predictions need a gradient: all candidates, or the matching ones alone."""
    needs_negatives = config.name == "softrepa" or (config.name == "agsm" and config.gamma_negative != 0.0)
    matches_BP = torch.eye(*mask_BP.shape, dtype=torch.bool)
    return _pairs(mask_BP if needs_negatives else matches_BP, config)


def _pairs(mask_BP: Tensor, config: ObjectiveConfig) -> Pairs:
    images_N, prompts_N = mask_BP.cpu().nonzero(as_tuple=True)
    other_bank = NEGATIVE_BANK if num_banks(config) == 2 else POSITIVE_BANK
    return Pairs(images_N, prompts_N, torch.where(images_N == prompts_N, POSITIVE_BANK, other_bank))


def predict_grid(
    predict: Predict, tokens: SoftTokens, mask_BP: Bool[Tensor, "B P"], config: ObjectiveConfig, division: Division
) -> Float[Tensor, "B P C H W"]:
    """Return predictions of all candidates without gradient, (B, P, C, H, W), 0 where masked."""
    pairs = _pairs(mask_BP, config)
    own = pairs.part(division.group.share(len(pairs)))

    @torch.no_grad()
    def attempt(size: int | None) -> Tensor:
        return torch.cat([predict(chunk, tokens) for _, chunk in own.chunks(size)])

    predictions_N = division.group.gather(division.micro_batches.run(attempt, len(own)), len(pairs))
    grid = predictions_N.new_zeros(*mask_BP.shape, *predictions_N.shape[1:])
    grid[pairs.images_N, pairs.prompts_N] = predictions_N
    return grid


def backward_grid(
    predict: Predict,
    live: SoftTokens,
    ema: SoftTokens,
    target_BCHW: Float[Tensor, "B C H W"],
    mask_BP: Bool[Tensor, "B P"],
    config: ObjectiveConfig,
    division: Division | None = None,
) -> GridResult:
    """Compute the loss of a grid and leave its gradient, summed over the ranks, in the live tokens' ``grad``.

    Args:
        predict: the denoiser on pairs.
        live: the tokens being trained.
        ema: their average, which judges (agsm alone uses it).
        target_BCHW: epsilon or velocity of each image.
        mask_BP: candidates, see ``objective.candidate_mask``.
        config: the objective.
        division: the pairs of one denoiser call, and of each rank; None: one process, all at once.
    """
    division = division or Division.into_chunks(None)
    pairs = live_pairs(mask_BP, config)
    alignment, targets_N = targets_of_pairs(predict, ema, target_BCHW, mask_BP, config, division, pairs)

    def loss_of(errors_N: Tensor) -> LossTerms:
        return loss_of_pairs(errors_N, pairs, mask_BP, config)

    share = _Share(predict, live, pairs, targets_N, loss_of, division)
    errors_N = share.backward(is_linear=config.name != "softrepa")
    division.group.sum_gradients(live.parameters())
    return GridResult(loss=loss_of(errors_N), errors_N=errors_N, pairs=pairs, alignment=alignment)


def targets_of_pairs(
    predict: Predict,
    ema: SoftTokens,
    target_BCHW: Float[Tensor, "B C H W"],
    mask_BP: Bool[Tensor, "B P"],
    config: ObjectiveConfig,
    division: Division,
    pairs: Pairs,
) -> tuple[Alignment | None, Float[Tensor, "N C H W"]]:
    """Return each pair's target, and what shifted it (agsm alone); see ``backward_grid``."""
    if config.name != "agsm":
        return None, target_BCHW[pairs.images_N]
    alignment = align(predict_grid(predict, ema, mask_BP, config, division), target_BCHW, mask_BP, config)
    return alignment, alignment.targets_BPCHW[pairs.images_N, pairs.prompts_N]


@dataclass(frozen=True)
class _Share:
    """The pairs of this rank in a grid's backward pass."""

    predict: Predict
    live: SoftTokens
    pairs: Pairs
    targets_N: Tensor
    loss_of: Callable[[Tensor], LossTerms]
    division: Division

    @property
    def place(self) -> slice:
        return self.division.group.share(len(self.pairs))

    def backward(self, *, is_linear: bool) -> Tensor:
        """Leave this share's gradient in the tokens' ``grad`` and return all ranks' errors (N,).

        Every rank exchanges errors exactly once, however its chunks are: ranks may differ in them.
        """
        group, run = self.division.group, self.division.micro_batches.run
        num_own = self.place.stop - self.place.start
        if group.size == 1:
            return run(lambda size: self._alone(size, is_linear=is_linear), num_own)
        if is_linear:
            slopes_N = self._slopes_at(self._zeros())
            return group.gather(run(lambda size: self._backward_chunks(slopes_N, size), num_own), len(self.pairs))
        errors_N = group.gather(run(self._errors, num_own), len(self.pairs))
        slopes_N = self._slopes_at(errors_N)
        run(lambda size: self._backward_chunks(slopes_N, size), num_own)
        return errors_N

    def _alone(self, size: int | None, *, is_linear: bool) -> Tensor:
        if size is not None and size < len(self.pairs):
            at_errors_N = self._zeros() if is_linear else self._errors(size)
            return self._backward_chunks(self._slopes_at(at_errors_N), size)
        self._forget_gradient()
        errors_N = squared_error(self.predict(self.pairs, self.live), self.targets_N)
        self.loss_of(errors_N).total.backward()  # type: ignore[no-untyped-call]
        return errors_N.detach()

    @torch.no_grad()
    def _errors(self, size: int | None) -> Tensor:
        targets_M = self.targets_N[self.place]
        chunks = self.pairs.part(self.place).chunks(size)
        return torch.cat([squared_error(self.predict(chunk, self.live), targets_M[place]) for place, chunk in chunks])

    def _backward_chunks(self, slopes_N: Tensor, size: int | None) -> Tensor:
        self._forget_gradient()
        slopes_M, targets_M = slopes_N[self.place], self.targets_N[self.place]
        errors = []
        for place, chunk in self.pairs.part(self.place).chunks(size):
            errors_K = squared_error(self.predict(chunk, self.live), targets_M[place])
            (slopes_M[place] * errors_K).sum().backward()  # type: ignore[no-untyped-call]
            errors.append(errors_K.detach())
        return torch.cat(errors)

    def _slopes_at(self, errors_N: Tensor) -> Tensor:
        """Return ``d loss / d err`` of each pair; an objective linear in the errors has the same at all errors."""
        errors_N = errors_N.clone().requires_grad_(True)
        (slopes_N,) = torch.autograd.grad(self.loss_of(errors_N).total, errors_N)
        return slopes_N

    def _zeros(self) -> Tensor:
        return torch.zeros(len(self.pairs), dtype=self.targets_N.dtype, device=self.targets_N.device)

    def _forget_gradient(self) -> None:
        for parameter in self.live.parameters():
            parameter.grad = None


def loss_of_pairs(
    errors_N: Float[Tensor, " N"], pairs: Pairs, mask_BP: Bool[Tensor, "B P"], config: ObjectiveConfig
) -> LossTerms:
    """Return an objective's loss of the trained pairs' errors."""
    if config.name == "agsm":
        return agsm_loss(errors_N, pairs.is_match_N)
    if config.name == "score_matching":
        return score_matching_loss(errors_N)
    errors_BP = errors_N.new_zeros(mask_BP.shape).index_put((pairs.images_N, pairs.prompts_N), errors_N)
    return softrepa_loss(errors_BP, mask_BP, config)
