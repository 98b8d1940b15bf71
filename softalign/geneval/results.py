"""Results files whoever wrote them: ours, or the official tool's, whose names and order are others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from softalign.errors import DataError, MissingInputError
from softalign.geneval.layout import PromptFolder, relative_names
from softalign.geneval.prompts import GenevalPrompt, from_json_line
from softalign.geneval.scoring import ImageResult, read_results


def read_any_results(path: Path) -> tuple[ImageResult, ...]:
    """Return the verdicts of a ``results.jsonl`` in the set's order, with names relative to the set.

    Raises:
        MissingInputError: there is no such file.
        DataError: a line is no result, an image has two, or a line and its metadata differ; names it.
    """
    if not path.is_file():
        raise MissingInputError("There is no such results file.", expected="a results.jsonl", where=str(path))
    read = read_results(path)
    relative = relative_names([result.filename for result in read], str(path))
    results = [result.model_copy(update={"filename": relative[result.filename]}) for result in read]
    seen: set[str] = set()
    for number, result in enumerate(results, start=1):
        prompt = prompt_of(result, f"{path}, line {number}")
        is_double = result.filename in seen
        if is_double or (prompt.tag, prompt.prompt) != (result.tag, result.prompt):
            raise DataError(
                "An image has two results." if is_double else "A result is not of the prompt that its metadata has.",
                expected="one line an image, with its prompt's tag and text",
                found=result.filename if is_double else f"{result.tag}: {result.prompt}",
                where=f"{path}, line {number}",
            )
        seen.add(result.filename)
    return tuple(sorted(results, key=lambda result: _place(result.filename)))


def folders_of(results: Sequence[ImageResult], where: str) -> tuple[PromptFolder, ...]:
    """Return the prompt folders that some results are of, in their order."""
    named: dict[str, list[ImageResult]] = {}
    for result in results:
        named.setdefault(result.folder, []).append(result)
    folders = []
    for name, own in named.items():
        prompts = {result.metadata for result in own}
        if len(prompts) > 1:
            raise DataError("A folder has results of several prompts.", found=", ".join(sorted(prompts)), where=where)
        folders.append(PromptFolder(name, prompt_of(own[0], where), tuple(result.filename for result in own)))
    return tuple(folders)


def prompt_of(result: ImageResult, where: str) -> GenevalPrompt:
    """Return the prompt that a result's metadata has."""
    return from_json_line(result.metadata, where)


def image_number(filename: str) -> int | str:
    """Return an image's number within its prompt, or its name where that is none."""
    stem = PurePosixPath(filename).stem
    return int(stem) if stem.isdecimal() else stem


def _place(filename: str) -> tuple[tuple[bool, int, str], ...]:
    """Return what images are sorted by: numbers as numbers, names after them."""
    parts = PurePosixPath(filename).with_suffix("").parts
    return tuple((not part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts)
