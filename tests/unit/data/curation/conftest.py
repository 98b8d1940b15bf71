"""Sources as a data team hands them over: real image files and captions tables."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from softalign.config import CocoSource, CurationConfig, FilterConfig, ParquetSource
from softalign.store.store import Store


def picture(seed, width=48, height=40):
    """Return a picture like no other seed's, smooth enough to survive JPEG."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@dataclass
class Handover:
    """A folder of images and a captions table under construction."""

    root: Path
    rows: list = field(default_factory=list)

    @property
    def images(self):
        return self.root / "images"

    def add(self, name, captions, image=None, data=None, **save):
        path = self.images / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if data is not None:
            path.write_bytes(data)
        elif image is not None:
            image.save(path, **save)
        self.rows.append((name, captions))
        return path

    def add_pictures(self, count, start=0):
        for seed in range(start, start + count):
            self.add(f"{seed:03d}.png", [f"picture number {seed}", f"another view of {seed}"], picture(seed))
        return self

    def coco(self, **changes):
        images = [{"id": index, "file_name": name} for index, (name, _) in enumerate(self.rows)]
        annotations = [
            {"id": 1000 + index, "image_id": index, "caption": caption}
            for index, (_, captions) in enumerate(self.rows)
            for caption in captions
        ]
        path = self.root / "captions.json"
        self.images.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"images": images, "annotations": annotations, **changes}))
        return CocoSource(annotations_uri=str(path), images_uri=str(self.images))

    def parquet(self, **columns):
        pairs = [(name, caption) for name, captions in self.rows for caption in captions]
        columns = columns or {"file_name": [p[0] for p in pairs], "caption": [p[1] for p in pairs]}
        path = self.root / "captions.parquet"
        self.images.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), path)
        return ParquetSource(table_uri=str(path), images_uri=str(self.images))


@pytest.fixture
def handover(tmp_path):
    return Handover(tmp_path / "handover")


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "store"))


@pytest.fixture
def make_picture():
    return picture


@pytest.fixture
def configure():
    def build(*sources, samples_per_shard=4, val_share=0.2, **filters):
        return CurationConfig(
            name="test",
            sources=sources,
            samples_per_shard=samples_per_shard,
            val_share=val_share,
            filters=FilterConfig(**filters),
        )

    return build
