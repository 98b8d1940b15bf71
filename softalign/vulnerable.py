"""Versions of packages with known holes: what the doctor refuses, here and at the servers that runs reach."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from packaging.version import InvalidVersion, Version


@dataclass(frozen=True, slots=True)
class Vulnerable:
    """Versions of a package that should not run.

    Attributes:
        package: its name on PyPI.
        below: the first version without the holes.
        advisories: their numbers.
        why: what somebody could do, in a few words.
    """

    package: str
    below: str
    advisories: tuple[str, ...]
    why: str

    def covers(self, version: str) -> bool:
        """Return whether a version has the holes; what is no version is not judged."""
        try:
            return Version(version) < Version(self.below)
        except InvalidVersion:
            return False


MLFLOW = Vulnerable(
    package="mlflow",
    below="3.11",
    advisories=("CVE-2026-4137", "CVE-2026-2614"),
    why="holes of the tracking server",
)
VULNERABLE = (MLFLOW, Vulnerable("mlflow-skinny", MLFLOW.below, MLFLOW.advisories, MLFLOW.why))
"""One row for each package and fixed version; the slim client has the versions of the whole."""


def found_vulnerable(installed: Callable[[str], str]) -> Iterator[tuple[Vulnerable, str]]:
    """Yield the rows that apply, each with the version that is there.

    Args:
        installed: returns the version of a package; empty where it is not installed.
    """
    for row in VULNERABLE:
        if (version := installed(row.package)) and row.covers(version):
            yield row, version
