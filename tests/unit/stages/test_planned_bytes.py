"""A plan says how much encoding will write, for every family, source and suite, with no model here."""

import io
import json
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import constants
from PIL import Image

from softalign.config import load_recipe
from softalign.data.encoding.budget import DIGEST_BYTES
from softalign.stages.plan import plan, plan_text
from softalign.store.store import Store

NUM_IMAGES, NUM_CAPTIONS = 3, 6
LATENT_BYTES = {"sd15": 32_768, "sd21": 32_768, "sdxl": 32_768, "sd3": 131_072, "sd35": 131_072}
TEXT_BYTES = {"sd15": 118_272, "sd21": 157_696, "sdxl": 317_952, "sd3": 2_732_032, "sd35": 2_732_032}
"""77 positions (and T5's 256) times the width, and the pooled states, in float16."""


def pixels(seed):
    data = io.BytesIO()
    Image.new("RGB", (40, 40), (seed, 0, 0)).save(data, "PNG")
    return data.getvalue()


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Three images with two captions each, handed over in every way."""
    root = tmp_path_factory.mktemp("handover")
    names = [f"{index}.png" for index in range(NUM_IMAGES)]
    captions = [[f"a cat {index}", f"a dog {index}"] for index in range(NUM_IMAGES)]
    (root / "images").mkdir()
    (root / "empty").mkdir()
    for index, name in enumerate(names):
        (root / "images" / name).write_bytes(pixels(index))
        (root / "images" / f"{index}.json").write_text(json.dumps({"caption": captions[index]}))
    annotations = [{"image_id": index, "caption": text} for index, texts in enumerate(captions) for text in texts]
    images = [{"id": index, "file_name": name} for index, name in enumerate(names)]
    (root / "coco.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    rows = [{"image": names[entry["image_id"]], "caption": entry["caption"]} for entry in annotations]
    pq.write_table(pa.Table.from_pylist(rows), root / "paths.parquet")
    (root / "paths.jsonl").write_text("\n".join(map(json.dumps, rows)))
    held = {"image": [pixels(index) for index in range(NUM_IMAGES)], "caption": captions}
    pq.write_table(pa.table(held), root / "held.parquet")
    with tarfile.open(root / "samples.tar", "w") as tar:
        for name, data in (("0.png", pixels(0)), ("0.txt", b"a cat")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return root


def sources(root):
    images = {"images_uri": f"{root}/images"}
    columns = {"image_column": "image", "caption_column": "caption"}
    table = {"type": "table", "image_column": "image", "caption_columns": ["caption"]}
    return {
        "coco": {"type": "coco", "annotations_uri": f"{root}/coco.json", **images},
        "parquet": {"type": "parquet", "table_uri": f"{root}/paths.parquet", **columns, **images},
        "table": {**table, "table_uri": f"{root}/paths.jsonl", **images},
        "images in a table": {**table, "table_uri": f"{root}/held.parquet"},
        "folder": {"type": "folder", **images},
        "shapes": {"type": "shapes", "num_scenes": NUM_IMAGES, "captions_per_scene": 2},
        "tars": {"type": "webdataset", "shards_uri": f"{root}/samples.tar"},
        "empty folder": {"type": "folder", "images_uri": f"{root}/empty"},
    }


def rows_of(tmp_path, source, family="sd15", suite="geneval", *overrides):
    backbone = f"backbone={{family: {family}}}"
    overrides = (backbone, f"evaluate.suite={suite}", f"curation.sources={json.dumps([source])}", *overrides)
    return plan(load_recipe("shapes-unet", list(overrides)), Store(str(tmp_path / "store")))


@pytest.fixture(autouse=True)
def reachable_hub(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


@pytest.mark.parametrize("suite", ["geneval", "shapes"])
@pytest.mark.parametrize("family", LATENT_BYTES)
def test_the_size_of_every_familys_encodings_is_known_without_its_model(tmp_path, root, family, suite):
    encode = rows_of(tmp_path, sources(root)["coco"], family, suite)[1]
    latents = NUM_IMAGES * (LATENT_BYTES[family] + DIGEST_BYTES)
    texts = (NUM_CAPTIONS + 1) * (TEXT_BYTES[family] + DIGEST_BYTES)
    assert (encode.state, encode.predicted_bytes) == ("wait", latents + texts)
    assert encode.size_note == "an estimate by what the sources list"
    online = rows_of(tmp_path, sources(root)["coco"], family, suite, "encode.text=online")[1]
    assert online.predicted_bytes == latents


@pytest.mark.parametrize("kind", ["coco", "parquet", "table", "images in a table", "folder", "shapes"])
def test_the_size_is_known_of_every_source_that_lists_its_images(tmp_path, root, kind):
    encode = rows_of(tmp_path, sources(root)[kind])[1]
    expected = rows_of(tmp_path, sources(root)["coco"])[1]
    assert encode.predicted_bytes == expected.predicted_bytes


@pytest.mark.parametrize("kind", ["tars", "empty folder"])
def test_a_size_that_is_not_known_is_said_to_be_so(tmp_path, root, kind):
    rows = rows_of(tmp_path, sources(root)[kind])
    assert rows[1].predicted_bytes is None
    assert "known after curate" in rows[1].size_note
    assert f"(size: {rows[1].size_note})" in plan_text(rows)


def test_a_plan_warns_of_the_budget_and_says_whose_sizes_these_are(tmp_path, root):
    changes = ("runtime.encode_budget_gb=0.0001", "backbone.model=somebody/else")
    rows = rows_of(tmp_path, sources(root)["coco"], "sd15", "geneval", *changes)
    assert "above runtime.encode_budget_gb" in rows[1].size_note
    assert "published models of the family sd15" in rows[1].size_note
    assert rows[1].state == "wait"
