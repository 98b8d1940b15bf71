"""Metrics of one or two folders of images: a file of scores beside the images, means, and paired differences."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from softalign.artifacts import Frozen
from softalign.artifacts.metrics import MetricDifference, MetricMean
from softalign.config.metrics import MetricConfig
from softalign.config.runtime import Runtime
from softalign.errors import DataError
from softalign.evaluation.image_files import load_image
from softalign.evaluation.image_lines import Maker, Measure, complete_lines
from softalign.evaluation.metric_statistics import Resampling, Values, metric_difference, metric_mean
from softalign.evaluation.verdicts import CONFIDENCE, NUM_BOOTSTRAP, SEED
from softalign.geneval.completeness import Lack, Suite, asked_for, inspect_set, require_complete
from softalign.geneval.layout import PromptFolder, read_folders
from softalign.geneval.results import image_number
from softalign.metrics.scorer import load_scorer, metric_fingerprint

_HOW = Resampling(NUM_BOOTSTRAP, CONFIDENCE, SEED)
_FIX = (
    "make what is missing; name the prompts of another suite, or of a cut one, with --suite FILE; or score what is "
    "there with --allow-partial: it prints what is missing"
)


class SetMetrics(Frozen):
    """One folder's means, and what it lacks of its suite; ``source`` is the folder."""

    source: str
    means: tuple[MetricMean, ...]
    missing: tuple[Lack, ...]


class MetricSets(Frozen):
    """One or two folders beside one another.

    Attributes:
        differences: B - A in pairs of images, where there are two.
        num_unpaired: images that one has and the other has not; they are in no difference.
    """

    sets: tuple[SetMetrics, ...]
    differences: tuple[MetricDifference, ...] = ()
    num_unpaired: int = 0
    confidence: float = CONFIDENCE

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return self.model_dump(mode="json")

    def to_text(self) -> str:
        """Return a table, a row a metric, and what is missing below it."""
        letters = "AB"[: len(self.sets)]
        lines = [f"{letter}: {one.source}" for letter, one in zip(letters, self.sets, strict=True)]
        heads = [*letters, *(["B - A"] if self.differences else [])]
        lines += ["", f"{'':<12}" + "".join(f"{head:>32}" for head in heads)]
        for row, first in enumerate(self.sets[0].means):
            cells = [_cell(one.means[row].mean, one.means[row].ci_low, one.means[row].ci_high) for one in self.sets]
            cells += [_cell(one.difference, one.ci_low, one.ci_high, "+") for one in self.differences[row : row + 1]]
            lines.append(f"{first.metric:<12}" + "".join(f"{cell:>32}" for cell in cells))
        lines += ["", f"Means over prompts, {self.confidence:.0%} intervals."]
        lines += [
            f"B - A, {one.metric}: p {one.p_value:.2g}; {one.prompts_better} prompts higher, {one.prompts_worse} lower."
            for one in self.differences
        ]
        if self.num_unpaired:
            lines.append(f"In no difference, as not both have them: {self.num_unpaired} images.")
        for letter, one in zip(letters, self.sets, strict=True):
            lines += (
                [f"{letter} is not complete:", *(f"  {lack.to_text()}" for lack in one.missing)] if one.missing else []
            )
        return "\n".join(lines)


@dataclass(frozen=True)
class _ReadSet:
    root: Path
    folders: tuple[PromptFolder, ...]
    lacks: tuple[Lack, ...]


def measure_sets(
    roots: Sequence[Path],
    metrics: Sequence[MetricConfig],
    runtime: Runtime,
    suite: Suite | None = None,
    *,
    is_partial_allowed: bool = False,
) -> MetricSets:
    """Score one folder in GenEval's layout, or two in pairs; images that were scored are not scored again.

    Args:
        roots: one or two folders, A and B.
        metrics: what to score by.
        runtime: the device.
        suite: what each must have; unset: the official suite, or whatever its folders say.
        is_partial_allowed: score what is there, and say what is missing.

    Raises:
        MissingInputError: a folder or a model is not there.
        DataError: a set is not complete, or the two have no image in common.
        CompatibilityError: a model cannot be used.
        ConfigError: a folder has a file of scores that came from elsewhere.
    """
    sets = [_read(root, suite, is_partial_allowed=is_partial_allowed) for root in roots]
    names = [_paired_names(one) for one in sets]
    shared = [key for key in names[0] if all(key in other for other in names)]
    num_unpaired = len(set().union(*names)) - len(shared)
    if not shared or (num_unpaired and not is_partial_allowed):
        raise _not_paired(roots, len(shared), num_unpaired)
    values = [[_values(one, metric, runtime) for metric in metrics] for one in sets]
    return MetricSets(
        sets=tuple(_set_metrics(one, metrics, own) for one, own in zip(sets, values, strict=True)),
        differences=_differences(metrics, names, values, shared) if len(sets) > 1 else (),
        num_unpaired=num_unpaired,
    )


