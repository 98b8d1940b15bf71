"""What a detector must get right before it scores anything: known answers, arithmetic, boxes, answers' shape, colours.

No photograph comes with the library, so this does not show that the segmenter finds what is in a picture. It shows that
this machine and these libraries give a known segmenter's answers to a known picture (``golden``) and compute what the
model's definition says, that the weights give numbers, twice the same, and that the colour classifier knows colours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image

from softalign.detectors.arithmetic import exact_arithmetic
from softalign.detectors.colors import ColorClassifier
from softalign.detectors.golden import golden_findings, picture
from softalign.detectors.instances import box_of
from softalign.detectors.segmenter import Segmenter
from softalign.errors import IntegrityError
from softalign.geneval.prompts import CLASSES

SOLID_COLORS: dict[str, tuple[int, int, int]] = {
    "red": (220, 20, 20),
    "orange": (255, 140, 0),
    "yellow": (250, 230, 20),
    "green": (20, 150, 40),
    "blue": (20, 50, 220),
    "purple": (120, 20, 150),
    "pink": (255, 130, 190),
    "brown": (115, 65, 25),
    "black": (8, 8, 8),
    "white": (250, 250, 250),
}
MIN_COLORS_NAMED = 8
"""Of ten plain squares; who guesses names so many once in 2.7 million tries (binomial, 1 in 10)."""
COLOR_TEST_CLASS = "car"
_LEVELS = ((5, 7), (3, 4))
_ATTENTION_TOLERANCE = 1e-4


def require_sound(segmenter: Segmenter, name_colors: ColorClassifier) -> None:
    """Refuse a detector that fails a test.

    Raises:
        IntegrityError: names every finding.
    """
    findings = [*golden_findings(segmenter.device), *segmenter_findings(segmenter), *color_findings(name_colors)]
    if findings:
        raise IntegrityError(
            "The detector fails its self-test, so nothing is scored with it.",
            expected="known answers to a known picture, arithmetic as defined, finite and repeatable answers, plain "
            "colours named",
            found="; ".join(findings),
            where=f"the detector on {segmenter.device}",
            fix="check the weights (evaluate.detector) and the installed torch and transformers; on another device?",
        )


def segmenter_findings(segmenter: Segmenter) -> Iterator[str]:
    """Yield what is wrong with a segmenter, in words; nothing is right."""
    error = attention_error(segmenter.device)
    if not error <= _ATTENTION_TOLERANCE:
        yield f"deformable attention is off by {error:.1e} of its definition"
    mask = np.zeros((6, 9), dtype=bool)
    mask[2:4, 3:8] = True
    if box_of(mask) != (3.0, 2.0, 8.0, 4.0):
        yield f"the box of a mask over columns 3 to 7 and rows 2 to 3 is {box_of(mask)}"
    image = picture()
    with exact_arithmetic():
        pixel_values = torch.from_numpy(image.astype(np.float32) / 255 - 0.5).permute(2, 0, 1)[None]
        answers = [segmenter.model(pixel_values=pixel_values.to(segmenter.device)) for _ in range(2)]
    first, second = (torch.cat([a.class_queries_logits.flatten(), a.masks_queries_logits.flatten()]) for a in answers)
    if not bool(first.isfinite().all()):
        yield "the segmenter's answers are not finite numbers"
    elif not torch.equal(first, second):
        yield "the segmenter answers otherwise when asked again"
    if (width := answers[0].class_queries_logits.shape[-1]) != len(CLASSES) + 1:
        yield f"the segmenter has {width} classes instead of {len(CLASSES)} and 'no object'"


def color_findings(name_colors: ColorClassifier) -> Iterator[str]:
    """Yield what is wrong with a colour classifier: too few plain squares have their right name."""
    squares = [Image.new("RGB", (64, 64), rgb) for rgb in SOLID_COLORS.values()]
    named = dict(zip(SOLID_COLORS, name_colors(squares, COLOR_TEST_CLASS), strict=True))
    wrong = [f"{answer} for {color}" for color, answer in named.items() if answer != color]
    if len(SOLID_COLORS) - len(wrong) < MIN_COLORS_NAMED:
        yield f"the colour classifier names {len(wrong)} of 10 plain squares wrong: {', '.join(wrong)}"


def attention_error(device: torch.device | str, attention: Callable[..., torch.Tensor] | None = None) -> float:
    """Return the largest error of the library's deformable attention against its definition, on random numbers.

    Args:
        device: where it is computed.
        attention: in the place of the library's.
    """
    from transformers.models.mask2former.modeling_mask2former import multi_scale_deformable_attention

    rng = np.random.default_rng(0)
    num_tokens = sum(height * width for height, width in _LEVELS)
    value = rng.standard_normal((1, num_tokens, 2, 4)).astype(np.float32)
    places = rng.uniform(-0.2, 1.2, (1, 6, 2, len(_LEVELS), 3, 2)).astype(np.float32)
    weights = rng.uniform(0.0, 1.0, (1, 6, 2, len(_LEVELS), 3)).astype(np.float32)
    with exact_arithmetic():
        found = (attention or multi_scale_deformable_attention)(
            torch.from_numpy(value).to(device),
            list(_LEVELS),
            torch.from_numpy(places).to(device),
            torch.from_numpy(weights).to(device),
        )
    return float(np.abs(found.cpu().numpy()[0] - _defined_attention(value[0], places[0], weights[0])).max())


def _defined_attention(
    value: Float[np.ndarray, "tokens heads width"],
    places: Float[np.ndarray, "queries heads levels points 2"],
    weights: Float[np.ndarray, "queries heads levels points"],
) -> NDArray[np.float64]:
    """Return the sum of weighted bilinear samples, one after the other, as arXiv 2010.04159 defines it (eq. 3)."""
    queries, heads, levels, points = weights.shape
    starts = np.cumsum([0, *(height * width for height, width in _LEVELS)])
    out = np.zeros((queries, heads, value.shape[-1]))
    for query, head, level, point in product(*map(range, (queries, heads, levels, points))):
        height, width = _LEVELS[level]
        grid = value[starts[level] : starts[level + 1], head].reshape(height, width, -1)
        x, y = places[query, head, level, point] * (width, height) - 0.5
        for row, column in product((np.floor(y), np.floor(y) + 1), (np.floor(x), np.floor(x) + 1)):
            if 0 <= row < height and 0 <= column < width:
                share = (1 - abs(y - row)) * (1 - abs(x - column)) * weights[query, head, level, point]
                out[query, head] += share * grid[int(row), int(column)]
    return out.reshape(queries, -1)
