"""What a dataset's captions and images are like, as counts over fixed bins: two datasets can be laid side by side."""

from __future__ import annotations

import unicodedata
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable

from softalign.artifacts import Frozen

CAPTION_CHARS = (0, 10, 20, 30, 40, 50, 60, 70, 80, 100, 120, 150, 200, 300, 500, 1000)
SIDES_PX = (0, 32, 64, 128, 192, 256, 320, 384, 448, 512, 640, 768, 1024, 1536, 2048, 4096)
ASPECT_RATIOS = (0.0, 0.33, 0.5, 0.67, 0.75, 0.9, 1.1, 1.34, 1.5, 2.0, 3.0)
CAPTIONS_PER_IMAGE = (0, 1, 2, 3, 4, 5, 6, 8, 11, 21)
NO_SCRIPT = "no letters"
_MAX_CHARS_LOOKED_AT = 200


class Distribution(Frozen):
    """How many fall into each bin; ``labels`` are lower bounds, or names."""

    title: str
    unit: str
    labels: tuple[str, ...]
    counts: tuple[int, ...]


def binned(title: str, unit: str, values: Iterable[float], edges: tuple[float, ...]) -> Distribution:
    """Count values into bins, each from its edge up to the next one; the last is open."""
    found = Counter(bisect_right(edges, value) - 1 for value in values)
    labels = tuple(f"{edge:g}" for edge in edges)
    return Distribution(title=title, unit=unit, labels=labels, counts=tuple(found[i] for i in range(len(edges))))


def by_name(title: str, unit: str, names: Iterable[str]) -> Distribution:
    """Count names, the most frequent first."""
    found = sorted(Counter(names).items(), key=lambda item: (-item[1], item[0]))
    labels, counts = tuple(name for name, _ in found), tuple(count for _, count in found)
    return Distribution(title=title, unit=unit, labels=labels, counts=counts)


def script_of(caption: str) -> str:
    """Return the script that most letters of a caption are of, such as Latin, Cyrillic, CJK."""
    if caption.isascii():
        return "Latin" if any(map(str.isalpha, caption)) else NO_SCRIPT
    letters = filter(str.isalpha, caption[:_MAX_CHARS_LOOKED_AT])
    found = Counter(unicodedata.name(letter, NO_SCRIPT).split(" ")[0] for letter in letters)
    if not found:
        return NO_SCRIPT
    script = min(found, key=lambda name: (-found[name], name))
    return script if script == "CJK" else script.capitalize()


def caption_distributions(captions: Iterable[str]) -> tuple[Distribution, Distribution]:
    """Return the lengths of captions and their scripts."""
    listed = list(captions)
    lengths = binned("Caption length", "captions by characters", map(len, listed), CAPTION_CHARS)
    return lengths, by_name("Script", "captions by the script of most letters", map(script_of, listed))
