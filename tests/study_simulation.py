"""Simulated verdicts of a study's cells, with the effects of prompts, seeds and images that the embedded world has.

An image is right where a normal variable lies below its prompt's threshold. The variable is partly the image's own
noise, which all arms and seeds share, and partly the arm's and seed's. Arms and training seeds move the threshold.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import norm

from softalign.study.statistics import estimate, mean_weights, minus

TAGS = {
    "two_object": (6, 0.8),
    "colors": (12, 0.8),
    "position": (24, 0.3),
    "color_attr": (25, 0.75),
    "counting": (42, 0.35),
}
"""Prompts of the study's halves, and the score about which they lie: as the MMDiT twin at guidance 2."""


@dataclass(frozen=True)
class World:
    """Sizes: of the embedded world unless said otherwise.

    Attributes:
        effect: how much the left arm is better (ratio of images, about).
        seed_sd: of the training seeds' mean score, each arm's (ratio).
        prompt_sd: of the prompts' thresholds (standard normal units).
        interaction_sd: of what an arm does to single prompts.
        shared: how much of an image's variance all arms and seeds share.
        num_seeds: of training.
        images_per_prompt: of each arm and seed.
    """

    effect: float = 0.0
    seed_sd: float = 0.01
    prompt_sd: float = 1.0
    interaction_sd: float = 0.15
    shared: float = 0.5
    num_seeds: int = 3
    images_per_prompt: int = 3
    tags: tuple[str, ...] = ("two_object", "colors", "position", "color_attr")


def draw(world: World, rng: np.random.Generator, *, is_base: bool = False):
    """Return the scores of two arms by tag, (S, P); with ``is_base`` the right one has a single row."""
    own = np.sqrt(1.0 - world.shared)
    density = norm.pdf(norm.ppf(np.mean([TAGS[tag][1] for tag in world.tags]))) / np.sqrt(1 + world.prompt_sd**2)
    seeds_AS = rng.normal(0, world.seed_sd / density, (2, world.num_seeds))
    if is_base:
        seeds_AS = np.stack([seeds_AS[0], np.zeros(world.num_seeds)])
    sides = [{}, {}]
    for tag in world.tags:
        number, score = TAGS[tag]
        thresholds_P = norm.ppf(score) * np.sqrt(1 + world.prompt_sd**2) + rng.normal(0, world.prompt_sd, number)
        shared_PJ = rng.normal(0, np.sqrt(world.shared), (number, world.images_per_prompt))
        for side, effect in enumerate((world.effect / density, 0.0)):
            of_prompts_P = rng.normal(0, world.interaction_sd, number)
            rows = 1 if is_base and side else world.num_seeds
            limits_SP1 = (thresholds_P + of_prompts_P + effect)[None, :, None] + seeds_AS[side, :rows, None, None]
            own_SPJ = rng.normal(0, own, (rows, number, world.images_per_prompt))
            sides[side][tag] = (shared_PJ[None] + own_SPJ < limits_SP1).mean(axis=2)
    return sides


def shares_told(world: World, num_studies: int, seed: int, *, is_base: bool = False, confidence: float = 0.95):
    """Return how often the difference is told, its mean, and the mean of what is said to be detectable."""
    rng = np.random.default_rng(seed)
    found = [estimate(minus(*draw(world, rng, is_base=is_base)), mean_weights(world.tags)) for _ in range(num_studies)]
    told = float(np.mean([one.p_value("two_sided") <= 1.0 - confidence for one in found]))
    return (
        told,
        float(np.mean([one.value for one in found])),
        float(np.mean([one.detectable(confidence) for one in found])),
    )


def with_true_difference(world: World, difference: float, *, is_base: bool = False) -> World:
    """Return the world whose left arm is better by so much: thresholds near 0 and 1 move a score less than others."""
    for _ in range(3):
        tried = world if world.effect else replace(world, effect=difference)
        rng = np.random.default_rng(3)
        means = []
        for _ in range(200):
            left, right = draw(replace(tried, seed_sd=0.0), rng, is_base=is_base)
            means.append(np.mean([left[tag].mean() - right[tag].mean() for tag in world.tags]))
        world = replace(tried, effect=tried.effect * difference / float(np.mean(means)))
    return world
