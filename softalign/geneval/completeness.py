"""What a set of images lacks to be scored: prompts, images, detections; and what it has too much of.

A set is held against its suite. An evaluation knows its own; a folder's is the official one if all its prompts, or more
than half of the official ones, say so (prompts are known by what they ask for, so rewritten texts count too). Of any
other suite only the folders themselves are known: then every folder must have as many images as the others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import Literal

from softalign.artifacts import Frozen
from softalign.errors import DataError
from softalign.geneval.image_faults import image_fault
from softalign.geneval.layout import IMAGE_SUFFIXES, METADATA_FILENAME, SAMPLES_FOLDER, PromptFolder, numbered_folders
from softalign.geneval.prompts import GenevalPrompt, official_prompts, tags_in_order

OFFICIAL_IMAGES_PER_PROMPT = 4
_OTHER_SUFFIXES = (".bmp", ".gif", ".tif", ".tiff")
_NUM_SHOWN = 3

LackKind = Literal[
    "prompts", "extra_prompts", "double_prompts", "tags", "folders", "double_folders", "unnumbered_folders", "metadata",
    "images", "extra_images", "double_images", "other_images", "unreadable_images", "detections", "extra_detections",
]  # fmt: skip
_WORDS: dict[LackKind, str] = {
    "prompts": "prompts of the suite without a folder",
    "extra_prompts": "folders with a prompt that is not of the suite",
    "double_prompts": "folders that repeat a prompt of the suite",
    "tags": "tags with nothing to score",
    "folders": "missing numbers between the first folder and the last",
    "double_folders": "folders with the same number",
    "unnumbered_folders": f"folders with {METADATA_FILENAME} but no number as their name",
    "metadata": f"folders without {METADATA_FILENAME}",
    "images": "missing images",
    "extra_images": "images beyond those that other prompts have",
    "double_images": "images of a prompt with the same number",
    "other_images": f"numbered images that are not named {', '.join(IMAGE_SUFFIXES)}",
    "unreadable_images": "images that cannot be read",
    "detections": "images without an entry in the detections file",
    "extra_detections": "entries of the detections file without an image (relative names, as 00000/samples/0000.png)",
}


class Lack(Frozen):
    """One way in which a set is not what its suite asks for.

    Attributes:
        what: in words, without the number.
        count: how many.
        names: all of them: prompts, tags, or paths relative to the set, some followed by more after a colon.
    """

    kind: LackKind
    what: str
    count: int
    names: tuple[str, ...]

    def to_text(self) -> str:
        """Return one line with the first names."""
        rest = ", ..." if len(self.names) > _NUM_SHOWN else ""
        return f"{self.what}: {self.count} ({', '.join(self.names[:_NUM_SHOWN])}{rest})"


@dataclass(frozen=True)
class Suite:
    """The prompts a set must have, each once, and how many images of each at least."""

    prompts: tuple[GenevalPrompt, ...]
    images_per_prompt: int

    @property
    def num_images(self) -> int:
        """How many images it must have at least."""
        return len(self.prompts) * self.images_per_prompt


@dataclass(frozen=True)
class InspectedSet:
    """The folders with the images that can be scored, and what the set lacks."""

    folders: tuple[PromptFolder, ...]
    lacks: tuple[Lack, ...]


def inspect_set(
    root: Path, folders: Sequence[PromptFolder], suite: Suite | None = None, detected: Collection[str] | None = None
) -> InspectedSet:
    """Hold a folder in the official layout against its suite.

    Args:
        root: the set.
        folders: what ``read_folders`` found in it.
        suite: what it must have; unset: the official suite, or none that is known.
        detected: the file names that detections were recorded of; unset: none were yet.
    """
    known = suite or official_suite_of(folders)
    filenames = [filename for folder in folders for filename in folder.filenames]
    faults = {filename: fault for filename in filenames if (fault := image_fault(root / filename))}
    undetected = [] if detected is None else [name for name in filenames if name not in faults and name not in detected]
    left_out = {*faults, *undetected}
    scorable = tuple(
        PromptFolder(folder.name, folder.prompt, kept)
        for folder in folders
        if (kept := tuple(filename for filename in folder.filenames if filename not in left_out))
    )
    present = set(filenames)
    lacks = (
        *(_prompt_lacks(folders, known) if known else _gaps(numbered_folders(root))),
        *_folder_lacks(root),
        *_count_lacks(folders, known),
        *_file_lacks(root, folders),
        *_lack("unreadable_images", [f"{filename}: {fault}" for filename, fault in faults.items()]),
        *_lack("detections", undetected),
        *_lack("extra_detections", [filename for filename in detected or () if filename not in present]),
        *_tag_lacks(folders, scorable, known),
    )
    return InspectedSet(scorable, lacks)


def inspect_verdicts(folders: Sequence[PromptFolder], suite: Suite | None = None) -> tuple[Lack, ...]:
    """Return what a set lacks of which the verdicts alone are known, without its files.

    Args:
        folders: the prompts and the names of the images that there are verdicts of.
        suite: what it must have; unset: the official suite, or none that is known.
    """
    known = suite or official_suite_of(folders)
    names = [folder.name for folder in folders]
    return (
        *(_prompt_lacks(folders, known) if known else _gaps(names)),
        *_lack("double_folders", _doubles([name for name in names if name.isdecimal()])),
        *_count_lacks(folders, known),
        *_lack("double_images", chain.from_iterable(_doubles(_numbered(folder)) for folder in folders)),
        *_tag_lacks(folders, folders, known),
    )


def require_complete(lacks: Sequence[Lack], where: str, fix: str) -> None:
    """Refuse a set that lacks anything: its scores would not be the suite's.

    Raises:
        DataError: names what there is too little or too much of.
    """
    if lacks:
        raise DataError(
            "The set of images is not complete.",
            expected="every prompt of the suite once, with as many readable images as the others"
            + (", all with detections" if any("detections" in lack.kind for lack in lacks) else ""),
            found="; ".join(lack.to_text() for lack in lacks),
            where=where,
            fix=fix,
        )


def _lack(kind: LackKind, names: Iterable[str], count: int | None = None) -> tuple[Lack, ...]:
    found = tuple(names)
    return (Lack(kind=kind, what=_WORDS[kind], count=count or len(found), names=found),) if found else ()


def asked_for(prompt: GenevalPrompt) -> tuple[object, ...]:
    """Return what makes a prompt one of a suite's, however it is worded."""
    by_judge = () if prompt.asked is None else (prompt.prompt, prompt.asked)
    return prompt.tag, prompt.include, prompt.exclude, *by_judge


