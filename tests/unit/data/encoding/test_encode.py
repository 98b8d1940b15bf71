"""The encode stage: what is stored, that nothing is encoded twice, and that kills leave no trace."""

import json
import os
import random
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from softalign.artifacts import EncodedManifest, FileEntry, SourceWeight
from softalign.backbones.identity import component_digest
from softalign.backbones.loading import load_backbone
from softalign.config import BackboneConfig, CocoSource, CurationConfig, FilterConfig, NegativesConfig, Runtime
from softalign.data.captions.hard_negatives import drawn_edits
from softalign.data.curation.pipeline import curate
from softalign.data.curation.samples import caption_digest
from softalign.data.encoding import groups, pool, shard_encoder
from softalign.data.encoding.encode import encode
from softalign.data.encoding.encoders import BATCH_SIZE, FrozenEncoders
from softalign.data.encoding.preprocessing import preprocess, resize_and_crop
from softalign.data.encoding.quarantine import stand_in
from softalign.data.encoding.shared_rows import SharedRows, WantedRow
from softalign.errors import DataError, IntegrityError
from softalign.processes.progress import listening
from softalign.stages.narration import figures
from softalign.store.files import list_files
from softalign.store.store import Store
from softalign.store.traffic import traffic
from tests.killing import Fuse, is_killed
from tests.tiny_pipeline import (
    LATENT_CHANNELS,
    SCALING_FACTOR,
    TEXT_LENGTH,
    TEXT_WIDTH,
    save_tiny_pipeline,
)

COCO = Path(__file__).parents[4].parent / "shared" / "data" / "coco"
RESOLUTION = 32


@pytest.fixture(scope="session")
def backbone(tmp_path_factory):
    model = save_tiny_pipeline(tmp_path_factory.mktemp("tiny") / "model")
    return BackboneConfig(family="sd15", model=model, resolution_px=RESOLUTION)


@pytest.fixture(scope="session")
def frozen(backbone):
    return load_backbone(backbone, device=torch.device("cpu"), dtype=torch.float32)


@pytest.fixture
def counted(monkeypatch, frozen):
    """Encode with the one loaded backbone, and count the rows that its encoders are given."""
    monkeypatch.setattr(shard_encoder, "load_backbone", lambda *args, **kwargs: frozen)
    rows = {"images": 0, "texts": 0}
    latents_of, text_states_of = FrozenEncoders.latents_of, FrozenEncoders.text_states_of

    def count(kind, call):
        def counting(self, inputs):
            inputs = list(inputs)
            rows[kind] += len(inputs)
            return call(self, inputs)

        return counting

    monkeypatch.setattr(FrozenEncoders, "latents_of", count("images", latents_of))
    monkeypatch.setattr(FrozenEncoders, "text_states_of", count("texts", text_states_of))
    return rows


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "store"))


