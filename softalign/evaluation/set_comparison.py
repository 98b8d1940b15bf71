"""Two or three sets of verdicts in pairs, by what a prompt asks for and the image's number, whoever made them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from softalign.artifacts import TaskStatistics
from softalign.errors import ConfigError, DataError
from softalign.evaluation.intervals import OVERALL, Interval, counts_by_tag, paired_intervals
from softalign.evaluation.statistics import pair_statistics
from softalign.evaluation.verdicts import CONFIDENCE, NUM_BOOTSTRAP, SEED, VerdictSet, read_verdicts
from softalign.geneval.completeness import Lack, Suite, asked_for
from softalign.geneval.results import image_number, prompt_of
from softalign.geneval.scoring import ImageResult, SuiteScore, summarize
from softalign.registry.sureness import critical_value

MAX_SETS = 3
LETTERS = "ABC"
_NUM_SHOWN = 3
OTHER_JUDGES = "The sets were not judged by the same detector: what differs may be the detectors."
Keyed = dict[tuple[object, ...], ImageResult]


@dataclass(frozen=True)
class PairedDifference:
    """The scores of one set less those of another, per tag and overall, both resampled by the same prompts.

    Attributes:
        statistics: what each difference shows, in the same order.
    """

    candidate: str
    reference: str
    differences: Mapping[str, Interval]
    statistics: tuple[TaskStatistics, ...]


@dataclass(frozen=True)
class SetComparison:
    """Sets of verdicts beside one another.

    Attributes:
        sources: where each is from; A, B and C name them.
        scores: of each, over the images that all have.
        pairs: every later set less every earlier one.
        missing: of each what it lacks of its suite; empty where all are complete.
        num_unpaired: images of some set that another has no verdict of; they are left out.
        sets: as they were read.
        results: of each the verdicts that are compared; those at the same place are a pair.
    """

    sources: tuple[str, ...]
    scores: tuple[SuiteScore, ...]
    pairs: tuple[PairedDifference, ...]
    missing: tuple[tuple[Lack, ...], ...]
    num_unpaired: int
    sets: tuple[VerdictSet, ...]
    results: tuple[tuple[ImageResult, ...], ...]

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as JSON values."""
        sets = zip(LETTERS, self.sources, self.scores, self.missing, self.sets, strict=False)
        return {
            "sets": {
                letter: {
                    "source": source,
                    **score.to_json(),
                    "missing": [lack.model_dump(mode="json") for lack in lacks],
                    "judge": one.judge,
                }
                for letter, source, score, lacks, one in sets
            },
            "confidence": CONFIDENCE,
            "num_unpaired": self.num_unpaired,
            "differences": [
                {
                    "candidate": pair.candidate,
                    "reference": pair.reference,
                    "tags": _to_json(pair.differences),
                    "statistics": [one.model_dump(mode="json") for one in pair.statistics],
                }
                for pair in self.pairs
            ],
        }

    def to_text(self) -> str:
        """Return a table, a row a tag, and what is missing below it."""
        letters = LETTERS[: len(self.sources)]
        lines = [f"{letter}: {one.source} ({one.judge})" for letter, one in zip(letters, self.sets, strict=True)]
        heads = "".join(f"{letter:>8}" for letter in letters)
        lines += ["", f"{'':<14}{heads}" + "".join(f"{_name(pair):>28}" for pair in self.pairs)]
        for tag in (*self.scores[0].tags, OVERALL):
            lines.append(
                f"{tag:<14}" + "".join(f"{_score(one, tag):>8.4f}" for one in self.scores) + self._differences(tag)
            )
        lines.append(
            f"\nDifferences in pairs of {self.scores[0].num_images} images, {CONFIDENCE:.0%} intervals over prompts."
        )
        lines += [self._overall(pair) for pair in self.pairs]
        if len({one.judge for one in self.sets}) > 1:
            lines.append(OTHER_JUDGES)
        if self.num_unpaired:
            lines.append(f"Left out, as not every set has them: {self.num_unpaired} images.")
        for letter, lacks in zip(letters, self.missing, strict=True):
            lines += [f"{letter} is not complete:", *(f"  {lack.to_text()}" for lack in lacks)] if lacks else []
        return "\n".join(lines)

    def _overall(self, pair: PairedDifference) -> str:
        one = pair.statistics[-1]
        return (
            f"{_name(pair)}: p = {one.p_value:.4f}; {one.wins} images won, {one.losses} lost; so many tell "
            f"{one.detectable:.4f} in four cases of five."
        )

    def _differences(self, tag: str) -> str:
        cells = (pair.differences[tag] for pair in self.pairs)
        return "".join(f"{f'{cell.value:+.4f} [{cell.low:+.4f}, {cell.high:+.4f}]':>28}" for cell in cells)


