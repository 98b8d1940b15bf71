"""The command line: ``softalign COMMAND``; a contract that other programs are written against.

Exit codes: 0 ok, 1 failed, 2 bad usage or configuration, 75 stopped (Ctrl-C, SIGTERM, a closed terminal): the
same command goes on. With ``--json`` the result is one JSON document on standard output; everything else goes to
standard error. Heavy libraries load inside commands.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from softalign.cli.completion import override_words, recipe_words
from softalign.cli.console import narrating
from softalign.errors import ConfigError, SoftAlignError, os_error_fix, os_error_text
from softalign.families import Family
from softalign.stopping import hold_signals, leaving_at_once, leaving_in_order
from softalign.storage import DEFAULT_STORE, STORE_VARIABLE, Store, require_folder_place
from softalign.version import __version__

if TYPE_CHECKING:
    from softalign.config import Recipe

app = typer.Typer(
    name="softalign",
    help="Reward-free text alignment of text-to-image diffusion models, run as an operation.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
geneval_app = typer.Typer(help="GenEval: the official prompts and the scorer.", no_args_is_help=True)
shapes_app = typer.Typer(help="The embedded world.", no_args_is_help=True)
app.add_typer(geneval_app, name="geneval")
app.add_typer(shapes_app, name="shapes")

log = logging.getLogger("softalign")

RecipeArgument = Annotated[
    str,
    typer.Argument(metavar="RECIPE", help="a recipe's name or the path of a YAML file", autocompletion=recipe_words),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="SECTION.FIELD=VALUE", help="override a field; may be repeated", autocompletion=override_words
    ),
]
StoreOption = Annotated[
    str, typer.Option("--store", envvar=STORE_VARIABLE, help="folder or s3:// URI where everything is published")
]
JsonOption = Annotated[bool, typer.Option("--json", help="print the result as JSON on standard output")]
ThroughOption = Annotated[bool, typer.Option("--through", help="run the earlier stages too where they are missing")]
TrackingOption = Annotated[
    str | None,
    typer.Option("--tracking-uri", envvar="MLFLOW_TRACKING_URI", help="MLflow; default: the store's own database"),
]


def main() -> None:
    """Run the command line: an error of ours, or of the operating system, is a message, without a traceback."""
    try:
        with narrating(sys.stderr):
            app()
    except SoftAlignError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)
    except OSError as error:
        fix = os_error_fix(error)
        sys.stderr.write(f"error: {os_error_text(error)}\n" + (f"  to do: {fix}\n" if fix else ""))
        sys.exit(SoftAlignError.exit_code)


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


def _emit(result: dict[str, Any], as_json: bool, text: str) -> None:
    """Print a result on standard output: as JSON, or as the text for people."""
    typer.echo(json.dumps(result, indent=2) if as_json else text)


def _open(recipe: str, overrides: list[str] | None, store: str) -> tuple[Recipe, Store]:
    from softalign.config import load_recipe

    loaded, opened = load_recipe(recipe, overrides or ()), Store(store)
    if opened.is_local:
        require_folder_place(Path(opened.uri))
    return loaded, opened


def _warn(recipe: Recipe) -> list[str]:
    """Say on standard error, and return, what a recipe hardly means."""
    from softalign.sense import warnings_of

    warnings = list(warnings_of(recipe))
    sys.stderr.writelines(f"warning: {text}\n" for text in warnings)
    return warnings


def _require_pipeline(command: str) -> None:
    if find_spec("pyarrow") is None or find_spec("mlflow") is None:
        raise ConfigError(f"`softalign {command}` needs the pipeline extra.", fix="pip install 'softalign[pipeline]'")


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
    _require_pipeline("run")
    from softalign.preflight import check_chain

    loaded, opened = _open(recipe, overrides, store)
    _warn(loaded)
    check_chain(loaded, opened)  # what cannot work is refused before any server starts
    if plain:
        from softalign.chain import run_chain
        from softalign.kept import kept_line

        with leaving_in_order(lambda: kept_line(loaded, opened)):
            summary = run_chain(loaded, opened, log.info)
        _emit(summary.model_dump(mode="json"), as_json, summary.to_text())
        return
    if find_spec("prefect") is None or find_spec("flows") is None:
        raise ConfigError("Prefect is not installed.", fix="pip install 'softalign[pipeline]', or add --plain")
    command = [sys.executable, "-P", "-m", "flows.retrain", recipe, "--store", opened.uri]
    for override in overrides or ():
        command += ["--set", override]
    command += [*(["--json"] if as_json else []), *(["--verbose"] if log.level == logging.DEBUG else [])]
    log.info("Recipe %s, store %s", loaded.name, opened.uri)
    log.info("Loading Prefect")
    hold_signals()  # until the flow's own process can be told
    os.execv(sys.executable, command)  # noqa: S606  # the same process: signals and exit code are the flow's own


@app.command()
def plan(
    recipe: RecipeArgument, overrides: SetOption = None, store: StoreOption = DEFAULT_STORE, as_json: JsonOption = False
) -> None:
    """Show what would run and why, what is already there, what cannot run here, and about how many bytes it writes."""
    _require_pipeline("plan")
    from softalign.planning import plan as make_plan
    from softalign.planning import plan_text

    loaded, opened = _open(recipe, overrides, store)
    warnings = _warn(loaded)
    rows = make_plan(loaded, opened)
    payload = {"store": opened.uri, "warnings": warnings, "stages": [row.model_dump(mode="json") for row in rows]}
    _emit(payload, as_json, plan_text(rows))


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
        _require_pipeline(stage)
        from softalign.chain import run_until
        from softalign.kept import kept_line

        loaded, opened = _open(recipe, overrides, store)
        _warn(loaded)
        with leaving_in_order(lambda: kept_line(loaded, opened)):
            results = run_until(stage, loaded, opened, log.info, is_through=through)
        shown = [{"label": result.label, "is_reused": result.is_reused, "uri": result.record.uri} for result in results]
        record = results[-1].record
        payload = {"stages": shown, "digest": record.digest, **record.model_dump(mode="json")}
        _emit(payload, as_json, record.uri)


_stage_command("curate", "Read the sources, filter, and write the dataset's shards.")
_stage_command("encode", "Encode images and captions with the frozen model.")
_stage_command("train", "Train the soft tokens.")
_stage_command("evaluate", "Generate and score base, untrained tokens and adapter, and write the report.")
_stage_command("register", "Register the adapter and decide whether it becomes champion.")


@app.command()
def init(
    place: Annotated[
        Path, typer.Argument(metavar="FOLDER|TABLE", help="a folder, a COCO captions file, a Parquet table")
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
    _require_pipeline("init")
    from softalign.drafting import draft_recipe

    draft = draft_recipe(place, out, family, images, is_forced=force)
    _emit(draft.model_dump(mode="json"), as_json, draft.to_text())


@geneval_app.command("prompts")
def geneval_prompts(
    out: Annotated[Path | None, typer.Option("--out", help="file to write; default: standard output")] = None,
) -> None:
    """Write the official 553 prompts as JSON lines."""
    from softalign.geneval.prompts import official_prompts, to_json_line

    text = "".join(to_json_line(prompt) + "\n" for prompt in official_prompts())
    if out is None:
        typer.echo(text, nl=False)
    elif out.is_dir() or not out.parent.is_dir():
        raise ConfigError("The prompts cannot be written there.", expected="a file in a folder", where=str(out))
    else:
        out.write_text(text, encoding="utf-8")


@geneval_app.command("score")
def geneval_score(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="images in the official layout")],
    detections: Annotated[Path, typer.Option("--detections", help="detections, one image a line (JSON)")],
    out: Annotated[Path | None, typer.Option("--out", help="where results.jsonl goes; default: DIR")] = None,
    allow_partial: Annotated[
        bool, typer.Option("--allow-partial", help="score what is there of an incomplete set, and say what is missing")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Score images by GenEval's rules from recorded detections."""
    from softalign.geneval.detectors import LINE_FORMAT
    from softalign.geneval.scoring import score_directory

    if detections.name == "auto":
        raise ConfigError(
            "No detector for photographs comes with softalign.",
            expected="a file of recorded detections",
            found="--detections auto",
            fix=f"record detections with a detector of your own, one image a line: {LINE_FORMAT}",
        )
    result = score_directory(folder, detections, out, is_partial_allowed=allow_partial)
    _emit(result.to_json(), as_json, result.to_text())


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
    from softalign.generate import GenerationSettings, generate_to_folder

    settings = GenerationSettings(
        num_images, num_inference_steps, guidance_scale, scale, seed, force, unconditional_bank
    )
    paths = generate_to_folder(adapter, prompts, out, base, settings, is_overwriting=overwrite)
    _emit({"images": [str(path) for path in paths]}, as_json, "\n".join(str(path) for path in paths))


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
    from softalign.adapters.convert import CheckpointFacts, blocks_of, unverified
    from softalign.adapters.convert import convert as convert_checkpoint

    facts = CheckpointFacts(None if blocks is None else blocks_of(blocks), layers, banks, table)
    config = convert_checkpoint(peer, out, backbone, base, facts)
    notes = unverified(config)
    payload = {
        "path": str(out),
        "adapter": config.model_dump(mode="json", exclude={"base_fingerprint"}),
        "has_base_fingerprint": config.base_fingerprint is not None,
        "unverified": list(notes),
    }
    _emit(payload, as_json, "\n".join([str(out), *(f"not verified: {note}" for note in notes)]))


