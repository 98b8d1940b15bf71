"""An arm's images in a few tar files instead of thousands of small ones, and reading single images from them.

``images-00000.tar`` holds whole prompt folders of GenEval's layout, uncompressed; ``images.json`` says where in which
pack each file begins. The same images are the same bytes: headers hold no times, owners or modes of a machine.
Object stores answer once a file, so that an arm of 2,212 images is 37 requests instead of 2,765.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import NonNegativeInt, TypeAdapter, ValidationError

from softalign.artifacts import Frozen
from softalign.errors import IntegrityError, MissingInputError
from softalign.geneval.layout import METADATA_FILENAME, PromptFolder, image_filename, metadata_filename
from softalign.geneval.layout import read_folders as read_layout
from softalign.geneval.prompts import from_json_line
from softalign.store.files import replacing

IMAGES_FOLDER = "images"
"""Where images lie as files while an arm is made, and in what earlier versions published."""
INDEX_FILENAME = "images.json"
IMAGES_PER_PACK = 64
"""About as many images a pack: what a lost machine costs at most, and about 100 MB at 1024 pixels."""
_MODE = 0o644
_FILENAME = re.compile(r"[0-9]{5,}/(metadata\.jsonl|samples/[0-9]{4,}\.png)")
_PACK_NAME = re.compile(r"images-[0-9]{5,}\.tar")


class PackedFile(Frozen):
    """Where a file lies."""

    pack: str
    offset_bytes: NonNegativeInt
    size_bytes: NonNegativeInt


_INDEX: TypeAdapter[dict[str, PackedFile]] = TypeAdapter(dict[str, PackedFile])


@dataclass(frozen=True, slots=True)
class Pack:
    """One pack: its name and the files that it holds, in order."""

    name: str
    filenames: tuple[str, ...]


def packs_of(num_prompts: int, images_per_prompt: int) -> tuple[Pack, ...]:
    """Return the packs of a suite: whole prompts, about IMAGES_PER_PACK images each."""
    step = max(1, IMAGES_PER_PACK // images_per_prompt)
    return tuple(
        Pack(
            f"images-{number:05d}.tar",
            tuple(_filenames(range(start, min(start + step, num_prompts)), images_per_prompt)),
        )
        for number, start in enumerate(range(0, num_prompts, step))
    )


def _filenames(prompts: range, images_per_prompt: int) -> Iterator[str]:
    for prompt in prompts:
        yield metadata_filename(prompt)
        yield from (image_filename(prompt, image) for image in range(images_per_prompt))


def write_pack(images_root: Path, pack: Pack, target: Path) -> dict[str, PackedFile]:
    """Write a pack from files in the official layout, whole or not at all, and return where each begins."""
    found: dict[str, PackedFile] = {}
    with replacing(target, is_synced=False) as made, tarfile.open(made, "w", format=tarfile.USTAR_FORMAT) as archive:
        for filename in pack.filenames:
            data = (images_root / filename).read_bytes()
            header = tarfile.TarInfo(filename)
            header.size, header.mode = len(data), _MODE
            offset = archive.offset + tarfile.BLOCKSIZE
            archive.addfile(header, io.BytesIO(data))
            found[filename] = PackedFile(pack=pack.name, offset_bytes=offset, size_bytes=len(data))
    return found


def write_packs(images_root: Path, packs: Sequence[Pack], folder: Path) -> None:
    """Write all packs and their index to a folder."""
    index: dict[str, PackedFile] = {}
    for pack in packs:
        index |= write_pack(images_root, pack, folder / pack.name)
    (folder / INDEX_FILENAME).write_bytes(_INDEX.dump_json(index) + b"\n")


class ArmImages:
    """The images of a published arm, in packs or, as earlier versions published them, as files.

    Args:
        root: the record's files, verified.

    Raises:
        IntegrityError: the index cannot be read, or names a file outside the arm or its layout.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._index = _read_index(root / INDEX_FILENAME) if (root / INDEX_FILENAME).is_file() else None

    def read(self, filename: str) -> bytes:
        """Return a file of the official layout (``00000/samples/0000.png``).

        Raises:
            MissingInputError: there is no such file.
            IntegrityError: the name is not of the layout, or the pack ends before the file does.
        """
        _require_name(_FILENAME, filename, self._root)
        if self._index is None:
            return (self._root / IMAGES_FOLDER / filename).read_bytes()
        place = self._index.get(filename)
        if place is None:
            raise MissingInputError("An arm has no such image.", found=filename, where=str(self._root))
        with (self._root / place.pack).open("rb") as pack:
            pack.seek(place.offset_bytes)
            data = pack.read(place.size_bytes)
        if len(data) != place.size_bytes:
            raise IntegrityError(
                "A pack ends before an image that its index says it holds.",
                expected=f"{place.size_bytes} bytes of {filename} at {place.offset_bytes}",
                found=f"{len(data)} bytes",
                where=str(self._root / place.pack),
            )
        return data

    def folders(self) -> tuple[PromptFolder, ...]:
        """Return the prompt folders, by number.

        Raises:
            DataError: a prompt's metadata cannot be read.
        """
        if self._index is None:
            return read_layout(self._root / IMAGES_FOLDER)
        names = [name for name in self._index if name.endswith(f"/{METADATA_FILENAME}")]
        return tuple(self._folder(name.partition("/")[0]) for name in names)

    def _folder(self, name: str) -> PromptFolder:
        files = tuple(file for file in self._index or () if file.startswith(f"{name}/") and file.endswith(".png"))
        line = self.read(f"{name}/{METADATA_FILENAME}").decode("utf-8", "replace")
        return PromptFolder(name, from_json_line(line, where=f"{self._root}: {name}"), files)

    def unpack(self, to: Path) -> int:
        """Write all files to a folder in the official layout, and return how many images there are."""
        names = [*self._index] if self._index is not None else _layout_files(self._root / IMAGES_FOLDER)
        for name in names:
            _require_name(_FILENAME, name, self._root)
            path = to / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.read(name))
        return sum(name.endswith(".png") for name in names)


def _layout_files(root: Path) -> list[str]:
    folders = read_layout(root)
    return [name for one in folders for name in (f"{one.name}/{METADATA_FILENAME}", *one.filenames)]


def _read_index(path: Path) -> dict[str, PackedFile]:
    try:
        index = _INDEX.validate_json(path.read_bytes())
    except (ValidationError, json.JSONDecodeError) as error:
        raise IntegrityError(
            "The index of an arm's images cannot be read.", found=str(error).splitlines()[0], where=str(path)
        ) from error
    for filename, place in index.items():
        _require_name(_FILENAME, filename, path)
        _require_name(_PACK_NAME, place.pack, path)
    return index


def _require_name(pattern: re.Pattern[str], name: str, where: Path) -> None:
    if pattern.fullmatch(name) is None:
        raise IntegrityError(
            "A file of an arm's images has a name that no arm has.",
            expected="00000/metadata.jsonl or 00000/samples/0000.png, in images-00000.tar",
            found=name[:200],
            where=str(where),
            fix="do not use this arm: somebody else wrote it; evaluate again",
        )
