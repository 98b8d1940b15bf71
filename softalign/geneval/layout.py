"""The official folder layout: ``00000/metadata.jsonl``, ``00000/samples/0000.png``, one numbered folder a prompt."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from softalign.errors import DataError, MissingInputError
from softalign.geneval.prompts import GenevalPrompt, from_json_line, to_json_line

METADATA_FILENAME, SAMPLES_FOLDER = "metadata.jsonl", "samples"
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_IN_LAYOUT = re.compile(rf"(?:.*/)?(\d+/{SAMPLES_FOLDER}/[^/]+)")


@dataclass(frozen=True)
class PromptFolder:
    """One prompt's folder: its name, its prompt, and its images' paths relative to the root, in order."""

    name: str
    prompt: GenevalPrompt
    filenames: tuple[str, ...]


def image_filename(prompt_index: int, image_index: int) -> str:
    """Return an image's path relative to the root: ``00000/samples/0000.png``."""
    return f"{prompt_index:05d}/{SAMPLES_FOLDER}/{image_index:04d}.png"


def relative_names(filenames: Iterable[str], where: str) -> dict[str, str]:
    """Return what names of images are relative to their set: without the folder in front, which is the same in all.

    Names of Windows lose their backslashes; a name in another layout stays as it is.

    Raises:
        DataError: the names lie in several sets.
    """
    relative: dict[str, str] = {}
    places: dict[str, str] = {}
    for filename in filenames:
        name = filename.replace("\\", "/").removeprefix("./")
        match = _IN_LAYOUT.fullmatch(name)
        relative[filename] = match[1] if match else name
        if match:
            places.setdefault(name.removesuffix(match[1]), filename)
    if len(places) > 1:
        raise DataError(
            "The names of the images lie in several sets.",
            expected="one folder in front of all, or none",
            found=", ".join(list(places.values())[:3]),
            where=where,
            fix="give each set a file of its own",
        )
    return relative


def metadata_filename(prompt_index: int) -> str:
    """Return a metadata file's path relative to the root."""
    return f"{prompt_index:05d}/{METADATA_FILENAME}"


def write_metadata(root: Path, prompts: tuple[GenevalPrompt, ...]) -> None:
    """Write every prompt's ``metadata.jsonl`` and make its ``samples`` folder."""
    for index, prompt in enumerate(prompts):
        path = root / metadata_filename(index)
        (path.parent / SAMPLES_FOLDER).mkdir(parents=True, exist_ok=True)
        path.write_text(to_json_line(prompt) + "\n", encoding="utf-8")


def numbered_folders(root: Path) -> tuple[str, ...]:
    """Return the names of a root's prompt folders, by number.

    Raises:
        MissingInputError: no such folder, or nothing in it is in the official layout.
    """
    names = [path.name for path in root.iterdir() if path.is_dir() and _is_number(path.name)] if root.is_dir() else []
    if not names:
        raise MissingInputError(
            "There are no images in GenEval's layout.",
            expected="numbered folders: 00000/metadata.jsonl, 00000/samples/0000.png, ...",
            found="no numbered folder" if root.is_dir() else "no such folder",
            where=str(root),
        )
    return tuple(sorted(names, key=lambda name: (int(name), name)))


def read_folders(root: Path) -> tuple[PromptFolder, ...]:
    """Return the prompt folders of a root, by number: those with metadata, whether or not they have images.

    What is missing is for ``completeness.inspect_set`` to say.

    Raises:
        MissingInputError: no such folder, or nothing in it is in the official layout.
        DataError: a prompt's metadata cannot be read.
    """
    return tuple(
        _read_folder(root, name) for name in numbered_folders(root) if (root / name / METADATA_FILENAME).is_file()
    )


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit()


def _read_folder(root: Path, name: str) -> PromptFolder:
    metadata_path = root / name / METADATA_FILENAME
    try:
        line = metadata_path.read_text(encoding="utf-8")
    except ValueError as error:
        raise DataError("A prompt's metadata is not UTF-8 text.", found=str(error), where=str(metadata_path)) from error
    prompt = from_json_line(line, where=str(metadata_path))
    images = sorted(
        path.name
        for path in (root / name / SAMPLES_FOLDER).glob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES and _is_number(path.stem)
    )
    return PromptFolder(name, prompt, tuple(f"{name}/{SAMPLES_FOLDER}/{image}" for image in images))
