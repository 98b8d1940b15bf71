"""What is written beside the results of a scored folder: summary, card and page."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from softalign.evaluation.report.sets_page import render_scored
from softalign.evaluation.scored_set import ScoredSet, card_text
from softalign.evaluation.verdicts import summary_path
from softalign.store.files import write_atomically


@dataclass(frozen=True)
class WrittenBeside:
    """The files of a scored set."""

    results: Path
    summary: Path
    card: Path
    page: Path | None

    def to_json(self) -> dict[str, Any]:
        """Return them as JSON values."""
        paths = {"results": self.results, "summary": self.summary, "card": self.card, "page": self.page}
        return {name: str(path) for name, path in paths.items() if path is not None}


def write_beside(scored: ScoredSet, *, has_page: bool = True) -> WrittenBeside:
    """Write summary, card and page beside the results, under their name.

    Args:
        scored: what was scored.
        has_page: without, the images are not looked at; an earlier page is removed, as it shows other results.
    """
    path = scored.results_path
    card, page = (path.with_name(f"{path.stem}.{ending}") for ending in ("card.md", "page.html"))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    summary = {**scored.found.to_json(), "results_sha256": sha256}
    write_atomically(summary_path(path), json.dumps(summary, indent=1).encode() + b"\n")
    write_atomically(card, card_text(scored).encode())
    if has_page:
        write_atomically(page, render_scored(scored).encode())
    else:
        page.unlink(missing_ok=True)
    return WrittenBeside(path, summary_path(path), card, page if has_page else None)
