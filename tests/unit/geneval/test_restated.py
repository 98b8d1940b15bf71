"""The decisions equal the published rules, written down once more in plain Python, boundaries included."""

import math
import random

from softalign.geneval.decision import decide
from softalign.geneval.detections import Detection
from softalign.geneval.prompts import Clause, GenevalPrompt

NUM_SETS = 10_000
NAMES = ("dog", "cat", "cup")
COLORS = ("red", "blue")
TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
SCORES = (0.3, math.nextafter(0.3, 1), 0.5, 0.9, math.nextafter(0.9, 1), 0.95, 1.0)
SIDES = (0, 0, 5, 10, 10, 20)
"""Extents of 10 and 10 take 2 px off: of an offset of 2 nothing is left, of 4 exactly half."""
PLACES = (0, 0.0005, 0.001, 1, 2, 3, 4, 5, 40)


def restated(tag, include, exclude, detections):
    """GENEVAL's decision for clauses (class, count, colour, position) and detections (class, score, box, colour)."""
    threshold = 0.9 if tag == "counting" else 0.3
    kept = {}
    for name in NAMES:
        of_class = [d for d in detections if d[0] == name]
        of_class = sorted(of_class, key=lambda d: d[1], reverse=True)
        kept[name] = [d for d in of_class if d[1] > threshold][:16]  # overlaps are suppressed from IoU 1.0 on: never
    is_correct = True
    groups = []
    for name, count, color, position in include:
        group = kept[name][:count]
        is_met = len(group) == count
        if is_met and color is not None:
            is_met = sum(d[3] == color for d in group) >= count
        if is_met and position is not None:
            target = groups[position[1]]
            is_met = target is not None and all(related(position[0], a[2], b[2]) for a in group for b in target)
        groups.append(group if is_met else None)
        is_correct = is_correct and is_met
    return is_correct and not any(len(kept[name]) >= count for name, count in exclude)


def related(relation, a, b):
    offset, left = [], []
    for axis in (0, 1):
        distance = (a[axis] + a[axis + 2]) / 2 - (b[axis] + b[axis + 2]) / 2
        extent = (a[axis + 2] - a[axis]) + (b[axis + 2] - b[axis])
        offset.append(distance)
        left.append(math.copysign(max(abs(distance) - 0.1 * extent, 0), distance))
    if abs(left[0]) < 1e-3 and abs(left[1]) < 1e-3:
        return False
    norm = math.sqrt(offset[0] ** 2 + offset[1] ** 2)
    dx, dy = left[0] / norm, left[1] / norm
    return {"left of": dx < -0.5, "right of": dx > 0.5, "above": dy < -0.5, "below": dy > 0.5}[relation]


def drawn_box(rng):
    if rng.random() < 0.3:
        x, y, width, height = (rng.uniform(0, 60) for _ in range(4))
    else:
        width, height = rng.choice(SIDES), rng.choice(SIDES)
        x, y = (rng.choice(PLACES) * rng.choice((-1, 1)) - side / 2 for side in (width, height))
    return (x, y, x + width, y + height)


def drawn_detections(rng):
    number = rng.choice([0, *[1] * 4, *[2] * 5, *[3] * 4, *[4] * 3, 15, 16, 17])
    names = NAMES[: rng.randint(1, 3)]
    found = [(rng.choice(names), rng.choice(SCORES), drawn_box(rng), rng.choice(COLORS)) for _ in range(number)]
    return found + found[:1] if rng.random() < 0.1 else found  # an object twice overlaps itself wholly


def drawn_clauses(rng):
    include = []
    for index in range(rng.randint(1, 2)):
        color = rng.choice(COLORS) if rng.random() < 0.3 else None
        relation = rng.choice(("left of", "right of", "above", "below"))
        position = (relation, 0) if index and rng.random() < 0.8 else None
        include.append((rng.choice(NAMES), rng.choice([1] * 14 + [2] * 4 + [16, 17]), color, position))
    exclude = [(rng.choice(NAMES), rng.choice([1, 2, 3, 16, 17]))] if rng.random() < 0.3 else []
    return include, exclude


def test_decisions_equal_the_rules_restated():
    rng = random.Random(0)
    verdicts = []
    for _ in range(NUM_SETS):
        tag, (include, exclude), detections = rng.choice(TAGS), drawn_clauses(rng), drawn_detections(rng)
        prompt = GenevalPrompt(
            tag=tag,
            include=tuple(Clause(class_name=n, count=c, color=k, position=p) for n, c, k, p in include),
            exclude=tuple(Clause(class_name=n, count=c) for n, c in exclude),
            prompt="",
        )
        found = [Detection(class_name=n, score=s, box=b, color=c) for n, s, b, c in detections]
        verdict = decide(prompt, found).is_correct
        assert verdict == restated(tag, include, exclude, detections), (prompt, found)
        verdicts.append(verdict)
    assert 0.1 < sum(verdicts) / NUM_SETS < 0.9


def test_the_boundaries_of_relations_come_up():
    """An offset of exactly half is no relation, and the smallest that counts is 1e-3."""
    rng = random.Random(0)
    boxes = [drawn_box(rng) for _ in range(300)]
    pairs = [(a, b) for a in boxes[:150] for b in boxes[150:]]
    shares = []
    for a, b in pairs:
        offset = [(a[axis] + a[axis + 2] - b[axis] - b[axis + 2]) / 2 for axis in (0, 1)]
        extent = [a[axis + 2] - a[axis] + b[axis + 2] - b[axis] for axis in (0, 1)]
        left = [abs(o) - 0.1 * e for o, e in zip(offset, extent, strict=True)]
        shares += [value / math.hypot(*offset) for value in left if any(offset)] + [
            value for value in left if value == 1e-3
        ]
    assert shares.count(0.5) > 25
    assert shares.count(1e-3) > 3
