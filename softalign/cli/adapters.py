"""Commands for an adapter: generate and convert."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Literal

import typer

from softalign.cli.options import JsonOption, app, emit

log = logging.getLogger("softalign")


@app.command()
def generate(
    adapter: Annotated[str, typer.Argument(help="adapter: folder, URI, models:/NAME@ALIAS; `none` for the base")],
    prompts: Annotated[list[str], typer.Argument(metavar="PROMPT...")],
    out: Annotated[Path, typer.Option("--out", help="folder for the images: prompt-000-0.png and so on")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace images of the same names")] = False,
    base: Annotated[str | None, typer.Option("--base", help="base model; default: the adapter's")] = None,
    scale: Annotated[float, typer.Option("--scale", min=0.0)] = 1.0,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    num_images: Annotated[int, typer.Option("--num-images", min=1, help="images per prompt")] = 1,
    num_inference_steps: Annotated[
        int | None, typer.Option("--num-inference-steps", min=1, help="default: the papers' for the family")
    ] = None,
    guidance_scale: Annotated[
        float | None, typer.Option("--guidance-scale", min=1.0, help="default: the papers' for the family")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="accept a base model that the adapter does not know")] = False,
    unconditional_bank: Annotated[
        Literal["positive", "negative"], typer.Option("--unconditional-bank", help="tokens of guidance's other branch")
    ] = "positive",
    as_json: JsonOption = False,
) -> None:
    """Generate images from prompts with an adapter."""
    log.info("Loading PyTorch and the model")
    from softalign.sampling.to_folder import GenerationSettings, generate_to_folder

    settings = GenerationSettings(
        num_images, num_inference_steps, guidance_scale, scale, seed, force, unconditional_bank
    )
    paths = generate_to_folder(adapter, prompts, out, base, settings, is_overwriting=overwrite)
    emit({"images": [str(path) for path in paths]}, as_json, "\n".join(str(path) for path in paths))


@app.command()
def convert(
    peer: Annotated[Path, typer.Argument(metavar="PEER_DIR", help="folder with the files of SoftREPA or of AGSM")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="the adapter's folder; new or empty")],
    backbone: Annotated[Literal["sd15", "sdxl", "sd3"], typer.Option("--backbone", help="family of the base model")],
    base: Annotated[
        Path | None, typer.Option("--base", help="local folder of the base model: checks shapes, records which it is")
    ] = None,
    blocks: Annotated[
        str | None, typer.Option("--blocks", help="U-Nets: which see the tokens, as down,mid; default: as published")
    ] = None,
    layers: Annotated[
        Literal["first", "last"] | None, typer.Option("--layers", help="sd3: which joint blocks; default: first")
    ] = None,
    banks: Annotated[int | None, typer.Option("--banks", help="in the file; default: SoftREPA 1, AGSM 2")] = None,
    table: Annotated[
        bool | None, typer.Option("--table/--no-table", help="timestep table; default: if its file is there")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Convert a checkpoint of SoftREPA or AGSM to an adapter."""
    from softalign.adapters.checkpoint_facts import CheckpointFacts, blocks_of
    from softalign.adapters.convert import convert as convert_checkpoint
    from softalign.adapters.convert import unverified

    facts = CheckpointFacts(None if blocks is None else blocks_of(blocks), layers, banks, table)
    config = convert_checkpoint(peer, out, backbone, base, facts)
    notes = unverified(config)
    payload = {
        "path": str(out),
        "adapter": config.model_dump(mode="json", exclude={"base_fingerprint"}),
        "has_base_fingerprint": config.base_fingerprint is not None,
        "unverified": list(notes),
    }
    emit(payload, as_json, "\n".join([str(out), *(f"not verified: {note}" for note in notes)]))
