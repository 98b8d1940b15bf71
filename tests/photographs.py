"""Photographs, where a folder of them lies beside the repository; tests do without where it does not."""

from pathlib import Path

FOLDER = Path(__file__).parents[2] / "shared/data/coco/train2017"


def photographs(number):
    """Return the first photographs by name, or none."""
    return sorted(FOLDER.glob("*.jpg"))[:number] if FOLDER.is_dir() else []
