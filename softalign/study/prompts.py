"""The suite's prompts in two halves: what is chosen on one is reported on the other."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from softalign.artifacts import Frozen
from softalign.config.recipe import Recipe
from softalign.errors import ConfigError
from softalign.evaluation.suites import suite_prompts
from softalign.geneval.prompts import GenevalPrompt, to_json_line
from softalign.store.files import write_atomically

SetName = Literal["selection", "report"]
SETS: tuple[SetName, ...] = ("selection", "report")


class Halves(Frozen):
    """Both halves' prompts, as JSON lines, and how many there are."""

    selection: str
    report: str

    def lines(self, name: SetName) -> str:
        """Return the prompts of one half."""
        return self.selection if name == "selection" else self.report

    def number(self, name: SetName) -> int:
        """Return how many prompts one half has."""
        return self.lines(name).count("\n")


def halves_of(recipe: Recipe) -> Halves:
    """Return a recipe's prompts in two halves: of each tag every second one, in the order of their sha256.

    So the halves have the same tags, and which prompt is in which depends on nothing but the tag's prompts. Prompts of
    one wording are in one half.

    Raises:
        ConfigError: a tag has a single prompt, which cannot be in both halves.
    """
    suite = suite_prompts(recipe.evaluate)
    by_tag: dict[str, dict[str, list[GenevalPrompt]]] = {prompt.tag: {} for prompt in suite}
    for prompt in sorted(suite, key=_sha256):
        by_tag[prompt.tag].setdefault(prompt.prompt, []).append(prompt)
    if lone := [tag for tag, wordings in by_tag.items() if len(wordings) < 2]:
        raise ConfigError(
            "A tag has too few prompts for a study.",
            expected="two wordings or more of each tag: one half is for choosing, the other for the report",
            found=f"one of {', '.join(lone)}",
            where=f"recipe {recipe.name}",
            fix="name a suite with more prompts in evaluate.prompts_uri",
        )
    cut = [list(wordings.values()) for wordings in by_tag.values()]
    return Halves(selection=_text(cut, first=0), report=_text(cut, first=1))


def write_halves(halves: Halves, folder: Path, recipe_name: str) -> dict[SetName, Path]:
    """Write both halves as prompt files and return where they are."""
    paths: dict[SetName, Path] = {name: folder / "prompts" / f"{recipe_name}-{name}.jsonl" for name in SETS}
    for name, path in paths.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, halves.lines(name).encode())
    return paths


def _sha256(prompt: GenevalPrompt) -> str:
    return hashlib.sha256(to_json_line(prompt).encode()).hexdigest()


def _text(tags: Iterable[list[list[GenevalPrompt]]], first: int) -> str:
    of_half = (prompt for wordings in tags for alike in wordings[first::2] for prompt in alike)
    return "".join(to_json_line(prompt) + "\n" for prompt in of_half)
