"""Commands about published datasets: what differs between two, the page of one, whether it still is what it was."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from softalign.cli.options import (
    JsonOption,
    RecipeArgument,
    SetOption,
    StoreOption,
    app,
    emit,
    open_recipe,
    require_pipeline,
)
from softalign.errors import ConfigError
from softalign.processes.leaving import leaving_at_once, leaving_in_order
from softalign.store.store import DEFAULT_STORE, Store

DATASET = (
    "a dataset's folder or URI, six or more digits of its stage key or digest, its name, or NAME~1: the one before the "
    "newest"
)
log = logging.getLogger("softalign")
data_app = typer.Typer(help="Published datasets.", no_args_is_help=True)
app.add_typer(data_app, name="data")


@data_app.command("diff")
def data_diff(
    before: Annotated[str, typer.Argument(metavar="A", help=DATASET)],
    after: Annotated[str, typer.Argument(metavar="B", help="likewise")],
    out: Annotated[Path | None, typer.Option("--out", help="write a page with examples there")] = None,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Show which images and captions came, went or changed from dataset A to B, and why."""
    require_pipeline("data diff")
    from softalign.data.curation.published import OpenedDataset
    from softalign.data.versions.diff import compare_datasets
    from softalign.data.versions.finding import find_dataset
    from softalign.data.versions.pages.diff_page import render_diff
    from softalign.stages.refresh import edits_between

    _require_file_place(out)
    opened = Store(store)
    one, two = (OpenedDataset(find_dataset(reference, opened), opened) for reference in (before, after))
    diff = compare_datasets(one, two, edits_between(one.manifest, two.manifest, opened))
    if out is not None:
        out.write_text(render_diff(diff, one, two), encoding="utf-8")
    payload = {**diff.model_dump(mode="json"), "is_same": diff.is_same, "page": str(out) if out else None}
    emit(payload, as_json, diff.to_text() + (f"\n{out}" if out else ""))


@data_app.command("report")
def data_report(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help=DATASET)],
    out: Annotated[Path, typer.Option("--out", help="the page's file")] = Path("data_report.html"),
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Write the page of a dataset, which `curate` puts beside it, anew: losses, distributions, samples."""
    require_pipeline("data report")
    from softalign.data.curation.published import OpenedDataset
    from softalign.data.versions.finding import find_dataset
    from softalign.data.versions.pages.data_page import render_dataset

    _require_file_place(out)
    opened = Store(store)
    found = find_dataset(dataset, opened)
    out.write_text(render_dataset(OpenedDataset(found, opened)), encoding="utf-8")
    emit({"page": str(out), "digest": found.digest, "uri": found.uri}, as_json, str(out))


@data_app.command("verify")
@leaving_at_once()
def data_verify(
    dataset: Annotated[
        str, typer.Argument(metavar="DATASET", help=f"{DATASET}; or the folder of a set of encodings in its store")
    ],
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Read every file of a dataset in the store, and say which are damaged or missing; exits with 1 if any is."""
    require_pipeline("data verify")
    from softalign.data.verifying import find_published, verify

    opened = Store(store)
    found = verify(find_published(dataset, opened), opened)
    emit({"is_sound": found.is_sound, **found.model_dump(mode="json")}, as_json, found.to_text())
    if not found.is_sound:
        raise typer.Exit(1)


@data_app.command("recheck")
@leaving_at_once()
def data_recheck(
    recipe: RecipeArgument, overrides: SetOption = None, store: StoreOption = DEFAULT_STORE, as_json: JsonOption = False
) -> None:
    """Read a recipe's images again; those with other content under the same name and size make a newer version."""
    require_pipeline("data recheck")
    from softalign.stages.kept import kept_line
    from softalign.stages.rechecking import recheck
    from softalign.stages.refresh import published_dataset

    loaded, opened = open_recipe(recipe, overrides, store)
    with leaving_in_order(lambda: kept_line(loaded, opened)):
        made = recheck(loaded, opened, log.info)
    record = made.record if made is not None else published_dataset(loaded, opened)
    payload = {"is_changed": made is not None, "digest": record.digest, **record.model_dump(mode="json")}
    emit(payload, as_json, record.uri if made is not None else f"all images are what they were: {record.uri}")


def _require_file_place(out: Path | None) -> None:
    if out is not None and (out.is_dir() or not out.parent.is_dir()):
        raise ConfigError("The page cannot be written there.", expected="a file in a folder", where=str(out))
