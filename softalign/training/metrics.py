"""What each step says about itself: one flat row of ``metrics.jsonl``.

Rows hold no wall-clock times, so that a resumed run's file equals an undisturbed one's.

Shape legend: B images, P prompts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Real
from torch import Tensor

from softalign.artifacts import Frozen
from softalign.config.training import EDIT_KINDS, EditKind
from softalign.data.captions.edit_shares import edits_column
from softalign.method.objective import reward_spread
from softalign.method.soft_tokens import NEGATIVE_BANK, POSITIVE_BANK, SoftTokens
from softalign.store.files import write_atomically
from softalign.training.pair_grid import GridResult


@dataclass(frozen=True)
class WeightStatistics:
    """How well the rewards of a grid find the matching captions; NaN where a prediction was.

    Attributes:
        win_rate: share of images whose own caption has the largest weight.
        match_weight: mean Plackett-Luce weight of the own caption.
        chance: what ``match_weight`` is when rewards say nothing: mean of 1 / candidates.
        margin: mean of the own weight minus the best negative's.
        reward_spread: mean standard deviation of an image's rewards; temperatures far above it leave weights at chance.
    """

    win_rate: float
    match_weight: float
    chance: float
    margin: float
    reward_spread: float


class TrainRow(Frozen):
    """One optimiser step. Weight fields are None for objectives without rewards; losses are None if not finite.

    Attributes:
        loss_positive: L+ (softrepa: the weighted denoising part).
        loss_negative: L- (softrepa: the contrastive part).
        temperature: tau of the weights, agsm alone.
        direction_norm: root mean square of ``D_ii``.
        num_without_negative: images of the batch with no negative; if all, the own captions alone train.
        timestep: the step's timestep, or the mean of its images' timesteps.
        lr: the step's learning rate.
        is_skipped: loss or gradient was not finite, so nothing was updated.
        num_count_edits: hard negatives of the batch that say another count, and so on; None, and not in the file,
            without ``negatives.num_hard``.
    """

    split: str = "train"
    step: int
    samples_seen: int
    num_without_negative: int
    timestep: float
    loss: float | None
    loss_positive: float | None
    loss_negative: float | None
    win_rate: float | None
    match_weight: float | None
    chance: float | None
    margin: float | None
    reward_spread: float | None
    temperature: float | None
    direction_norm: float | None
    norm_positive_bank: float
    norm_negative_bank: float | None
    norm_timestep_offsets: float
    grad_norm: float | None
    lr: float
    is_skipped: bool
    num_count_edits: int | None = None
    num_color_edits: int | None = None
    num_position_edits: int | None = None
    num_object_edits: int | None = None


class ValidationRow(Frozen):
    """The held-out split at fixed noise, every caption seen through psi+.

    Attributes:
        val_accuracy: share of images whose own caption has the smallest error.
        val_chance: the accuracy of guessing.
        val_loss: mean error of the own captions.
        val_margin: mean of (best negative's error - own error); positive where the own caption wins.
        val_match_weight: agsm: mean weight of the own caption, from these errors at the objective's temperature.
        val_weight_over_chance_0_200: that weight over chance among the images at timesteps 0..199, and so on;
            1 is chance, None without such an image.
        is_weight_at_chance: the alarm: in this and the validations before it the weights said nothing.

    Loss, margin and weights are None if they are not finite.
    """

    split: str = "val"
    step: int
    samples_seen: int
    val_accuracy: float
    val_chance: float
    val_loss: float | None
    val_margin: float | None
    val_match_weight: float | None
    val_weight_over_chance_0_200: float | None
    val_weight_over_chance_200_400: float | None
    val_weight_over_chance_400_600: float | None
    val_weight_over_chance_600_800: float | None
    val_weight_over_chance_800_1000: float | None
    norm_positive_bank: float
    norm_negative_bank: float | None
    norm_timestep_offsets: float
    num_images: int
    is_weight_at_chance: bool = False


def weight_statistics(
    weights_BP: Float[Tensor, "B P"], rewards_BP: Float[Tensor, "B P"], mask_BP: Bool[Tensor, "B P"]
) -> WeightStatistics | None:
    """Return the statistics over images that have a negative, or None if none has."""
    has_negative_B = mask_BP.sum(dim=1) > 1
    if not bool(has_negative_B.any()):
        return None
    own_B = weights_BP.diagonal()
    is_own = torch.eye(*mask_BP.shape, dtype=torch.bool, device=mask_BP.device)
    best_other_B = weights_BP.masked_fill(is_own | ~mask_BP, -torch.inf).max(dim=1).values
    counts_B = mask_BP.sum(dim=1)
    chosen = has_negative_B
    return WeightStatistics(
        win_rate=float((own_B > best_other_B)[chosen].double().mean()),
        match_weight=float(own_B[chosen].double().mean()),
        chance=float((1.0 / counts_B[chosen].double()).mean()),
        margin=float((own_B - best_other_B)[chosen].double().mean()),
        reward_spread=float(reward_spread(rewards_BP, mask_BP)),
    )


def train_row(
    result: GridResult,
    mask_BP: Bool[Tensor, "B P"],
    timesteps_B: Real[Tensor, " B"],
    tokens: SoftTokens,
    *,
    step: int,
    samples_seen: int,
    grad_norm: float,
    learning_rate: float,
    is_skipped: bool,
    num_edits: Mapping[EditKind, int] | None = None,
) -> TrainRow:
    """Return the row of a step, from what the grid found and the tokens after the update."""
    statistics = None
    if result.alignment is not None:
        statistics = weight_statistics(result.alignment.weights_BP, result.alignment.rewards_BP, mask_BP)
    return TrainRow(
        step=step,
        samples_seen=samples_seen,
        num_without_negative=int((mask_BP.sum(dim=1) == 1).sum()),
        timestep=float(timesteps_B.double().mean()),
        loss=finite_or_none(result.loss.total),
        loss_positive=finite_or_none(result.loss.positive),
        loss_negative=finite_or_none(result.loss.negative),
        **(
            {field.name: None for field in fields(WeightStatistics)}
            if statistics is None
            else _finite_fields(statistics)
        ),
        temperature=None if result.alignment is None else finite_or_none(result.alignment.temperature),
        direction_norm=None if result.alignment is None else finite_or_none(result.alignment.direction_norm),
        **asdict(token_norms(tokens)),
        grad_norm=finite_or_none(grad_norm),
        lr=learning_rate,
        is_skipped=is_skipped,
        **{edits_column(kind): number for kind, number in (num_edits or {}).items()},
    )


@dataclass(frozen=True)
class TokenNorms:
    """The norms that every row has: of the banks, and of the timestep table (0 without one)."""

    norm_positive_bank: float
    norm_negative_bank: float | None
    norm_timestep_offsets: float


def token_norms(tokens: SoftTokens) -> TokenNorms:
    """Return the norms of tokens."""
    has_negative_bank = tokens.num_banks > NEGATIVE_BANK
    return TokenNorms(
        norm_positive_bank=_norm(tokens.banks[POSITIVE_BANK]),
        norm_negative_bank=_norm(tokens.banks[NEGATIVE_BANK]) if has_negative_bank else None,
        norm_timestep_offsets=0.0 if tokens.timestep_offsets is None else _norm(tokens.timestep_offsets),
    )


def to_line(row: TrainRow | ValidationRow) -> str:
    """Return a row as one line of JSON."""
    columns = {edits_column(kind) for kind in EDIT_KINDS}
    unset = {name for name in columns if getattr(row, name, None) is None}
    return json.dumps(row.model_dump(mode="json", exclude=unset), allow_nan=False) + "\n"


def keep_rows_up_to(path: Path, step: int, *, has_validation: bool = True) -> None:
    """Drop rows after a step, and a last line that was cut off, so that resuming writes no row twice.

    Args:
        path: the rows' file.
        step: the last one to keep.
        has_validation: whether that step's validation row is kept too.
    """
    if not path.is_file():
        return
    with path.open(encoding="utf-8") as file:
        kept = "".join(_rows_up_to(file, step, has_validation))
    write_atomically(path, kept.encode())


def offset_after(path: Path, step: int) -> int:
    """Return where in a file the rows up to a step end, in bytes."""
    offset = 0
    if path.is_file():
        with path.open("rb") as file:
            for line in file:
                if json.loads(line)["step"] > step:
                    break
                offset += len(line)
    return offset


def _rows_up_to(lines: Iterable[str], step: int, has_validation: bool) -> Iterable[str]:
    for line in lines:
        if not line.endswith("\n"):
            return
        row = json.loads(line)
        if row["step"] > step or (not has_validation and row["step"] == step and row["split"] == "val"):
            return
        yield line


def finite_or_none(value: Float[Tensor, ""] | float) -> float | None:
    """Return a number, or None for what JSON cannot hold."""
    number = float(value)
    return number if math.isfinite(number) else None


def _finite_fields(statistics: WeightStatistics) -> dict[str, float | None]:
    return {name: finite_or_none(value) for name, value in asdict(statistics).items()}


def _norm(tensor: Tensor) -> float:
    return float(tensor.detach().double().norm())
