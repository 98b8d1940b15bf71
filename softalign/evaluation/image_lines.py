"""A file with a line for each image of a folder, written as they are made: who goes on makes only what is missing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from softalign.artifacts import digest_of
from softalign.errors import ConfigError
from softalign.processes.locking import exclusive
from softalign.processes.reporter import Reporter
from softalign.store.files import write_atomically

KEY = "key"
"""Of a line: a digest of the image's bytes and of everything else that decides the line."""
Measure = Callable[[str, bytes], dict[str, Any]]
"""Returns what an image's line holds, given its name and its bytes."""


@dataclass(frozen=True)
class ImageLines:
    """The lines of a folder's images, by name in their order, and how many were made now."""

    lines: Mapping[str, dict[str, Any]]
    num_made: int


def complete_lines(
    path: Path, root: Path, asked: Mapping[str, object], load: Callable[[], Measure], what: str
) -> ImageLines:
    """Return a line for every image, and keep them in a file; one that holds for the same bytes is not made again.

    Args:
        path: the file, JSON lines.
        root: the folder that names are relative to; one process works in it at a time.
        asked: the names, each with what decides its line beside the image's bytes (JSON values).
        load: returns the function that makes a line; called where one is missing.
        what: what is made, for the progress.

    Raises:
        ConfigError: the file has a line that this program did not write.
    """
    with exclusive(root):
        keys = {name: _key((root / name).read_bytes(), value) for name, value in asked.items()}
        lines = {name: row for name, row in _rows(path) if keys.get(name) == row[KEY]}
        missing = [name for name in keys if name not in lines]
        if missing:
            measure = load()  # before lines that hold no longer are dropped: it may fail
            _write(path, lines)
            with Reporter(what, "images", len(keys), num_reused=len(lines)) as progress:
                for name in progress.over(missing):
                    data = (root / name).read_bytes()
                    lines[name] = {"filename": name, **measure(name, data), KEY: _key(data, asked[name])}
                    with path.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(lines[name]) + "\n")
        ordered = {name: lines[name] for name in keys}
        _write(path, ordered)
    (root / ".lock").unlink(missing_ok=True)
    return ImageLines(ordered, len(missing))


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
