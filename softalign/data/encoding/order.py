"""Which samples make the batches of a training, in order: a stream of epochs, each of all images once.

A batch may begin in one epoch and end in the next; no image is left out, and none comes twice in a batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from softalign.artifacts import digest_of

Places = np.ndarray[tuple[int], np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class Draw:
    """One sample of a batch: its place among the split's, and the epoch (from 0) that it is drawn in."""

    place: int
    epoch: int


class SampleOrder:
    """The stream of draws, a pure function of its arguments; orders of two epochs are in memory at most.

    Each epoch is a permutation of its own. Where a batch begins in one and ends in the next, the images of its first
    part are moved behind its end.

    Args:
        num_samples: in the split; at least ``batch_size``.
        batch_size: draws of a batch.
        seed: of the permutations.
    """

    def __init__(self, num_samples: int, batch_size: int, seed: int) -> None:
        self._num_samples, self._batch_size, self._seed = num_samples, batch_size, seed
        self._orders: dict[int, Places] = {}

    def batch_at(self, samples_seen: int) -> list[Draw]:
        """Return the batch that begins after ``samples_seen`` draws, a multiple of the batch size."""
        epoch, offset = divmod(samples_seen, self._num_samples)
        draws: list[Draw] = []
        while len(draws) < self._batch_size:
            places = self._order_of(epoch)[offset : offset + self._batch_size - len(draws)]
            draws += (Draw(int(place), epoch) for place in places)
            epoch, offset = epoch + 1, 0
        return draws

    def _order_of(self, epoch: int) -> Places:
        if epoch not in self._orders:
            order = self._made(epoch)
            self._orders = {known: kept for known, kept in self._orders.items() if known == epoch - 1}
            self._orders[epoch] = order
        return self._orders[epoch]

    def _made(self, epoch: int) -> Places:
        """Return an epoch's order, which depends on how the one before ends.

        From two batches on, no end is ever moved; of fewer images the orders since the last whole batch are made.
        """
        first, is_end_fixed = epoch, self._num_samples >= 2 * self._batch_size
        while first not in self._orders and self._unfinished(first) and not (is_end_fixed and first < epoch):
            first -= 1
        order = self._orders[first] if first in self._orders else self._shuffled(first)
        for following in range(first + 1, epoch + 1):
            if unfinished := self._unfinished(following):
                order = _without_first(self._shuffled(following), order[-unfinished:], self._batch_size - unfinished)
            else:
                order = self._shuffled(following)
        return order

    def _unfinished(self, epoch: int) -> int:
        """Return how many draws before an epoch belong to a batch that ends in it."""
        return epoch * self._num_samples % self._batch_size

    def _shuffled(self, epoch: int) -> Places:
        return generator("order", self._seed, epoch).permutation(self._num_samples)


def _without_first(order: Places, taken: Places, number: int) -> Places:
    """Return an order whose first ``number`` places are none of those taken: they come right after."""
    free = np.flatnonzero(~np.isin(order, taken))[:number]
    return np.concatenate([order[free], np.delete(order, free)])


def generator(purpose: str, *seed: int | str) -> np.random.Generator:
    """Return the random numbers of one purpose, the same for the same seed."""
    return np.random.default_rng(int(digest_of([purpose, *seed]), 16))
