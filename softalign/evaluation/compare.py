"""The paired comparison of the three arms: same prompts, same noise; differences say more than scores."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from softalign.artifacts import Adapter, ArmReports, ComparisonReport, EvalReport, Frozen, GuidedBase
from softalign.artifacts.card import DATA_CHANGE_FILENAME, DataChange
from softalign.artifacts.fronts import FRONTS_FILENAME, GuidanceFronts
from softalign.artifacts.metrics import METRIC_SCORES_FILENAME, MetricsReport
from softalign.artifacts.paired import STATISTICS_FILENAME
from softalign.config.evaluation import EvalConfig
from softalign.errors import CompatibilityError
from softalign.evaluation.arm_distance import arm_distances
from softalign.evaluation.arm_metrics import metrics_report
from softalign.evaluation.arms import DETECTIONS_FILENAME
from softalign.evaluation.card_pictures import write_pictures
from softalign.evaluation.differences import Pairs, compare_pairs
from softalign.evaluation.evaluated_tokens import tokens_digest
from softalign.evaluation.fronts import check_sweep, guidance_fronts
from softalign.evaluation.packs import ArmImages
from softalign.evaluation.report.page import Compared, render_page
from softalign.geneval.scoring import RESULTS_FILENAME, ImageResult, read_results
from softalign.store.adapter_files import PICTURES_FOLDER
from softalign.store.store import Store

PAIRS_FILENAME = "pairs.jsonl"
REPORT_FILENAME = "report.html"


@dataclass(frozen=True)
class ArmFiles:
    """One arm as it was published: its record, its folder and its results in the suite's order."""

    report: EvalReport
    root: Path
    results: tuple[ImageResult, ...]

    @property
    def images(self) -> ArmImages:
        """The images, and the prompts they were made of."""
        return ArmImages(self.root)

    @property
    def detections_path(self) -> Path:
        """The recorded detections."""
        return self.root / DETECTIONS_FILENAME


def compare(
    reports: ArmReports,
    adapter: Adapter,
    config: EvalConfig,
    store: Store,
    key: str,
    data_change: DataChange | None = None,
) -> ComparisonReport:
    """Compare the arms in pairs and publish ``comparison.json``, page, pairs, statistics, and the card's part.

    Args:
        reports: of the arms.
        adapter: the adapter that was evaluated; its training curves go into the report.
        config: intervals; the arms' own configuration.
        store: where everything lies.
        key: the stage key.
        data_change: for the card: what the adapter was trained on, beside what the champion was.

    Raises:
        CompatibilityError: the arms are not of one suite, or of another adapter.
        IntegrityError: an arm's files are not what was published.
    """
    _check(reports, adapter, config, store)
    arms = tuple(_load_arm(report, store) for report in reports.compared)
    champion = None if reports.champion is None else _load_arm(reports.champion, store)
    everyone = arms if champion is None else (*arms, champion)
    swept = tuple(_load_arm(report, store) for report in reports.sweep)
    _check_pairs((*everyone, *swept))
    pairs = compare_pairs(*(arm.results for arm in (*reversed(arms), *everyone[len(arms) :])), config=config)
    comparison = _comparison(arms, champion, reports.guided_base, adapter, config, key, pairs)
    (work := store.work_path("compare", key) / "output").mkdir(exist_ok=True)
    (work / PAIRS_FILENAME).write_text(_pairs_text(everyone), encoding="utf-8")
    (work / STATISTICS_FILENAME).write_text(pairs.statistics.to_json(), encoding="utf-8")
    fronts, metrics = _write_what_else_is_asked(work, everyone, swept, config)
    shown = Compared(comparison, pairs.statistics, fronts, metrics, (*arms[:-1], *everyone[len(arms) :], arms[-1]))
    (work / REPORT_FILENAME).write_text(render_page(shown, adapter, store.fetch(adapter), config), encoding="utf-8")
    _write_for_card(work, arms, data_change)
    published = store.publish(comparison, work)
    shutil.rmtree(work.parent, ignore_errors=True)
    return published


def _check(reports: ArmReports, adapter: Adapter, config: EvalConfig, store: Store) -> None:
    _check_belonging(reports, adapter, store)
    _check_reference(reports)
    _check_champion(reports.champion, config)
    check_sweep(reports.sweep, config)


def _write_record(path: Path, record: Frozen) -> None:
    path.write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")


def _write_what_else_is_asked(
    work: Path, everyone: tuple[ArmFiles, ...], swept: tuple[ArmFiles, ...], config: EvalConfig
) -> tuple[GuidanceFronts | None, MetricsReport | None]:
    drawn = (*everyone, *swept)
    distances = () if config.distance is None else tuple(arm_distances(arm) for arm in drawn)
    metrics = metrics_report(everyone, config, distances) if config.metrics or distances else None
    fronts = guidance_fronts(drawn, config, distances) if swept else None
    for filename, record in ((METRIC_SCORES_FILENAME, metrics), (FRONTS_FILENAME, fronts)):
        if record is not None:
            _write_record(work / filename, record)
    return fronts, metrics


