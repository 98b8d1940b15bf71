"""Which samples make the batches of a training, in order: a stream of passes, each a permutation of its images.

Without weights a pass is an epoch: every image once. Where a source weighs more than 1, an epoch has as many passes as
the largest weight says, rounded up, and each pass draws a part of the images, another one each time, so that an epoch
draws each as often as its weight says on average. A batch may begin in one pass and end in the next; no image is left
out, and none comes twice in a batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from softalign.artifacts import digest_of
from softalign.errors import DataError

Places = np.ndarray[tuple[int], np.dtype[np.int64]]
_STEPS = 1 << 20
"""Weights are multiples of 1 / _STEPS: whole numbers make sums exact, however long a run is."""


@dataclass(frozen=True, slots=True)
class Draw:
    """One sample of a batch: its place among the split's, and the number (from 0) of the pass that draws it."""

    place: int
    pass_number: int


class Passes:
    """Which samples each pass draws, and how many the passes before it did.

    Args:
        weights: how often an epoch draws each sample, on average.
        names: of the samples; by their hash it is decided which pass draws which.
        seed: of the hashes.
    """

    def __init__(self, weights: Sequence[float], names: Sequence[str], seed: int) -> None:
        self._num_samples, self._is_plain = len(weights), all(weight == 1.0 for weight in weights)
        self.smallest = self._num_samples
        if not self._is_plain:
            self.per_epoch = math.ceil(max(weights))
            self._whole = self.per_epoch * _STEPS
            self._weights = np.array([round(weight * _STEPS) for weight in weights], dtype=np.int64)
            self._phases = self._spread(names, seed)
            found, counts = np.unique(self._weights, return_counts=True)
            self.smallest = int((found * counts // self._whole).sum())

    def _spread(self, names: Sequence[str], seed: int) -> Places:
        """Return where each sample stands in its turn: those of one weight evenly apart, ordered by hash."""
        phases = np.empty(len(names), dtype=np.int64)
        for weight in np.unique(self._weights):
            group = np.flatnonzero(self._weights == weight).tolist()
            group.sort(key=lambda place: digest_of(["draws", seed, names[place]]))
            phases[group] = np.arange(len(group)) * self._whole // len(group)
        return phases

    def num_before(self, pass_number: int) -> int:
        """Return how many draws come before a pass."""
        return pass_number * self._num_samples if self._is_plain else int(self._drawn(pass_number).sum())

    def members(self, pass_number: int) -> Places:
        """Return the places that a pass draws, ascending."""
        if self._is_plain:
            return np.arange(self._num_samples)
        return np.flatnonzero(self._drawn(pass_number + 1) - self._drawn(pass_number))

    def at(self, samples_seen: int) -> int:
        """Return the pass that draws the sample after ``samples_seen`` others."""
        if self._is_plain:
            return samples_seen // self._num_samples
        number = int(samples_seen * self._whole // int(self._weights.sum()))  # off by little: passes are alike
        while self.num_before(number) > samples_seen:
            number -= 1
        while self.num_before(number + 1) <= samples_seen:
            number += 1
        return number

    def _drawn(self, pass_number: int) -> Places:
        """Return how often each sample was drawn before a pass; the next draws it once more or not."""
        return (pass_number * self._weights + self._phases) // self._whole


class SampleOrder:
    """The stream of draws, a pure function of its arguments; the orders of two passes are in memory at most.

    Where a batch begins in one pass and ends in the next, the images of its first part are moved behind its end.

    Args:
        weights: how often an epoch draws each sample, on average.
        names: of the samples.
        batch_size: draws of a batch.
        seed: of the permutations.

    Raises:
        DataError: a pass would be smaller than a batch, so that a batch had an image twice.
    """

    def __init__(self, weights: Sequence[float], names: Sequence[str], batch_size: int, seed: int) -> None:
        self._batch_size, self._seed = batch_size, seed
        self._passes = Passes(weights, names, seed)
        if self._passes.smallest < batch_size:
            raise DataError(
                "The weights are so far apart, or so small, that a batch would hold an image twice.",
                expected=f"images enough for passes of {batch_size}, a batch",
                found=f"passes of {self._passes.smallest}, {self._passes.per_epoch} an epoch",
                fix="set weights of the sources (curation.sources) that are nearer to each other and not below 1, or a "
                "smaller batch size",
            )
        self._orders: dict[int, Places] = {}

    def batch_at(self, samples_seen: int) -> list[Draw]:
        """Return the batch that begins after ``samples_seen`` draws, a multiple of the batch size."""
        number = self._passes.at(samples_seen)
        offset = samples_seen - self._passes.num_before(number)
        draws: list[Draw] = []
        while len(draws) < self._batch_size:
            places = self._order_of(number)[offset : offset + self._batch_size - len(draws)]
            draws += (Draw(int(place), number) for place in places)
            number, offset = number + 1, 0
        return draws

    def _order_of(self, number: int) -> Places:
        if number not in self._orders:
            order = self._made(number)
            self._orders = {known: kept for known, kept in self._orders.items() if known == number - 1}
            self._orders[number] = order
        return self._orders[number]

    def _made(self, number: int) -> Places:
        """Return a pass's order, which depends on how the one before ends.

        From two batches on, no end is ever moved; of smaller passes the orders since the last whole batch are made.
        """
        first, is_end_fixed = number, self._passes.smallest >= 2 * self._batch_size
        while first not in self._orders and self._unfinished(first) and not (is_end_fixed and first < number):
            first -= 1
        order = self._orders[first] if first in self._orders else self._shuffled(first)
        for following in range(first + 1, number + 1):
            unfinished, shuffled = self._unfinished(following), self._shuffled(following)
            taken = order[len(order) - unfinished :]
            order = _without_first(shuffled, taken, self._batch_size - unfinished) if unfinished else shuffled
        return order

    def _unfinished(self, number: int) -> int:
        """Return how many draws before a pass belong to a batch that ends in it."""
        return self._passes.num_before(number) % self._batch_size

    def _shuffled(self, number: int) -> Places:
        members = self._passes.members(number)
        return members[generator("order", self._seed, number).permutation(len(members))]


def _without_first(order: Places, taken: Places, number: int) -> Places:
    """Return an order whose first ``number`` places are none of those taken: they come right after."""
    free = np.flatnonzero(~np.isin(order, taken))[:number]
    return np.concatenate([order[free], np.delete(order, free)])


def generator(purpose: str, *seed: int | str) -> np.random.Generator:
    """Return the random numbers of one purpose, the same for the same seed."""
    return np.random.default_rng(int(digest_of([purpose, *seed]), 16))
