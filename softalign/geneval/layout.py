"""The official folder layout: ``00000/metadata.jsonl``, ``00000/samples/0000.png``, one numbered folder a prompt."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from softalign.errors import DataError, MissingInputError
from softalign.geneval.prompts import GenevalPrompt, from_json_line, to_json_line


@dataclass(frozen=True)
class PromptFolder:
    """One prompt's folder: its name, its prompt, and its images' paths relative to the root, in order."""

    name: str
    prompt: GenevalPrompt
    filenames: tuple[str, ...]


def image_filename(prompt_index: int, image_index: int) -> str:
    """Return an image's path relative to the root: ``00000/samples/0000.png``."""
    return f"{prompt_index:05d}/samples/{image_index:04d}.png"


def metadata_filename(prompt_index: int) -> str:
    """Return a metadata file's path relative to the root."""
    return f"{prompt_index:05d}/metadata.jsonl"


def write_metadata(root: Path, prompts: tuple[GenevalPrompt, ...]) -> None:
    """Write every prompt's ``metadata.jsonl`` and make its ``samples`` folder."""
    for index, prompt in enumerate(prompts):
        path = root / metadata_filename(index)
        (path.parent / "samples").mkdir(parents=True, exist_ok=True)
        path.write_text(to_json_line(prompt) + "\n", encoding="utf-8")


def read_folders(root: Path) -> tuple[PromptFolder, ...]:
    """Return the prompt folders of a root, by number.

    Raises:
        MissingInputError: no such folder, or nothing in it is in the official layout.
        DataError: a folder without readable metadata or without images.
    """
    names = (
        sorted(path.name for path in root.iterdir() if path.is_dir() and path.name.isdigit()) if root.is_dir() else []
    )
    if not names:
        raise MissingInputError(
            "There are no images in GenEval's layout.",
            expected="numbered folders: 00000/metadata.jsonl, 00000/samples/0000.png, ...",
            found="no numbered folder" if root.is_dir() else "no such folder",
            where=str(root),
        )
    return tuple(_read_folder(root, name) for name in names)


def _read_folder(root: Path, name: str) -> PromptFolder:
    metadata_path = root / name / "metadata.jsonl"
    if not metadata_path.is_file():
        raise DataError("A prompt's metadata is missing.", expected="metadata.jsonl", where=str(root / name))
    try:
        line = metadata_path.read_text(encoding="utf-8")
    except ValueError as error:
        raise DataError("A prompt's metadata is not UTF-8 text.", found=str(error), where=str(metadata_path)) from error
    prompt = from_json_line(line, where=str(metadata_path))
    images = sorted(path.name for path in (root / name / "samples").glob("*.png") if path.stem.isdigit())
    if not images:
        raise DataError(
            "A prompt has no images.", expected=f"{name}/samples/0000.png, ...", found="none", where=str(root / name)
        )
    return PromptFolder(name=name, prompt=prompt, filenames=tuple(f"{name}/samples/{image}" for image in images))
