"""The reader: batches are a function of (seed, samples_seen), and every refusal is clear."""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from softalign.artifacts import EncodedManifest, canonical_json
from softalign.config import NegativesConfig
from softalign.data.captions.matching import distinct_choices
from softalign.data.curation.samples import caption_digest
from softalign.data.curation.shards import write_table
from softalign.data.encoding import shared_rows
from softalign.data.encoding.order import SampleOrder
from softalign.data.encoding.pool import PoolShard, PoolTensor
from softalign.data.encoding.reader import EncodedReader
from softalign.data.encoding.sample_rows import SAMPLE_SCHEMA, SampleRow
from softalign.errors import CompatibilityError, DataError, IntegrityError
from softalign.store.store import Store
from softalign.training.frozen_model import require_encoders

LATENT_SHAPE, TEXT_SHAPE = (2, 4, 4), (3, 5)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(str(tmp_path_factory.mktemp("store")))


def add_shards(store, work, tensor_name, rows, rows_per_shard):
    shards = []
    for start in range(0, len(rows), rows_per_shard):
        part = dict(list(rows.items())[start : start + rows_per_shard])
        path = work / "shard.safetensors"
        save_file({tensor_name: torch.stack(list(part.values())).half()}, path)
        entry = store.add_shared(tensor_name, path)
        shape = tuple(next(iter(part.values())).shape)
        shards.append(
            PoolShard(digests=tuple(part), tensors=(PoolTensor(name=tensor_name, row_shape=shape),), file=entry)
        )
    return [shard.model_dump(mode="json") for shard in shards]


def publish(store, work, samples, key, hard_negatives=None, weights=None):
    """Publish an encoded set: samples are (key, split, captions); each latent holds its key's number.

    Hard negatives are given by caption; weights of the sample and of its captions by key.
    """
    hard_negatives, weights = hard_negatives or {}, weights or {}
    columns = SAMPLE_SCHEMA | ({"caption_weights": "doubles", "weight": "double"} if weights else {})
    folder = work / f"output-{key}"
    folder.mkdir(parents=True)
    rows = [
        SampleRow(
            key=name,
            split=split,
            image_digest=f"image-{name}",
            captions=captions,
            caption_digests=[caption_digest(caption) for caption in captions],
            hard_negatives=[hard_negatives.get(caption, []) for caption in captions],
            weight=weights.get(name, (1.0, ()))[0],
            caption_weights=weights.get(name, (1.0, ()))[1],
        )
        for name, split, captions in samples
    ]
    latents = {row.image_digest: torch.full(LATENT_SHAPE, float(row.key)) for row in rows}
    edits = [edit for edits in hard_negatives.values() for edit in edits]
    captions = dict.fromkeys(["", *(caption for row in rows for caption in row.captions), *edits])
    texts = {caption_digest(text): torch.full(TEXT_SHAPE, float(len(text))) for text in captions}
    write_table(folder / "samples.parquet", rows, columns)
    for name, tensor_name, values in (("latents", "latents", latents), ("texts", "prompt_embeds", texts)):
        (folder / f"{name}.json").write_bytes(canonical_json(add_shards(store, work, tensor_name, values, 7)))
    num_val = sum(row.split == "val" for row in rows)
    manifest = EncodedManifest(
        stage_key=key,
        name="test",
        backbone_digest="b",
        vae_digest="v",
        text_encoder_digest="t",
        latent_shape=LATENT_SHAPE,
        text_shape=TEXT_SHAPE,
        pooled_width=0,
        hard_negatives_per_caption=max([0, *map(len, hard_negatives.values())]),
        num_samples=len(rows),
        num_val_samples=num_val,
        num_latents=len(latents),
        num_texts=len(texts),
        total_bytes=1,
    )
    return store.publish(manifest, folder)


@pytest.fixture(scope="module")
def manifest(store, tmp_path_factory):
    samples = [
        (str(n), "val" if n % 5 == 0 else "train", [f"caption {n}{x}" * (1 + n % 3) for x in "abc"]) for n in range(30)
    ]
    return publish(store, tmp_path_factory.mktemp("work"), samples, "k")


