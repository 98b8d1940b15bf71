"""Detectors on the command line: which models, where, and the conversion of the official weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from softalign.cli.options import JsonOption, emit

if TYPE_CHECKING:
    from softalign.evaluation.detecting import DetectedFolder

AUTO = "auto"
"""In the place of a file of detections: softalign detects."""
SegmenterOption = Annotated[
    str | None, typer.Option("--segmenter", help="Mask2Former: a folder or hub id; default: the hub's Swin-S of COCO")
]
ColorClassifierOption = Annotated[
    str | None, typer.Option("--color-classifier", help="CLIP: a folder or hub id; default: OpenAI's ViT-L/14")
]
DeviceOption = Annotated[Literal["auto", "cpu", "cuda"], typer.Option("--device", help="where the model computes")]


def detect(
    folder: Path, segmenter: str | None, color_classifier: str | None, device: Literal["auto", "cpu", "cuda"]
) -> DetectedFolder:
    """Detect what is not detected yet of a folder's images."""
    from softalign.config.evaluation import DetectorConfig
    from softalign.config.runtime import Runtime
    from softalign.evaluation.detecting import detect_folder

    named: dict[str, Any] = {"segmenter": segmenter, "color_classifier": color_classifier}
    config = DetectorConfig(**{field: model for field, model in named.items() if model is not None})
    return detect_folder(folder, config, Runtime(device=device))


def convert_detector(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="mmdet's .pth file of Mask2Former Swin-S")],
    to: Annotated[Path, typer.Option("--to", help="a new or empty folder for the model")],
    as_json: JsonOption = False,
) -> None:
    """Write the official detector's weights as a folder for ``evaluate.detector.segmenter``."""
    from softalign.detectors.mmdet_convert import convert_checkpoint

    conversion = convert_checkpoint(checkpoint, to)
    label = "geneval" if conversion.is_official else "geneval-hf: it is not the checkpoint of GenEval's authors"
    emit(
        {"path": str(to), "is_official": conversion.is_official, **conversion.model_dump()},
        as_json,
        f"Converted to {to}. Scores with it are called {label}.",
    )
