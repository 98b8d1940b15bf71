"""The command for adapters in other places' layouts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from softalign.cli.options import (
    JsonOption,
    OfflineOption,
    StoreOption,
    TimeoutOption,
    TrackingOption,
    app,
    emit,
    registry_named,
)
from softalign.store.store import DEFAULT_STORE


@app.command()
def export(
    reference: Annotated[
        str, typer.Argument(metavar="REF", help="NAME@ALIAS, NAME/VERSION, a folder, an s3:// URI, or a hub id")
    ],
    to: Annotated[Path, typer.Option("--to", help="the folder; new or empty")],
    layout: Annotated[
        Literal["hub", "comfyui", "peers"],
        typer.Option("--format", help="a repository for the hub; a file and a node for ComfyUI; the papers' layout"),
    ],
    licence: Annotated[
        str | None, typer.Option("--license", help="hub: identifier of the licence; default: the base model's")
    ] = None,
    revision: Annotated[str | None, typer.Option("--revision", help="of a hub id")] = None,
    tracking_uri: TrackingOption = None,
    store: StoreOption = DEFAULT_STORE,
    offline: OfflineOption = False,
    timeout_s: TimeoutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write an adapter for the Hugging Face hub, for ComfyUI, or in the papers' layout; verified first."""
    from softalign.adapters.exporting.exporting import export_adapter
    from softalign.adapters.exporting.source import Asking, find_source

    asking = Asking(lambda: registry_named(tracking_uri, store), offline or None, timeout_s)
    done = export_adapter(find_source(reference, revision, asking), to, layout, licence)
    payload = {
        "path": str(done.path),
        "format": layout,
        "reference": reference,
        "files": [entry.model_dump() for entry in done.files],
        "notes": list(done.notes),
    }
    emit(payload, as_json, "\n".join([str(done.path), *(f"note: {note}" for note in done.notes)]))
