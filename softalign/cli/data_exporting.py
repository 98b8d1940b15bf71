"""The command that writes a dataset for other readers: ``softalign data export``."""

from __future__ import annotations

from typing import Annotated

import typer

from softalign.cli.datasets import DATASET, data_app
from softalign.cli.options import JsonOption, StoreOption, emit, require_pipeline
from softalign.processes.leaving import leaving_at_once
from softalign.store.store import DEFAULT_STORE, Store


@data_app.command("export")
@leaving_at_once()
def data_export(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help=DATASET)],
    to: Annotated[str, typer.Option("--to", metavar="DIR|URI", help="new, empty, or an export of it, which goes on")],
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Write plain WebDataset tars of a dataset, captions included: KEY.jpg (or .png, .webp), KEY.json, KEY.txt."""
    require_pipeline("data export")
    from softalign.data.exporting import export_dataset
    from softalign.data.versions.finding import find_dataset

    opened = Store(store)
    found = find_dataset(dataset, opened)
    done = export_dataset(found, to, opened)
    payload = {
        "uri": done.uri,
        "num_shards": done.num_shards,
        "num_written": done.num_written,
        "num_samples": found.num_samples,
        "digest": found.digest,
    }
    counts = f"{found.num_samples:,} images in {done.num_shards:,} tars, {done.num_written:,} of them written now"
    emit(payload, as_json, f"{counts}\n{done.uri}")
