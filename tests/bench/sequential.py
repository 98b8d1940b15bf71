"""``python -m tests.bench.sequential``: what deciding early saves and how often it errs, in simulated evaluations.

Each evaluation is one of GenEval's official size. Prompts are sampled: how likely an arm has a prompt's image right is
Beta-distributed over the prompts of a tag (concentration ``CONCENTRATION``: most are nearly always or nearly never
right), about the published scores of Stable Diffusion 1.5 by tag, and alike between arms. Arms share an image's noise:
with the chance ``SHARED`` the same number decides about base and adapter.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

from softalign.config.evaluation import EvalConfig
from softalign.config.registration import PromotionPolicy
from softalign.evaluation.deciding_early import Answer, Differences, gate_answer
from softalign.evaluation.looks import answer_of

NUM_PROMPTS = {"single_object": 80, "two_object": 99, "counting": 80, "colors": 94, "position": 100, "color_attr": 100}
MEANS = {
    "single_object": 0.97,
    "two_object": 0.38,
    "counting": 0.35,
    "colors": 0.76,
    "position": 0.04,
    "color_attr": 0.06,
}
"""GenEval's published scores of Stable Diffusion 1.5 (D. Ghosh et al., 2023, table 2)."""
CONCENTRATION, ALIKE, SHARED = 1.5, 0.95, 0.6
ROUNDS, CONFIDENCE = 4, 0.95
CONFIG = EvalConfig(images_per_prompt=ROUNDS, confidence=CONFIDENCE, num_bootstrap=1000, stop="when_decided")
THRESHOLD = 0.02
EFFECTS = {"nil": 0.0, "small": 0.01, "the gate's threshold": THRESHOLD, "large": 0.08}
GATE = PromotionPolicy(min_overall_gain=THRESHOLD)
QUESTION = PromotionPolicy(must_beat_untrained=False, max_tag_drop=1.0, min_overall_gain=-1.0)
"""One interval alone, so that its error rate is seen."""
POPULATION = 50_000


@dataclass(frozen=True)
class Simulated:
    """What some simulated evaluations of one effect came to.

    Attributes:
        promoted_at_once: share that is promoted by looking once, at all images, with the plain interval.
        promoted: share that is promoted deciding early.
        same: share of evaluations with the same answer.
        images: mean share of the images that were drawn.
        after: share that ended after each round.
    """

    effect: float
    promoted_at_once: float
    promoted: float
    same: float
    images: float
    after: tuple[float, ...]


@dataclass(frozen=True)
class Population:
    """Chances of base and adapter on very many prompts of each tag."""

    base: dict[str, NDArray[np.float64]]
    adapter: dict[str, NDArray[np.float64]]


def population(effect: float) -> Population:
    """Return prompts whose chances differ by the effect in the mean over tags; one object has no room for a gain."""
    rng = np.random.default_rng(1)
    base, adapter = {}, {}
    for tag, mean in MEANS.items():
        gain = 0.0 if tag == "single_object" else effect * len(MEANS) / (len(MEANS) - 1)
        first, other = rng.standard_normal((2, POPULATION))
        second = ALIKE * first + (1 - ALIKE**2) ** 0.5 * other
        base[tag], adapter[tag] = _chances(mean, first), _chances(mean + gain, second)
    return Population(base, adapter)


