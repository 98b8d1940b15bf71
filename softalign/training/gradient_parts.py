"""The gradient of each of an objective's parts by itself: what pulls on which tokens, and how hard.

Shape legend: B images, P prompts, N pairs in a list, C H W latents.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from softalign.method.objective import squared_error
from softalign.method.soft_tokens import NEGATIVE_BANK, POSITIVE_BANK, SoftTokens
from softalign.training.pair_grid import (
    Division,
    Pairs,
    Predict,
    live_pairs,
    loss_of_pairs,
    targets_of_pairs,
)

if TYPE_CHECKING:
    from softalign.config.objective import ObjectiveConfig

LossPart = Literal["positive", "negative"]
ParameterPart = Literal["psi+", "psi-", "timestep table"]


@dataclass(frozen=True, eq=False)
class PartGradient:
    """The gradient of one part of the loss with respect to one part of the tokens, flat, on the CPU, float64."""

    loss_part: LossPart
    parameter: ParameterPart
    values: Float[Tensor, " K"]


def part_gradients(
    predict: Predict,
    live: SoftTokens,
    ema: SoftTokens,
    target_BCHW: Float[Tensor, "B C H W"],
    mask_BP: Bool[Tensor, "B P"],
    config: ObjectiveConfig,
    rows_per_call: int,
) -> tuple[PartGradient, ...]:
    """Return the gradients whose sum a step follows; a part that the objective lacks is left out.

    The parts are L+ and L- of agsm, the denoising and the contrastive part of softrepa, plain denoising of
    score_matching (``LossTerms``).

    Args:
        predict: the denoiser on pairs.
        live: the tokens that would be trained; their ``grad`` stays as it is.
        ema: their average, which judges (agsm alone uses it).
        target_BCHW: epsilon or velocity of each image.
        mask_BP: candidates, see ``objective.candidate_mask``.
        config: the objective.
        rows_per_call: pairs of one denoiser call.
    """
    pairs = live_pairs(mask_BP, config)
    division = Division.into_chunks(rows_per_call)
    _, targets_N = targets_of_pairs(predict, ema, target_BCHW, mask_BP, config, division, pairs)
    with torch.no_grad():
        chunks = list(pairs.chunks(rows_per_call))
        errors_N = torch.cat([squared_error(predict(chunk, live), targets_N[place]) for place, chunk in chunks])
    slopes = _slopes(errors_N, pairs, mask_BP, config)
    parameters = tuple(live.parameters())
    totals = {part: [torch.zeros_like(parameter) for parameter in parameters] for part in slopes}
    for place, chunk in chunks:
        errors_K = squared_error(predict(chunk, live), targets_N[place])
        for part, slopes_N in slopes.items():
            found = torch.autograd.grad((slopes_N[place] * errors_K).sum(), parameters, retain_graph=True)
            for total, gradient in zip(totals[part], found, strict=True):
                total.add_(gradient)
    return tuple(gradient for part, total in totals.items() for gradient in _by_tokens(part, total))


def _slopes(errors_N: Tensor, pairs: Pairs, mask_BP: Tensor, config: ObjectiveConfig) -> dict[LossPart, Tensor]:
    """Return ``d part / d err`` of each pair, for the parts that depend on the errors."""
    errors_N = errors_N.clone().requires_grad_(True)
    terms = loss_of_pairs(errors_N, pairs, mask_BP, config)
    parts: dict[LossPart, Tensor] = {"positive": terms.positive, "negative": terms.negative}
    return {
        name: torch.autograd.grad(value, errors_N, retain_graph=True)[0]
        for name, value in parts.items()
        if value.requires_grad
    }


def _by_tokens(part: LossPart, gradients: list[Tensor]) -> Iterator[PartGradient]:
    banks = gradients[0]
    yield PartGradient(part, "psi+", _flat(banks[POSITIVE_BANK]))
    if len(banks) > NEGATIVE_BANK:
        yield PartGradient(part, "psi-", _flat(banks[NEGATIVE_BANK]))
    for table in gradients[1:]:
        yield PartGradient(part, "timestep table", _flat(table))


def _flat(gradient: Tensor) -> Tensor:
    return gradient.detach().double().flatten().cpu()
