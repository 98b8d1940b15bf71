"""Scenes of the embedded world as a data team would hand them over: PNG files and a captions table."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from softalign.artifacts import Frozen
from softalign.config.curation import CocoSource, ShapesSource
from softalign.processes.reporter import Reporter
from softalign.shapes.captions import complete_caption, incomplete_caption, wrong_caption
from softalign.shapes.scenes import Scene, render_batch, sample_scene
from softalign.store.files import write_atomically

_RENDER_BATCH = 256
_MAX_EXTRA_OBJECTS = 2


class CaptionedScene(Frozen):
    """A scene's file name and captions."""

    filename: str
    captions: tuple[str, ...]


def render_source(source: ShapesSource, folder: Path) -> CocoSource:
    """Render a source's scenes below a folder, unless that is already done, and return the source to read them by.

    The table is written last: where it exists, the images are there. Scene ``i`` depends on the seed and ``i`` only.
    """
    images = folder / "images"
    table = folder / "captions.json"
    if not table.is_file():
        images.mkdir(parents=True, exist_ok=True)
        with Reporter("curate", "scenes", source.num_scenes) as scenes:
            rows = list(scenes.over(_render_files(source, images)))
        write_atomically(table, _coco_table(rows))
    return CocoSource(annotations_uri=str(table), images_uri=str(images))


def captioned_scene(source: ShapesSource, index: int) -> tuple[Scene, tuple[str, ...]]:
    """Return scene ``index`` of a source with its captions.

    A share of the scenes holds objects that no caption names; of the other scenes' captions a share states one wrong
    fact. The shares are of all captions.
    """
    rng = np.random.default_rng([source.seed, index])
    if rng.random() < source.incomplete_share:
        scene = sample_scene(rng, int(rng.integers(1, _MAX_EXTRA_OBJECTS, endpoint=True)))
        return scene, tuple(incomplete_caption(scene, rng).text for _ in range(source.captions_per_scene))
    scene = sample_scene(rng)
    wrong_share = min(1.0, source.wrong_share / max(1e-9, 1.0 - source.incomplete_share))
    captions = (
        wrong_caption(scene, rng) if rng.random() < wrong_share else complete_caption(scene, rng)
        for _ in range(source.captions_per_scene)
    )
    return scene, tuple(caption.text for caption in captions)


def _render_files(source: ShapesSource, images: Path) -> Iterator[CaptionedScene]:
    for start in range(0, source.num_scenes, _RENDER_BATCH):
        indices = range(start, min(start + _RENDER_BATCH, source.num_scenes))
        pairs = [captioned_scene(source, index) for index in indices]
        pixels = render_batch([scene for scene, _ in pairs])
        for index, (_, captions), array in zip(indices, pairs, pixels, strict=True):
            filename = f"{index:06d}.png"
            Image.fromarray(array).save(images / filename, format="PNG")
            yield CaptionedScene(filename=filename, captions=captions)


def _coco_table(rows: list[CaptionedScene]) -> bytes:
    images = [{"id": index, "file_name": row.filename} for index, row in enumerate(rows)]
    pairs = [(index, caption) for index, row in enumerate(rows) for caption in row.captions]
    annotations = [
        {"id": number, "image_id": index, "caption": caption} for number, (index, caption) in enumerate(pairs)
    ]
    return json.dumps({"images": images, "annotations": annotations}).encode()
