"""What a dataset's captions and images are like, as counts over fixed bins: two datasets can be laid side by side."""

from __future__ import annotations

import unicodedata
from bisect import bisect_right
from collections import Counter

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


class Bins:
    """Counts values into bins, each from its edge up to the next one; the last is open.

    Args:
        title: what is counted.
        unit: in words.
        edges: of the bins, ascending; values below the first are not counted.
    """

    def __init__(self, title: str, unit: str, edges: tuple[float, ...]) -> None:
        self._title, self._unit, self._edges = title, unit, edges
        self._found = Counter[int]()

    def add(self, value: float) -> None:
        """Count one value."""
        self._found[bisect_right(self._edges, value) - 1] += 1

    def distribution(self) -> Distribution:
        """Return what was counted."""
        labels = tuple(f"{edge:g}" for edge in self._edges)
        counts = tuple(self._found[index] for index in range(len(self._edges)))
        return Distribution(title=self._title, unit=self._unit, labels=labels, counts=counts)


class Captions:
    """Counts captions by length and by script."""

    def __init__(self) -> None:
        self._lengths = Bins("Caption length", "captions by characters", CAPTION_CHARS)
        self._scripts = Counter[str]()

    def add(self, caption: str) -> None:
        """Count one caption."""
        self._lengths.add(len(caption))
        self._scripts[script_of(caption)] += 1

    def distributions(self) -> tuple[Distribution, Distribution]:
        """Return the lengths and the scripts, the most frequent first."""
        found = sorted(self._scripts.items(), key=lambda item: (-item[1], item[0]))
        labels, counts = tuple(name for name, _ in found), tuple(count for _, count in found)
        scripts = Distribution(
            title="Script", unit="captions by the script of most letters", labels=labels, counts=counts
        )
        return self._lengths.distribution(), scripts


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
