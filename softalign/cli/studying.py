"""The command that runs a study: ``softalign study``."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Annotated

import typer

from softalign.cli.completion import study_words
from softalign.cli.options import JsonOption, StoreOption, app, emit, require_pipeline
from softalign.errors import ConfigError
from softalign.processes.leaving import leaving_at_once, leaving_in_order
from softalign.store.files import require_folder_place
from softalign.store.store import DEFAULT_STORE, Store

log = logging.getLogger("softalign")
KEPT = "stopped: finished cells are kept, and checkpoints of the others; the same command goes on from there"


@app.command()
@leaving_at_once()
def study(
    file: Annotated[
        str, typer.Argument(metavar="STUDY", help="a study's name or a YAML file", autocompletion=study_words)
    ],
    store: StoreOption = DEFAULT_STORE,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="folder for study.json and study.html; default: STORE/studies/NAME"),
    ] = None,
    workers: Annotated[int, typer.Option("--workers", min=1, help="cells that run at a time")] = os.cpu_count() or 1,
    plan: Annotated[bool, typer.Option("--plan", help="say what is there, hours and bytes; run nothing")] = False,
    as_json: JsonOption = False,
) -> None:
    """Run a matrix of recipes, objectives, seeds and guidance; one page says what all of it shows."""
    require_pipeline("study")
    from softalign.study.loading import folder_of, load_study

    loaded, opened = load_study(file), Store(store)
    folder = _folder(out, opened, loaded.name)
    if plan:
        from softalign.study.planning import plan_study

        planned = plan_study(loaded, opened, workers, folder_of(file))
        emit(planned.model_dump(mode="json"), as_json, planned.to_text())
        return
    from softalign.study.conduct import conduct
    from softalign.study.ending import ending_text
    from softalign.study.running import Pool

    with leaving_in_order(lambda: KEPT):
        result = conduct(loaded, opened, folder, Pool(workers), folder_of(file))
    emit(result.model_dump(mode="json"), as_json, ending_text(result, folder))


def _folder(out: Path | None, store: Store, name: str) -> Path:
    if out is None and not store.is_local:
        raise ConfigError(
            "It is not said where the study's result goes.",
            expected="--out FOLDER with a store that is no folder",
            found=store.uri,
        )
    folder = Path(store.uri) / "studies" / name if out is None else out.absolute()
    require_folder_place(folder)
    return folder