def compare_sets(
    sources: Sequence[str], suite: Suite | None = None, *, is_partial_allowed: bool = False
) -> SetComparison:
    """Compare two or three sets in pairs.

    Args:
        sources: as ``verdicts.read_verdicts`` takes them.
        suite: what each must have; unset: the official suite, or whatever the verdicts say.
        is_partial_allowed: compare what all have, and say what is missing.

    Raises:
        ConfigError: another number of sets.
        DataError: a set is not complete, or one has images that another has not.
    """
    if not 2 <= len(sources) <= MAX_SETS:
        raise ConfigError("Two or three sets are compared.", expected=f"2 to {MAX_SETS}", found=str(len(sources)))
    sets = [read_verdicts(source, suite, is_partial_allowed=is_partial_allowed) for source in sources]
    keyed = [_keyed(one) for one in sets]
    shared = [key for key in keyed[0] if all(key in other for other in keyed)]
    unpaired = set().union(*keyed) - set(shared)
    if not shared or (unpaired and not is_partial_allowed):
        raise _not_paired(sets, keyed)
    paired = [tuple(one[key] for key in shared) for one in keyed]
    alike = [_named_alike(results, paired[0]) for results in paired]
    pairs = tuple(_pair(alike, later, earlier) for earlier, later in combinations(range(len(sets)), 2))
    scores = tuple(summarize(results) for results in paired)
    lacks = tuple(one.lacks for one in sets)
    return SetComparison(tuple(sources), scores, pairs, lacks, len(unpaired), tuple(sets), tuple(paired))


def _pair(alike: Sequence[tuple[ImageResult, ...]], later: int, earlier: int) -> PairedDifference:
    candidate, reference = alike[later], alike[earlier]
    intervals = paired_intervals(
        counts_by_tag(candidate),
        counts_by_tag(reference),
        num_bootstrap=NUM_BOOTSTRAP,
        confidence=CONFIDENCE,
        seed=SEED,
    )
    shown = pair_statistics(candidate, reference, intervals, critical=critical_value(CONFIDENCE), seed=SEED)
    return PairedDifference(LETTERS[later], LETTERS[earlier], intervals, shown)


def _keyed(verdicts: VerdictSet) -> Keyed:
    """Return the verdicts by what makes two images a pair; of prompts that ask the same, the first go together."""
    places: dict[str, tuple[object, ...]] = {}
    counts: Counter[object] = Counter()
    keyed: Keyed = {}
    for result in verdicts.results:
        if result.folder not in places:
            asked = asked_for(prompt_of(result, verdicts.source))
            places[result.folder] = (asked, counts[asked])
            counts[asked] += 1
        keyed[(*places[result.folder], image_number(result.filename))] = result
    return keyed


def _named_alike(results: tuple[ImageResult, ...], first: tuple[ImageResult, ...]) -> tuple[ImageResult, ...]:
    """Return verdicts under the first set's names, so that all are counted by the same prompts in the same order."""
    pairs = zip(results, first, strict=True)
    return tuple(result.model_copy(update={"filename": other.filename}) for result, other in pairs)


def _not_paired(sets: Sequence[VerdictSet], keyed: Sequence[Keyed]) -> DataError:
    found = []
    for letter, other, have in zip(LETTERS, sets, keyed, strict=False):
        lacking = {key: result for one in keyed for key, result in one.items() if key not in have}
        names = [f"{result.prompt} ({result.filename})" for result in lacking.values()]
        if names:
            rest = ", ..." if len(names) > _NUM_SHOWN else ""
            found.append(f"{letter} ({other.source}) lacks {len(names)}: {', '.join(names[:_NUM_SHOWN])}{rest}")
    return DataError(
        "The sets do not show the same prompts and images, so they cannot be compared in pairs.",
        expected="the same prompts, with images of the same numbers",
        found="; ".join(found),
        fix="score the same suite, or compare what all have with --allow-partial, if there is any",
    )


def _to_json(differences: Mapping[str, Interval]) -> dict[str, Any]:
    return {
        tag: {"difference": interval.value, "ci_low": interval.low, "ci_high": interval.high}
        for tag, interval in differences.items()
    }


def _name(pair: PairedDifference) -> str:
    return f"{pair.candidate} - {pair.reference}"


def _score(score: SuiteScore, tag: str) -> float:
    return score.overall_score if tag == OVERALL else score.tags[tag].score
