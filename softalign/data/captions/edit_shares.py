"""Of which kinds edits of captions are: counted, in words, and what is missing."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from softalign.config.training import EDIT_KINDS, EditKind
from softalign.store.metrics_log import LoggedRow

logger = logging.getLogger(__name__)


def edits_column(kind: EditKind) -> str:
    """Return the name under which a step's row of ``metrics.jsonl`` counts the edits of a kind."""
    return f"num_{kind}_edits"


def edits_in(rows: Iterable[LoggedRow]) -> dict[EditKind, int]:
    """Return how many hard negatives of each kind a training used; empty where it used none."""
    total: Counter[EditKind] = Counter()
    for row in rows:
        total += Counter({kind: int(row.values.get(edits_column(kind), 0)) for kind in EDIT_KINDS})
    return dict(total)


def edit_shares(counts: Mapping[EditKind, int]) -> str:
    """Return the share of each kind that occurs, "count 40 %, object 60 %"; empty without edits."""
    total = sum(counts.values())
    return ", ".join(f"{kind} {counts[kind] / total:.0%}" for kind in EDIT_KINDS if counts.get(kind))


def warn_of_missing_kinds(asked: Collection[EditKind], found: Collection[EditKind]) -> None:
    """Warn of the kinds that are asked for and that no edit of a dataset's captions is of."""
    missing = [kind for kind in asked if kind not in found]
    if missing:
        logger.warning(
            "train.negatives.kinds names %s, but no edit of this dataset's captions is of it", ", ".join(missing)
        )
