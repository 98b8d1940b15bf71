"""How often a study's statistics raise a false alarm, and how often they find what they say they can: simulated.

    python -m tests.bench.study_power [--studies 2000]

Each row is a size of the training seeds' spread, in points of the mean score; the embedded world's is about one.
"""

import argparse
import sys

from tests.study_simulation import World, shares_told, with_true_difference

CASES = (
    ("adherence, another arm", ("two_object", "colors", "position", "color_attr"), False),
    ("adherence, the base", ("two_object", "colors", "position", "color_attr"), True),
    ("counting, another arm", ("counting",), False),
    ("a tag of 12 prompts", ("colors",), False),
)
SEED_SDS = (0.0, 0.01, 0.02, 0.04)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=2000)
    number = parser.parse_args().studies
    row = "{:<24} {:>8} {:>12} {:>12} {:>14} {:>10}\n"
    sys.stdout.write(row.format("compared", "seeds' sd", "false alarms", "detectable", "true effect", "found"))
    for name, tags, is_base in CASES:
        for seed_sd in SEED_SDS:
            world = World(seed_sd=seed_sd, tags=tags)
            alarms, _, detectable = shares_told(world, number, seed=1, is_base=is_base)
            planted = with_true_difference(world, detectable, is_base=is_base)
            _, _, detectable = shares_told(planted, number // 4, seed=3, is_base=is_base)  # what it says there
            planted = with_true_difference(world, detectable, is_base=is_base)
            found, effect, _ = shares_told(planted, number, seed=2, is_base=is_base)
            sys.stdout.write(
                row.format(
                    name,
                    f"{100 * seed_sd:.0f}",
                    f"{100 * alarms:.1f} %",
                    f"{100 * detectable:.1f}",
                    f"{100 * effect:.1f}",
                    f"{100 * found:.0f} %",
                )
            )


if __name__ == "__main__":
    main()
