"""Folders of images with a text file of the same name beside each: written down as a Parquet table."""

from __future__ import annotations

from pathlib import Path

from softalign.data.drafting.images import list_images


def read_pairs(folder: Path) -> dict[str, str]:
    """Return the captions of images that have a ``.txt`` file of the same name, by the image's relative name.

    The whole file is one caption; its white space is made plain. Files that are no text are left out.
    """
    captions = {}
    for name in sorted(list_images(folder)):
        path = (folder / name).with_suffix(".txt")
        try:
            text = " ".join(path.read_text(encoding="utf-8").split())
        except (OSError, ValueError):
            continue
        if text:
            captions[name] = text
    return captions


def write_pairs(captions: dict[str, str], path: Path) -> None:
    """Write the pairs as a Parquet table with the columns ``file_name`` and ``caption``."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"file_name": list(captions), "caption": list(captions.values())}), path)
