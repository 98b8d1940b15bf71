"""A GenEval-style prompt suite in the embedded world's words: the six official tags, deterministic from a seed."""

from __future__ import annotations

from itertools import permutations, product
from typing import Any, Final

import numpy as np

from softalign.geneval.prompts import Clause, GenevalPrompt, Tag
from softalign.shapes.captions import RELATIONS, Caption, Phrase
from softalign.shapes.scenes import COLORS, SHAPES

COUNTS: Final = (2, 3, 4)
NUM_COLOR_ATTR_PROMPTS: Final = 50


def single_object_prompts() -> list[GenevalPrompt]:
    """Return one prompt per shape (4)."""
    return [_prompt("single_object", Caption((Phrase(shape),))) for shape in SHAPES]


def two_object_prompts() -> list[GenevalPrompt]:
    """Return a prompt for every ordered pair of different shapes (12)."""
    return [
        _prompt("two_object", Caption((Phrase(first), Phrase(second)))) for first, second in permutations(SHAPES, 2)
    ]


def counting_prompts() -> list[GenevalPrompt]:
    """Return prompts for two, three and four of every shape (12); one more is wrong, as in GenEval."""
    return [
        _prompt("counting", Caption((Phrase(shape, count),)), exclude=(Clause(class_name=shape, count=count + 1),))
        for shape, count in product(SHAPES, COUNTS)
    ]


def colors_prompts() -> list[GenevalPrompt]:
    """Return a prompt for every shape in every colour (24)."""
    return [_prompt("colors", Caption((Phrase(shape, color=color),))) for shape, color in product(SHAPES, COLORS)]


def position_prompts() -> list[GenevalPrompt]:
    """Return a prompt for every relation of every ordered pair of shapes (48); the clause is the first one's."""
    return [
        _prompt("position", Caption((Phrase(first), Phrase(second)), relation))
        for (first, second), relation in product(permutations(SHAPES, 2), RELATIONS)
    ]


def color_attr_prompts(seed: int) -> list[GenevalPrompt]:
    """Return prompts for 50 drawn of the 360 ordered pairs of different shapes in different colours."""
    pairs = list(product(permutations(SHAPES, 2), permutations(COLORS, 2)))
    chosen = np.random.default_rng(seed).permutation(len(pairs))[:NUM_COLOR_ATTR_PROMPTS]
    return [
        _prompt(
            "color_attr",
            Caption((Phrase(pairs[i][0][0], 1, pairs[i][1][0]), Phrase(pairs[i][0][1], 1, pairs[i][1][1]))),
        )
        for i in chosen
    ]


def build_suite(seed: int = 43) -> list[GenevalPrompt]:
    """Return all prompts (150), in the order of the official tags. The seed chooses the attribution pairs only."""
    return [
        *single_object_prompts(),
        *two_object_prompts(),
        *counting_prompts(),
        *colors_prompts(),
        *position_prompts(),
        *color_attr_prompts(seed),
    ]


def _prompt(tag: Tag, caption: Caption, **clauses: Any) -> GenevalPrompt:
    include = tuple(Clause(class_name=p.shape, count=p.count, color=p.color) for p in caption.phrases)
    if caption.relation:
        # GenEval's order: the reference object first, then the object whose position is asked for.
        first, second = include
        include = (second, first.model_copy(update={"position": (caption.relation, 0)}))
    return GenevalPrompt(tag=tag, include=include, prompt=caption.text, **clauses)
