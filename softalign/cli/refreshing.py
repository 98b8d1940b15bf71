"""The command that makes a new version of a dataset from changed captions: ``softalign refresh``."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from softalign.cli.completion import recipe_words
from softalign.cli.datasets import DATASET
from softalign.cli.options import JsonOption, SetOption, StoreOption, app, emit, open_recipe, require_pipeline
from softalign.errors import ConfigError
from softalign.processes.leaving import leaving_at_once, leaving_in_order
from softalign.store.store import DEFAULT_STORE, Store

if TYPE_CHECKING:  # which load much more than the command line needs to show its help
    from softalign.artifacts import Stage
    from softalign.stages.refresh import Refresh
    from softalign.stages.run import StageResult

log = logging.getLogger("softalign")


@app.command()
@leaving_at_once()
def refresh(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help=DATASET)],
    captions: Annotated[
        str,
        typer.Option(
            "--captions",
            metavar="FILE",
            help="csv, tsv, jsonl or parquet: action (add, change, remove), key or file_name or image_digest, caption, "
            "before, source",
        ),
    ],
    recipe: Annotated[
        str | None,
        typer.Option(metavar="RECIPE", help="encode too, for this recipe's model", autocompletion=recipe_words),
    ] = None,
    overrides: SetOption = None,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Make a new version of a dataset from added, reworded and removed captions; what they do not touch is reused."""
    require_pipeline("refresh")
    from softalign.data.versions.finding import find_dataset
    from softalign.stages.chain import run_until
    from softalign.stages.kept import kept_line
    from softalign.stages.refresh import log_lineage, prepare_refresh
    from softalign.stages.run import StageResult

    if recipe is None and overrides:
        raise ConfigError("--set belongs to a recipe.", found="--set", fix="add --recipe, or leave it out")
    loaded, opened = open_recipe(recipe, overrides, store) if recipe else (None, Store(store))
    asked = prepare_refresh(find_dataset(dataset, opened), captions, opened, loaded)
    if asked.applied is not None and recipe is None:
        results: Sequence[StageResult] = [StageResult("curate", asked.applied, is_reused=True, seconds=0.0)]
    else:
        with leaving_in_order(lambda: kept_line(asked.recipe, opened)):
            last: Stage = "encode" if recipe else "curate"
            results = run_until(last, asked.recipe, opened, log.info, is_through=True).results
    log_lineage(asked, [one.record for one in results], opened)
    emit(_payload(results, asked), as_json, f"{_said(asked)}\n{results[-1].record.uri}")


def _said(asked: Refresh) -> str:
    there = ", all there already" if asked.applied is not None else ""
    return f"caption changes: {asked.num_edits:,}{there}; go on with --set '{asked.override}'"


def _payload(results: Sequence[StageResult], asked: Refresh) -> dict[str, object]:
    return {
        "stages": [{"label": one.label, "is_reused": one.is_reused, "uri": one.record.uri} for one in results],
        "num_edits": asked.num_edits,
        "is_applied": asked.applied is not None,
        "override": asked.override,
        "digest": results[0].record.digest,
        **results[0].record.model_dump(mode="json"),
    }