def _registry(tracking_uri: str | None, store: str) -> str:
    """Return the registry to ask: the one named, or the store's own database."""
    from softalign.registry import registry_of_store

    return tracking_uri or registry_of_store(Store(store))


@app.command()
def pull(
    reference: Annotated[str, typer.Argument(metavar="NAME@ALIAS|NAME/VERSION")],
    to: Annotated[Path, typer.Option("--to", help="folder for the adapter's files")],
    tracking_uri: TrackingOption = None,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Fetch a registered adapter: verified by sha256, cached, offline afterwards."""
    from softalign.registry import pull_version

    found = pull_version(reference, to, _registry(tracking_uri, store))
    payload = {**asdict(found), "path": str(found.path), "reference": reference}
    _emit(payload, as_json, str(found.path))


@app.command()
def promote(
    name: str,
    version: Annotated[int | None, typer.Option("--version", help="default: the challenger")] = None,
    reason: Annotated[str, typer.Option("--reason", help="kept in the history")] = "promoted by hand",
    tracking_uri: TrackingOption = None,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Make a version champion by hand."""
    from softalign.registry import promote as promote_version

    entry = promote_version(name, version, reason, _registry(tracking_uri, store))
    _emit(entry.model_dump(mode="json"), as_json, entry.to_text())


@app.command()
def rollback(
    name: str,
    reason: Annotated[str, typer.Option("--reason", help="kept in the history")] = "rolled back by hand",
    tracking_uri: TrackingOption = None,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Give the champion alias back to the champion before."""
    from softalign.registry import rollback as roll_back

    entry = roll_back(name, reason, _registry(tracking_uri, store))
    _emit(entry.model_dump(mode="json"), as_json, entry.to_text())


@app.command()
def history(
    name: str, tracking_uri: TrackingOption = None, store: StoreOption = DEFAULT_STORE, as_json: JsonOption = False
) -> None:
    """List the versions of a model and what was decided about each."""
    from softalign.registry import history as read_history

    entries = read_history(name, _registry(tracking_uri, store))
    payload = {"name": name, "history": [entry.model_dump(mode="json") for entry in entries]}
    _emit(payload, as_json, "\n".join(entry.to_text() for entry in entries))


@shapes_app.command("pretrain")
def shapes_pretrain(
    out: Annotated[Path, typer.Option("--out", help="folder for checkpoints and the finished model")],
    family: Annotated[Literal["sd21", "sd3"], typer.Option("--family", help="sd21: U-Net; sd3: MMDiT")] = "sd21",
    samples: Annotated[int | None, typer.Option("--samples", min=1, help="images the denoiser sees")] = None,
    threads: Annotated[int, typer.Option("--threads", min=1)] = os.cpu_count() or 1,
    as_json: JsonOption = False,
) -> None:
    """Train the embedded model from nothing: autoencoder, text encoder, denoiser; resumable."""
    from softalign.shapes.pretrain import pretrain
    from softalign.shapes.recipe import PretrainConfig

    config = PretrainConfig(num_threads=threads)
    if samples is not None:
        section = "denoiser" if family == "sd21" else "transformer"
        shorter = getattr(config, section).model_copy(update={"num_samples": samples})
        config = config.model_copy(update={section: shorter})
    result = pretrain(config, out, family)
    payload = {"weights_path": str(result.weights_path), "samples_seen": result.samples_seen}
    _emit(payload, as_json, str(result.weights_path))
