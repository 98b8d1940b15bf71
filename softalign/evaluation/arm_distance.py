"""How far an arm's images are from a reference: measured where they are drawn, read again where arms are compared."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from softalign.artifacts.metrics import ArmDistances, SetDistances
from softalign.config.metrics import DistanceConfig
from softalign.config.runtime import Runtime
from softalign.engines.work import Engine, Work
from softalign.errors import IntegrityError
from softalign.evaluation.arm_metrics import ScoredArm
from softalign.evaluation.image_files import load_image
from softalign.evaluation.set_distances import set_distances, stored_reference
from softalign.geneval.scoring import ImageResult
from softalign.metrics.distances import statistics_of
from softalign.metrics.reference import label_of, maker_of

DISTANCES_FILENAME = "distances.json"


def write_distances(
    images_root: Path,
    results: Sequence[ImageResult],
    config: DistanceConfig | None,
    runtime: Runtime,
    engine: Engine,
    out: Path,
) -> None:
    """Write how far an arm's images are from the reference to a folder; without a reference nothing is written.

    Raises:
        CompatibilityError: the reference is of other features.
    """
    if config is None:
        return
    describing = Work(file_features, (config.features, runtime), uses_model=True)
    files = ((images_root / result.filename).read_bytes() for result in results)
    rows = np.array(list(engine.map(describing, files)), dtype=np.float32)
    place, maker = Path(config.reference), maker_of(config.features)
    label = label_of(config.features, maker)
    reference = stored_reference(place, maker, label)
    found = set_distances(place, label, statistics_of(rows, maker), reference)
    (out / DISTANCES_FILENAME).write_text(found.model_dump_json(indent=1) + "\n", encoding="utf-8")


def file_features(features: str, runtime: Runtime) -> Callable[[bytes], list[float]]:
    """Return the function that gives the features of an image file (D numbers); loads the model."""
    from softalign.backbones.frozen_pipeline import resolve_device
    from softalign.metrics.features import load_features

    extract = load_features(features, resolve_device(runtime))

    def describe(file: bytes) -> list[float]:
        found: list[float] = extract([load_image(io.BytesIO(file))])[0].tolist()
        return found

    return describe


def arm_distances(arm: ScoredArm) -> ArmDistances:
    """Return an arm's distances.

    Raises:
        IntegrityError: it has none.
    """
    path = arm.root / DISTANCES_FILENAME
    try:
        found = SetDistances.model_validate_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise IntegrityError(
            "An arm has no distances from the reference.",
            expected=DISTANCES_FILENAME,
            found=str(error).splitlines()[0],
            where=str(path),
            fix="evaluate it again",
        ) from error
    return ArmDistances(arm=arm.report.arm, guidance_scale=arm.report.guidance_scale, found=found)
