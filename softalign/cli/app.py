"""The command line: ``softalign COMMAND``; a contract that other programs are written against.

Exit codes: 0 ok, 1 failed, 2 bad usage or configuration, 75 stopped (Ctrl-C, SIGTERM, a closed terminal): the
same command goes on. With ``--json`` the result is one JSON document on standard output; everything else goes to
standard error. Heavy libraries load inside commands.
"""

from __future__ import annotations

import logging
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from softalign.artifacts import Family
from softalign.cli.console import narrating, open_closed_streams, report_error
from softalign.cli.geneval import geneval_app
from softalign.cli.options import (
    JsonOption,
    RecipeArgument,
    SetOption,
    StoreOption,
    ThroughOption,
    app,
    emit,
    open_recipe,
    require_pipeline,
)
from softalign.errors import ConfigError, SoftAlignError
from softalign.processes.leaving import hold_signals, leaving_at_once, leaving_in_order
from softalign.processes.structured import structure_stderr
from softalign.run_context import log_fields
from softalign.store.store import DEFAULT_STORE
from softalign.version import __version__

if TYPE_CHECKING:
    from softalign.config.recipe import Recipe

shapes_app = typer.Typer(help="The embedded world.", no_args_is_help=True)
app.add_typer(geneval_app, name="geneval")
app.add_typer(shapes_app, name="shapes")

log = logging.getLogger("softalign")


def main() -> None:
    """Run the command line: an error of ours, or of the operating system, is a message, without a traceback."""
    open_closed_streams()
    try:
        structure_stderr()
        with narrating(sys.stderr, is_quiet="--json" in sys.argv):
            app()
    except (SoftAlignError, OSError) as error:
        sys.exit(report_error(error))


def _version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _configure(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="log what is done in detail")] = False,
) -> None:
    logging.getLogger().setLevel(logging.INFO if verbose else logging.WARNING)
    log.setLevel(logging.DEBUG if verbose else logging.INFO)


def _warn(recipe: Recipe) -> list[str]:
    """Say on standard error, and return, what a recipe hardly means."""
    from softalign.stages.sense import warnings_of

    warnings = list(warnings_of(recipe))
    with log_fields(level="warning"):
        for text in warnings:
            sys.stderr.write(f"warning: {text}\n")
    return warnings


@app.command()
@leaving_at_once()
def run(
    recipe: RecipeArgument,
    overrides: SetOption = None,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
    plain: Annotated[bool, typer.Option("--plain", help="without Prefect: the same stages in this process")] = False,
) -> None:
    """Run the whole chain: curate, encode, train, evaluate three arms, compare, register."""
    require_pipeline("run")
    loaded, opened = open_recipe(recipe, overrides, store)
    _warn(loaded)
    if plain:
        from softalign.stages.chain import run_chain
        from softalign.stages.kept import kept_line

        with leaving_in_order(lambda: kept_line(loaded, opened)):
            summary = run_chain(loaded, opened, log.info)
        emit(summary.model_dump(mode="json"), as_json, summary.to_text())
        return
    from softalign.config.renamed import WARNED_VARIABLE
    from softalign.stages.readiness import check_ready

    check_ready(loaded, opened)  # what cannot work is refused before any server starts
    if find_spec("prefect") is None or find_spec("flows") is None:
        raise ConfigError("Prefect is not installed.", fix="pip install 'softalign[pipeline]', or add --plain")
    command = [sys.executable, "-P", "-m", "flows.retrain", recipe, "--store", opened.uri]
    for override in overrides or ():
        command += ["--set", override]
    command += [*(["--json"] if as_json else []), *(["--verbose"] if log.level == logging.DEBUG else [])]
    log.info("Recipe %s, store %s", loaded.name, opened.uri)
    log.info("Loading Prefect")
    os.environ[WARNED_VARIABLE] = "1"
    hold_signals()  # until the flow's own process can be told
    os.execv(sys.executable, command)  # noqa: S606  # the same process: signals and exit code are the flow's own


@app.command()
def plan(
    recipe: RecipeArgument, overrides: SetOption = None, store: StoreOption = DEFAULT_STORE, as_json: JsonOption = False
) -> None:
    """Show what would run and why, what is already there, what cannot run here, and about how many bytes it writes."""
    require_pipeline("plan")
    from softalign.stages.plan import plan as make_plan
    from softalign.stages.plan import plan_text

    loaded, opened = open_recipe(recipe, overrides, store)
    warnings = _warn(loaded)
    rows = make_plan(loaded, opened)
    payload = {"store": opened.uri, "warnings": warnings, "stages": [row.model_dump(mode="json") for row in rows]}
    emit(payload, as_json, plan_text(rows))


