"""Which captions the denoiser tells apart: own captions beside edits, by kind of edit and noise level.

Errors and weights are judged by the same functions as training's validation and its alarm.

Shape legend: B images, P prompts, N pairs in a list.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from softalign.config.objective import AGSMConfig, ObjectiveConfig
from softalign.config.training import EDIT_KINDS, EditKind
from softalign.diagnosis.calls import Level
from softalign.diagnosis.estimates import mean_estimate, share_estimate
from softalign.diagnosis.images import ProbeImage
from softalign.diagnosis.records import MatchWeight, OwnError, RankAccuracy
from softalign.method.soft_tokens import SoftTokens
from softalign.method.text_states import TextStates
from softalign.training.validation import Judgement, judgement_of
from softalign.training.validation_history import is_at_chance

IMAGES_PER_CALL = 4
"""Images whose edits' texts are held at once."""


@dataclass(frozen=True, eq=False)
class CaptionErrors:
    """Errors of a level's images: of the own captions, then of all edits, one row an image.

    Attributes:
        errors_BP: float64; the first B prompts are the own captions, each edit is one image's.
        mask_BP: the pairs that were asked for.
        kinds_P: each edit's kind, in the order of the prompts from B on.
    """

    errors_BP: Float[Tensor, "B P"]
    mask_BP: Bool[Tensor, "B P"]
    kinds_P: tuple[EditKind, ...]

    def judged(self, timestep: float, objective: ObjectiveConfig | None, num_values: int, kind: str = "") -> Judgement:
        """Return the judgement of the images, beside the edits of one kind or of all."""
        num_images = len(self.mask_BP)
        chosen = torch.tensor([True] * num_images + [kind in ("", found) for found in self.kinds_P])
        timesteps_B = torch.full((num_images,), float(timestep))
        return judgement_of(self.errors_BP, self.mask_BP & chosen, timesteps_B, objective, num_values)


def caption_errors(
    levels: Mapping[int, Level],
    images: Sequence[ProbeImage],
    own: TextStates,
    tokens: SoftTokens | None,
    on_images: Callable[[], None],
) -> dict[int, CaptionErrors]:
    """Return the errors of all captions at each level.

    Args:
        levels: by timestep.
        images: those of the levels.
        own: their own captions' states.
        tokens: seen through psi+ by every caption, as inference does; None: the frozen model.
        on_images: called after every IMAGES_PER_CALL images.
    """
    edits = [(place, edit) for place, image in enumerate(images) for edit in image.edits]
    images_N = torch.tensor([place for place, _ in edits], dtype=torch.int64)
    found: dict[int, list[Tensor]] = {timestep: [] for timestep in levels}
    for first in range(0, len(images), IMAGES_PER_CALL):
        chunk = [(place, edit) for place, edit in edits if first <= place < first + IMAGES_PER_CALL]
        if chunk:
            subject = next(iter(levels.values())).subject
            text = subject.encode_texts([edit.text for _, edit in chunk])
            places_N = torch.tensor([place for place, _ in chunk])
            for timestep, level in levels.items():
                found[timestep].append(level.errors(text, tokens, places_N))
        on_images()
    kinds = tuple(edit.kind for _, edit in edits)
    return {
        timestep: _grid(level.errors(own, tokens, torch.arange(len(images))), found[timestep], images_N, kinds)
        for timestep, level in levels.items()
    }


def _grid(
    own_B: Tensor, edits: list[Tensor], images_N: Int[Tensor, " N"], kinds: tuple[EditKind, ...]
) -> CaptionErrors:
    num_images = len(own_B)
    errors_BP = own_B.new_zeros(num_images, num_images + len(images_N))
    mask_BP = torch.eye(*errors_BP.shape, dtype=torch.bool)
    errors_BP[torch.arange(num_images), torch.arange(num_images)] = own_B
    columns_N = num_images + torch.arange(len(images_N))
    errors_BP[images_N, columns_N] = torch.cat([*edits, own_B.new_zeros(0)])
    mask_BP[images_N, columns_N] = True
    return CaptionErrors(errors_BP, mask_BP, kinds)


def rank_accuracies(timestep: int, base: CaptionErrors, adapter: CaptionErrors) -> list[RankAccuracy]:
    """Return the accuracies of the kinds that some image has edits of."""
    ranks = []
    for kind in EDIT_KINDS:
        judged = [errors.judged(timestep, None, 1, kind) for errors in (base, adapter)]
        has_edit_B = judged[0].num_candidates_B > 1
        number = int(has_edit_B.sum())
        if number == 0:
            continue
        shares = [share_estimate(int((found.margins_B[has_edit_B] > 0).sum()), number) for found in judged]
        chance = float((1.0 / judged[0].num_candidates_B[has_edit_B]).mean())
        ranks.append(RankAccuracy(kind=kind, timestep=timestep, base=shares[0], adapter=shares[1], chance=chance))
    return ranks


def own_error(timestep: int, base: CaptionErrors, adapter: CaptionErrors) -> OwnError:
    """Return the errors of the own captions, without tokens and with them."""
    errors_B = [errors.errors_BP.diagonal() for errors in (base, adapter)]
    found = [mean_estimate(values_B) for values_B in (*errors_B, errors_B[1] - errors_B[0])]
    return OwnError(timestep=timestep, base=found[0], adapter=found[1], difference=found[2])


def match_weight(timestep: int, errors: CaptionErrors, objective: AGSMConfig, num_values: int) -> MatchWeight | None:
    """Return the own captions' mean weight; None where no image has an edit."""
    judged = errors.judged(timestep, objective, num_values)
    has_edit_B = judged.num_candidates_B > 1
    if not bool(has_edit_B.any()):
        return None
    weight = mean_estimate(judged.weights_B[has_edit_B])
    chance = float((1.0 / judged.num_candidates_B[has_edit_B]).mean())
    return MatchWeight(
        timestep=timestep,
        weight=weight,
        chance=chance,
        temperature=objective.temperature,
        is_at_chance=is_at_chance(weight.mean, chance),
    )
