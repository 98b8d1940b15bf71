"""The losses on the pair grid, in the order of the paper (AGSM, arXiv 2605.30038; SoftREPA, arXiv 2503.08250).

A batch of B images and P prompts makes a grid of B x P pairs: image i with candidate caption j. The first B prompts
are the images' own captions, the others hard negatives, each of one image; a mask says which pairs there are. Every
objective is a target for each pair and a function of the pairs' squared errors.

Shape legend: B images, P prompts (candidates), C H W latents, N pairs in a list.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from softalign.config.objective import AGSMConfig, SoftREPAConfig

ROUNDING_STEPS = 4
"""A mean of many squares is exact to a few of its type's smallest steps."""


@dataclass(frozen=True)
class Alignment:
    """What the averaged tokens say about a grid: rewards, weights at a temperature, and the targets they shift."""

    rewards_BP: Float[Tensor, "B P"]
    temperature: Float[Tensor, ""]
    weights_BP: Float[Tensor, "B P"]
    direction_norm: Float[Tensor, ""]
    targets_BPCHW: Float[Tensor, "B P C H W"]


@dataclass(frozen=True)
class LossTerms:
    """A loss and its two parts; ``negative`` is 0 where the objective has no such part."""

    total: Float[Tensor, ""]
    positive: Float[Tensor, ""]
    negative: Float[Tensor, ""]


def candidate_mask(
    candidates: Sequence[Sequence[int]], num_prompts: int, device: torch.device | None = None
) -> Bool[Tensor, "B P"]:
    """Return which prompts are candidates of which image, (B, P) bool.

    Args:
        candidates: for each image the prompts to compare it with; prompt i, its own, is always among those of image i.
        num_prompts: P, at least B.
        device: of the mask.
    """
    mask_BP = torch.eye(len(candidates), num_prompts, dtype=torch.bool)
    for image, prompts in enumerate(candidates):
        mask_BP[image, list(prompts)] = True
    return mask_BP.to(device)


def squared_error(prediction: Float[Tensor, "*N C H W"], target: Float[Tensor, "*#N C H W"]) -> Float[Tensor, "*N"]:
    """Return ``mean over (C, H, W) of (prediction - target)^2``, in float32 or better."""
    dtype = torch.promote_types(torch.promote_types(prediction.dtype, target.dtype), torch.float32)
    return (prediction.to(dtype) - target.to(dtype)).square().mean(dim=(-3, -2, -1))


def intrinsic_rewards(
    ema_BPCHW: Float[Tensor, "B P C H W"], target_BCHW: Float[Tensor, "B C H W"], reduction: str
) -> Float[Tensor, "B P"]:
    """Return ``r_ij = -||y_i - ema_ij||^2``, (B, P): the denoiser's own judgement (AGSM, intrinsic reward).

    Args:
        ema_BPCHW: predictions with the averaged tokens.
        target_BCHW: what each image's noisy latents should be answered with.
        reduction: ``mean`` over (C, H, W) as the released code, or ``sum`` as the paper.
    """
    errors_BP = squared_error(ema_BPCHW, target_BCHW[:, None])
    return -errors_BP if reduction == "mean" else -errors_BP * ema_BPCHW[0, 0].numel()


def reward_spread(rewards_BP: Float[Tensor, "B P"], mask_BP: Bool[Tensor, "B P"]) -> Float[Tensor, ""]:
    """Return the mean, over images that have a negative, of the standard deviation of an image's rewards; 0 without.

    A scalar; the deviation is the population's, over the image's candidates.
    """
    counts_B = mask_BP.sum(dim=1)
    candidates_BP = rewards_BP.masked_fill(~mask_BP, 0.0)
    centred_BP = (candidates_BP - (candidates_BP.sum(dim=1) / counts_B)[:, None]).masked_fill(~mask_BP, 0.0)
    deviations_B = (centred_BP.square().sum(dim=1) / counts_B).sqrt()
    return (deviations_B * (counts_B > 1)).sum() / (counts_B > 1).sum().clamp(min=1)


