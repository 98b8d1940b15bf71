"""Command of GenEval that scores folders by other metrics than its verdicts."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, get_args

import typer

from softalign.cli.detecting import DeviceOption
from softalign.cli.geneval import PartialOption, SuiteOption, geneval_app
from softalign.cli.options import JsonOption, emit
from softalign.config.metrics import MetricConfig, MetricName
from softalign.errors import ConfigError
from softalign.processes.leaving import leaving_in_order

_NAMES: tuple[str, ...] = get_args(MetricName)
log = logging.getLogger("softalign")


@geneval_app.command("metrics")
def geneval_metrics(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR [DIR2]", help="images in the official layout")],
    metrics: Annotated[
        list[str],
        typer.Option("--metric", metavar="NAME=MODEL", help=f"{' or '.join(_NAMES)}; MODEL: a folder or hub id"),
    ],
    suite: SuiteOption = None,
    allow_partial: PartialOption = False,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Score a folder by other metrics, or two in pairs; images that were scored are not scored again."""
    if len(folders) > 2:
        raise ConfigError("One or two folders are scored.", expected="1 or 2", found=str(len(folders)))
    configs = [_metric(text) for text in metrics]
    if len({config.name for config in configs}) < len(configs):
        raise ConfigError("A metric is named twice.", found=", ".join(metrics), where="--metric")
    log.info("Loading PyTorch")
    from softalign.config.runtime import Runtime
    from softalign.evaluation.metric_sets import measure_sets
    from softalign.evaluation.suites import suite_named

    with leaving_in_order(lambda: "stopped: images that are scored are kept; the same command scores the others"):
        found = measure_sets(
            folders, configs, Runtime(device=device), suite_named(suite), is_partial_allowed=allow_partial
        )
    emit(found.to_json(), as_json, found.to_text())


def _metric(text: str) -> MetricConfig:
    name, _, models = text.partition("=")
    model, _, tokenizer = models.partition(",")
    if name not in _NAMES or not model:
        raise ConfigError(
            "This is no metric.",
            expected=f"NAME=MODEL or NAME=MODEL,TOKENIZER with NAME of {', '.join(_NAMES)}",
            found=text,
            where="--metric",
        )
    return MetricConfig.model_validate({"name": name, "model": model, "tokenizer": tokenizer or None})


@geneval_app.command("distance")
def geneval_distance(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="images in the official layout, or any folder of images")
    ],
    features: Annotated[
        str, typer.Option("--features", metavar="FILE|MODEL", help="weights of FID's Inception, or a vision model")
    ],
    reference: Annotated[
        Path | None,
        typer.Option("--reference", metavar="DIR|FILE", help="a folder of images, or statistics (.npz: mu, sigma)"),
    ] = None,
    save_statistics: Annotated[
        Path | None, typer.Option("--save-statistics", help="write DIR's statistics there (.npz), a later reference")
    ] = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Say how far a folder's images are from a reference: FID and KID, or the same of another model's features.

    Without a reference the folder's statistics alone are written, as the reference of others.
    """
    if reference is None and save_statistics is None:
        raise ConfigError(
            "There is nothing to do.",
            expected="--reference, --save-statistics or both",
            found="neither",
            where="softalign geneval distance",
        )
    log.info("Loading PyTorch")
    from softalign.config.runtime import Runtime
    from softalign.evaluation.set_distances import distances_of, write_statistics

    runtime = Runtime(device=device)
    if reference is not None:
        found = distances_of(folder, reference, features, runtime, save_statistics)
        emit(found.to_json(), as_json, found.to_text())
    elif save_statistics is not None:
        number = write_statistics(folder, features, runtime, save_statistics)
        emit({"statistics": str(save_statistics), "num_images": number}, as_json, f"{number} images: {save_statistics}")
