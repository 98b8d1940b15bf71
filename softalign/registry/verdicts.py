"""What a registered version scored, image by image: the table that its run keeps beside the report."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from softalign.artifacts import ComparisonReport
from softalign.errors import IntegrityError
from softalign.registry.connection import consumer_uri, registry_client, require_database
from softalign.registry.versions import Reference, comparison_of, find_version

PAIRS_PATH = "report/pairs.jsonl"
"""Within the run's files: one line an image, with the verdict on every arm."""


@dataclass(frozen=True)
class Verdict:
    """One image of the adapter's arm: its file (prompt folder and image), its tag, and whether it is right."""

    filename: str
    tag: str
    is_correct: bool


@dataclass(frozen=True)
class RegisteredScores:
    """What a version was registered with.

    Attributes:
        reference: by its number.
        comparison: None where the version carries none.
        verdicts: in the suite's order; empty where its run keeps no table.
    """

    reference: Reference
    comparison: ComparisonReport | None
    verdicts: tuple[Verdict, ...]


def registered_scores(reference: Reference, tracking_uri: str | None = None) -> RegisteredScores:
    """Return what a version was registered with.

    Raises:
        RegistryError: no such model or version.
        IntegrityError: its comparison or its table is damaged.
        CompatibilityError: its comparison is of another format.
        MissingInputError: there is no registry at this place.
    """
    uri = consumer_uri(tracking_uri)
    require_database(uri)
    with registry_client(uri) as client:
        version = find_version(client, reference)
        number = int(version.version)
        return RegisteredScores(
            reference=Reference(name=reference.name, version=number),
            comparison=comparison_of(client, reference.name, number),
            verdicts=_verdicts(client, version.run_id),
        )


def _verdicts(client: Any, run_id: str) -> tuple[Verdict, ...]:
    folder = PAIRS_PATH.rpartition("/")[0]
    if PAIRS_PATH not in {item.path for item in client.list_artifacts(run_id, folder)}:
        return ()
    with TemporaryDirectory() as target:
        path = Path(client.download_artifacts(run_id, PAIRS_PATH, target))
        lines = path.read_text(encoding="utf-8").splitlines()
    try:
        rows = [json.loads(line) for line in lines]
        return tuple(Verdict(str(row["filename"]), str(row["tag"]), bool(row["adapter"])) for row in rows)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise IntegrityError(
            "The table of verdicts cannot be read.", found=str(error)[:200], where=f"run {run_id}, {PAIRS_PATH}"
        ) from error