def _chances(mean: float, normal: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return Beta-distributed chances of exactly this mean over the population."""
    ranks = (np.argsort(np.argsort(normal)) + 0.5) / len(normal)
    return beta.ppf(ranks, mean * CONCENTRATION, (1 - mean) * CONCENTRATION)


def draw(people: Population, rng: np.random.Generator) -> tuple[dict[str, NDArray], dict[str, NDArray]]:
    """Return of every image adapter - base and adapter - untrained tokens, which act as the base."""
    over_base, over_untrained = {}, {}
    for tag, number in NUM_PROMPTS.items():
        picked = rng.integers(POPULATION, size=number)
        chances = (people.adapter[tag][picked], people.base[tag][picked], people.base[tag][picked])
        common = rng.random((number, ROUNDS))
        adapter, base, untrained = (
            np.where(rng.random(common.shape) < SHARED, common, rng.random(common.shape)) < chance[:, None]
            for chance in chances
        )
        over_base[tag] = adapter.astype(np.int8) - base
        over_untrained[tag] = adapter.astype(np.int8) - untrained
    return over_base, over_untrained


def run_through(
    over_base: Differences, over_untrained: Differences, policy: PromotionPolicy, *, is_stopped_when_hopeless: bool
) -> tuple[Answer, int]:
    """Return the answer and the round after which it was given."""
    for drawn in range(1, ROUNDS + 1):
        seen = [{tag: one[:, :drawn] for tag, one in pair.items()} for pair in (over_base, over_untrained)]
        if is_stopped_when_hopeless:  # what a recipe's evaluation does
            over = dict(zip(("base", "untrained"), seen, strict=True))
            answer = answer_of(over, CONFIG.after_rounds(drawn), policy)
        else:
            options = {"num_rounds": ROUNDS, "confidence": CONFIDENCE, "is_stopped_when_hopeless": False}
            answer = gate_answer(policy, *seen, **options)
        if answer != "open":
            return answer, drawn
    raise AssertionError("the last round decides")


def at_once(over_base: Differences, over_untrained: Differences, policy: PromotionPolicy) -> Answer:
    """Return the gate's answer from all images as one round of four: its boundary is the plain interval's."""
    pairs = (
        {tag: one.mean(axis=1, keepdims=True) for tag, one in pair.items()} for pair in (over_base, over_untrained)
    )
    return gate_answer(policy, *pairs, num_rounds=1, confidence=CONFIDENCE)


def simulate(
    effect: float, policy: PromotionPolicy, number: int, *, is_stopped_when_hopeless: bool = True, seed: int = 0
) -> Simulated:
    """Return what so many evaluations of one true effect come to."""
    people, rng = population(effect), np.random.default_rng(seed)
    early, whole = [], []
    for _ in range(number):
        pairs = draw(people, rng)
        early.append(run_through(*pairs, policy, is_stopped_when_hopeless=is_stopped_when_hopeless))
        whole.append(at_once(*pairs, policy))
    ends = np.array([drawn for _, drawn in early])
    return Simulated(
        effect=effect,
        promoted_at_once=np.mean([answer == "yes" for answer in whole]),
        promoted=np.mean([answer == "yes" for answer, _ in early]),
        same=np.mean([answer == other for (answer, _), other in zip(early, whole, strict=True)]),
        images=float(ends.mean()) / ROUNDS,
        after=tuple(float(np.mean(ends == drawn)) for drawn in range(1, ROUNDS + 1)),
    )


def most_erring(alpha: float, number: int) -> float:
    """Return the largest error rate that so many evaluations may show: three standard errors above the nominal one."""
    return alpha + 3 * (alpha * (1 - alpha) / number) ** 0.5


def main(number: int = 2000) -> None:
    """Print a table for the gate, and one for a single interval with and without stopping when it is hopeless."""
    cases = (
        ("the gate", GATE, True),
        ("one interval", QUESTION, True),
        ("one interval, never hopeless", QUESTION, False),
    )
    for name, policy, is_stopped in cases:
        print(f"{name}: {number} evaluations an effect, {ROUNDS} rounds of {sum(NUM_PROMPTS.values())} prompts")
        print(f"{'true effect':<30} {'promoted':>9} {'at once':>9} {'same':>7} {'images':>7}  ended after round 1..4")
        for label, effect in EFFECTS.items():
            found = simulate(effect, policy, number, is_stopped_when_hopeless=is_stopped)
            after = " ".join(f"{share:6.1%}" for share in found.after)
            print(
                f"{label + f' ({effect * 100:+.0f} points)':<30} {found.promoted:9.2%} {found.promoted_at_once:9.2%} "
                f"{found.same:7.1%} {found.images:7.1%}  {after}"
            )


if __name__ == "__main__":
    main()
