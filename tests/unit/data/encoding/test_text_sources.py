"""Texts that training encodes itself are those that would have been stored, in every batch of every process."""

from pathlib import Path

import pytest
import torch

from softalign.backbones.loading import load_backbone
from softalign.config import BackboneConfig, NegativesConfig, Runtime
from softalign.data.encoding import text_sources
from softalign.data.encoding.encode import encode
from softalign.data.encoding.encoders import FrozenEncoders
from softalign.data.encoding.reader import EncodedReader
from softalign.data.encoding.text_sources import OnlineTexts
from softalign.errors import CompatibilityError, DataError
from softalign.store.store import Store
from softalign.training.frozen_model import load_online_texts
from tests import tiny_sd3, tiny_sdxl
from tests.tiny_pipeline import save_tiny_pipeline
from tests.unit.data.encoding.test_encode import captions_of, indexed, make_dataset

RESOLUTION = 32
CPU = torch.device("cpu")
SAVE = {"sd15": save_tiny_pipeline, "sdxl": tiny_sdxl.save_tiny_sdxl, "sd3": tiny_sd3.save_tiny_sd3}
HALF_STEP = 2.0**-11
"""Rounding to float16, relative."""


class Case:
    """One family's dataset, encoded with and without its texts."""

    def __init__(self, root, family):
        self.store = Store(str(root / "store"))
        family, _, without = family.partition(" without ")
        options = {"max_sequence_length": 6, "has_t5": not without} if family == "sd3" else {}
        model = SAVE[family](root / "model")
        self.backbone = BackboneConfig(family=family, model=model, resolution_px=RESOLUTION, **options)
        self.dataset = make_dataset(root, self.store, captions_of(range(10)), "d")
        two = NegativesConfig(num_hard=2)
        self.stored = encode(self.dataset, self.backbone, Runtime(), self.store, "stored", two)
        self.online = encode(self.dataset, self.backbone, Runtime(), self.store, "online", two, text="online")

    def encoders(self):
        frozen = load_backbone(self.backbone, device=CPU, dtype=torch.float32, parts=("denoiser",))
        return load_online_texts(self.backbone, self.online, frozen, CPU)

    def reader(self, manifest, online=None):
        negatives = NegativesConfig(num_hard=1)
        options = {"split": "train", "batch_size": 3, "seed": 0, "negatives": negatives}
        return EncodedReader(manifest, self.store, online=online, **options)


@pytest.fixture(scope="module", params=[*SAVE, "sd3 without T5"])
def case(request, tmp_path_factory):
    return Case(tmp_path_factory.mktemp("case"), request.param)


def same(first, second):
    return all(torch.equal(one, other) for one, other in zip(first.text.tensors(), second.text.tensors(), strict=True))


def test_the_batches_are_those_of_stored_texts(case):
    stored, online = case.reader(case.stored), case.reader(case.online, case.encoders())
    for place in (0, 3, 6):
        expected, found = stored.batch_at(place), online.batch_at(place)
        assert (found.keys, found.prompts, found.candidates) == (expected.keys, expected.prompts, expected.candidates)
        assert torch.equal(found.latents_BCHW, expected.latents_BCHW)
        for one, other in zip(found.text.tensors(), expected.text.tensors(), strict=True):
            assert (one.dtype, one.shape) == (torch.float32, other.shape)
            torch.testing.assert_close(one, other, rtol=2 * HALF_STEP, atol=1e-6)
    for one, other in zip(online.empty_text.tensors(), stored.empty_text.tensors(), strict=True):
        torch.testing.assert_close(one, other, rtol=2 * HALF_STEP, atol=1e-6)
    held_out = [
        EncodedReader(manifest, case.store, split="val", batch_size=1, seed=0, online=source).first_captions(2)
        for manifest, source in ((case.stored, None), (case.online, case.encoders()))
    ]
    assert held_out[0].captions == held_out[1].captions
    torch.testing.assert_close(held_out[1].text.tensors(), held_out[0].text.tensors(), rtol=2 * HALF_STEP, atol=1e-6)