def reader(manifest, store, split="train", batch_size=5, seed=0):
    return EncodedReader(manifest, store, split=split, batch_size=batch_size, seed=seed)


def same(one, other):
    return (one.keys, one.prompts) == (other.keys, other.prompts) and torch.equal(one.latents_BCHW, other.latents_BCHW)


def test_a_batch_holds_the_rows_of_its_keys(manifest, store):
    batch = reader(manifest, store).batch_at(0)
    assert batch.latents_BCHW.shape == (5, *LATENT_SHAPE)
    assert batch.text.prompt_embeds_NLD.shape == (5, *TEXT_SHAPE)
    assert batch.latents_BCHW.dtype == batch.text.prompt_embeds_NLD.dtype == torch.float32
    assert batch.candidates == tuple((i, *(j for j in range(5) if j != i)) for i in range(5))
    for row, (key, prompt) in enumerate(zip(batch.keys, batch.prompts, strict=True)):
        assert batch.latents_BCHW[row].unique().tolist() == [float(key)]
        assert batch.text.prompt_embeds_NLD[row].unique().tolist() == [float(len(prompt))]
        assert prompt.startswith(f"caption {key}")


def test_the_empty_captions_encoding(manifest, store):
    empty = reader(manifest, store).empty_text.prompt_embeds_NLD[0]
    assert (empty.shape, empty.dtype, empty.abs().max().item()) == (TEXT_SHAPE, torch.float32, 0.0)


def test_a_batch_is_a_function_of_seed_and_cursor(manifest, store):
    forwards, backwards = reader(manifest, store), reader(manifest, store)
    cursors = [5 * step for step in range(20)]
    first = [forwards.batch_at(cursor) for cursor in cursors]
    again = [backwards.batch_at(cursor) for cursor in reversed(cursors)][::-1]
    assert all(same(one, other) for one, other in zip(first, again, strict=True))
    others = [reader(manifest, store, seed=1).batch_at(cursor) for cursor in cursors]
    assert not any(same(one, other) for one, other in zip(first, others, strict=True))


@pytest.mark.parametrize("batch_size", [1, 5, 7, 8, 13, 23, 24])
def test_every_image_comes_once_an_epoch_and_none_twice_in_a_batch(manifest, store, batch_size):
    train = reader(manifest, store, batch_size=batch_size)
    assert train.num_samples == 24
    num_epochs = 2 * batch_size
    batches = [train.batch_at(cursor).keys for cursor in range(0, 24 * num_epochs, batch_size)]
    assert all(len(set(keys)) == batch_size for keys in batches)
    stream = [key for keys in batches for key in keys]
    epochs = [tuple(stream[24 * epoch : 24 * epoch + 24]) for epoch in range(num_epochs)]
    assert all(len(set(keys)) == 24 for keys in epochs)
    assert len(set(epochs)) == num_epochs, "every epoch has its own order"


def plain_order(num_samples, batch_size):
    return SampleOrder([1.0] * num_samples, [str(n) for n in range(num_samples)], batch_size, seed=1)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.data())