def official_suite_of(folders: Sequence[PromptFolder]) -> Suite | None:
    """Return the official suite if a set is meant to be it."""
    official = official_prompts()
    asked = {asked_for(prompt) for prompt in official}
    found = {asked_for(folder.prompt) for folder in folders}
    if found and (found <= asked or 2 * len(found & asked) > len(asked)):
        return Suite(official, OFFICIAL_IMAGES_PER_PROMPT)
    return None


def _prompt_lacks(folders: Sequence[PromptFolder], suite: Suite) -> tuple[Lack, ...]:
    left = Counter(asked_for(prompt) for prompt in suite.prompts)
    wanted = set(left)
    strange, repeated = [], []
    for folder in folders:
        asked = asked_for(folder.prompt)
        if asked not in wanted:
            strange.append(f"{folder.name}: {folder.prompt.prompt}")
        elif not left[asked]:
            repeated.append(f"{folder.name}: {folder.prompt.prompt}")
        else:
            left[asked] -= 1
    missing = [prompt.prompt for prompt in suite.prompts if left[asked_for(prompt)]]
    return (
        *_lack("prompts", missing),
        *_lack("extra_prompts", strange),
        *_lack("double_prompts", repeated),
    )


def _tag_lacks(
    folders: Sequence[PromptFolder], scorable: Sequence[PromptFolder], suite: Suite | None
) -> tuple[Lack, ...]:
    wanted = tags_in_order(prompt.tag for prompt in (suite.prompts if suite else [f.prompt for f in folders]))
    found = {folder.prompt.tag for folder in scorable}
    return _lack("tags", [tag for tag in wanted if tag not in found])


def _gaps(names: Iterable[str]) -> tuple[Lack, ...]:
    numbers = sorted(int(name) for name in names if name.isdecimal())
    gaps = [(below + 1, above - 1) for below, above in pairwise(numbers) if above - below > 1]
    missing = [f"{first:05d}" if first == last else f"{first:05d} to {last:05d}" for first, last in gaps]
    return _lack("folders", missing, sum(last - first + 1 for first, last in gaps))


def _folder_lacks(root: Path) -> tuple[Lack, ...]:
    numbered = numbered_folders(root)
    names = (path.parent.name for path in root.glob(f"*/{METADATA_FILENAME}"))
    others = sorted(name for name in names if name not in numbered)
    return (
        *_lack("double_folders", _doubles(numbered)),
        *_lack("unnumbered_folders", others),
        *_lack("metadata", [name for name in numbered if not (root / name / METADATA_FILENAME).is_file()]),
    )


def _doubles(names: Sequence[str]) -> list[str]:
    """Return the names, without suffix, whose number comes more than once."""
    counts = Counter(int(Path(name).stem) for name in names)
    return [name for name in names if counts[int(Path(name).stem)] > 1]


def _numbered(folder: PromptFolder) -> list[str]:
    return [filename for filename in folder.filenames if Path(filename).stem.isdecimal()]


def _count_lacks(folders: Sequence[PromptFolder], suite: Suite | None) -> tuple[Lack, ...]:
    """Return the prompts with fewer or more images than most have; of two numbers as frequent the larger is meant."""
    counts = Counter(len(folder.filenames) for folder in folders)
    usual = max(counts, key=lambda number: (counts[number], number), default=0)
    usual = max(usual, suite.images_per_prompt if suite else 1)
    fewer = [folder for folder in folders if len(folder.filenames) < usual]
    more = [folder for folder in folders if len(folder.filenames) > usual]

    def names(found: Sequence[PromptFolder]) -> list[str]:
        return [f"{folder.name}/{SAMPLES_FOLDER}: {len(folder.filenames)} of {usual}" for folder in found]

    return (
        *_lack("images", names(fewer), sum(usual - len(folder.filenames) for folder in fewer)),
        *_lack("extra_images", names(more), sum(len(folder.filenames) - usual for folder in more)),
    )


def _file_lacks(root: Path, folders: Sequence[PromptFolder]) -> tuple[Lack, ...]:
    doubles, others = [], []
    for folder in folders:
        doubles += _doubles(folder.filenames)
        own = set(folder.filenames)
        for path in sorted((root / folder.name / SAMPLES_FOLDER).glob("*")):
            filename = f"{folder.name}/{SAMPLES_FOLDER}/{path.name}"
            if filename not in own and path.stem.isdigit() and path.suffix.lower() in _OTHER_SUFFIXES:
                others.append(filename)
    return (*_lack("double_images", doubles), *_lack("other_images", others))
