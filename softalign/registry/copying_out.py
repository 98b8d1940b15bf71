"""A pulled version in a folder of the user's: made, updated and repaired whole, and nothing else lost."""

from __future__ import annotations

import errno
import os
import re
import shutil
import uuid
from pathlib import Path

from softalign.artifacts import FileEntry, digest_of
from softalign.errors import ConfigError, StorageUnavailableError, os_error_fix, os_error_text
from softalign.registry.model_folder import MLMODEL_FILENAME
from softalign.registry.pulled_cache import PulledCache, is_intact, names_in, one_at_a_time, place_whole
from softalign.store.adapter_files import (
    CARD_FILENAME,
    CONFIG_FILENAME,
    INITIAL_FOLDER,
    METRICS_FILENAME,
    PICTURES_FOLDER,
    TRAIN_CONFIG_FILENAME,
    WEIGHTS_FILENAME,
)
from softalign.store.files import sha256_of_file, verify_file

_PULLED_NAMES = frozenset(
    {MLMODEL_FILENAME, WEIGHTS_FILENAME, CONFIG_FILENAME, CARD_FILENAME, TRAIN_CONFIG_FILENAME, METRICS_FILENAME}
    | {f"{INITIAL_FOLDER}/{name}" for name in (WEIGHTS_FILENAME, CONFIG_FILENAME)}
    | {f"{PICTURES_FOLDER}/base-and-adapter.{extension}" for extension in ("png", "webp")}
)
"""What versions consist of, besides what the one that is written lists."""
_UNFINISHED = re.compile(r"\.part-\d+-[0-9a-f]{8}/.*")
"""Of a pull that was killed."""
_NO_SWAP = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EBUSY, errno.EXDEV, errno.EINVAL}
"""The folder itself cannot be renamed: its parent is another's, or it is where a volume is mounted."""


def copy_out(cache: PulledCache, target: Path, files: tuple[FileEntry, ...]) -> None:
    """Make a target hold just these files: a new folder, an empty one, or one that an earlier pull filled.

    An older version is replaced, a damaged copy repaired. Readers see the old folder or the new one, except where the
    folder cannot be renamed (a mounted volume): there each file is replaced by itself.

    Args:
        cache: holds the files.
        target: the folder.
        files: what it shall hold.

    Raises:
        ConfigError: it holds other files, or cannot be written.
        StorageUnavailableError: there is no room.
    """
    place = target.resolve()
    if is_intact(place, files):
        return
    with one_at_a_time(cache.lock(f"target-{digest_of(str(place))[:32]}")):
        if is_intact(place, files):  # another process was sooner
            return
        _require_replaceable(place, files, cache.names_ever_pulled())
        try:
            _swap(cache.folder(files), place, files)
        except OSError as error:
            raise _explained(error, place) from error


def _require_replaceable(target: Path, files: tuple[FileEntry, ...], pulled: set[str]) -> None:
    """Refuse a target in which something would be lost that no pull can bring back."""
    listed = {entry.path: entry for entry in files}
    names = names_in(target)
    known = {*listed, *_PULLED_NAMES, *pulled}
    others = [name for name in names if name not in known and not _UNFINISHED.fullmatch(name)]
    if MLMODEL_FILENAME not in names and not all(_is_same(target, name, listed) for name in names):
        others = others or names  # somebody's own adapter: no pull made it
    if not others and not target.is_file():
        return
    raise ConfigError(
        "The target holds other files; nothing was written.",
        expected="a folder that is new, empty, or filled by an earlier pull",
        found=", ".join(others)[:200] or "a file",
        where=str(target),
        fix="choose another folder, or take these files out of this one",
    )


def _is_same(target: Path, name: str, listed: dict[str, FileEntry]) -> bool:
    path, entry = target / name, listed.get(name)
    if entry is None or not path.is_file():
        return False
    return path.stat().st_size == entry.size_bytes and sha256_of_file(path) == entry.sha256


def _swap(folder: Path, target: Path, files: tuple[FileEntry, ...]) -> None:
    made = target.with_name(f".part-{target.name}-{os.getpid()}-{uuid.uuid4().hex[:8]}")
    try:
        made.parent.mkdir(parents=True, exist_ok=True)
        _copy(folder, made, files)
        place_whole(made, target, files)
    except OSError as error:
        if error.errno not in _NO_SWAP or not target.is_dir():
            raise
        _replace_each(folder, target, files)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _replace_each(folder: Path, target: Path, files: tuple[FileEntry, ...]) -> None:
    """Replace a folder's files one by one; the description first, by which an unfinished folder is known, then weights.

    The configuration comes last: with the weights of another version it is refused when it is loaded.
    """
    made = target / f".part-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    try:
        _copy(folder, made, files)
        for entry in sorted(files, key=lambda entry: (entry.path != MLMODEL_FILENAME, entry.path == CONFIG_FILENAME)):
            (target / entry.path).parent.mkdir(parents=True, exist_ok=True)
            (made / entry.path).replace(target / entry.path)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    for name in {*names_in(target)} - {entry.path for entry in files}:
        (target / name).unlink(missing_ok=True)


def _copy(folder: Path, made: Path, files: tuple[FileEntry, ...]) -> None:
    made.mkdir()
    for entry in files:
        (made / entry.path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / entry.path, made / entry.path)
        verify_file(made / entry.path, entry, str(made))


def _explained(error: OSError, target: Path) -> ConfigError | StorageUnavailableError:
    kind = StorageUnavailableError if error.errno in {errno.ENOSPC, errno.EDQUOT} else ConfigError
    what = "There is no room for the adapter." if kind is StorageUnavailableError else "The target cannot be written."
    return kind(what, found=os_error_text(error), where=str(target), fix=os_error_fix(error))
