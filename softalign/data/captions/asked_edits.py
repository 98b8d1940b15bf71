"""Of the edits that were encoded, those that a training asks for, and which kind each is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

from softalign.config.training import EDIT_KINDS, LATER_NEGATIVES, CountEdits, EditKind, NegativesConfig
from softalign.data.captions.candidates import CandidateChoice
from softalign.data.captions.edit_shares import warn_of_missing_kinds
from softalign.data.captions.hard_negatives import edited_captions

KnownEdits = Mapping[str, EditKind | None]
"""Edits with their kinds; None: the grammar does not know the edit."""
_KEPT_CAPTIONS = 4096
"""Captions whose edits' kinds are remembered."""


class AskedEdits:
    """Finds the edits that ``train.negatives`` asks for among those of an encoded set.

    The set may hold others too: edits of further kinds, encoded for another training.
    """

    def __init__(self, config: NegativesConfig) -> None:
        self._config = config
        self._has_defaults = config.unasked == {*LATER_NEGATIVES}

    def among(self, encoded: Sequence[str], caption: str, captions: tuple[str, ...]) -> KnownEdits:
        """Return a caption's edits that are asked for, in their order; none where no hard negatives are.

        Args:
            encoded: the edits that there are.
            caption: what they are edits of.
            captions: all of the image.
        """
        config = self._config
        if config.num_hard == 0:
            return {}
        known = _kinds_of_edits(caption, captions, config.kinds, config.counts)
        return {edit: known.get(edit) for edit in encoded if self._has_defaults or edit in known}

    def warn_of_missing(self, edits_of: Iterable[KnownEdits]) -> None:
        """Warn of the kinds that are asked for and that no caption's edits are of; looks no further than it must."""
        if self._config.num_hard == 0:
            return
        missing = set(self._config.kinds)
        for edits in edits_of:
            missing -= set(edits.values())
            if not missing:
                return
        warn_of_missing_kinds([kind for kind in EDIT_KINDS if kind in missing], ())


def by_kind(edits_of: Sequence[KnownEdits], chosen: CandidateChoice, prompts: Sequence[str]) -> dict[EditKind, int]:
    """Return how many of a batch's hard negatives are of each kind; those of no known kind are not counted.

    Args:
        edits_of: each image's edits.
        chosen: the candidates that were drawn.
        prompts: the images' own captions, then the hard negatives.
    """
    rows = zip(edits_of, chosen.rows, strict=True)
    counts = Counter(edits[prompts[place]] for edits, row in rows for place in row if place >= len(edits_of))
    return {kind: counts[kind] for kind in EDIT_KINDS}


@lru_cache(maxsize=_KEPT_CAPTIONS)
def _kinds_of_edits(
    caption: str, captions: tuple[str, ...], kinds: tuple[EditKind, ...], counts: CountEdits
) -> dict[str, EditKind]:
    return {edit.text: edit.kind for edit in edited_captions(caption, captions, kinds, counts)}
