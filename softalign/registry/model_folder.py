"""The files of a registered version: all of the adapter's, its whole card with pictures, and the ``MLmodel`` file."""

from __future__ import annotations

import shutil
from pathlib import Path

import yaml

from softalign.artifacts import Adapter, ArmReports, ComparisonReport, FileEntry
from softalign.errors import DataError
from softalign.registry.card import card_sections
from softalign.store.adapter_files import CARD_FILENAME, CONFIG_FILENAME, PICTURES_FOLDER, WEIGHTS_FILENAME
from softalign.store.files import list_files
from softalign.version import __version__

MLMODEL_FILENAME = "MLmodel"
FLAVOR = "softalign"


def build_model_folder(
    adapter_path: Path,
    adapter_files: tuple[FileEntry, ...],
    target: Path,
    adapter: Adapter,
    comparison: ComparisonReport,
    reports: ArmReports,
    comparison_path: Path,
) -> tuple[FileEntry, ...]:
    """Write a version's folder and return its file list; the same bytes every time.

    Args:
        adapter_path: the adapter's files.
        adapter_files: their list.
        target: the folder.
        adapter: the adapter's record.
        comparison: of the arms.
        reports: their scores.
        comparison_path: the comparison's files.

    Raises:
        DataError: the adapter lacks its weights or its configuration.
    """
    names = {entry.path for entry in adapter_files}
    if not {WEIGHTS_FILENAME, CONFIG_FILENAME} <= names:
        raise DataError(
            "The adapter is incomplete.",
            expected=f"{WEIGHTS_FILENAME} and {CONFIG_FILENAME}",
            found=", ".join(sorted(names)) or "no file",
            where=adapter.uri,
            fix="run the train stage again",
        )
    shutil.rmtree(target, ignore_errors=True)
    for name in sorted(names):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(adapter_path / name, target / name)
    _complete_card(target, f"# {adapter.name}\n", card_sections(comparison, reports, comparison_path))
    _copy_pictures(comparison_path / PICTURES_FOLDER, target / PICTURES_FOLDER)
    (target / MLMODEL_FILENAME).write_text(mlmodel(adapter), encoding="utf-8")
    return list_files(target)


def _copy_pictures(published: Path, target: Path) -> None:
    for path in sorted(published.glob("base-and-adapter.*")):
        target.mkdir(exist_ok=True)
        shutil.copyfile(path, target / path.name)


def _complete_card(target: Path, title: str, sections: str) -> None:
    """Put sections below the card that training wrote, or below a title where it wrote none."""
    path = target / CARD_FILENAME
    card = path.read_text(encoding="utf-8") if path.is_file() else title
    path.write_text(f"{card.rstrip()}\n\n{sections}", encoding="utf-8")


def mlmodel(adapter: Adapter) -> str:
    """Return the ``MLmodel`` description: one flavor of our own, read by ``softalign.load_soft_tokens``.

    There is no ``python_function`` flavor on purpose: soft tokens change a pipeline the consumer already has, they do
    not answer requests by themselves.
    """
    flavor = {
        "adapter_type": "SOFT_TOKENS",
        "base_model": adapter.base_model,
        "base_model_revision": adapter.base_model_revision,
        "family": adapter.family,
        "loader": "softalign.load_soft_tokens",
        "softalign_version": __version__,
        "weights": WEIGHTS_FILENAME,
    }
    return yaml.safe_dump({"artifact_path": "model", "flavors": {FLAVOR: flavor}}, sort_keys=True)