def test_a_batch_does_not_depend_on_what_was_read_before(case, monkeypatch):
    whole = case.reader(case.online, case.encoders())
    batches = [whole.batch_at(place) for place in (0, 3, 6, 9)]
    resumed = case.reader(case.online, case.encoders())
    assert same(resumed.batch_at(9), batches[3])
    monkeypatch.setattr(text_sources, "CACHE_BYTES", 1)
    uncached = case.reader(case.online, case.encoders())
    assert same(uncached.batch_at(9), batches[3])
    assert same(uncached.batch_at(0), batches[0])


def test_no_text_is_stored(case):
    assert (case.online.text, case.stored.text) == ("online", "stored")
    assert indexed(case.online, "texts") == []
    assert indexed(case.online, "latents") == indexed(case.stored, "latents")
    latents = sum(shard["file"]["size_bytes"] for shard in indexed(case.online, "latents"))
    assert case.online.total_bytes == latents < case.stored.total_bytes
    for field in ("text_shape", "pooled_width", "num_texts", "text_encoder_digest"):
        assert getattr(case.online, field) == getattr(case.stored, field)


def test_a_refresh_encodes_nothing(tmp_path, case, monkeypatch):
    others = make_dataset(tmp_path, case.store, captions_of(range(10), word="blue"), "blue")
    for method in ("text_states_of", "latents_of"):
        monkeypatch.setattr(FrozenEncoders, method, lambda *_: pytest.fail("nothing is new to the encoders"))
    refreshed = encode(others, case.backbone, Runtime(), case.store, "refreshed", before=case.online, text="online")
    assert indexed(refreshed, "latents") == indexed(case.online, "latents")
    assert refreshed.text_shape == case.online.text_shape


def test_a_set_without_texts_needs_the_encoders(case):
    with pytest.raises(CompatibilityError, match="without texts") as refusal:
        case.reader(case.online)
    assert "encode.text=stored" in refusal.value.fix
    assert load_online_texts(case.backbone, case.stored, None, CPU) is None


def test_recent_texts_are_encoded_once_and_the_oldest_are_forgotten(case, monkeypatch):
    source, calls = case.encoders(), []
    own = source._backbone.encode_prompts
    monkeypatch.setattr(source._backbone, "encode_prompts", lambda texts: calls.append(set(texts)) or own(texts))
    source.states(["a", "b", "a"])
    source.states(["b", "a"])
    assert calls == [{"a", "b"}]
    row_bytes = sum(tensor.nbytes for tensor in source.states(["a"]).tensors()) // 2
    monkeypatch.setattr(text_sources, "CACHE_BYTES", 2 * row_bytes)
    source.states(["c"])
    source.states(["a", "c"])
    source.states(["b"])
    assert calls == [{"a", "b"}, {"c"}, {"b"}]


def test_a_state_that_is_not_finite_is_refused_by_its_text(case):
    class Broken:
        def encode_prompts(self, texts):
            found = case.encoders()._backbone.encode_prompts(texts)
            found.prompt_embeds_NLD[texts.index("bad")] = 1e30
            return found

    with pytest.raises(DataError, match="'bad'"):
        OnlineTexts(Broken()).states(["good", "bad"])


def test_the_store_holds_no_text_pool_for_a_set_without_texts(tmp_path):
    case_root = tmp_path / "case"
    store = Store(str(tmp_path / "store"))
    backbone = BackboneConfig(family="sd15", model=save_tiny_pipeline(case_root / "model"), resolution_px=RESOLUTION)
    encode(make_dataset(tmp_path, store, captions_of(range(4)), "d"), backbone, Runtime(), store, "e", text="online")
    assert [path.name.partition("-")[0] for path in (Path(store.uri) / "encoded").iterdir()] == ["latents"]
