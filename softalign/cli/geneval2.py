"""Commands of GenEval 2: a folder of images is judged by a vision-language model, two are compared."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from softalign.cli.detecting import DeviceOption
from softalign.cli.geneval import PartialOption
from softalign.cli.options import JsonOption, app, emit
from softalign.processes.leaving import leaving_in_order

geneval2_app = typer.Typer(
    help="GenEval 2: images judged by questions (`geneval generate --prompts FILE` draws them).", no_args_is_help=True
)
app.add_typer(geneval2_app, name="geneval2")
log = logging.getLogger("softalign")


@geneval2_app.command("score")
def geneval2_score(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="images in the official layout")],
    suite: Annotated[str, typer.Option("--suite", metavar="FILE", help="GenEval 2's prompts, JSON lines, or such")],
    judge: Annotated[
        str, typer.Option("--judge", metavar="MODEL", help="a chat model of images and text: a folder or hub id")
    ],
    revision: Annotated[str | None, typer.Option("--judge-revision", help="of a hub id; default: the newest")] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="questions of an image per call")] = 16,
    allow_partial: PartialOption = False,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Score images by Soft-TIFA; images that were judged are not judged again."""
    log.info("Loading PyTorch")
    from softalign.config.runtime import Runtime
    from softalign.evaluation.judging import judge_folder
    from softalign.evaluation.suites import read_suite
    from softalign.geneval.completeness import Suite

    asked = Suite(read_suite(suite), images_per_prompt=1)
    runtime = Runtime(device=device)
    with leaving_in_order(lambda: "stopped: images that are judged are kept; the same command judges the others"):
        score = judge_folder(folder, asked, judge, revision, runtime, batch_size, is_partial_allowed=allow_partial)
    emit(score.to_json(), as_json, score.to_text())


@geneval2_app.command("compare")
def geneval2_compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="a judged folder, or its results.jsonl")],
    b: Annotated[Path, typer.Argument(metavar="B", help="the other one; differences are B - A")],
    allow_partial: PartialOption = False,
    as_json: JsonOption = False,
) -> None:
    """Compare two judged folders in pairs of images, with intervals of the differences."""
    from softalign.evaluation.soft_tifa_pairs import compare_judged

    comparison = compare_judged(a, b, is_partial_allowed=allow_partial)
    emit(comparison.to_json(), as_json, comparison.to_text())
