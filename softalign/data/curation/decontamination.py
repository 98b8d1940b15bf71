"""Evaluation sets that no dataset shall hold: prompts by their words, images by their perceptual hash."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from functools import lru_cache

from softalign.config.captions import GENEVAL
from softalign.data.captions.similarity import normal_form
from softalign.errors import DataError
from softalign.geneval.prompts import official_prompts
from softalign.store.files import read_bytes

MIN_CONTAINED_WORDS = 3
"""Shorter prompts must be the whole caption: a word or two are in many that have nothing to do with an evaluation."""


class PromptIndex:
    """Finds the prompts that a caption says: case, punctuation and articles aside, as a whole or within it.

    Args:
        prompts: the evaluation's.
    """

    def __init__(self, prompts: Iterable[str]) -> None:
        self._prompts = {words for prompt in prompts if (words := normal_form(prompt))}
        self._lengths = sorted({len(words) for words in self._prompts if len(words) >= MIN_CONTAINED_WORDS})

    def found_in(self, caption: str) -> str:
        """Return the words of the first prompt that is found; empty if there is none."""
        words = normal_form(caption)
        if words in self._prompts:
            return " ".join(words)
        for length in self._lengths:
            for start in range(len(words) - length + 1):
                if words[start : start + length] in self._prompts:
                    return " ".join(words[start : start + length])
        return ""


@lru_cache(maxsize=8)
def evaluation_prompts(names: tuple[str, ...]) -> PromptIndex:
    """Return the prompts of some evaluations: ``geneval``, or files with a prompt a line.

    They are read once in a process, until the cache is cleared.

    Raises:
        MissingInputError: a file is not there.
        DataError: a file holds no prompt, or a line of it is none.
    """
    return PromptIndex(prompt for name in names for prompt in _prompts_of(name))


def _prompts_of(name: str) -> list[str]:
    if name == GENEVAL:
        return [prompt.prompt for prompt in official_prompts()]
    found = list(_lines_of(name))
    if not found:
        raise DataError("A file of evaluation prompts is empty.", expected="a prompt a line", found="none", where=name)
    return found


def _lines_of(uri: str) -> Iterator[str]:
    data = read_bytes(uri)
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError("A file of evaluation prompts is no text.", expected="UTF-8", where=uri) from error
    for number, line in enumerate(lines, 1):
        if line.lstrip().startswith("{"):
            yield _prompt_in(line, f"{uri}, line {number}")
        elif line.strip():
            yield line


def _prompt_in(line: str, where: str) -> str:
    try:
        prompt = json.loads(line)["prompt"]
    except (ValueError, KeyError) as error:
        raise DataError(
            "A line holds no prompt.", expected='{"prompt": "..."}', found=line[:200], where=where
        ) from error
    if not isinstance(prompt, str):
        raise DataError("A prompt is no text.", expected="text", found=type(prompt).__name__, where=where)
    return prompt
