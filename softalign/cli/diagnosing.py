"""Command that says why an adapter acts or does not: diagnose."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Literal

import typer

from softalign.cli.completion import recipe_words
from softalign.cli.options import JsonOption, SetOption, StoreOption, app, emit, require_pipeline
from softalign.processes.leaving import leaving_in_order
from softalign.store.store import DEFAULT_STORE

log = logging.getLogger("softalign")
Target = Annotated[
    str,
    typer.Argument(
        metavar="ADAPTER|RECIPE", help="an adapter as in generate, or a recipe", autocompletion=recipe_words
    ),
]
Out = Annotated[Path, typer.Option("--out", help="folder for diagnosis.html and diagnosis.json")]
Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="RECIPE",
        help="whose held-out images are looked at; encoded before",
        autocompletion=recipe_words,
    ),
]


@app.command()
def diagnose(
    target: Target,
    out: Out = Path("diagnosis"),
    data: Data = None,
    overrides: SetOption = None,
    store: StoreOption = DEFAULT_STORE,
    base: Annotated[str | None, typer.Option("--base", help="base model; default: the adapter's")] = None,
    num_images: Annotated[int, typer.Option("--num-images", min=2, help="images that are looked at")] = 64,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="pairs of one denoiser call")] = 16,
    seed: Annotated[int, typer.Option("--seed", min=0, help="of images and noise")] = 0,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option("--device")] = "auto",
    force: Annotated[bool, typer.Option("--force", help="accept a base model that the adapter does not know")] = False,
    as_json: JsonOption = False,
) -> None:
    """Say why an adapter acts or does not: changes, attention, captions told apart, gradients, and guidance."""
    require_pipeline("diagnose")
    log.info("Loading PyTorch and the model")
    from softalign.config.runtime import Runtime
    from softalign.diagnosis.diagnose import diagnose as measure
    from softalign.diagnosis.records import PAGE_FILENAME
    from softalign.stages.diagnosing import AskedDiagnosis, request_of
    from softalign.store.store import Store

    opened = Store(store)
    asked = AskedDiagnosis(
        *(target, data, tuple(overrides or ()), base, Runtime(device=device), out, num_images, seed, batch_size, force)
    )
    with leaving_in_order(lambda: "stopped: nothing was written; the same command starts again"):
        diagnosis = measure(request_of(asked, opened), opened)
    page = out / PAGE_FILENAME
    found = "\n".join(f"- {finding}" for finding in diagnosis.findings)
    emit({"page": str(page), **diagnosis.model_dump(mode="json")}, as_json, f"{found}\n{page}")
