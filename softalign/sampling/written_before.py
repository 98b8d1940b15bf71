"""Files that are there already: those of the same request are kept, others are in the way and never lost silently."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

from softalign.errors import ConfigError
from softalign.sampling.image_facts import FactsT, facts_in, text_in

SHOWN_NAMES = 3
"""How many of the files in the way an error names."""


@dataclass(frozen=True)
class PlannedFile(Generic[FactsT]):
    """A file to be drawn, and what it will say of itself."""

    path: Path
    facts: FactsT


def refuse_foreign(paths: Sequence[Path], where: Path) -> None:
    """Refuse to replace files that do not say how they were drawn; needs no model to be known.

    Raises:
        ConfigError: there are some.
    """
    _refuse([path.name for path in paths if path.exists() and text_in(path) is None], where)


def kept_files(planned: Sequence[PlannedFile[Any]], where: Path) -> frozenset[Path]:
    """Return which files are there already, drawn as they would be now.

    Raises:
        ConfigError: files of these names were drawn otherwise; says in what they differ.
    """
    existing = [one for one in planned if one.path.exists()]
    differences = {one.path: _difference(one) for one in existing}
    _refuse([f"{path.name} ({found})" for path, found in differences.items() if found], where)
    return frozenset(differences)


def _difference(planned: PlannedFile[Any]) -> str:
    found = facts_in(planned.path, type(planned.facts))
    return "drawn by another command or version" if found is None else str(planned.facts.difference(found))


def _refuse(names: Sequence[str], where: Path) -> None:
    if names:
        num_more = len(names) - SHOWN_NAMES
        raise ConfigError(
            "Other images of these names are already there; nothing was written.",
            expected="a place without them, or images of the same request, which are kept",
            found=", ".join(names[:SHOWN_NAMES]) + (f" and {num_more} more" if num_more > 0 else ""),
            where=str(where),
            fix="name another place with --out, or add --overwrite to replace them",
        )
