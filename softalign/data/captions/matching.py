"""Choosing one item for each of several so that no two choose the same, as far as that is possible."""

from __future__ import annotations

from collections.abc import Sequence


def distinct_choices(preferences: Sequence[Sequence[str]]) -> list[str]:
    """Return one item from every list of preferences, with as few repetitions as possible.

    A maximum bipartite matching by augmenting paths (Kuhn): as many as possible get an item of their own, earlier
    preferences first; who gets none takes the first preference. A pure function of the lists.

    Args:
        preferences: for each chooser its items, best first; none is empty.
    """
    chooser_of: dict[str, int] = {}

    def assign(chooser: int, tried: set[str]) -> bool:
        for item in preferences[chooser]:
            if item in tried:
                continue
            tried.add(item)
            if item not in chooser_of or assign(chooser_of[item], tried):
                chooser_of[item] = chooser
                return True
        return False

    for chooser in range(len(preferences)):
        assign(chooser, set())
    choices = [items[0] for items in preferences]
    for item, chooser in chooser_of.items():
        choices[chooser] = item
    return choices
