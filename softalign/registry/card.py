"""What registration adds to an adapter's card: scores with intervals, pictures, what changed in the data, limits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from softalign.artifacts import ArmReports, ComparisonReport, EvalReport, FrozenT, PairStatistics, TagDifference
from softalign.artifacts.card import DATA_CHANGE_FILENAME, PICTURES_FILENAME, CardPictures, DataChange
from softalign.artifacts.paired import STATISTICS_FILENAME, standing
from softalign.config.families import judge_of
from softalign.errors import IntegrityError
from softalign.store.adapter_files import EVALUATION_HEADING, PICTURES_FOLDER

ARM_TITLES = {"base": "base", "untrained": "untrained tokens", "champion": "champion", "adapter": "adapter"}


def card_sections(comparison: ComparisonReport, reports: ArmReports, published: Path) -> str:
    """Return what goes below the card that training wrote; the same text every time.

    Args:
        comparison: of the arms.
        reports: their scores.
        published: the comparison's files; those of earlier versions have neither pictures nor a change of data.
    """
    pictures = _read(CardPictures, published / PICTURES_FOLDER / PICTURES_FILENAME)
    change = _read(DataChange, published / DATA_CHANGE_FILENAME)
    parts = [
        "" if change is None else _data_section(change),
        evaluation_section(comparison, reports, _read(PairStatistics, published / STATISTICS_FILENAME)),
        "" if pictures is None else _pictures_section(pictures),
    ]
    return "\n".join(part for part in parts if part)


def evaluation_section(comparison: ComparisonReport, reports: ArmReports, statistics: PairStatistics | None) -> str:
    """Return the scores of the arms and the paired gains, each with its interval, and what follows from them."""
    confidence = "" if comparison.confidence is None else f" {100 * comparison.confidence:g} %"
    return "\n".join(
        (
            EVALUATION_HEADING,
            "",
            f"Suite `{comparison.suite}`, judged by `{_judge(comparison)}`, {reports.adapter.num_prompts} prompts, "
            f"{comparison.num_images_per_arm} images per arm; same prompts and noise for every arm. "
            f"{reports.adapter.sampling_text()} {comparison.guidance_text()} Gains are paired differences. All in "
            f"points of a hundred, with{confidence} intervals by bootstrap over prompts.{_stopping(comparison)}",
            "",
            *_score_table(comparison, reports),
            "",
            *(() if statistics is None else _statistics_table(statistics, comparison)),
            *(f"- {sentence}" for sentence in _findings(comparison, statistics)),
            "",
        )
    )


def _stopping(comparison: ComparisonReport) -> str:
    said = comparison.stopping_text()
    return f" {said}" if said else ""


def _score_table(comparison: ComparisonReport, reports: ArmReports) -> Iterator[str]:
    columns: list[tuple[str, dict[str, str]]] = [
        (
            ARM_TITLES[report.arm],
            {
                "overall": _score(report.overall_score, report.overall_ci_low, report.overall_ci_high),
                **{one.tag: _score(one.score, one.ci_low, one.ci_high) for one in report.tags},
            },
        )
        for report in _columns(reports)
    ]
    gains = {
        "gain over base": comparison.adapter_vs_base,
        "gain over untrained tokens": comparison.adapter_vs_untrained,
    }
    if comparison.adapter_vs_champion:
        gains[f"gain over {_version(comparison)}"] = comparison.adapter_vs_champion
    columns += [(title, {entry.tag: _gain(entry) for entry in entries}) for title, entries in gains.items()]
    yield f"| tag ({_judge(comparison)}) | {' | '.join(title for title, _ in columns)} |"
    yield f"| --- |{' --- |' * len(columns)}"
    for tag in columns[0][1]:
        yield f"| {tag} | {' | '.join(cells.get(tag, '') for _, cells in columns)} |"


def _columns(reports: ArmReports) -> tuple[EvalReport, ...]:
    return reports.compared if reports.champion is None else (*reports.compared[:-1], reports.champion, reports.adapter)


def _statistics_table(statistics: PairStatistics, comparison: ComparisonReport) -> Iterator[str]:
    """Yield what the pairs with the base show by tag, and with the others overall."""
    yield "| adapter and base, in pairs | p | images won : lost | detectable |"
    yield "| --- | --- | --- | --- |"
    for one in statistics.adapter_vs_base:
        yield f"| {one.tag} | {one.shown_p:.4f} | {one.wins} : {one.losses} | {100 * one.detectable:.1f} |"
    yield ""
    yield (
        "The p-values of tags are corrected for how many there are (Holm). Detectable is the true difference that so "
        f"many images show in four cases of five; before the first one it was put at "
        f"{100 * statistics.planned_detectable:.1f} overall."
    )
    others = (
        ("untrained tokens", statistics.adapter_vs_untrained),
        (_version(comparison), statistics.adapter_vs_champion),
    )
    for name, tasks in others:
        if tasks:
            yield f"Beside {name}: p = {tasks[-1].p_value:.4f}, {tasks[-1].wins} won, {tasks[-1].losses} lost."
    yield ""


def _judge(comparison: ComparisonReport) -> str:
    return judge_of(comparison.suite, comparison.detector)


def _findings(comparison: ComparisonReport, statistics: PairStatistics | None) -> Iterator[str]:
    """Yield in sentences what is certain of the adapter beside the base, and what was not looked at."""
    p_values = {} if statistics is None else {one.tag: one.shown_p for one in statistics.adapter_vs_base}
    found = {
        entry.tag: standing(entry, p_values.get(entry.tag), comparison.confidence)
        for entry in comparison.adapter_vs_base
    }
    for words, kind in (
        ("Better than the base for certain", "better"),
        ("Worse than the base for certain", "worse"),
        ("Not told apart from the base", "unclear"),
    ):
        if tags := [tag for tag, is_so in found.items() if is_so == kind]:
            yield f"{words}: {', '.join(tags)}."
    yield (
        "Measured is what these prompts ask for, as the suite's detector judges it. Nothing else was: not the look or "
        "the variety of images, no other guidance, number of steps, size, or kind of prompt."
    )


def _pictures_section(pictures: CardPictures) -> str:
    rows = [
        f"| {row.tag} | {_in_table(row.prompt)} | {row.num_correct_base} of {row.num_images} | "
        f"{row.num_correct_adapter} of {row.num_images} |"
        for row in pictures.rows
    ]
    return "\n".join(
        (
            "## Pictures",
            "",
            f"![left: base model; right: adapter]({PICTURES_FOLDER}/{pictures.image})",
            "",
            "Left the base model, right the adapter from the same noise. Of each tag the suite's first prompt and its "
            "first images, whatever they show; from the top, with how many are right:",
            "",
            "| tag | prompt | base | adapter |",
            "| --- | --- | --- | --- |",
            *rows,
            "",
        )
    )


def _data_section(change: DataChange) -> str:
    if change.is_same:
        text = f"The dataset is that of {change.before}, the champion it was compared with."
    elif not change.is_known:
        text = (
            f"The dataset is not that of {change.before}, the champion it was compared with; that one was not at hand."
        )
    else:
        text = (
            f"Since {change.before}, the champion it was compared with: {change.num_images_before} images became "
            f"{change.num_images}; {change.num_added} added, {change.num_removed} removed, {change.num_recaptioned} "
            "with other captions."
        )
    return f"## What changed in the data\n\n{text}\n"


def _in_table(text: str) -> str:
    return text.replace("|", r"\|")


def _version(comparison: ComparisonReport) -> str:
    return comparison.champion.partition("#")[0]


def _score(score: float, low: float, high: float) -> str:
    return f"{score * 100:.1f} [{low * 100:.1f}, {high * 100:.1f}]"


def _gain(entry: TagDifference) -> str:
    return f"{entry.difference * 100:+.1f} [{entry.ci_low * 100:+.1f}, {entry.ci_high * 100:+.1f}]"


def _read(kind: type[FrozenT], path: Path) -> FrozenT | None:
    """Return a stored description; None where a comparison of an earlier version has none."""
    if not path.is_file():
        return None
    try:
        return kind.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise IntegrityError(
            "A comparison's part of the card cannot be read.", found=str(error).splitlines()[0], where=str(path)
        ) from error