def test_the_order_is_the_same_wherever_reading_begins(batch_size, data):
    num_samples = data.draw(st.integers(batch_size, 3 * batch_size))
    order = plain_order(num_samples, batch_size)
    batches = [order.batch_at(cursor) for cursor in range(0, 6 * num_samples, batch_size)]
    assert all(len({draw.place for draw in draws}) == batch_size for draws in batches)
    stream = [draw for draws in batches for draw in draws]
    assert [draw.pass_number for draw in stream] == [seen // num_samples for seen in range(len(stream))]
    assert Counter(draw.place for draw in stream[: 6 * num_samples]) == dict.fromkeys(range(num_samples), 6)
    for at in data.draw(st.lists(st.integers(0, len(batches) - 1), max_size=3)):
        assert plain_order(num_samples, batch_size).batch_at(at * batch_size) == batches[at]


def drawn(weights, batch_size, num_samples, start=0):
    order = SampleOrder(weights, [str(n) for n in range(len(weights))], batch_size, seed=3)
    return [draw.place for cursor in range(start, num_samples, batch_size) for draw in order.batch_at(cursor)]


@pytest.mark.parametrize(
    ("weights", "epoch"),
    [([1.0] * 40 + [2.0] * 10, 60), ([1.0] * 40 + [0.5] * 20, 50), ([3.0] * 8 + [1.0] * 24 + [0.25] * 16, 52)],
)
def test_an_epoch_draws_each_image_as_often_as_its_weight_says(weights, epoch):
    batch_size, num_epochs = 8, 40
    stream = drawn(weights, batch_size, epoch * num_epochs)
    assert all(len(set(stream[at : at + 8])) == 8 for at in range(0, len(stream), 8)), "none twice in a batch"
    epochs = [Counter(stream[at : at + epoch]) for at in range(0, epoch * num_epochs, epoch)]
    for place, weight in enumerate(weights):
        each = [counts[place] for counts in epochs]
        assert sum(each) == weight * num_epochs
        assert set(each) == ({int(weight)} if weight >= 1 else {0, 1})
    assert stream[17 * 8 :] == drawn(weights, batch_size, epoch * num_epochs, start=17 * 8), "wherever reading begins"


def test_of_half_a_weight_each_epoch_draws_the_other_half():
    stream = drawn([0.5] * 20, 5, 40)
    assert set(stream[:10]).isdisjoint(stream[10:20])
    assert set(stream[:20]) == set(range(20))


def test_odd_weights_come_out_on_average():
    weights = [0.3] * 31 + [1.7] * 29 + [1.0] * 13
    counts = Counter(drawn(weights, 7, 7 * 3000))
    num_epochs = 7 * 3000 / sum(weights)
    assert all(abs(counts[place] - weight * num_epochs) < 2 for place, weight in enumerate(weights))


def test_weights_that_leave_too_few_images_for_a_batch():
    with pytest.raises(DataError, match="hold an image twice") as caught:
        SampleOrder([100.0] * 3 + [1.0] * 200, [str(n) for n in range(203)], 8, seed=0)
    assert caught.value.found == "passes of 5, 100 an epoch"
    SampleOrder([100.0] * 3 + [1.0] * 500, [str(n) for n in range(503)], 8, seed=0)
    with pytest.raises(DataError, match="so small") as caught:
        SampleOrder([0.5] * 12, [str(n) for n in range(12)], 8, seed=0)
    assert "smaller weights" not in caught.value.fix


def test_weighted_samples_and_captions_of_the_training_side_alone(store, tmp_path):
    rows = [(str(n), "val" if n < 4 else "train", [f"short {n}", f"a long caption {n}"]) for n in range(12)]
    weights = {str(n): (2.0 if n % 2 else 1.0, (3.0, 1.0)) for n in range(12)}
    published = publish(store, tmp_path, rows, "weighted", weights=weights)
    batches = [reader(published, store, batch_size=4).batch_at(cursor) for cursor in range(0, 12 * 100, 4)]
    counts = Counter(key for batch in batches for key in batch.keys)
    assert counts == {key: 200 if int(key) % 2 else 100 for key in map(str, range(4, 12))}
    share = sum(prompt.startswith("short") for batch in batches for prompt in batch.prompts) / (12 * 100)
    assert abs(share - 0.75) < 0.04
    held_out = [reader(published, store, "val", 4).batch_at(cursor) for cursor in range(0, 4 * 400, 4)]
    assert all(sorted(batch.keys) == ["0", "1", "2", "3"] for batch in held_out)
    share = sum(prompt.startswith("short") for batch in held_out for prompt in batch.prompts) / (4 * 400)
    assert abs(share - 0.5) < 0.04


WHOLE_BATCHES = [
    ("24", "26", "8", "14", "6", "18", "4", "16"),
    ("28", "3", "13", "9", "21", "27", "19", "22"),
    ("4", "2", "16", "11", "21", "19", "6", "12"),
    ("17", "14", "27", "28", "13", "19", "8", "7"),
]
"""24 images in batches of 8, as read before batches went on over the ends of epochs."""


def test_whole_batches_have_the_order_that_earlier_versions_gave(manifest, store):
    train = reader(manifest, store, batch_size=8)
    assert [train.batch_at(cursor).keys for cursor in (0, 16, 24, 240)] == WHOLE_BATCHES


def test_captions_change_with_the_epoch_and_all_are_used(manifest, store):
    train = reader(manifest, store)
    used = Counter()
    for cursor in range(0, 20 * 60, 5):
        batch = train.batch_at(cursor)
        used.update(zip(batch.keys, batch.prompts, strict=True))
    assert len(used) == 24 * 3
    assert min(used.values()) >= 5


def test_splits_are_apart(manifest, store):
    keys = {
        split: {key for c in range(0, 60, 6) for key in reader(manifest, store, split, 6).batch_at(c).keys}
        for split in ("train", "val")
    }
    assert keys["val"] == {"0", "5", "10", "15", "20", "25"}
    assert not keys["train"] & keys["val"]


def test_the_same_at_any_number_of_open_shards(manifest, store, monkeypatch):
    many = reader(manifest, store)
    expected = [many.batch_at(cursor) for cursor in range(0, 60, 5)]
    monkeypatch.setattr(shared_rows, "MAX_OPEN_SHARDS", 1)
    one = reader(manifest, store)
    assert all(same(one.batch_at(5 * step), batch) for step, batch in enumerate(expected))
    assert len(one._latents._rows._open) == 1


def test_shards_are_verified_once(manifest, store, monkeypatch):
    fetched = Counter()
    fetch = Store.fetch_shared

    def counting(self, entry):
        fetched[entry.path] += 1
        return fetch(self, entry)

    monkeypatch.setattr(Store, "fetch_shared", counting)
    monkeypatch.setattr(shared_rows, "MAX_OPEN_SHARDS", 1)
    train = reader(manifest, store)
    for cursor in range(0, 100, 5):
        train.batch_at(cursor)
    assert set(fetched.values()) == {1}


def test_captions_of_a_batch_are_distinct_where_images_offer_a_choice(store, tmp_path):
    samples = [(str(n), "train", ["a shared caption", *([f"own {n}"] if n % 4 else [])]) for n in range(16)]
    train = reader(publish(store, tmp_path, samples, "shared"), store, batch_size=4)
    for cursor in range(0, 160, 4):
        batch = train.batch_at(cursor)
        num_without_choice = sum(int(key) % 4 == 0 for key in batch.keys)
        assert len(set(batch.prompts)) == 4 - max(0, num_without_choice - 1)


HARD = {f"a red cup {n}": [f"a {color} cup {n}" for color in ("blue", "green", "pink")] for n in range(12)}


@pytest.fixture(scope="module")
def with_hard(store, tmp_path_factory):
    samples = [(str(n), "train", [caption]) for n, caption in enumerate(HARD)]
    samples += [(str(n), "train", [f"surfers on wave {n}"]) for n in range(12, 16)]
    return publish(store, tmp_path_factory.mktemp("work"), samples, "hard", HARD)


def test_hard_negatives_belong_to_their_image_and_come_with_their_encodings(with_hard, store):
    negatives = NegativesConfig(num_negatives=3, num_hard=2)
    train = EncodedReader(with_hard, store, split="train", batch_size=4, seed=0, negatives=negatives)
    drawn = set()
    for cursor in range(0, 160, 4):
        batch = train.batch_at(cursor)
        assert len(batch.text) == len(batch.prompts)
        encoded = [states.unique().tolist() for states in batch.text.prompt_embeds_NLD]
        assert encoded == [[float(len(prompt))] for prompt in batch.prompts]
        assert sorted(place for row in batch.candidates for place in row if place >= 4) == [
            *range(4, len(batch.prompts))
        ]
        for image, row in enumerate(batch.candidates):
            edits = [batch.prompts[place] for place in row if place >= 4]
            assert row[0] == image and len(row) == 4
            assert set(edits) <= set(HARD.get(batch.prompts[image], ()))
            assert len(edits) == len(set(edits)) == (2 if batch.prompts[image] in HARD else 0)
            drawn.update(edits)
    assert len(drawn) == 36, "all edits are used sooner or later"


KNOWN = {
    f"{number} red dogs on wave {place}": [
        f"five red dogs on wave {place}",
        f"two red dogs on wave {place}",
        f"{number} blue dogs on wave {place}",
        f"{number} red things on wave {place}",
    ]
    for place, number in enumerate(("three", "four") * 3)
}


@pytest.fixture(scope="module")
def with_kinds(store, tmp_path_factory):
    samples = [(str(n), "train", [caption]) for n, caption in enumerate(KNOWN)]
    return publish(store, tmp_path_factory.mktemp("work"), samples, "kinds", KNOWN)


@pytest.mark.parametrize(
    ("asked", "words", "kinds"),
    [
        ({}, {"five", "two", "blue", "things"}, {"count", "color"}),
        ({"kinds": ("count",)}, {"five", "two"}, {"count"}),
        ({"kinds": ("count", "color"), "counts": "above"}, {"five", "blue"}, {"count", "color"}),
        ({"counts": "below"}, {"two", "blue"}, {"count", "color"}),
    ],
)
def test_of_the_encoded_edits_those_asked_for_are_drawn_and_counted_by_kind(with_kinds, store, asked, words, kinds):
    negatives = NegativesConfig(num_negatives=4, num_hard=4, **asked)
    batch = EncodedReader(with_kinds, store, split="train", batch_size=6, seed=0, negatives=negatives).batch_at(0)
    edits = batch.prompts[6:]
    assert {next(word for word in words if word in edit.split()) for edit in edits} == words
    known = [edit for edit in edits if "things" not in edit]  # which the grammar does not know
    assert {kind for kind, number in batch.num_edits.items() if number} == kinds
    assert sum(batch.num_edits.values()) == len(known)
    assert batch.num_edits["color"] == sum("blue" in edit for edit in edits)


def test_a_kind_that_no_edit_is_of_is_said_when_training_begins(with_kinds, store, caplog):
    def warned(**asked):
        caplog.clear()
        negatives = NegativesConfig(num_negatives=3, num_hard=1, **asked)
        options = {"split": "train", "batch_size": 6, "seed": 0, "negatives": negatives}
        EncodedReader(with_kinds, store, **options).warn_of_missing_edits()
        return caplog.text

    assert "names position, object, but no edit" in warned()
    assert warned(kinds=("count", "color")) == ""
    assert "names object, but" in warned(kinds=("count", "object"))


def test_batches_without_hard_negatives_count_none(with_kinds, store):
    assert reader(with_kinds, store).batch_at(0).num_edits is None


def test_held_out_images_come_with_all_their_captions(manifest, store):
    held_out = reader(manifest, store, split="val")
    found = held_out.first_images(3)
    assert tuple(image.captions[0] for image in found) == held_out.first_captions(3).captions
    names = [float(image.captions[0].removeprefix("caption ").split("a")[0]) for image in found]
    assert [image.latents_CHW.unique().tolist() for image in found] == [[name] for name in names]
    assert all(len(image.captions) == 3 for image in found)
    assert len(held_out.first_images(100)) == held_out.num_samples


def test_negatives_are_a_function_of_seed_and_cursor(with_hard, store):
    def batches(seed, cursors):
        negatives = NegativesConfig(num_negatives=2, num_hard=1)
        train = EncodedReader(with_hard, store, split="train", batch_size=4, seed=seed, negatives=negatives)
        return [(train.batch_at(cursor).prompts, train.batch_at(cursor).candidates) for cursor in cursors]

    cursors = list(range(0, 80, 4))
    assert batches(0, cursors) == batches(0, cursors[::-1])[::-1]
    assert batches(0, cursors) != batches(1, cursors)


def test_more_hard_negatives_than_were_encoded_are_refused(manifest, with_hard, store):
    negatives = NegativesConfig(num_negatives=4, num_hard=4)
    with pytest.raises(CompatibilityError, match="too few hard negatives") as caught:
        EncodedReader(with_hard, store, split="train", batch_size=4, seed=0, negatives=negatives)
    assert (caught.value.found, "train.negatives.num_hard=4" in caught.value.fix) == ("3", True)
    with pytest.raises(CompatibilityError, match="too few hard negatives"):
        EncodedReader(manifest, store, split="train", batch_size=4, seed=0, negatives=negatives)


def test_a_dataset_of_equal_captions_is_refused_with_its_keys(store, tmp_path):
    captions = ["A dog on a bench", "a dog on the bench.", "A DOG ON A BENCH"]
    samples = [(str(n), "train", [captions[n % 3]]) for n in range(6)]
    equal = publish(store, tmp_path / "a", samples, "equal")
    with pytest.raises(DataError, match="All captions are equal") as caught:
        reader(equal, store, batch_size=2).require_negatives()
    assert equal.uri in caught.value.where and "samples 0, 1" in caught.value.where
    assert "score_matching" in caught.value.fix
    differing = publish(store, tmp_path / "b", [*samples, ("6", "train", ["two dogs on a bench"])], "differing")
    reader(differing, store, batch_size=2).require_negatives()
    edits = {captions[0]: ["a cat on a bench"]}
    with_edits = publish(store, tmp_path / "c", samples, "with-edits", edits)
    hard = NegativesConfig(num_negatives=1, num_hard=1)
    EncodedReader(with_edits, store, split="train", batch_size=2, seed=0, negatives=hard).require_negatives()
    with pytest.raises(DataError, match="All captions are equal"):
        reader(with_edits, store, batch_size=2).require_negatives()


def test_near_duplicates_are_kept_out_of_each_others_rows(store, tmp_path):
    samples = [("0", "train", ["A dog on a bench."]), ("1", "train", ["a dog on the bench"]), ("2", "train", ["a cat"])]
    batch = reader(publish(store, tmp_path, samples, "near"), store, batch_size=3).batch_at(0)
    of_key = {key: {batch.keys[place] for place in row} for key, row in zip(batch.keys, batch.candidates, strict=True)}
    assert of_key == {"0": {"0", "2"}, "1": {"1", "2"}, "2": {"0", "1", "2"}}


@pytest.mark.parametrize(("split", "batch_size", "found"), [("val", 7, "6"), ("train", 25, "24")])
def test_too_few_images_for_a_batch(manifest, store, split, batch_size, found):
    with pytest.raises(DataError, match="too few images") as caught:
        reader(manifest, store, split, batch_size)
    assert caught.value.found == found
    assert split in caught.value.expected


def test_an_empty_split(store, tmp_path):
    with pytest.raises(DataError, match="val side"):
        reader(publish(store, tmp_path, [("1", "train", ["one"])], "no-val"), store, "val", 1)


@pytest.mark.parametrize("cursor", [-5, 1, 13])
def test_a_cursor_of_another_batch_size(manifest, store, cursor):
    with pytest.raises(DataError, match="cursor"):
        reader(manifest, store).batch_at(cursor)


def test_a_damaged_shard_is_refused(tmp_path):
    store = Store(str(tmp_path / "store"))
    manifest = publish(store, tmp_path, [(str(n), "train", [f"caption {n}"]) for n in range(4)], "k")
    shard = json.loads((Path(manifest.uri) / "latents.json").read_bytes())[0]
    path = Path(store.uri) / shard["file"]["path"]
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match="encoded again"):
        reader(manifest, store, batch_size=4).batch_at(0)