def _set_metrics(one: _ReadSet, metrics: Sequence[MetricConfig], values: Sequence[Values]) -> SetMetrics:
    means = tuple(metric_mean(metric, own, _HOW) for metric, own in zip(metrics, values, strict=True))
    return SetMetrics(source=str(one.root), means=means, missing=one.lacks)


def _not_paired(roots: Sequence[Path], num_shared: int, num_unpaired: int) -> DataError:
    return DataError(
        "The sets do not show the same prompts and images, so they cannot be compared in pairs.",
        expected="the same prompts, with images of the same numbers",
        found=f"{num_shared} images that both have, {num_unpaired} that one has",
        where=" and ".join(map(str, roots)),
        fix="make the same suite, or compare what both have with --allow-partial, if there is any",
    )


def measure_image(prompts: Mapping[str, str], metric: MetricConfig, runtime: Runtime) -> Measure:
    """Return the function that scores an image, given its name and its file; loads the model.

    Args:
        prompts: by the images' names.
        metric: its model.
        runtime: the device.
    """
    from softalign.backbones.frozen_pipeline import resolve_device

    score = load_scorer(metric, resolve_device(runtime))

    def measure(name: str, data: bytes) -> dict[str, Any]:
        prompt = prompts[name]
        return {"prompt": prompt, metric.name: score(load_image(io.BytesIO(data)), prompt)}

    return measure


def _read(root: Path, suite: Suite | None, *, is_partial_allowed: bool) -> _ReadSet:
    found = inspect_set(root, read_folders(root), suite)
    if not is_partial_allowed:
        require_complete(found.lacks, str(root), _FIX)
    return _ReadSet(root, found.folders, found.lacks)


def _values(one: _ReadSet, metric: MetricConfig, runtime: Runtime) -> Values:
    prompts = {name: folder.prompt.prompt for folder in one.folders for name in folder.filenames}
    maker = Maker("model", metric_fingerprint(metric), partial(measure_image, prompts, metric, runtime), metric.name)
    lines = complete_lines(one.root / f"{metric.name}.jsonl", one.root, prompts, maker)
    return {name: row[metric.name] for name, row in lines.lines.items()}


def _paired_names(one: _ReadSet) -> dict[tuple[object, ...], str]:
    """Return the images' names by what makes two a pair; of prompts that ask the same, the first go together."""
    counts: Counter[object] = Counter()
    keyed: dict[tuple[object, ...], str] = {}
    for folder in one.folders:
        asked = asked_for(folder.prompt)
        keyed |= {(asked, counts[asked], image_number(name)): name for name in folder.filenames}
        counts[asked] += 1
    return keyed


def _differences(
    metrics: Sequence[MetricConfig],
    names: Sequence[Mapping[tuple[object, ...], str]],
    values: Sequence[Sequence[Values]],
    shared: Sequence[tuple[object, ...]],
) -> tuple[MetricDifference, ...]:
    """Return B - A of every metric, under A's names."""
    found = []
    for metric, first, second in zip(metrics, *values, strict=True):
        reference = {names[0][key]: first[names[0][key]] for key in shared}
        candidate = {names[0][key]: second[names[1][key]] for key in shared}
        found.append(metric_difference(metric.name, candidate, reference, _HOW))
    return tuple(found)


def _cell(value: float, low: float, high: float, sign: str = "") -> str:
    return f"{value:{sign}.4f} [{low:{sign}.4f}, {high:{sign}.4f}]"
