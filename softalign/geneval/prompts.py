"""GenEval prompts: what each image must and must not show, and the official 553 of them (arXiv 2310.11513)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, Field, ValidationError

from softalign.artifacts import Frozen
from softalign.errors import DataError
from softalign.geneval.questions import QUESTIONS_KEY, Questions
from softalign.problems import problems


def _not_overall(tag: str) -> str:
    if tag == "overall":
        raise ValueError("overall is the mean of the tags, not one of them")
    return tag


Tag = Annotated[str, Field(pattern=r"^\w[\w .:-]*$", max_length=64), AfterValidator(_not_overall)]
"""A task of a suite. A suite of one's own names its own; the characters are those that MLflow takes in a metric."""
TAGS: tuple[Tag, ...] = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
"""The official suite's, in its order."""

# One text, one class after the other, because the order is part of the protocol (indices are the detector's labels).
CLASSES: tuple[str, ...] = tuple(
    """person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign,
    parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella,
    handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard,
    surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange,
    broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop,
    computer mouse, tv remote, computer keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book,
    clock, vase, scissors, teddy bear, hair drier, toothbrush""".replace("\n    ", " ").split(", ")
)
"""The 80 object names of the official suite, by COCO label."""
COLORS: tuple[str, ...] = (
    "red",
    "orange",
    "yellow",
    "green",
    "blue",
    "purple",
    "pink",
    "brown",
    "black",
    "white",
)
POSITIONS: tuple[str, ...] = ("left of", "right of", "above", "below")
OFFICIAL_SEED = 43
OFFICIAL_NUM_PER_TAG = 100
_NUMBER_WORDS = ("zero", "one", "two", "three", "four")


class Clause(Frozen):
    """One ``include`` or ``exclude`` clause (the official metadata's object, with ``class`` as ``class_name``).

    Attributes:
        class_name: the object's name.
        count: how many of it at least (``include``), or from how many on the image is wrong (``exclude``).
        color: the colour that ``count`` of them must have.
        position: relation and index of the earlier ``include`` clause it is relative to.
    """

    class_name: str
    count: int
    color: str | None = None
    position: tuple[str, int] | None = None


class GenevalPrompt(Frozen):
    """One row of a suite: with clauses for a detector, or with GenEval 2's questions for a judge."""

    tag: Tag
    include: tuple[Clause, ...]
    exclude: tuple[Clause, ...] = ()
    prompt: str
    asked: Questions | None = None


def to_metadata(prompt: GenevalPrompt) -> dict[str, Any]:
    """Return the official metadata object: keys tag, include, (exclude,) prompt, in this order; GenEval 2's its own."""
    if prompt.asked is not None:
        return prompt.asked.to_row(prompt.prompt)
    row: dict[str, Any] = {"tag": prompt.tag, "include": [_clause_to_json(clause) for clause in prompt.include]}
    if prompt.exclude:
        row["exclude"] = [_clause_to_json(clause) for clause in prompt.exclude]
    return {**row, "prompt": prompt.prompt}


def to_json_line(prompt: GenevalPrompt) -> str:
    """Return the official metadata line (without newline)."""
    return json.dumps(to_metadata(prompt))


def from_json_line(line: str, where: str) -> GenevalPrompt:
    """Return the prompt of an official metadata line; keys of other tools beside the official ones are ignored.

    Raises:
        DataError: not a metadata object, or a clause refers to a later one.
    """
    try:
        row = json.loads(line)
        if QUESTIONS_KEY in row:
            asked = Questions.from_row(row)
            return GenevalPrompt(tag=asked.tag, include=(), prompt=row["prompt"], asked=asked)
        prompt = GenevalPrompt(
            tag=row["tag"],
            include=tuple(_clause_from_json(clause) for clause in row["include"]),
            exclude=tuple(_clause_from_json(clause) for clause in row.get("exclude", ())),
            prompt=row["prompt"],
        )
        if not prompt.include and not prompt.exclude:
            raise ValueError("it asks for nothing: every image would be right")
        for index, clause in enumerate(prompt.include):
            if clause.position is not None and not 0 <= clause.position[1] < index:
                raise ValueError(f"include clause {index} is placed relative to clause {clause.position[1]}")
            if clause.position is not None and clause.position[0] not in POSITIONS:
                raise ValueError(f"position {clause.position[0]!r} is not one of {', '.join(POSITIONS)}")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:  # pydantic's is a ValueError
        raise DataError(
            "A prompt's metadata cannot be read.",
            expected='one JSON object with the keys "tag", "include" and "prompt" (GenEval 2: "prompt", "atom_count", '
            '"vqa_list" and "skills")',
            found=problems(error)[0] if isinstance(error, ValidationError) else f"{type(error).__name__}: {error}",
            where=where,
            fix="regenerate the official ones with `softalign geneval prompts`",
        ) from error
    return prompt


def json_lines(text: str) -> list[str]:
    """Return the lines of JSON lines: a text within may hold other characters that Python breaks lines at (U+2028)."""
    return text.removesuffix("\n").split("\n") if text else []


def from_json_lines(text: str, where: str) -> tuple[GenevalPrompt, ...]:
    """Return the prompts of a suite's file, a metadata line each; empty lines are skipped.

    Raises:
        DataError: a line is none, or there is no line; names it.
    """
    lines = [(number, line) for number, line in enumerate(json_lines(text), start=1) if line.strip()]
    if not lines:
        raise DataError("A suite has no prompts.", expected="one JSON object a line", found="none", where=where)
    return tuple(from_json_line(line, f"{where}, line {number}") for number, line in lines)


