"""What the embedded world's detector must still find in stored images before it scores anything.

``python -m softalign.shapes.self_test`` records them anew: only where the detector is meant to answer otherwise.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from softalign.errors import IntegrityError
from softalign.geneval.detections import Detection, Detector, read_detections, write_detections
from softalign.shapes.scenes import IMAGE_SIZE_PX, SHAPES, render, sample_scene

GOLDEN_FOLDER: Final = Path(str(files("softalign.shapes").joinpath("golden")))
_IMAGES_FILENAME: Final = "images.png"
_DETECTIONS_FILENAME: Final = "detections.jsonl"
_NUM_IMAGES: Final = 8
_SEED: Final = 2024
_SCORE_TOLERANCE: Final = 1e-3
"""Of a score: the last bits of sums differ between processors."""


def require_sound(detector: Detector) -> None:
    """Refuse a detector that does not find what was recorded.

    Raises:
        IntegrityError: says in which image, and what was found.
    """
    recorded = read_detections(GOLDEN_FOLDER / _DETECTIONS_FILENAME, SHAPES)
    for (name, expected), found in zip(recorded.items(), detector(golden_images()), strict=True):
        if not _agree(expected, found):
            raise IntegrityError(
                "The detector fails its self-test, so nothing is scored with it.",
                expected="; ".join(map(str, expected)),
                found="; ".join(map(str, found)) or "nothing",
                where=f"stored image {name} of the embedded world",
                fix="reinstall softalign with the tested numpy, scipy and pillow (infra/constraints.txt)",
            )


def golden_images() -> list[NDArray[np.uint8]]:
    """Return the stored images, each (32, 32, 3) uint8."""
    with Image.open(GOLDEN_FOLDER / _IMAGES_FILENAME) as image:
        strip = np.asarray(image.convert("RGB"))
    return [strip[:, start : start + IMAGE_SIZE_PX] for start in range(0, strip.shape[1], IMAGE_SIZE_PX)]


def _agree(expected: tuple[Detection, ...], found: list[Detection]) -> bool:
    return len(expected) == len(found) and all(
        (one.class_name, one.box, one.color) == (other.class_name, other.box, other.color)
        and abs(one.score - other.score) <= _SCORE_TOLERANCE
        for one, other in zip(expected, found, strict=True)
    )


def _record() -> None:
    from softalign.shapes.detector import detect

    rng = np.random.default_rng(_SEED)
    images = [render(sample_scene(rng)) for _ in range(_NUM_IMAGES)]
    GOLDEN_FOLDER.mkdir(exist_ok=True)
    Image.fromarray(np.concatenate(images, axis=1)).save(GOLDEN_FOLDER / _IMAGES_FILENAME, optimize=True)
    write_detections(
        GOLDEN_FOLDER / _DETECTIONS_FILENAME, {str(index): detect(image) for index, image in enumerate(images)}
    )


if __name__ == "__main__":
    _record()
