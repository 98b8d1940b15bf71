"""A published arm as a folder in GenEval's layout, for programs that know nothing of stores."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from softalign.artifacts import EvalReport
from softalign.errors import ConfigError, MissingInputError
from softalign.evaluation.arms import DETECTIONS_FILENAME
from softalign.evaluation.packs import ArmImages
from softalign.store.files import require_folder_place
from softalign.store.store import Store


def unpack_arm(arm: str, to: Path) -> int:
    """Write an arm's images and its recorded detections to a folder, and return how many images there are.

    Args:
        arm: where it is published: ``STORE/evaluate/KEY``.
        to: an empty or absent folder.

    Raises:
        MissingInputError: no arm is published there.
        ConfigError: the folder holds something.
        IntegrityError: the arm's files are not what was published.
    """
    require_folder_place(to)
    if to.is_dir() and any(to.iterdir()):
        raise ConfigError("The folder is not empty.", expected="an empty folder, or none yet", where=str(to))
    files = fetch_arm(arm).files
    num_images = ArmImages(files).unpack(to)
    shutil.copyfile(files / DETECTIONS_FILENAME, to / DETECTIONS_FILENAME)
    return num_images


@dataclass(frozen=True, slots=True)
class FetchedArm:
    """A published arm's record, and the folder with its files."""

    report: EvalReport
    files: Path


def fetch_arm(arm: str) -> FetchedArm:
    """Return a published arm.

    Args:
        arm: where it is published: ``STORE/evaluate/KEY``.

    Raises:
        MissingInputError: no arm is published there.
        IntegrityError: the arm's files are not what was published.
    """
    root, _, key = arm.rstrip("/").rpartition("/")
    store = Store(root.removesuffix(f"/{EvalReport.stage}") or ".")
    report = store.find(EvalReport, key) if root.endswith(f"/{EvalReport.stage}") else None
    if report is None:
        raise MissingInputError(
            "No arm is published there.",
            expected="STORE/evaluate/KEY, with a report.json",
            where=arm,
            fix="`softalign plan RECIPE --json` says where the arms of a recipe are",
        )
    return FetchedArm(report, store.fetch(report))
