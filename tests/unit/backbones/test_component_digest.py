"""A component's digest is that of its weights and of what it computes, not of how a library describes it."""

import pytest
import torch
from diffusers import StableDiffusion3Pipeline

from softalign.backbones.identity import component_digest
from tests.tiny_sd3 import save_tiny_sd3
from tests.tiny_unet import make_unet

VOLATILE = {
    "output_hidden_states": True,
    "return_dict": False,
    "id2label": {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"},
    "chunk_size_feed_forward": 8,
    "problem_type": "regression",
    "architectures": ["Renamed"],
    "a_field_of_tomorrow": 1,
}
ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_sd3(tmp_path_factory.mktemp("model") / "sd3")


@pytest.fixture
def pipeline(folder):
    return StableDiffusion3Pipeline.from_pretrained(folder)


@pytest.mark.parametrize("field", VOLATILE)
@pytest.mark.parametrize("name", ENCODERS)
def test_how_a_text_encoder_is_called_is_not_what_it_is(pipeline, name, field):
    encoder = getattr(pipeline, name)
    before = component_digest(encoder)
    setattr(encoder.config, field, VOLATILE[field])
    assert component_digest(encoder) == before


@pytest.mark.parametrize("name", ["vae", "transformer"])
def test_new_fields_of_diffusers_change_nothing(pipeline, name):
    module = getattr(pipeline, name)
    before = component_digest(module)
    module.register_to_config(a_field_of_tomorrow=1, force_upcast=False, _name_or_path="elsewhere")
    assert component_digest(module) == before


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("text_encoder", "hidden_act", "gelu"),
        ("text_encoder", "num_attention_heads", 4),
        ("text_encoder", "eos_token_id", 7),
        ("text_encoder_3", "num_heads", 1),
        ("text_encoder_3", "feed_forward_proj", "gated-gelu"),
    ],
)
def test_what_a_text_encoder_computes_is_in_its_digest(pipeline, name, field, value):
    encoder = getattr(pipeline, name)
    before = component_digest(encoder)
    setattr(encoder.config, field, value)
    assert component_digest(encoder) != before


def test_how_a_vae_scales_is_in_its_digest(pipeline):
    before = component_digest(pipeline.vae)
    pipeline.vae.register_to_config(scaling_factor=0.7)
    assert component_digest(pipeline.vae) != before


@pytest.mark.parametrize("name", [*ENCODERS, "vae", "transformer"])
def test_every_weight_is_in_the_digest_at_any_precision_it_was_stored_in(pipeline, folder, name):
    module = getattr(pipeline, name)
    before = component_digest(module)
    half = getattr(StableDiffusion3Pipeline.from_pretrained(folder, dtype=torch.bfloat16), name)
    assert component_digest(half) == component_digest(module.to(torch.bfloat16).float())
    module = getattr(StableDiffusion3Pipeline.from_pretrained(folder), name)
    last = list(module.parameters())[-1]
    with torch.no_grad():
        last.view(-1)[-1] += 1e-3
    assert component_digest(module) != before


def test_weights_of_other_shapes_are_others():
    assert component_digest(make_unet()) == component_digest(make_unet())
    assert component_digest(make_unet()) != component_digest(make_unet(width=16))
