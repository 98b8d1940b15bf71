"""Which prompts each image of a batch is compared with: its caption, captions of other images, edits of its own.

No torch: a choice of indices, a pure function of the captions and the generator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from softalign.config.training import NegativesConfig
from softalign.data.captions.similarity import are_near_duplicates

ItemT = TypeVar("ItemT")


@dataclass(frozen=True, slots=True)
class CandidateChoice:
    """B images' candidates among P prompts.

    Attributes:
        hard_negatives: the prompts from B on; the first B are the images' own captions.
        rows: for each image the indices of its candidates, its own caption first.
    """

    hard_negatives: tuple[str, ...]
    rows: tuple[tuple[int, ...], ...]


def choose_candidates(
    captions: Sequence[str],
    hard_negatives: Sequence[Sequence[str]],
    config: NegativesConfig,
    generator: np.random.Generator,
) -> CandidateChoice:
    """Return each image's candidates.

    Each image gets ``config.num_of(B)`` negatives: ``config.num_hard`` edits of its caption, drawn from those
    there are, and captions of other images for the rest, near-duplicates of its own left out. An image whose caption
    has fewer edits gets more captions of others; one with nothing to choose from gets fewer, maybe no negative.

    Args:
        captions: the images' own.
        hard_negatives: for each image the edits of its caption.
        config: how many of which kind, and what counts as near-duplicate.
        generator: draws where there are more than needed.
    """
    num, num_hard = config.num_of(len(captions)), config.num_hard
    prompts = list(captions)
    rows = []
    for image, caption in enumerate(captions):
        hard = _drawn(hard_negatives[image], num_hard, generator) if num_hard else []
        others = [
            place
            for place, other in enumerate(captions)
            if place != image and not are_near_duplicates(caption, other, config.max_similarity)
        ]
        chosen = _drawn(others, num - len(hard), generator)
        rows.append((image, *chosen, *range(len(prompts), len(prompts) + len(hard))))
        prompts += hard
    return CandidateChoice(tuple(prompts[len(captions) :]), tuple(rows))


def _drawn(items: Sequence[ItemT], number: int, generator: np.random.Generator) -> list[ItemT]:
    """Return drawn items in their order: ``number`` of them, or all where there are fewer."""
    if number >= len(items):
        return list(items)
    places = sorted(generator.choice(len(items), size=number, replace=False).tolist())
    return [items[place] for place in places]
