"""Commands for an adapter: generate and convert."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from softalign.cli.options import GuidanceOption, JsonOption, ScaleOption, app, emit
from softalign.errors import ConfigError
from softalign.processes.leaving import leaving_in_order

if TYPE_CHECKING:
    from softalign.sampling.to_folder import GeneratedFolder

log = logging.getLogger("softalign")
PromptsOption = Annotated[
    str | None,
    typer.Option("--prompts", metavar="FILE", help="one a line, or column prompt of .csv, .jsonl, .parquet"),
]


@app.command()
def generate(
    adapter: Annotated[str, typer.Argument(help="adapter: folder, URI, models:/NAME@ALIAS; `none` for the base")],
    out: Annotated[Path, typer.Option("--out", help="folder for the images: prompt-000-0.png and so on")],
    prompts: Annotated[list[str] | None, typer.Argument(metavar="PROMPT...")] = None,
    prompts_file: PromptsOption = None,
    grid: Annotated[
        bool, typer.Option("--grid", help="the base model's images too, and grid.png: a row for each prompt")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="replace files of these names that another request made")
    ] = False,
    base: Annotated[str | None, typer.Option("--base", help="base model; default: the adapter's")] = None,
    scale: ScaleOption = 1.0,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    num_images: Annotated[int, typer.Option("--num-images", min=1, help="images per prompt")] = 1,
    num_inference_steps: Annotated[
        int | None, typer.Option("--num-inference-steps", min=1, help="default: the papers' for the family")
    ] = None,
    guidance_scale: GuidanceOption = None,
    force: Annotated[bool, typer.Option("--force", help="accept a base model that the adapter does not know")] = False,
    unconditional_bank: Annotated[
        Literal["positive", "negative"], typer.Option("--unconditional-bank", help="tokens of guidance's other branch")
    ] = "positive",
    divide_by_guidance: Annotated[
        bool, typer.Option("--divide-by-guidance", help="strength scale / guidance on the conditional branch")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Generate images from prompts with an adapter; images that are there from the same request are kept."""
    wanted = _prompts(prompts or [], prompts_file)
    log.info("Loading PyTorch and the model")
    from softalign.sampling.to_folder import GenerationSettings, generate_to_folder

    sampling = num_images, num_inference_steps, guidance_scale
    settings = GenerationSettings(*sampling, scale, seed, force, unconditional_bank, grid, divide_by_guidance)
    with leaving_in_order(lambda: "stopped: images that are there are kept; the same command draws the others"):
        made = generate_to_folder(adapter, wanted, out, base, settings, is_overwriting=overwrite)
    _show(made, as_json)


def _show(made: GeneratedFolder, as_json: bool) -> None:
    if made.num_kept:
        log.info("%d of %d images were there already, from the same request", made.num_kept, len(made.images))
    paths = [str(path) for path in made.images]
    grids = [] if made.sheet is None else [str(made.sheet)]
    payload = {"images": paths, "num_kept": made.num_kept, "grid": grids[0] if grids else None}
    emit(payload, as_json, "\n".join([*paths, *grids]))


def _prompts(prompts: list[str], file: str | None) -> Sequence[str]:
    if bool(prompts) == (file is not None):
        raise ConfigError(
            "Prompts come as arguments or from a file.",
            expected="one of both",
            found="both" if prompts else "neither",
            fix="write PROMPT..., or --prompts FILE",
        )
    if file is None:
        return prompts
    from softalign.sampling.prompt_files import read_prompts

    return read_prompts(file)


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
