"""The files of a registered version: all of the adapter's, its scores in the card, and the ``MLmodel`` description."""

from __future__ import annotations

import shutil
from pathlib import Path

import yaml

from softalign.artifacts import Adapter, ArmReports, ComparisonReport, FileEntry, TagDifference
from softalign.errors import DataError
from softalign.store.adapter_files import CARD_FILENAME, CONFIG_FILENAME, WEIGHTS_FILENAME
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
) -> tuple[FileEntry, ...]:
    """Write a version's folder and return its file list; the same bytes every time.

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
    path = adapter_path / CARD_FILENAME
    card = path.read_text(encoding="utf-8") if CARD_FILENAME in names else f"# {adapter.name}\n"
    card = f"{card.rstrip()}\n\n{evaluation_section(comparison, reports)}"
    (target / CARD_FILENAME).write_text(card, encoding="utf-8")
    (target / MLMODEL_FILENAME).write_text(mlmodel(adapter), encoding="utf-8")
    return list_files(target)


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


def evaluation_section(comparison: ComparisonReport, reports: ArmReports) -> str:
    """Return the card's section with the scores of the three arms and the paired gain over the base."""
    gains = {entry.tag: entry for entry in comparison.adapter_vs_base}
    scores = [
        {"overall": report.overall_score, **{tag.tag: tag.score for tag in report.tags}} for report in reports.compared
    ]
    lines = [
        "## Evaluation",
        "",
        f"Suite `{comparison.suite}`, {comparison.num_images_per_arm} images per arm; same prompts and noise for every "
        f"arm. {comparison.guidance_text()} Gain: paired difference to the base, with its bootstrap interval over "
        "prompts. All in points of a hundred.",
        "",
        f"| tag | {' | '.join(report.arm for report in reports.compared)} | gain over base |",
        f"| --- |{' --- |' * (len(reports.compared) + 1)}",
    ]
    for tag in scores[0]:
        cells = [f"{score[tag] * 100:.1f}" if tag in score else "" for score in scores]
        gain = gains.get(tag)
        cells.append(_gain(gain) if gain else "")
        lines.append(f"| {tag} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _gain(entry: TagDifference) -> str:
    return f"{entry.difference * 100:+.1f} ({entry.ci_low * 100:+.1f} to {entry.ci_high * 100:+.1f})"