def calibrated_temperature(rewards_BP: Float[Tensor, "B P"], mask_BP: Bool[Tensor, "B P"]) -> Float[Tensor, ""]:
    """Return ``tau = reward_spread`` of this very grid, a positive scalar.

    With the mean over (C, H, W) the candidates' rewards differ by far less than 0.1, which leaves every weight at
    chance; in units of their spread the weights say something on any backbone, at any noise level and with either
    reduction. The spread is of the whole grid and not of each image's row, so that an image whose captions hardly
    differ keeps flat weights beside one whose captions do (a row of two would always have the same weights). It is
    of one step and not a running mean, so it follows the step's noise level, on which the spread depends, and a resumed
    run has nothing to restore. Where each image draws its own noise level, tau fits their average.

    Differences within the rewards' rounding say nothing: below it tau does not fall, so equal rewards give chance.

    Args:
        rewards_BP: of the grid; masked entries are not used.
        mask_BP: which pairs exist.
    """
    magnitude = rewards_BP.abs().masked_fill(~mask_BP, 0.0).sum() / mask_BP.sum()
    rounding = ROUNDING_STEPS * torch.finfo(rewards_BP.dtype).eps * magnitude
    temperature = torch.maximum(reward_spread(rewards_BP, mask_BP), rounding)
    return torch.where(temperature == 0.0, torch.ones_like(temperature), temperature)


def temperature_of(
    rewards_BP: Float[Tensor, "B P"], mask_BP: Bool[Tensor, "B P"], config: AGSMConfig
) -> Float[Tensor, ""]:
    """Return the temperature of an ``agsm`` configuration for a grid of rewards, a scalar of their dtype."""
    if config.temperature == "calibrated":
        return calibrated_temperature(rewards_BP, mask_BP)
    return rewards_BP.new_tensor(config.temperature)


def plackett_luce_weights(
    rewards_BP: Float[Tensor, "B P"], mask_BP: Bool[Tensor, "B P"], temperature: Float[Tensor, ""] | float
) -> Float[Tensor, "B P"]:
    """Return ``w_ij = softmax over candidates j of r_ij / tau``; masked candidates weigh 0 (AGSM, Plackett-Luce)."""
    return (rewards_BP / temperature).masked_fill(~mask_BP, -torch.inf).softmax(dim=1)


def plackett_luce_mixing(weights_BP: Float[Tensor, "B P"]) -> Float[Tensor, "B P P"]:
    """Return the matrix (B, P, P) of ``D_ij = ema_ij - sum_k w_ik ema_ik``: the gradient of log w_ij's numerator."""
    num_prompts = weights_BP.shape[1]
    identity = torch.eye(num_prompts, dtype=weights_BP.dtype, device=weights_BP.device)
    return identity - weights_BP[:, None, :]


def bradley_terry_mixing(
    rewards_BP: Float[Tensor, "B P"], mask_BP: Bool[Tensor, "B P"], temperature: Float[Tensor, ""] | float
) -> Float[Tensor, "B P P"]:
    """Return the matrix (B, P, P) of ``D_ij = mean over k of sigmoid((r_ik - r_ij) / tau) (ema_ij - ema_ik)``.

    The mean runs over j's opponents k among the image's candidates: each pair is compared alone (AGSM's Bradley-Terry
    ablation). With two candidates it is Plackett-Luce.
    """
    num_prompts = rewards_BP.shape[1]
    self_BPP = torch.eye(num_prompts, dtype=torch.bool, device=rewards_BP.device)
    are_opponents = mask_BP[:, :, None] & mask_BP[:, None, :] & ~self_BPP
    losses = torch.sigmoid((rewards_BP[:, None, :] - rewards_BP[:, :, None]) / temperature)
    losses = losses.masked_fill(~are_opponents, 0.0) / are_opponents.sum(dim=2, keepdim=True).clamp(min=1)
    return torch.diag_embed(losses.sum(dim=2)) - losses


def alignment_directions(
    mixing_BPP: Float[Tensor, "B P P"], ema_BPCHW: Float[Tensor, "B P C H W"], mask_BP: Bool[Tensor, "B P"]
) -> Float[Tensor, "B P C H W"]:
    """Return ``D_ij``, (B, P, C, H, W): where candidate j moves the prediction, away from its rivals; bounded."""
    directions = torch.einsum("bpq,bqchw->bpchw", mixing_BPP, ema_BPCHW)
    return directions.masked_fill(~mask_BP[:, :, None, None, None], 0.0)


