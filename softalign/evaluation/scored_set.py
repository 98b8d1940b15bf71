"""A folder that was scored, and its evaluation card: Markdown with the scores, who judged, and what is missing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ValidationError

from softalign.config.families import judge_of
from softalign.evaluation.intervals import OVERALL
from softalign.evaluation.suites import known_classes
from softalign.evaluation.verdicts import CONFIDENCE, SetStatistics, statistics
from softalign.geneval.completeness import Lack
from softalign.geneval.detections import Detection, read_detections
from softalign.geneval.layout import read_folders
from softalign.geneval.scoring import ImageResult, SuiteScore, read_results

GENERATION_FILENAME = "generation.json"


class Drawn(BaseModel):
    """What a card says of how a set was drawn: of ``softalign.sampling.geneval_set.Generation``, which loads torch.

    Attributes:
        resolution_px: None: the model's own.
        sampler: empty in sets of earlier versions.
    """

    base_model: str
    adapter: str
    seed: int
    num_inference_steps: int
    guidance_scale: float
    resolution_px: int | None
    sampler: str = ""


@dataclass(frozen=True)
class ScoredSet:
    """A folder of images that was scored.

    Attributes:
        root: the folder.
        results_path: its ``results.jsonl``.
        results: its lines.
        found: scores and intervals.
        detections: what its verdicts were made of.
    """

    root: Path
    results_path: Path
    results: tuple[ImageResult, ...]
    found: SetStatistics
    detections: Mapping[str, Sequence[Detection]]

    @property
    def judge(self) -> str:
        """What its scores are called by who judged the images."""
        return judge_of("", self.found.summary.detector)

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.root.resolve().name

    @property
    def drawn(self) -> Drawn | None:
        """How the images were drawn, where ``softalign geneval generate`` drew them."""
        path = self.root / GENERATION_FILENAME
        try:
            return Drawn.model_validate_json(path.read_bytes()) if path.is_file() else None
        except ValidationError:
            return None


def scored_set(root: Path, results_path: Path, summary: SuiteScore, detections_path: Path) -> ScoredSet:
    """Return a folder that ``suites.score_directory`` scored, with its intervals."""
    results = read_results(results_path)
    found = statistics(results, summary.missing, summary.detector)
    detections = read_detections(detections_path, known_classes(read_folders(root)))
    return ScoredSet(root, results_path, results, found, detections)


def card_text(scored: ScoredSet) -> str:
    """Return the evaluation card: scores with intervals, who judged, how the images were made, and what is missing."""
    return "\n".join([f"# GenEval scores of {_plain(scored.name)}", "", *_card_lines(scored), ""])


def _card_lines(scored: ScoredSet) -> Iterator[str]:
    summary, missing = scored.found.summary, scored.found.summary.missing
    mark = " (partial)" if missing else ""
    if missing:
        yield from _missing_lines(missing)
    yield f"| task | {scored.judge}, of 100 | {100 * CONFIDENCE:g} % interval | correct | images |"
    yield "| --- | --- | --- | --- | --- |"
    for tag, interval in scored.found.intervals.items():
        task = summary.tags.get(tag) if tag != OVERALL else None
        tasks = [task] if task else list(summary.tags.values())
        num_correct, num_images = sum(one.num_correct for one in tasks), sum(one.num_images for one in tasks)
        bounds = f"{100 * interval.low:.1f} to {100 * interval.high:.1f}"
        yield f"| {_plain(tag)} | {100 * interval.value:.1f}{mark} | {bounds} | {num_correct} | {num_images} |"
    yield ""
    yield (
        f"Overall is the mean of the tasks. {summary.num_prompts_any_correct} prompts have at least one correct image. "
        "Intervals are by bootstrap over prompts."
    )
    yield ""
    yield judged_by(scored.judge)
    yield ""
    yield _plain(drawn_how(scored.drawn))


def _missing_lines(missing: Sequence[Lack]) -> Iterator[str]:
    yield "**The set is not complete.** These are the scores of what can be scored of it, not the suite's:"
    yield ""
    for lack in missing:
        yield f"- {_plain(lack.to_text())}"
    yield ""


def judged_by(judge: str) -> str:
    """Return in a sentence who judged the images."""
    said = {
        "geneval": "Judged with the official detector's weights: these scores may be called geneval.",
        "geneval-hf": "Judged with other weights than the official ones: these are geneval-hf scores, which compare "
        "with others of the same weights alone.",
        "embedded": "Judged by the embedded world's detector.",
    }
    return said.get(judge, "Judged from recorded detections, whose detector is not known: these scores have no name.")


def drawn_how(drawn: Drawn | None) -> str:
    """Return in sentences how the images were drawn."""
    if drawn is None:
        return "How the images were made is not recorded."
    side = "the model's own size" if drawn.resolution_px is None else f"{drawn.resolution_px} pixels"
    sampler = f"sampler {drawn.sampler}, " if drawn.sampler else ""
    return (
        f"Drawn from {drawn.base_model}, adapter {drawn.adapter}: {sampler}{drawn.num_inference_steps} "
        f"steps, guidance {drawn.guidance_scale:g}, {side}, seed {drawn.seed}."
    )


def _plain(text: str) -> str:
    """Return text that Markdown shows as it is: prompts and names of folders come from anywhere."""
    return "".join(f"\\{letter}" if letter in r"\`*_[]<>|#&!~" else letter for letter in " ".join(text.split()))
