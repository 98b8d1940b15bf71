"""What a child process of a study is asked to do, as a record."""

from __future__ import annotations

from softalign.artifacts import Frozen
from softalign.config.recipe import Recipe

WORKER = "softalign.study.worker"
"""The module that a child process runs."""


class CellJob(Frozen):
    """One cell: its recipe, and the store's URI."""

    recipe: Recipe
    store: str

    def to_json(self) -> str:
        """Return it as a child reads it."""
        return self.model_dump_json(by_alias=True)