def official_prompts() -> tuple[GenevalPrompt, ...]:
    """Return the official 553 prompts: 80 single objects and five tags of 100 draws each, without exact duplicates."""
    return drawn_prompts(OFFICIAL_NUM_PER_TAG, OFFICIAL_SEED)


def drawn_prompts(num_per_tag: int, seed: int) -> tuple[GenevalPrompt, ...]:
    """Return prompts drawn as the official ones are, from one generator; the first of exact duplicates is kept.

    Args:
        num_per_tag: draws of each tag but single_object, which has every class once.
        seed: of the generator.
    """
    rng = np.random.default_rng(seed)
    drawn = (
        *_single_object(rng),
        *_two_object(rng, num_per_tag),
        *_counting(rng, num_per_tag),
        *_colors(rng, num_per_tag),
        *_position(rng, num_per_tag),
        *_color_attr(rng, num_per_tag),
    )
    return tuple(dict.fromkeys(drawn))


def first_of_each_tag(prompts: Iterable[GenevalPrompt], number: int) -> tuple[GenevalPrompt, ...]:
    """Return a suite cut to the first prompts of each tag, so many of each, in the suite's order."""
    seen = Counter[str]()
    kept = []
    for prompt in prompts:
        seen[prompt.tag] += 1
        if seen[prompt.tag] <= number:
            kept.append(prompt)
    return tuple(kept)


def tags_in_order(tags: Iterable[str]) -> tuple[str, ...]:
    """Return each tag once: in the official order if all are official, else as they first appear."""
    found = tuple(dict.fromkeys(tags))
    return tuple(tag for tag in TAGS if tag in found) if set(found) <= set(TAGS) else found


def with_article(words: str) -> str:
    """Return the words after "a" or "an", by their first letter."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _plural(name: str) -> str:
    return f"{name}es" if name.endswith("s") else f"{name}s"


def _single_object(rng: np.random.Generator) -> Iterator[GenevalPrompt]:
    for index in rng.choice(len(CLASSES), size=80, replace=False):
        name = CLASSES[index]
        yield GenevalPrompt(
            tag="single_object",
            include=(Clause(class_name=name, count=1),),
            prompt=f"a photo of {with_article(name)}",
        )


def _two_object(rng: np.random.Generator, number: int) -> Iterator[GenevalPrompt]:
    for _ in range(number):
        first, second = (CLASSES[index] for index in rng.choice(len(CLASSES), size=2, replace=False))
        yield GenevalPrompt(
            tag="two_object",
            include=(Clause(class_name=first, count=1), Clause(class_name=second, count=1)),
            prompt=f"a photo of {with_article(first)} and {with_article(second)}",
        )


def _counting(rng: np.random.Generator, number: int) -> Iterator[GenevalPrompt]:
    for _ in range(number):
        name = CLASSES[rng.choice(len(CLASSES))]
        count = int(rng.integers(2, 4, endpoint=True))
        yield GenevalPrompt(
            tag="counting",
            include=(Clause(class_name=name, count=count),),
            exclude=(Clause(class_name=name, count=count + 1),),
            prompt=f"a photo of {_NUMBER_WORDS[count]} {_plural(name)}",
        )


def _not_a_person(draw: int) -> str:
    """Return the class of a draw from 1..79, shifted so that "person" cannot come up."""
    return CLASSES[(draw + CLASSES.index("person")) % len(CLASSES)]


def _colors(rng: np.random.Generator, number: int) -> Iterator[GenevalPrompt]:
    for _ in range(number):
        name = _not_a_person(int(rng.choice(len(CLASSES) - 1)) + 1)
        color = COLORS[rng.choice(len(COLORS))]
        yield GenevalPrompt(
            tag="colors",
            include=(Clause(class_name=name, count=1, color=color),),
            prompt=f"a photo of {with_article(f'{color} {name}')}",
        )


def _position(rng: np.random.Generator, number: int) -> Iterator[GenevalPrompt]:
    for _ in range(number):
        first, second = (CLASSES[index] for index in rng.choice(len(CLASSES), size=2, replace=False))
        relation = POSITIONS[rng.choice(len(POSITIONS))]
        yield GenevalPrompt(
            tag="position",
            include=(
                Clause(class_name=second, count=1),
                Clause(class_name=first, count=1, position=(relation, 0)),
            ),
            prompt=f"a photo of {with_article(first)} {relation} {with_article(second)}",
        )


def _color_attr(rng: np.random.Generator, number: int) -> Iterator[GenevalPrompt]:
    for _ in range(number):
        drawn = rng.choice(len(CLASSES) - 1, size=2, replace=False) + 1
        first, second = (_not_a_person(int(index)) for index in drawn)
        color_1, color_2 = (COLORS[index] for index in rng.choice(len(COLORS), size=2, replace=False))
        yield GenevalPrompt(
            tag="color_attr",
            include=(
                Clause(class_name=first, count=1, color=color_1),
                Clause(class_name=second, count=1, color=color_2),
            ),
            prompt=f"a photo of {with_article(f'{color_1} {first}')} and {with_article(f'{color_2} {second}')}",
        )


def _clause_to_json(clause: Clause) -> dict[str, Any]:
    row: dict[str, Any] = {"class": clause.class_name, "count": clause.count}
    if clause.color is not None:
        row["color"] = clause.color
    if clause.position is not None:
        row["position"] = list(clause.position)
    return row


def _clause_from_json(row: dict[str, Any]) -> Clause:
    return Clause(
        class_name=row["class"],
        count=row["count"],
        color=row.get("color"),
        position=tuple(row["position"]) if row.get("position") is not None else None,
    )
