"""Command that changes a picture: edit."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from softalign.cli.options import IN_GUIDANCE, JsonOption, ScaleOption, app, emit
from softalign.processes.leaving import leaving_in_order

SourceGuidance = Annotated[float, typer.Option("--source-guidance-scale", **IN_GUIDANCE)]
TargetGuidance = Annotated[float, typer.Option("--target-guidance-scale", **IN_GUIDANCE)]
log = logging.getLogger("softalign")


@app.command()
def edit(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="a JPEG, PNG or WebP file")],
    source: Annotated[str, typer.Option("--from", metavar="PROMPT", help="what the picture shows")],
    target: Annotated[str, typer.Option("--to", metavar="PROMPT", help="what it shall show")],
    out: Annotated[Path | None, typer.Option("--out", help="the PNG to write; default: IMAGE-edited.png")] = None,
    adapter: Annotated[str, typer.Option("--adapter", help="adapter, as in generate; none: the base alone")] = "none",
    base: Annotated[str | None, typer.Option("--base", help="base model; default: the adapter's")] = None,
    scale: ScaleOption = 1.0,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    steps: Annotated[int, typer.Option("--num-inference-steps", min=1, help="T of the paper")] = 50,
    n_max: Annotated[int, typer.Option("--n-max", min=0, help="the last steps, that are gone: more change more")] = 33,
    n_min: Annotated[int, typer.Option("--n-min", min=0, help="of these, the last are plain sampling")] = 0,
    n_avg: Annotated[int, typer.Option("--n-avg", min=1, help="noises that a step is averaged over")] = 1,
    source_guidance: SourceGuidance = 3.5,
    target_guidance: TargetGuidance = 13.5,
    resolution_px: Annotated[
        int | None, typer.Option("--resolution-px", min=8, help="take the centre square, scaled to this side")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace what another request made")] = False,
    force: Annotated[bool, typer.Option("--force", help="accept a base model that the adapter does not know")] = False,
    as_json: JsonOption = False,
) -> None:
    """Edit a picture by two prompts (FlowEdit), with an adapter or without; for flow-matching models (SD3, SD3.5)."""
    log.info("Loading PyTorch and the model")
    from softalign.sampling.edit_to_file import EditRequest, edit_to_file
    from softalign.sampling.flow_edit import FlowEditSettings

    settings = FlowEditSettings(steps, n_max, n_min, n_avg, source_guidance, target_guidance, seed)
    place = image.with_name(f"{image.stem}-edited.png") if out is None else out
    request = EditRequest(image, source, target, place, adapter, base, scale, resolution_px, force, settings)
    with leaving_in_order(lambda: "stopped: nothing was written; the same command starts again"):
        is_new = edit_to_file(request, is_overwriting=overwrite)
    if not is_new:
        log.info("%s was there already, from the same request", place)
    emit({"image": str(place), "is_kept": not is_new}, as_json, str(place))
