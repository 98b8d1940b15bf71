"""Text states in a shard: what all of its texts have in common is stored once, bit for bit.

Some of it is the same for every text: CLIP's state of the begin token, which sees nothing else, and in Stable Diffusion
3 the zeros that widen CLIP's states to T5's, or that stand for T5. States after the end token are not: they see the
text. What is the same is found by looking, and put back on reading. A box of positions and columns is one tensor, of
one row for each text or of one row for all; a shard's header says which boxes make up which tensor.

Shape legend: L text tokens, D text width.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from itertools import groupby
from typing import Any, TypeVar

import torch
from torch import Tensor

LAYOUT = "common parts once"
"""Part of a pool's name: shards of one pool are alike."""
GRAIN = 8
"""Columns that are alike or not together: more than could agree by chance."""
HEADER = "boxes"
TensorT = TypeVar("TensorT")


@dataclass(frozen=True, slots=True)
class Box:
    """Some positions and columns of text states; ``is_common``: all texts have the same values there."""

    first: int
    end: int
    left: int
    right: int
    is_common: bool

    def of(self, states_LD: Tensor) -> Tensor:
        """Return the box's part of one text's states."""
        return states_LD[self.first : self.end, self.left : self.right]


def find_boxes(rows: Sequence[Tensor]) -> tuple[Box, ...]:
    """Return boxes that make up the states (L, D) of several texts, float16."""
    bits = [states_LD.view(torch.int16) for states_LD in rows]
    differs_LD = torch.zeros_like(bits[0], dtype=torch.bool)
    for states_LD in bits[1:]:
        differs_LD |= states_LD != bits[0]
    width = differs_LD.shape[1]
    spans = enumerate(_span(differs_D, width) for differs_D in differs_LD)
    return tuple(box for span, run in groupby(spans, lambda item: item[1]) for box in _boxes(span, list(run), width))


def _span(differs_D: Tensor, width: int) -> tuple[int, int]:
    """Return from and to which column texts differ at a position, in whole grains; nowhere: (0, 0)."""
    columns = differs_D.nonzero()
    if not len(columns):
        return 0, 0
    left, right = int(columns[0]) // GRAIN * GRAIN, -(-(int(columns[-1]) + 1) // GRAIN) * GRAIN
    return left, min(right, width)


def _boxes(span: tuple[int, int], run: list[tuple[int, Any]], width: int) -> Iterator[Box]:
    first, end = run[0][0], run[-1][0] + 1
    parts = ((0, span[0], True), (*span, False), (span[1], width, True))
    yield from (Box(first, end, left, right, is_common) for left, right, is_common in parts if right > left)


def to_tensors(name: str, rows: Sequence[Tensor], boxes: Sequence[Box]) -> dict[str, Tensor]:
    """Return the tensors of the texts' states: one for each box."""
    return {
        f"{name}.{index}": torch.stack([box.of(states_LD) for states_LD in (rows[:1] if box.is_common else rows)])
        for index, box in enumerate(boxes)
    }


def to_header(boxes_by_name: Mapping[Any, tuple[Box, ...]]) -> dict[str, str]:
    """Return what a shard's header says of its boxes."""
    return {HEADER: json.dumps({name: [astuple(box) for box in boxes] for name, boxes in boxes_by_name.items()})}


def from_header(metadata: Mapping[str, str] | None, name: str) -> tuple[Box, ...]:
    """Return the boxes of a tensor by a shard's header; none: it is stored whole.

    Raises:
        ValueError: the header is damaged.
    """
    return tuple(Box(*values) for values in json.loads((metadata or {}).get(HEADER, "{}")).get(name, ()))


def read_row(read: Callable[[str, int], TensorT], boxes: Sequence[Box], name: str, row: int) -> list[TensorT]:
    """Return what makes up one row of a tensor, as ``read`` gives it by a stored tensor's name and row.

    Args:
        read: of a stored tensor one row.
        boxes: see ``from_header``.
        name: of the tensor.
        row: of the text.
    """
    if not boxes:
        return [read(name, row)]
    return [read(f"{name}.{index}", 0 if box.is_common else row) for index, box in enumerate(boxes)]


def put_together(boxes: Sequence[Box], parts: Sequence[Tensor]) -> Tensor:
    """Return a row of its parts, float16."""
    if not boxes:
        return parts[0]
    states_LD = torch.empty(max(box.end for box in boxes), max(box.right for box in boxes), dtype=torch.float16)
    for box, part in zip(boxes, parts, strict=True):
        box.of(states_LD).copy_(part)
    return states_LD