def make_dataset(root, store, captions_by_seed, key, samples_per_shard=8, *, captions_in_tars=True):
    """Curate pictures by seed, each with its captions, and return the dataset."""
    folder = root / f"handover-{key}"
    folder.mkdir(parents=True)
    for seed in captions_by_seed:
        coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((48, 40)).save(folder / f"{seed:03d}.png")
    images = [{"id": seed, "file_name": f"{seed:03d}.png"} for seed in captions_by_seed]
    annotations = [{"image_id": seed, "caption": text} for seed, texts in captions_by_seed.items() for text in texts]
    (folder / "captions.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    source = CocoSource(annotations_uri=str(folder / "captions.json"), images_uri=str(folder))
    config = CurationConfig(
        name="test",
        sources=(source,),
        samples_per_shard=samples_per_shard,
        val_share=0.2,
        filters=FilterConfig(max_hash_distance=-1),
        captions_in_tars=captions_in_tars,
    )
    return curate(config, store, key)


def captions_of(seeds, word="red"):
    return {seed: [f"a {word} circle {seed}", "a photo of a circle"] for seed in seeds}


def indexed(manifest, name):
    return json.loads((Path(manifest.uri) / f"{name}.json").read_bytes())


def encoded_rows(store, manifest, name, tensor_name):
    rows = {}
    for shard in indexed(manifest, name):
        file = FileEntry.model_validate(shard["file"])
        wanted = [WantedRow(file, row, (tensor_name,)) for row in range(len(shard["digests"]))]
        rows |= {digest: row for digest, (row,) in zip(shard["digests"], SharedRows(store).read(wanted), strict=True)}
    return rows


def test_weights_are_columns_where_there_are_some(tmp_path, store, backbone, counted):
    dataset = make_dataset(tmp_path, store, captions_of(range(6)), "d", samples_per_shard=3)
    plain = encode(dataset, backbone, Runtime(), store, "e")
    told = encode(
        dataset.model_copy(update={"weights": (SourceWeight(source="0-coco", weight=0.5),)}),
        backbone,
        Runtime(),
        store,
        "f",
    )
    columns = [pq.read_table(Path(one.uri) / "samples.parquet") for one in (plain, told)]
    assert set(columns[1].column_names) - set(columns[0].column_names) == {"weight"}
    assert columns[1]["weight"].to_pylist() == [0.5] * 6
    assert columns[1].drop_columns("weight").equals(columns[0])


def test_the_manifest_says_what_is_there(tmp_path, store, backbone, counted, frozen):
    dataset = make_dataset(tmp_path, store, captions_of(range(20)), "d")
    manifest = encode(dataset, backbone, Runtime(), store, "e")
    assert store.find(EncodedManifest, "e") == manifest
    assert manifest.parents == (dataset.digest,)
    assert manifest.latent_shape == (LATENT_CHANNELS, RESOLUTION // 8, RESOLUTION // 8)
    assert manifest.text_shape == (TEXT_LENGTH, TEXT_WIDTH)
    assert (manifest.num_samples, manifest.num_latents, manifest.num_texts) == (20, 20, 22)
    assert manifest.vae_digest == component_digest(frozen.pipeline.vae)
    assert manifest.text_encoder_digest == component_digest(frozen.pipeline.text_encoder)
    assert manifest.backbone_digest == component_digest(frozen.pipeline.unet)
    assert counted == {"images": 20, "texts": 22}
    samples = pq.read_table(Path(manifest.uri) / "samples.parquet").to_pylist()
    assert len(samples) == 20
    assert sum(row["split"] == "val" for row in samples) == manifest.num_val_samples
    assert not (Path(store.uri) / ".work" / "encode" / "e").exists()


def test_it_reports_images_and_captions_those_of_before_as_such(tmp_path, store, backbone, counted):
    heard = []
    encode(make_dataset(tmp_path, store, captions_of(range(10)), "d"), backbone, Runtime(), store, "e")
    more = make_dataset(tmp_path, store, captions_of(range(12)), "more")
    with listening(heard.append):
        encode(more, backbone, Runtime(), store, "f")
    ends = [(end.stage, end.unit, end.done, end.total, end.num_reused) for end in heard if end.is_last]
    assert ends == [("encode", "images", 12, 12, 10), ("encode", "captions", 14, 14, 12)]


def test_bytes_per_encoded_sample(tmp_path, store, backbone, counted):
    """A view that carries its whole batch cost a peer 15 times the space."""
    dataset = make_dataset(tmp_path, store, captions_of(range(20)), "d")
    manifest = encode(dataset, backbone, Runtime(), store, "e")
    itemsize = 2
    total = 0
    for name in ("latents", "texts"):
        for shard in indexed(manifest, name):
            path, num_rows = Path(store.uri) / shard["file"]["path"], len(shard["digests"])
            numel = num_rows * int(np.prod(shard["tensors"][0]["row_shape"]))
            num_common = (num_rows - 1) * TEXT_WIDTH if name == "texts" else 0  # the begin token's state, or more
            size, num_stored = path.stat().st_size, sum(tensor.numel() for tensor in load_file(path).values())
            assert 0 < size - num_stored * itemsize <= 384
            assert num_stored == numel if name == "latents" else num_stored <= numel - num_common
            total += size
    assert manifest.total_bytes == total


def test_latents_are_the_vaes(tmp_path, store, backbone, counted, frozen):
    dataset = make_dataset(tmp_path, store, captions_of([3]), "d")
    manifest = encode(dataset, backbone, Runtime(), store, "e")
    (found,) = encoded_rows(store, manifest, "latents", "latents").values()
    picture = resize_and_crop(Image.open(tmp_path / "handover-d" / "003.png"), RESOLUTION)
    pixels = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        expected = frozen.pipeline.vae.encode(pixels).latent_dist.mean * SCALING_FACTOR  # as the pipeline decodes
    assert found.dtype == torch.float16
    torch.testing.assert_close(found.float(), expected[0], atol=2e-3, rtol=2e-3)


def test_texts_are_what_generation_uses_and_the_empty_one_is_there(tmp_path, store, backbone, counted, frozen):
    dataset = make_dataset(tmp_path, store, {1: ["two red circles " * 9]}, "d")
    manifest = encode(dataset, backbone, Runtime(), store, "e")
    found = encoded_rows(store, manifest, "texts", "prompt_embeds")
    for caption in ("", ("two red circles " * 9).strip()):
        expected, _ = frozen.pipeline.encode_prompt(caption, "cpu", 1, do_classifier_free_guidance=False)
        torch.testing.assert_close(found[caption_digest(caption)].float(), expected[0], atol=4e-3, rtol=2e-3)


def test_hard_negatives_are_encoded_once_and_named_beside_their_captions(tmp_path, store, backbone, counted):
    dataset = make_dataset(tmp_path, store, captions_of(range(6)), "d")
    plain = encode(dataset, backbone, Runtime(), store, "plain")
    counted.update(images=0, texts=0)
    manifest = encode(dataset, backbone, Runtime(), store, "e", NegativesConfig(num_hard=3))
    assert (plain.hard_negatives_per_caption, manifest.hard_negatives_per_caption) == (0, 3)
    rows = pq.read_table(Path(manifest.uri) / "samples.parquet").to_pylist()
    found = encoded_rows(store, manifest, "texts", "prompt_embeds")
    edits = set()
    for row in rows:
        for caption, of_caption in zip(row["captions"], row["hard_negatives"], strict=True):
            assert of_caption == [edit.text for edit in drawn_edits(caption, 3, row["captions"])]
            assert 0 < len(of_caption) <= 3
            edits.update(of_caption)
    assert edits and {caption_digest(edit) for edit in edits} <= set(found)
    assert manifest.num_texts == len(found) == plain.num_texts + len(edits)
    assert counted == {"images": 0, "texts": len(edits)}
    plain_rows = pq.read_table(Path(plain.uri) / "samples.parquet").to_pylist()
    assert all(row["hard_negatives"] == [[], []] for row in plain_rows)


def test_edits_of_other_kinds_are_other_texts_and_a_kind_without_any_is_said(tmp_path, store, backbone, caplog):
    dataset = make_dataset(tmp_path, store, captions_of(range(6)), "d")
    asked = NegativesConfig(num_hard=3, kinds=("position", "count"), counts="below")
    with caplog.at_level("INFO"):
        manifest = encode(dataset, backbone, Runtime(), store, "some", asked)
    rows = pq.read_table(Path(manifest.uri) / "samples.parquet").to_pylist()
    for row in rows:
        for caption, of_caption in zip(row["captions"], row["hard_negatives"], strict=True):
            assert of_caption == [edit.text for edit in drawn_edits(caption, 3, row["captions"], ("count",), "below")]
    found = [record.getMessage() for record in caplog.records]
    missing = {"position"} if any(row["hard_negatives"] != [[], []] for row in rows) else {"count", "position"}
    warned = [text for text in found if text.startswith("train.negatives.kinds names")]
    assert len(warned) == 1 and all(kind in warned[0] for kind in missing)
    assert ("edits of captions by kind: count 100%" in found) == ("count" not in missing)


def test_new_captions_never_encode_an_image_again(tmp_path, store, backbone, counted):
    first = encode(make_dataset(tmp_path, store, captions_of(range(12)), "d1"), backbone, Runtime(), store, "e1")
    counted.update(images=0, texts=0)
    changed = captions_of(range(12)) | captions_of([2, 9], "blue")
    second = encode(make_dataset(tmp_path, store, changed, "d2"), backbone, Runtime(), store, "e2")
    assert counted == {"images": 0, "texts": 2}
    assert indexed(first, "latents") == indexed(second, "latents"), "not even copied"


def test_a_refresh_encodes_and_writes_new_captions_alone(tmp_path, store, backbone, counted):
    first = encode(make_dataset(tmp_path, store, captions_of(range(20)), "d1"), backbone, Runtime(), store, "e1")
    changed = captions_of(range(20)) | captions_of([2, 9, 17], "blue")
    dataset = make_dataset(tmp_path, store, changed, "d2")
    counted.update(images=0, texts=0)
    before = traffic().written_bytes
    second = encode(dataset, backbone, Runtime(), store, "e2", before=first)
    assert counted == {"images": 0, "texts": 3}
    assert second.parents == (dataset.digest, first.digest)
    assert (second.num_latents, second.num_texts) == (20, 22), "what is of use; three rows of before are not"
    assert indexed(second, "latents") == indexed(first, "latents")
    *kept, new = indexed(second, "texts")
    assert kept == indexed(first, "texts") and len(new["digests"]) == 3, "one shard, though of three of the dataset"
    listed = sum(path.stat().st_size for path in Path(second.uri).iterdir())
    assert traffic().written_bytes - before <= new["file"]["size_bytes"] + listed + 1000

    plain = encode(dataset, backbone, Runtime(), Store(str(tmp_path / "fresh")), "e3")
    for name, tensor in (("latents", "latents"), ("texts", "prompt_embeds")):
        rows = encoded_rows(store, second, name, tensor)
        expected = encoded_rows(Store(str(tmp_path / "fresh")), plain, name, tensor)
        assert all(torch.equal(rows[digest], value) for digest, value in expected.items())


def test_shards_that_a_refresh_hardly_needs_are_left(tmp_path, store, backbone, counted):
    first = encode(make_dataset(tmp_path, store, captions_of(range(24)), "d1"), backbone, Runtime(), store, "e1")
    dataset = make_dataset(tmp_path, store, captions_of([*range(8), 8, 9]), "d2")
    counted.update(images=0, texts=0)
    second = encode(dataset, backbone, Runtime(), store, "e2", before=first)
    assert counted == {"images": 0, "texts": 0}
    sizes = [[len(shard["digests"]) for shard in indexed(one, "latents")] for one in (first, second)]
    assert sizes == [[8, 8, 8], [8, 2]], "of the second shard two of eight are of use: they are copied"


def test_changed_images_encode_what_is_new_only_and_give_the_same_bytes(tmp_path, backbone, counted):
    here, fresh = Store(str(tmp_path / "here")), Store(str(tmp_path / "fresh"))
    seeds = [5, 30, *range(7, 18), 40]
    encode(make_dataset(tmp_path / "a", here, captions_of(range(20)), "d1"), backbone, Runtime(), here, "e1")
    counted.update(images=0, texts=0)
    grown = encode(make_dataset(tmp_path / "b", here, captions_of(seeds), "d2"), backbone, Runtime(), here, "e2")
    assert counted == {"images": 2, "texts": 2}
    alone = encode(make_dataset(tmp_path / "c", fresh, captions_of(seeds), "d2"), backbone, Runtime(), fresh, "e2")
    assert grown.digest == alone.digest, "an encoded set does not depend on what the store held before"


def test_repeating_encodes_nothing(tmp_path, store, backbone, counted):
    dataset = make_dataset(tmp_path, store, captions_of(range(6)), "d")
    first = encode(dataset, backbone, Runtime(), store, "e")
    before, _ = list_files(Path(store.uri)), counted.update(images=0, texts=0)
    assert encode(dataset, backbone, Runtime(num_threads=1), store, "e") == first
    assert counted == {"images": 0, "texts": 0}
    assert list_files(Path(store.uri)) == before


def test_another_resolution_or_model_shares_nothing(tmp_path, store, backbone, counted, monkeypatch):
    dataset = make_dataset(tmp_path, store, captions_of(range(3)), "d")
    encode(dataset, backbone, Runtime(), store, "e1")
    counted.update(images=0, texts=0)
    larger = backbone.model_copy(update={"resolution_px": 48})
    assert encode(dataset, larger, Runtime(), store, "e2").latent_shape == (LATENT_CHANNELS, 6, 6)
    assert counted == {"images": 3, "texts": 0}

    other = backbone.model_copy(update={"model": save_tiny_pipeline(tmp_path / "other", text_seed=1)})
    monkeypatch.setattr(shard_encoder, "load_backbone", load_backbone)
    counted.update(images=0, texts=0)
    encode(dataset, other, Runtime(), store, "e3")
    assert counted == {"images": 0, "texts": 5}


def test_repeated_images_and_captions_are_encoded_once(tmp_path, store, backbone, counted):
    dataset = make_dataset(tmp_path, store, {seed: ["the same caption"] for seed in range(20)}, "d")
    manifest = encode(dataset, backbone, Runtime(), store, "e")
    assert (manifest.num_latents, manifest.num_texts) == (20, 2)
    assert counted["texts"] == 2


def test_captions_are_read_of_the_indexes_alone(tmp_path, store, backbone, counted):
    within = encode(make_dataset(tmp_path, store, captions_of([1, 2]), "a"), backbone, Runtime(), store, "a")
    dataset = make_dataset(tmp_path, store, captions_of([1, 2]), "b", captions_in_tars=False)
    apart = encode(dataset, backbone, Runtime(), store, "b")
    assert apart.files_digest == within.files_digest


def test_many_captions_are_cut_into_shards(tmp_path, store, backbone, counted, monkeypatch):
    monkeypatch.setattr(groups, "MAX_TEXTS_PER_SHARD", 3)
    dataset = make_dataset(tmp_path, store, {1: [f"caption {n}" for n in range(7)]}, "d")
    manifest = encode(dataset, backbone, Runtime(), store, "e")
    assert [len(shard["digests"]) for shard in indexed(manifest, "texts")] == [1, 3, 3, 1]


@pytest.mark.parametrize("name", ["latents", "texts"])
def test_a_lost_shard_is_encoded_again(tmp_path, store, backbone, counted, name):
    dataset = make_dataset(tmp_path, store, captions_of(range(6)), "d")
    manifest = encode(dataset, backbone, Runtime(), store, "e")
    lost = Path(store.uri) / indexed(manifest, name)[-1]["file"]["path"]
    content = lost.read_bytes()
    for damage in (lost.unlink, lambda: lost.write_bytes(content[:-1])):
        damage()
        assert encode(dataset, backbone, Runtime(), store, "e") == manifest
        assert lost.read_bytes() == content


def test_weights_that_give_no_finite_encodings_are_named(tmp_path, store, backbone, counted, frozen):
    dataset = make_dataset(tmp_path, store, captions_of(range(2)), "d")
    bias = frozen.pipeline.vae.quant_conv.bias
    kept = bias.data.clone()
    bias.data[0] = 1e6
    try:
        with pytest.raises(DataError, match="not finite"):
            encode(dataset, backbone, Runtime(), store, "e")
    finally:
        bias.data.copy_(kept)


def test_a_damaged_dataset_is_refused(tmp_path, store, backbone, counted):
    dataset = make_dataset(tmp_path, store, captions_of(range(2)), "d")
    tar = Path(dataset.uri) / "shard-000000.tar"
    tar.write_bytes(tar.read_bytes()[:-100])
    with pytest.raises(IntegrityError, match="not what was published"):
        encode(dataset, backbone, Runtime(), store, "e")


def test_a_rows_bytes_do_not_depend_on_its_company(frozen):
    encoders = FrozenEncoders(frozen, RESOLUTION)
    images = torch.randn(2 * BATCH_SIZE + 3, 3, RESOLUTION, RESOLUTION, generator=torch.Generator().manual_seed(0))
    together = encoders.latents_of(images)
    assert torch.equal(encoders.latents_of(images.flip(0)).flip(0), together)
    assert torch.equal(encoders.latents_of(images[5:6])[0], together[5])
    captions = [f"a photo of {word} circles" for word in ("two", "three", "four", "five", "red")] * 5
    together = encoders.text_states_of(captions).prompt_embeds_NLD
    assert torch.equal(encoders.text_states_of(captions[::-1]).prompt_embeds_NLD.flip(0), together)
    assert torch.equal(encoders.text_states_of(captions[3:4]).prompt_embeds_NLD[0], together[3])


def test_what_identifies_the_encoders_does_not_change_by_using_them(backbone):
    fresh = load_backbone(backbone, device=torch.device("cpu"), dtype=torch.float32)
    before = FrozenEncoders(fresh, RESOLUTION)
    before.text_states_of(["a red circle"])
    after = FrozenEncoders(fresh, RESOLUTION)
    assert (before.texts_spec, before.latents_spec) == (after.texts_spec, after.latents_spec)


@pytest.mark.parametrize("size", [(32, 32), (40, 80), (81, 33), (640, 427), (33, 999)])
def test_images_are_scaled_by_their_shorter_side_and_cropped_at_the_centre(size):
    assert resize_and_crop(Image.new("RGB", size), 32).size == (32, 32)
    marked = Image.new("RGB", (96, 32), "black")
    marked.paste("white", (32, 0, 64, 32))
    assert np.asarray(resize_and_crop(marked, 32)).min() == 255


def test_pixels_are_in_minus_one_to_one_and_shrinking_is_antialiased():
    import io

    stripes = Image.fromarray(np.tile(np.array([[0, 255]], dtype=np.uint8), (256, 128))).convert("RGB")
    buffer = io.BytesIO()
    stripes.save(buffer, "PNG")
    pixels = preprocess(buffer.getvalue(), 32)
    assert (pixels.shape, pixels.dtype) == ((3, 32, 32), torch.float32)
    assert pixels.abs().max() < 0.1, "stripes of one pixel shrink to grey"
    assert preprocess(buffer.getvalue(), 256).min() == -1
    assert preprocess(buffer.getvalue(), 256).max() == 1


def test_killed_at_random_points_ends_with_the_same_bytes(tmp_path, backbone, counted):
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a forked child must not meet its parent's OpenMP threads
    try:
        undisturbed, killed = Store(str(tmp_path / "undisturbed")), Store(str(tmp_path / "killed"))
        datasets = [
            make_dataset(tmp_path / name, store, captions_of(range(20)), "d", samples_per_shard=5)
            for name, store in (("a", undisturbed), ("b", killed))
        ]
        assert datasets[0].digest == datasets[1].digest
        expected = encode(datasets[0], backbone, Runtime(), undisturbed, "e")
        rng, num_kills = random.Random(1), 0

        def work():
            fuse = Fuse(rng.randint(1, 24))
            shard_encoder.preprocess = fuse.wrap(shard_encoder.preprocess)
            pool.save_file = fuse.wrap(pool.save_file)
            for name in ("add_shared", "create_shard_index", "publish", "find"):
                setattr(Store, name, fuse.wrap(getattr(Store, name)))
            encode(datasets[1], backbone, Runtime(), killed, "e")

        while num_kills < 60 and is_killed(work):
            num_kills += 1
            rng.random()
        assert 3 <= num_kills < 60
    finally:
        torch.set_num_threads(num_threads)
    assert killed.find(EncodedManifest, "e").digest == expected.digest
    for shard in (*indexed(expected, "latents"), *indexed(expected, "texts")):
        paths = [Path(store.uri) / shard["file"]["path"] for store in (undisturbed, killed)]
        assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.skipif(not COCO.is_dir(), reason="the COCO sample is not beside the repository")
def test_a_sample_of_coco(tmp_path, store, backbone, counted, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[4])
    root = os.path.relpath(COCO)
    source = CocoSource(annotations_uri=f"{root}/annotations/captions_train2017.json", images_uri=f"{root}/train2017")
    dataset = curate(CurationConfig(name="coco", sources=(source,)), store, "d")
    manifest = encode(dataset, backbone, Runtime(), store, "e")
    assert (manifest.num_samples, manifest.num_latents) == (80, 80)
    assert manifest.num_texts > 380
    (shard,) = indexed(manifest, "latents")
    with safe_open(f"{store.uri}/{shard['file']['path']}", framework="pt") as opened:
        assert opened.get_slice("latents").get_shape() == [80, LATENT_CHANNELS, 4, 4]
        assert opened.get_slice("latents").get_dtype() == "F16"


LENIENT = Runtime(max_corrupt_share=0.5)


def damage(dataset, name):
    """Damage a file without changing its size; return how to mend it."""
    path = Path(dataset.uri) / name
    whole = path.read_bytes()
    path.write_bytes(whole[:200] + b"\xff" * 8 + whole[208:])
    return lambda: path.write_bytes(whole)


@pytest.mark.parametrize("name", ["shard-000001.tar", "shard-000001.parquet"])
def test_a_damaged_shard_is_left_out_named_and_counted_and_made_good_once_it_is_mended(
    tmp_path, store, backbone, counted, name
):
    dataset = make_dataset(tmp_path, store, captions_of(range(20)), "d")
    mend = damage(dataset, name)
    with pytest.raises(IntegrityError, match="max_corrupt_share") as caught:
        encode(dataset, backbone, Runtime(), store, "e")
    assert caught.value.where == f"{dataset.uri}/{name}"
    assert "sha256" in caught.value.expected
    assert "sha256" in caught.value.found
    assert f"rm -r {dataset.uri}" in caught.value.fix
    assert caught.value.fix.endswith(f"runtime.max_corrupt_share={LENIENT.max_corrupt_share}"), "which lets it pass"

    lossy = encode(dataset, backbone, LENIENT, store, "e")
    assert (lossy.num_samples, lossy.num_lost_shards, lossy.num_lost_samples) == (12, 1, 8)
    assert lossy.num_latents == 12
    assert len(pq.read_table(Path(lossy.uri) / "samples.parquet")) == 12
    assert [one["path"] for one in indexed(lossy, "lost")] == [name]
    assert "8 samples lost: 1 damaged shards" in figures(lossy, store)
    assert [one["path"] for one in indexed(dataset, "quarantine")["files"]] == [name]
    assert store.find(EncodedManifest, "e") is None
    assert stand_in(dataset, "e", store) == lossy
    assert encode(dataset, backbone, LENIENT, store, "e") == lossy

    mend()
    whole = encode(dataset, backbone, Runtime(), store, "e")
    other = Store(str(tmp_path / "other"))
    undamaged = make_dataset(tmp_path / "again", other, captions_of(range(20)), "d")
    assert whole.digest == encode(undamaged, backbone, Runtime(), other, "e").digest
    assert whole.digest != lossy.digest
    assert indexed(dataset, "quarantine") == {"files": [], "made_without": {}}
    assert store.find(EncodedManifest, "e") == whole
    assert stand_in(dataset, "e", store) is None


def test_above_the_share_that_may_be_lost_it_stops_and_names_all_that_is_damaged(tmp_path, store, backbone, counted):
    dataset = make_dataset(tmp_path, store, captions_of(range(20)), "d")
    for name in ("shard-000000.tar", "shard-000001.parquet"):
        damage(dataset, name)
    with pytest.raises(IntegrityError, match=r"at most 50\.00% of 20 samples") as caught:
        encode(dataset, backbone, LENIENT, store, "e")
    assert "16 lost: " in caught.value.found
    assert caught.value.fix.endswith("runtime.max_corrupt_share=0.8")
    assert "shard-000000.tar: " in caught.value.found
    assert "shard-000001.parquet: " in caught.value.found
    with pytest.raises(IntegrityError, match="Too much") as caught:  # all of it
        damage(dataset, "shard-000002.tar")
        encode(dataset, backbone, Runtime(max_corrupt_share=1.0), store, "e")
    assert "max_corrupt_share" not in caught.value.fix


def test_a_damaged_shard_whose_images_are_encoded_by_now_costs_nothing(tmp_path, store, backbone, counted):
    dataset = make_dataset(tmp_path, store, captions_of(range(20)), "d")
    encode(dataset, backbone, Runtime(), store, "e")
    damage(dataset, "shard-000001.tar")
    other = backbone.model_copy(update={"resolution_px": 2 * RESOLUTION})
    assert encode(dataset, other, LENIENT, store, "other").num_lost_samples == 8
    assert encode(dataset, backbone, LENIENT, store, "f", NegativesConfig(num_hard=1)).num_lost_samples == 0
    noted = indexed(dataset, "quarantine")
    assert [one["path"] for one in noted["files"]] == ["shard-000001.tar"]
    assert list(noted["made_without"]) == ["other"]