def shifted_targets(
    target_BCHW: Float[Tensor, "B C H W"],
    directions_BPCHW: Float[Tensor, "B P C H W"],
    gamma_positive: float,
    gamma_negative: float,
) -> Float[Tensor, "B P C H W"]:
    """Return ``y_i + g+ D_ii`` for matching pairs and ``y_i - g- D_ij`` for the others, (B, P, C, H, W).

    The scores of ``p+ ~ p p(z=1|x_t,c)^g+`` and of ``p- ~ p p(z=1|x_t,c)^(-g-)`` (AGSM, the two shifted targets).
    """
    num_images, num_prompts = directions_BPCHW.shape[:2]
    is_match = torch.eye(num_images, num_prompts, dtype=torch.bool, device=target_BCHW.device)
    gammas_BP = torch.full_like(is_match, -gamma_negative, dtype=directions_BPCHW.dtype)
    gammas_BP = gammas_BP.masked_fill(is_match, gamma_positive)
    return target_BCHW[:, None] + gammas_BP[:, :, None, None, None] * directions_BPCHW


@torch.no_grad()
def align(
    ema_BPCHW: Float[Tensor, "B P C H W"],
    target_BCHW: Float[Tensor, "B C H W"],
    mask_BP: Bool[Tensor, "B P"],
    config: AGSMConfig,
) -> Alignment:
    """Return rewards, weights and shifted targets of a grid of averaged predictions (AGSM, one step's first half).

    Args:
        ema_BPCHW: predictions with the averaged tokens; entries of masked pairs are not used.
        target_BCHW: epsilon or velocity.
        mask_BP: which pairs exist.
        config: weights, temperature and gammas.
    """
    dtype = torch.promote_types(ema_BPCHW.dtype, torch.float32)
    ema_BPCHW, target_BCHW = ema_BPCHW.to(dtype), target_BCHW.to(dtype)
    rewards_BP = intrinsic_rewards(ema_BPCHW, target_BCHW, config.reward_reduction)
    temperature = temperature_of(rewards_BP, mask_BP, config)
    weights_BP = plackett_luce_weights(rewards_BP, mask_BP, temperature)
    if config.weights == "bradley_terry":
        mixing_BPP = bradley_terry_mixing(rewards_BP, mask_BP, temperature)
    else:
        mixing_BPP = plackett_luce_mixing(weights_BP)
    directions = alignment_directions(mixing_BPP, ema_BPCHW, mask_BP)
    return Alignment(
        rewards_BP=rewards_BP,
        temperature=temperature,
        weights_BP=weights_BP,
        direction_norm=directions.diagonal().square().mean().sqrt(),
        targets_BPCHW=shifted_targets(target_BCHW, directions, config.gamma_positive, config.gamma_negative),
    )


def agsm_loss(errors_N: Float[Tensor, " N"], is_match_N: Bool[Tensor, " N"]) -> LossTerms:
    """Return ``L+ + L-``: mean over matching pairs plus mean over the others present (AGSM, dual score matching)."""
    positive = errors_N[is_match_N].mean()
    others = errors_N[~is_match_N]
    negative = others.mean() if others.numel() else errors_N.new_zeros(())
    return LossTerms(total=positive + negative, positive=positive, negative=negative)


def score_matching_loss(errors_N: Float[Tensor, " N"]) -> LossTerms:
    """Return ``mean_i err_ii``: plain denoising with psi+ (the positive-only ablation)."""
    positive = errors_N.mean()
    return LossTerms(total=positive, positive=positive, negative=errors_N.new_zeros(()))


def softrepa_loss(errors_BP: Float[Tensor, "B P"], mask_BP: Bool[Tensor, "B P"], config: SoftREPAConfig) -> LossTerms:
    """Return the cross entropy of ``logits_ij = s exp(-err_ij / tau)`` with label i, plus ``dweight mean_i err_ii``.

    SoftREPA's contrastive loss; ``negative`` is the contrastive part, ``positive`` the weighted denoising part.
    """
    logits_BP = config.logit_scale * torch.exp(-errors_BP / config.temperature)
    labels_B = torch.arange(errors_BP.shape[0], device=errors_BP.device)
    contrastive = functional.cross_entropy(logits_BP.masked_fill(~mask_BP, -torch.inf), labels_B)
    denoising = config.denoising_weight * errors_BP.diagonal().mean()
    return LossTerms(total=contrastive + denoising, positive=denoising, negative=contrastive)
