"""A file with a line for each image of a folder, written as they are made: who goes on makes only what is missing."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from softalign.artifacts import digest_of
from softalign.errors import CompatibilityError, ConfigError
from softalign.processes.locking import exclusive
from softalign.processes.reporter import Reporter
from softalign.store.files import write_atomically

logger = logging.getLogger(__name__)

KEY = "key"
"""Of a line: a digest of the image's bytes and of everything else that decides the line."""
Measure = Callable[[str, bytes], dict[str, Any]]
"""Returns what an image's line holds, given its name and its bytes."""


@dataclass(frozen=True)
class ImageLines:
    """The lines of a folder's images, by name in their order, and how many were made now."""

    lines: Mapping[str, dict[str, Any]]
    num_made: int


@dataclass(frozen=True)
class Maker:
    """What makes the lines.

    Attributes:
        field: of a line, that says who made it.
        digest: of the maker.
        load: returns the function that makes a line; called where one is missing.
        what: what is made, for the progress.
    """

    field: str
    digest: str
    load: Callable[[], Measure]
    what: str


def complete_lines(path: Path, root: Path, asked: Mapping[str, object], maker: Maker) -> ImageLines:
    """Return a line for every image, and keep them in a file; one that holds for the same bytes is not made again.

    A file of another maker's lines is kept beside it, under that one's digest, and found there again.

    Args:
        path: the file, JSON lines.
        root: the folder that names are relative to; one process works in it at a time.
        asked: the names, each with what decides its line beside the image's bytes and its maker (JSON values).
        maker: what makes the lines.

    Raises:
        ConfigError: the file has a line that this program did not write.
        CompatibilityError: the maker's numbers for an image are none.
    """
    asked = {name: [maker.digest, value] for name, value in asked.items()}
    with exclusive(root):
        keys = {name: _key((root / name).read_bytes(), value) for name, value in asked.items()}
        found = dict(_rows(path))
        known = (*_rows(_kept_path(path, maker.digest)), *found.items())
        lines = {name: row for name, row in known if keys.get(name) == row[KEY]}
        missing = [name for name in keys if name not in lines]
        measure = maker.load() if missing else None  # before lines that hold no longer are dropped: it may fail
        _keep_others(path, {name: row for name, row in found.items() if name not in lines or lines[name] != row}, maker)
        if measure is not None:
            _write(path, lines)
            with Reporter(maker.what, "images", len(keys), num_reused=len(lines)) as progress:
                for name in progress.over(missing):
                    data = (root / name).read_bytes()
                    made = {"filename": name, **measure(name, data), maker.field: maker.digest}
                    lines[name] = {**made, KEY: _key(data, asked[name])}
                    with path.open("a", encoding="utf-8") as file:
                        file.write(line_text(lines[name], root))
        ordered = {name: lines[name] for name in keys}
        _write(path, ordered)
    (root / ".lock").unlink(missing_ok=True)
    return ImageLines(ordered, len(missing))


def _keep_others(path: Path, dropped: Mapping[str, dict[str, Any]], maker: Maker) -> None:
    """Keep the lines of each other maker in a file of their own, with those of theirs that are there."""
    makers = {name: str(row.get(maker.field, "earlier")) for name, row in dropped.items()}
    for other in dict.fromkeys(makers.values()):
        if other != maker.digest:
            kept = _kept_path(path, other)
            own = {name: row for name, row in dropped.items() if makers[name] == other}
            _write(kept, {**dict(_rows(kept)), **own})
            logger.warning("%s held what another %s made; that is kept as %s", path, maker.field, kept.name)


def _kept_path(path: Path, maker: str) -> Path:
    return path.with_name(f"{path.stem}-{maker[:8]}{path.suffix}")


def line_text(line: Mapping[str, Any], root: Path) -> str:
    """Return an image's line.

    Args:
        line: with the image's ``filename``.
        root: the folder of the images, for the message.

    Raises:
        CompatibilityError: it has numbers that are none.
    """
    try:
        return json.dumps(line, allow_nan=False) + "\n"
    except ValueError as error:
        raise CompatibilityError(
            "A model's answer is no number.",
            expected="finite numbers",
            found=str(error),
            where=str(root / line["filename"]),
            fix="use weights without damage; half precision can overflow: try the CPU (--device or runtime.device)",
        ) from error


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    for line in text.splitlines(keepends=True):
        if not line.endswith("\n"):  # of an attempt that was killed
            return
        try:
            row = json.loads(line)
            name, _ = row["filename"], row[KEY]
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                "There is a file of this name that came from elsewhere.",
                expected="no such file, or one of an earlier run of this command",
                found=line[:80].strip(),
                where=str(path),
                fix="move the file away",
            ) from error
        yield name, row


def _write(path: Path, lines: Mapping[str, dict[str, Any]]) -> None:
    write_atomically(path, "".join(json.dumps(row) + "\n" for row in lines.values()).encode())


def _key(data: bytes, asked: object) -> str:
    return digest_of([hashlib.sha256(data).hexdigest(), asked])