@pytest.mark.parametrize(("vae", "text", "named"), [("x", "t", "VAE"), ("v", "x", "text encoder")])
def test_encodings_of_another_model_are_refused(manifest, vae, text, named):
    with pytest.raises(CompatibilityError, match=f"another {named}") as error:
        require_encoders(manifest, vae_digest=vae, text_encoder_digest=text)
    assert "softalign encode" in error.value.fix
    assert "backbone.revision" in error.value.fix
    require_encoders(manifest, vae_digest="v", text_encoder_digest="t")


LISTS = st.lists(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=3, unique=True), min_size=1, max_size=5)


@settings(max_examples=300, deadline=None)
@given(LISTS)
def test_choices_are_as_distinct_as_can_be(preferences):
    from itertools import product

    choices = distinct_choices(preferences)
    assert all(choice in own for choice, own in zip(choices, preferences, strict=True))
    assert len(set(choices)) == max(len(set(combination)) for combination in product(*preferences))


def test_first_choices_stand_where_they_do_not_collide():
    assert distinct_choices([["a", "b"], ["c", "a"], ["d"]]) == ["a", "c", "d"]
    assert distinct_choices([["a", "b"], ["a"]]) == ["b", "a"]
    assert distinct_choices([["a"], ["a"]]) == ["a", "a"]
