"""What no version may hold, whoever registered it: files that run code when loaded, weights that are not numbers."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from softalign.artifacts import FileEntry
from softalign.errors import IntegrityError
from softalign.store.adapter_files import CONFIG_FILENAME
from softalign.store.weights_file import MAX_CONFIG_BYTES, require_finite

_PICKLED = {".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt", ".joblib", ".dill", ".npy", ".npz"}
_MAGIC = (*(b"\x80" + bytes([protocol]) for protocol in range(2, 6)), b"PK\x03\x04")
"""Beginnings of a pickle, and of the archive that torch.save makes."""
_WEIGHTS = ".safetensors"


def is_safe_path(path: str) -> bool:
    """Return whether a listed path stays within its folder, on every system, and says nothing to a terminal."""
    parts = path.split("/")
    return path.isprintable() and not {"", ".", ".."} & set(parts) and not any(mark in path for mark in "\\:")


def refuse_pickles(files: tuple[FileEntry, ...], where: str) -> None:
    """Refuse a version by its list, before anything is fetched.

    Raises:
        IntegrityError: it lists a pickle, or a configuration of a size that none has.
    """
    pickled = [entry.path for entry in files if PurePosixPath(entry.path).suffix.lower() in _PICKLED]
    huge = [
        entry.path for entry in files if entry.path.endswith(CONFIG_FILENAME) and entry.size_bytes > MAX_CONFIG_BYTES
    ]
    if pickled or huge:
        raise IntegrityError(
            "The version lists files that no adapter has; nothing was fetched.",
            expected=f"safetensors, JSON and text; configurations of at most {MAX_CONFIG_BYTES} bytes",
            found=", ".join([*pickled, *huge])[:300],
            where=where,
            fix="do not use this version: loading a pickle runs what it holds",
        )


def refuse_contents(folder: Path, files: tuple[FileEntry, ...], where: str) -> None:
    """Refuse fetched files by what they hold.

    Raises:
        IntegrityError: one is a link or a pickle, or weights are no safetensors file or not finite.
    """
    for entry in files:
        path, place = folder / entry.path, f"{where}/{entry.path}"
        if path.is_symlink() or not path.is_file():
            raise IntegrityError("A registered file is a link.", expected="a file", where=place)
        if entry.path.endswith(_WEIGHTS):
            require_finite(path, place)
            continue
        with path.open("rb") as file:
            beginning = file.read(4)
        if beginning.startswith(_MAGIC):
            fix = "do not use this version: loading a pickle runs what it holds"
            raise IntegrityError("A registered file is a pickle under another name.", where=place, fix=fix)
