"""Numbers by 64-bit keys in a few bytes each: for what a curation remembers of every image.

Python's own dicts, sets and integers take some hundred bytes an entry. Here the latest entries lie in a dict, all
others in sorted arrays, which are merged as they grow: a look-up is a binary search in each of a few.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

MAX_RECENT = 4096
KEY_MASK = (1 << 64) - 1

_Keys = NDArray[np.uint64]
_Numbers = NDArray[np.uint32]


class KeyedNumbers:
    """The numbers that were added under a key, in the order in which they came; 12 bytes an entry."""

    def __init__(self) -> None:
        self._recent: dict[int, list[int]] = {}
        self._num_recent = 0
        self._runs: list[tuple[_Keys, _Numbers]] = []

    def add(self, key: int, number: int) -> None:
        """Add a number below 2**32 under a key of 64 bits."""
        self._recent.setdefault(key, []).append(number)
        self._num_recent += 1
        if self._num_recent == MAX_RECENT:
            self._put_away()

    def find(self, key: int) -> Iterator[int]:
        """Yield a key's numbers."""
        wanted = np.uint64(key)
        for keys, numbers in self._runs:
            place = int(keys.searchsorted(wanted))
            while place < len(keys) and keys[place] == wanted:
                yield int(numbers[place])
                place += 1
        yield from self._recent.get(key, ())

    def _put_away(self) -> None:
        """Sort the recent entries, and merge them with those before that are no more: runs get shorter to the end."""
        pairs = [(key, number) for key, numbers in self._recent.items() for number in numbers]
        made = np.array([key for key, _ in pairs], np.uint64), np.array([number for _, number in pairs], np.uint32)
        self._recent, self._num_recent = {}, 0
        merged = [made]
        while self._runs and len(self._runs[-1][0]) <= sum(len(keys) for keys, _ in merged):
            merged.insert(0, self._runs.pop())
        keys, numbers = (np.concatenate(parts) for parts in zip(*merged, strict=True))
        order = np.argsort(keys, kind="stable")  # of one key those before stay before
        self._runs.append((keys[order], numbers[order]))
