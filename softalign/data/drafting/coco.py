"""COCO layouts: which JSON files are captions, and what they list."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from softalign.config.curation import CocoSource
from softalign.data.curation.coco import read_coco
from softalign.data.drafting.images import find_images, list_images, look_at_images
from softalign.data.drafting.records import Alternative, Found, FoundSource, ImageLook, SourceDraft
from softalign.errors import DataError

OTHER_KINDS = ("instances", "person_keypoints", "stuff", "panoptic", "image_info")
"""How COCO names its files that hold no captions."""


def kind_of(path: Path) -> str:
    """Return what a JSON file is: ``captions``, another kind of COCO file, or empty if it is none.

    COCO's own names are believed without reading: its files of boxes take long to read.
    """
    for kind in OTHER_KINDS:
        if path.name.startswith(f"{kind}_"):
            return kind
    try:
        table = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return ""
    if not isinstance(table, dict) or not isinstance(table.get("images"), list):
        return ""
    annotations = table.get("annotations")
    if not isinstance(annotations, list) and any("sentences" in image for image in table["images"][:1]):
        return "captions"  # in another layout, which reading it says
    first: Any = annotations[0] if isinstance(annotations, list) and annotations else {}
    if isinstance(first, dict) and "caption" in first:
        return "captions"
    return "instances" if isinstance(first, dict) and ("bbox" in first or "category_id" in first) else "image_info"


def find_coco(path: Path, roots: list[Path], images: Path | None) -> Found:
    """Return what a captions file lists, with its other readings.

    Raises:
        DataError: it cannot be used.
        MissingInputError: the images are nowhere.
    """
    table = read_coco(CocoSource(annotations_uri=str(path), images_uri=str(images or "")))
    captions = dict(table.images())
    names = list(captions) or [name for name, _ in table.flaws()]  # of which the error shows one
    folders = find_images(names, [images] if images else roots, path)
    drafts = [
        SourceDraft(type="coco", table=str(path), images=str(folder)) for folder in (folders.chosen, *folders.others)
    ]
    why = "the same file names are in this folder too"
    return Found(
        sources=(counted(drafts[0], captions),),
        alternatives=tuple(Alternative(source=draft, why=why) for draft in drafts[1:]),
    )


def counted(draft: SourceDraft, captions: Mapping[str, Sequence[object]]) -> FoundSource:
    """Return a source with what it holds.

    Args:
        draft: the source.
        captions: by file name, as its table lists them.
    """
    folder = Path(draft.images)
    there = list_images(folder)
    present = [name for name in captions if name in there or (name and os.path.isfile(folder / name))]
    return counted_apart(draft, captions.values(), look_at_images(folder, present)).model_copy(
        update={"num_missing": len(captions) - len(present), "num_unlisted": len(there - captions.keys())}
    )


def counted_apart(draft: SourceDraft, captions: Collection[Sequence[object]], look: ImageLook) -> FoundSource:
    """Return a source whose images are in no folder of their own, with what it holds.

    Args:
        draft: the source.
        captions: of each image.
        look: at some of the images.
    """
    return FoundSource(
        source=draft,
        num_images=len(captions),
        num_captions=sum(_is_caption(text) for texts in captions for text in texts),
        num_missing=0,
        num_without_caption=sum(not any(map(_is_caption, texts)) for texts in captions),
        num_unlisted=0,
        look=look,
    )


def _is_caption(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def refuse_other_kind(path: Path, kind: str) -> DataError:
    """Return the refusal of a JSON file that holds no captions; names the captions file beside it if there is one."""
    if not kind:
        return DataError(
            "This JSON file is no captions file in COCO's format.",
            expected='an object with the lists "images" (id, file_name) and "annotations" (image_id, caption)',
            where=str(path),
            fix="export captions in COCO's format, or a table with a row per caption (Parquet, CSV, JSON lines)",
        )
    sibling = path.with_name(path.name.replace(kind, "captions", 1))
    here = (
        f"softalign init {sibling}" if sibling != path and sibling.is_file() else "captions_*.json of the same export"
    )
    return DataError(
        f"This COCO file holds no captions but {kind.replace('_', ' ')}.",
        expected='annotations with "image_id" and "caption"',
        where=str(path),
        fix=f"use {here}",
    )