def _write_for_card(work: Path, arms: tuple[ArmFiles, ...], data_change: DataChange | None) -> None:
    shutil.rmtree(work / PICTURES_FOLDER, ignore_errors=True)  # of an attempt that was killed
    write_pictures(work / PICTURES_FOLDER, arms[0], arms[-1])
    if data_change is not None:
        _write_record(work / DATA_CHANGE_FILENAME, data_change)


def _comparison(
    arms: tuple[ArmFiles, ...],
    champion: ArmFiles | None,
    reference: EvalReport | None,
    adapter: Adapter,
    config: EvalConfig,
    key: str,
    pairs: Pairs,
) -> ComparisonReport:
    base, untrained, candidate = arms
    references = [] if reference is None else [reference.digest]
    references += [] if champion is None else [champion.report.digest]
    return ComparisonReport(
        stage_key=key,
        parents=(*(arm.report.digest for arm in arms), adapter.digest, *references),
        suite=candidate.report.suite,
        overall_base=base.report.overall_score,
        overall_untrained=untrained.report.overall_score,
        overall_adapter=candidate.report.overall_score,
        adapter_vs_base=pairs.over_base.differences,
        adapter_vs_untrained=pairs.over_untrained.differences,
        num_images_per_arm=candidate.report.num_images,
        guidance_scale=config.guidance_scale,
        denoiser_calls_per_image=config.denoiser_calls_per_image,
        guided_base=None if reference is None else _reference(reference, config),
        champion=config.pinned_champion,
        overall_champion=None if champion is None else champion.report.overall_score,
        adapter_vs_champion=pairs.over_champion.differences,
        confidence=config.confidence,
        seed=config.seed,
        over_base=pairs.statistics.over_base,
        over_untrained=pairs.statistics.over_untrained,
        over_champion=pairs.statistics.over_champion,
        detector=candidate.report.detector,
        stopping=pairs.statistics.stopping,
    )


def _reference(report: EvalReport, config: EvalConfig) -> GuidedBase:
    return GuidedBase(
        guidance_scale=report.guidance_scale,
        denoiser_calls_per_image=config.of_arm("guided_base").denoiser_calls_per_image,
        overall_score=report.overall_score,
        overall_ci_low=report.overall_ci_low,
        overall_ci_high=report.overall_ci_high,
    )


def _load_arm(report: EvalReport, store: Store) -> ArmFiles:
    root = store.fetch(report)
    return ArmFiles(report=report, root=root, results=read_results(root / RESULTS_FILENAME))


def _check_belonging(reports: ArmReports, adapter: Adapter, store: Store) -> None:
    found = tuple(report.arm for report in reports.compared)
    if found != ("base", "untrained", "adapter"):
        raise CompatibilityError(
            "The reports are of other arms.", expected="base, untrained, adapter", found=", ".join(found)
        )
    for report in reports.compared:
        expected = tokens_digest(report.arm, adapter, store)
        if report.adapter_digest != expected:
            raise CompatibilityError(
                f"The arm {report.arm} was evaluated with another adapter.",
                expected=f"digest {expected or 'of no adapter'}",
                found=report.adapter_digest or "no adapter",
                where=report.uri,
                fix="evaluate this adapter",
            )


def _check_reference(reports: ArmReports) -> None:
    reference, candidate = reports.guided_base, reports.adapter
    expected = ("guided_base", candidate.suite, candidate.num_images)
    if reference is not None and (reference.arm, reference.suite, reference.num_images) != expected:
        raise CompatibilityError(
            "The reference is not the base with guidance on the arms' prompts.",
            expected=f"arm guided_base, {candidate.num_images} images of suite {candidate.suite}",
            found=f"arm {reference.arm}, {reference.num_images} images of suite {reference.suite}",
            fix="evaluate it with the arms' configuration",
        )


def _check_champion(report: EvalReport | None, config: EvalConfig) -> None:
    found = "none" if report is None else f"sha256 {report.adapter_digest}"
    expected = f"sha256 {config.pinned_champion.partition('#')[2]}" if config.pinned_champion else "none"
    if found != expected:
        raise CompatibilityError(
            "The champion's arm is of other tokens than the champion's.",
            expected=expected,
            found=found,
            where=config.pinned_champion or "evaluate.champion",
            fix="evaluate it with the arms' configuration",
        )


def _check_pairs(arms: tuple[ArmFiles, ...]) -> None:
    reference = arms[0]
    for arm in arms[1:]:
        if [(r.filename, r.metadata) for r in arm.results] != [(r.filename, r.metadata) for r in reference.results]:
            raise CompatibilityError(
                "The arms do not show the same prompts and images, so they cannot be compared in pairs.",
                expected=f"{len(reference.results)} images of suite {reference.report.suite}",
                found=f"{len(arm.results)} images of suite {arm.report.suite} in arm {arm.report.arm}",
                fix="evaluate all arms with the same configuration",
            )


def _pairs_text(arms: tuple[ArmFiles, ...]) -> str:
    """Return one line an image with every arm's verdict: what a data frame wants."""
    lines = []
    for results in zip(*(arm.results for arm in arms), strict=True):
        first = results[0]
        row: dict[str, Any] = {"filename": first.filename, "tag": first.tag, "prompt": first.prompt}
        row.update((arm.report.arm, result.correct) for arm, result in zip(arms, results, strict=True))
        lines.append(json.dumps(row) + "\n")
    return "".join(lines)
