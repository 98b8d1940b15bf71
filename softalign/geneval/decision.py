"""GenEval's decision whether one image shows what its prompt asks for (arXiv 2310.11513, section 3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from softalign.errors import DataError
from softalign.geneval.detections import Detection
from softalign.geneval.prompts import Clause, GenevalPrompt, Tag

SCORE_THRESHOLD = 0.3
"""A detection counts above this score (protocol)."""
COUNTING_SCORE_THRESHOLD = 0.9
"""The same for the counting tag, where doubtful extra objects would break the count (protocol)."""
MAX_OBJECTS_PER_CLASS = 16
POSITION_SHRINK = 0.1
"""Share of both objects' extents taken off the offset of their centres before a relation is read (protocol)."""
RELATION_THRESHOLD = 0.5
_NO_OFFSET_PX = 1e-3

ObjectsByClass = dict[str, tuple[Detection, ...]]


@dataclass(frozen=True)
class Decision:
    """Whether one image is correct and, if not, why (sentences, one a line)."""

    is_correct: bool
    reason: str


def select_objects(detections: Sequence[Detection], tag: Tag) -> ObjectsByClass:
    """Return the detections that count, by class, best score first.

    Per class: score above the tag's threshold, at most MAX_OBJECTS_PER_CLASS. The protocol's overlap suppression has
    threshold 1.0, which removes nothing.
    """
    threshold = COUNTING_SCORE_THRESHOLD if tag == "counting" else SCORE_THRESHOLD
    ordered = sorted((d for d in detections if d.score > threshold), key=lambda d: -d.score)
    return {
        name: tuple(d for d in ordered if d.class_name == name)[:MAX_OBJECTS_PER_CLASS]
        for name in dict.fromkeys(d.class_name for d in ordered)
    }


def relations_between(first: Detection, second: Detection) -> frozenset[str]:
    """Return the relations of ``first`` to ``second``: of left of, right of, above, below.

    The offset of the centres is shrunk per axis, then divided by the norm of the offset before shrinking.
    """
    corners = np.array([first.box, second.box]).reshape(2, 2, 2)  # object, corner, axis (x, y growing downwards)
    centres = corners.mean(axis=1)
    extents = np.abs(corners[:, 1] - corners[:, 0])
    offset = centres[0] - centres[1]
    shrunk = np.sign(offset) * np.maximum(np.abs(offset) - POSITION_SHRINK * extents.sum(axis=0), 0.0)
    if np.all(np.abs(shrunk) < _NO_OFFSET_PX):
        return frozenset()
    dx, dy = shrunk / np.linalg.norm(offset)
    holds = {
        "left of": dx < -RELATION_THRESHOLD,
        "right of": dx > RELATION_THRESHOLD,
        "above": dy < -RELATION_THRESHOLD,
        "below": dy > RELATION_THRESHOLD,
    }
    return frozenset(name for name, is_held in holds.items() if is_held)


def decide(prompt: GenevalPrompt, detections: Sequence[Detection]) -> Decision:
    """Return whether an image with these detections shows what the prompt asks for.

    Raises:
        DataError: the prompt asks for a colour and a detection that decides it names none, or it is one of GenEval 2's.
    """
    require_clauses(prompt)
    objects = select_objects(detections, prompt.tag)
    reasons: list[str] = []
    groups: list[tuple[Detection, ...] | None] = []
    for clause in prompt.include:
        group = objects.get(clause.class_name, ())[: clause.count]
        problem = _include_problem(clause, group, groups)
        groups.append(None if problem else group)
        reasons += [problem] if problem else []
    for clause in prompt.exclude:
        num_found = len(objects.get(clause.class_name, ()))
        if num_found >= clause.count:
            reasons.append(f"Expected fewer than {clause.count} {clause.class_name}, found {num_found}.")
    return Decision(is_correct=not reasons, reason="\n".join(reasons))


def require_clauses(prompt: GenevalPrompt) -> None:
    """Refuse a prompt that no detector can judge: without clauses every image would be right.

    Raises:
        DataError: it is one of GenEval 2's.
    """
    if prompt.asked is not None:
        raise DataError(
            "GenEval 2's images are judged by a vision-language model, not by detections.",
            expected="a prompt with clauses for a detector",
            found=f"questions: {prompt.prompt}",
            fix="softalign geneval2 score DIR --suite FILE --judge MODEL",
        )


def _include_problem(
    clause: Clause, group: tuple[Detection, ...], groups: Sequence[tuple[Detection, ...] | None]
) -> str | None:
    """Return why the clause fails, or None; ``groups`` are the earlier clauses' objects (None: that clause failed).

    Like the reference, a clause with both a colour and a position reports the first that fails.
    """
    if len(group) < clause.count:
        return f"Expected at least {clause.count} {clause.class_name}, found {len(group)}."
    if clause.color is not None:
        colors = [_color_of(detection) for detection in group]
        if colors.count(clause.color) < clause.count:
            found = ", ".join(f"{colors.count(color)} {color}" for color in dict.fromkeys(colors))
            return f"Expected at least {clause.count} {clause.color} {clause.class_name}, found {found}."
    if clause.position is not None:
        return _position_problem(clause.class_name, clause.position, group, groups)
    return None


def _color_of(detection: Detection) -> str:
    if detection.color is None:
        raise DataError(
            "A prompt asks for a colour, but a detection names none.",
            expected='"color" in every detection that decides a colour',
            found=f"a {detection.class_name} with score {detection.score:g} without one",
            fix="record the colour classifier's answer for each detection",
        )
    return detection.color


def _position_problem(
    class_name: str,
    position: tuple[str, int],
    group: tuple[Detection, ...],
    groups: Sequence[tuple[Detection, ...] | None],
) -> str | None:
    relation, target_index = position
    targets = groups[target_index]
    if targets is None:
        return f"There is no target for the {class_name} to be {relation}."
    for detection in group:
        for target in targets:
            relations = relations_between(detection, target)
            if relation not in relations:
                found = " and ".join(sorted(relations)) or "no clear relation"
                return f"Expected {class_name} {relation} {target.class_name}, found {found}."
    return None
