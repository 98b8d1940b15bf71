"""Commands of GenEval: the prompts, the scorer, and an arm's images; its neighbours have the others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from softalign.cli.detecting import AUTO, ColorClassifierOption, DeviceOption, SegmenterOption, convert_detector, detect
from softalign.cli.options import JsonOption, emit, require_pipeline
from softalign.errors import ConfigError

SuiteOption = Annotated[
    str | None,
    typer.Option(
        "--suite", metavar="FILE", help="the prompts that must be there, JSON lines; default: the official ones"
    ),
]
PartialOption = Annotated[
    bool, typer.Option("--allow-partial", help="go on with what is there of an incomplete set, and say what is missing")
]
PageOption = Annotated[
    bool, typer.Option("--page/--no-page", help="write a page with the images, too: about 1 s per 100 photographs")
]
geneval_app = typer.Typer(help="GenEval: prompts, images, scores and comparisons.", no_args_is_help=True)


@geneval_app.command("prompts")
def geneval_prompts(
    out: Annotated[Path | None, typer.Option("--out", help="file to write; default: standard output")] = None,
    num_per_tag: Annotated[
        int, typer.Option("--num-per-tag", min=1, help="draws of every task but single_object, which has each class")
    ] = 100,
    seed: Annotated[int, typer.Option("--seed", min=0, help="of the draws; 43 and 100 are the official suite")] = 43,
    first_per_tag: Annotated[
        int | None,
        typer.Option("--first-per-tag", min=1, help="a trial: only the first so many prompts of each task"),
    ] = None,
) -> None:
    """Write the official 553 prompts as JSON lines, or as many as are wanted by the official drawing."""
    from softalign.geneval.prompts import drawn_prompts, first_of_each_tag, to_json_line

    suite = drawn_prompts(num_per_tag, seed)
    suite = suite if first_per_tag is None else first_of_each_tag(suite, first_per_tag)
    text = "".join(to_json_line(prompt) + "\n" for prompt in suite)
    if out is None:
        typer.echo(text, nl=False)
    elif out.is_dir() or not out.parent.is_dir():
        raise ConfigError("The prompts cannot be written there.", expected="a file in a folder", where=str(out))
    elif out.exists() and out.read_bytes() != text.encode():
        raise ConfigError(
            "There is another file of this name, which may be somebody's own prompts.",
            expected="no such file, or the same prompts",
            where=str(out),
            fix="name another file, or remove this one",
        )
    else:
        out.write_text(text, encoding="utf-8")


@geneval_app.command("unpack")
def geneval_unpack(
    arm: Annotated[str, typer.Argument(metavar="STORE/evaluate/KEY", help="a published arm; `plan --json` has it")],
    to: Annotated[Path, typer.Option("--to", help="folder for the images; made if absent")],
    as_json: JsonOption = False,
) -> None:
    """Write a published arm's images, prompts and detections in the official layout."""
    require_pipeline("geneval unpack")
    from softalign.evaluation.unpacking import unpack_arm

    num_images = unpack_arm(arm, to)
    emit({"path": str(to), "num_images": num_images}, as_json, f"{num_images} images in {to}")


@geneval_app.command("score")
def geneval_score(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="images in the official layout")],
    detections: Annotated[
        Path, typer.Option("--detections", help="detections, one image a line (JSON); auto: detect, with --segmenter")
    ],
    out: Annotated[Path | None, typer.Option("--out", help="folder, or .jsonl file; default: DIR")] = None,
    suite: SuiteOption = None,
    allow_partial: PartialOption = False,
    segmenter: SegmenterOption = None,
    color_classifier: ColorClassifierOption = None,
    device: DeviceOption = "auto",
    has_page: PageOption = True,
    as_json: JsonOption = False,
) -> None:
    """Score images by GenEval's rules, from recorded detections or by detecting (``--detections auto``).

    Beside results.jsonl lie a summary (JSON), a card (Markdown) and a page with the images.
    """
    from softalign.evaluation.scored_files import write_beside
    from softalign.evaluation.scored_set import scored_set
    from softalign.evaluation.suites import results_place, score_directory, suite_named

    label = ""
    if str(detections) == AUTO:
        detected = detect(folder, segmenter, color_classifier, device)
        detections, label = detected.path, detected.label
    elif segmenter or color_classifier or device != "auto":
        raise ConfigError(
            "Models and devices have no effect on recorded detections.",
            expected="--detections auto, or none of --segmenter, --color-classifier and --device",
            found=f"--detections {detections}",
        )
    asked = suite_named(suite)
    result = score_directory(folder, detections, out, suite=asked, is_partial_allowed=allow_partial, detector=label)
    scored = scored_set(folder, results_place(folder, out), result, detections)
    written = write_beside(scored, has_page=has_page)
    places = f"\n\ncard  {written.card}" + (f"\npage  {written.page}" if written.page else "")
    emit({**result.to_json(), "files": written.to_json()}, as_json, result.to_text() + places)


geneval_app.command("convert-detector")(convert_detector)
