"""GenEval prompts: what each image must and must not show."""

from __future__ import annotations

from typing import Literal

from softalign.artifacts import Frozen

Tag = Literal["single_object", "two_object", "counting", "colors", "position", "color_attr"]
TAGS: tuple[Tag, ...] = ("single_object", "two_object", "counting", "colors", "position", "color_attr")


class Clause(Frozen):
    """One ``include`` or ``exclude`` clause (the official metadata's object, with ``class`` as ``class_name``)."""

    class_name: str
    count: int
    color: str | None = None
    position: tuple[str, int] | None = None


class GenevalPrompt(Frozen):
    """One row of a suite."""

    tag: Tag
    include: tuple[Clause, ...]
    exclude: tuple[Clause, ...] = ()
    prompt: str