def _stage_command(stage: Literal["curate", "encode", "train", "evaluate", "register"], doc: str) -> None:
    @app.command(name=stage, help=doc)
    @leaving_at_once()
    def command(
        recipe: RecipeArgument,
        overrides: SetOption = None,
        store: StoreOption = DEFAULT_STORE,
        through: ThroughOption = False,
        as_json: JsonOption = False,
    ) -> None:
        require_pipeline(stage)
        from softalign.stages.chain import run_until
        from softalign.stages.kept import kept_line

        loaded, opened = open_recipe(recipe, overrides, store)
        _warn(loaded)
        with leaving_in_order(lambda: kept_line(loaded, opened)):
            results = run_until(stage, loaded, opened, log.info, is_through=through).results
        shown = [{"label": result.label, "is_reused": result.is_reused, "uri": result.record.uri} for result in results]
        record = results[-1].record
        payload = {"stages": shown, "digest": record.digest, **record.model_dump(mode="json")}
        emit(payload, as_json, record.uri)


_stage_command("curate", "Read the sources, filter, and write the dataset's shards.")
_stage_command("encode", "Encode images and captions with the frozen model.")
_stage_command("train", "Train the soft tokens.")
_stage_command("evaluate", "Generate and score base, untrained tokens and adapter, and write the report.")
_stage_command("register", "Register the adapter and decide whether it becomes champion.")


@app.command()
def init(
    place: Annotated[
        Path, typer.Argument(metavar="FOLDER|TABLE", help="a folder, a COCO captions file, a table, a tar")
    ],
    out: Annotated[Path, typer.Option("--out", help="the recipe's file")] = Path("recipe.yaml"),
    family: Annotated[Family, typer.Option("--family", help="family of the base model")] = "sd15",
    images: Annotated[
        Path | None, typer.Option("--images", help="folder that file names are relative to; default: looked for")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="replace a recipe that is there")] = False,
    as_json: JsonOption = False,
) -> None:
    """Look at images and captions and write a recipe for them."""
    require_pipeline("init")
    from softalign.data.drafting import draft_recipe

    draft = draft_recipe(place, out, family, images, is_forced=force)
    emit(draft.model_dump(mode="json"), as_json, draft.to_text())


@shapes_app.command("pretrain")
def shapes_pretrain(
    out: Annotated[Path, typer.Option("--out", help="folder for checkpoints and the finished model")],
    family: Annotated[
        Literal["sd21", "sd3"] | None,
        typer.Option("--family", help="sd21: U-Net; sd3: MMDiT; default: the recipe's, sd21 without one"),
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option("--recipe", help="recipe.json of finished weights, to repeat it")
    ] = None,
    start: Annotated[
        Path | None, typer.Option("--start", help="weights folder that the denoiser goes on from, if the recipe does")
    ] = None,
    samples: Annotated[int | None, typer.Option("--samples", min=1, help="images the denoiser sees")] = None,
    threads: Annotated[int, typer.Option("--threads", min=1)] = os.cpu_count() or 1,
    device: Annotated[Literal["cpu", "cuda"], typer.Option("--device", help="of the denoiser's training")] = "cpu",
    as_json: JsonOption = False,
) -> None:
    """Train the embedded model: autoencoder, text encoder, denoiser; resumable."""
    require_pipeline("shapes pretrain")
    from softalign.config.families import FAMILIES
    from softalign.shapes.pretraining.export import read_config
    from softalign.shapes.pretraining.pretrain import pretrain

    config, chosen = read_config(recipe, family)
    config = config.model_copy(update={"num_threads": threads, "device": device})
    if samples is not None:
        section = "denoiser" if FAMILIES[chosen].is_unet else "transformer"
        shorter = getattr(config, section).model_copy(update={"num_samples": samples})
        config = config.model_copy(update={section: shorter})
    result = pretrain(config, out, chosen, start=start)
    payload = {"weights_path": str(result.weights_path), "samples_seen": result.samples_seen}
    emit(payload, as_json, str(result.weights_path))


from softalign.cli import (  # noqa: E402, F401  # last: help lists the chain's commands first
    adapters,
    data_exporting,
    datasets,
    diagnosing,
    doctor,
    editing,
    exporting,
    geneval2,
    geneval_generating,
    geneval_metrics,
    geneval_sets,
    recipes,
    refreshing,
    registry,
    serving,
    studying,
    upkeep,
)
