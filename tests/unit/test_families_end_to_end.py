"""Stable Diffusion 3, 3.5 and XL through the stages: encode, train, load, generate, on tiny folders."""

import json
import shutil
from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusion3Pipeline, StableDiffusionXLPipeline
from PIL import Image
from safetensors.torch import load_file

from softalign import load_soft_tokens
from softalign.adapters.base_fingerprint import fingerprint_of
from softalign.adapters.files import AdapterConfig, read_adapter_config
from softalign.adapters.locating import resolve_adapter
from softalign.artifacts import DatasetManifest
from softalign.backbones.loading import family_of, load_backbone
from softalign.config import BackboneConfig, MMDiTTokensConfig, Runtime, TrainConfig, UNetTokensConfig
from softalign.data.encoding.encode import encode
from softalign.diagnosis.diagnose import DiagnosisRequest, diagnose
from softalign.errors import CompatibilityError, ConfigError, MissingInputError
from softalign.sampling import to_folder
from softalign.sampling.sampling import ImageRequest, SamplingSettings, generate_batch, initial_noise
from softalign.sampling.to_folder import GenerationSettings, generate_to_folder
from softalign.store.store import Store
from softalign.training.train import train
from tests import tiny_sd3, tiny_sdxl
from tests.tiny_pipeline import save_tiny_pipeline
from tests.unit.data.encoding.test_encode import captions_of, make_dataset

RESOLUTION = 32
T5_LENGTH = 6
CPU = torch.device("cpu")
SETTINGS = SamplingSettings(num_inference_steps=2, guidance_scale=4.0, resolution_px=RESOLUTION, seed=3)
FAMILIES = ("sd3", "sd3 without t5", "sd35", "sdxl")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {
        "sd3": tiny_sd3.save_tiny_sd3(root / "sd3"),
        "sd35": tiny_sd3.save_tiny_sd3(root / "sd35", **tiny_sd3.SD35),
        "sdxl": tiny_sdxl.save_tiny_sdxl(root / "sdxl"),
        "sd15": save_tiny_pipeline(root / "sd15"),
        "sd3 bare": tiny_sd3.save_tiny_sd3(root / "bare", has_t5=False),
    }


def config_of(name, models):
    family = name.split()[0]
    changes = {} if family == "sdxl" else {"has_t5": "without" not in name, "max_sequence_length": T5_LENGTH}
    return BackboneConfig(family=family, model=models[family], resolution_px=RESOLUTION, **changes)


@pytest.fixture(scope="module")
def trained(models, tmp_path_factory):
    """Every family's adapter, encoded and trained by the stages' own functions."""
    root = tmp_path_factory.mktemp("trained")
    store = Store(str(root / "store"))
    dataset = make_dataset(root, store, captions_of(range(8)), "d")
    done = {}
    for name in FAMILIES:
        backbone = config_of(name, models)
        encoded = encode(dataset, backbone, Runtime(), store, f"e-{name.replace(' ', '-')}")
        tokens = UNetTokensConfig(init="normal") if name == "sdxl" else MMDiTTokensConfig(num_layers=2)
        config = TrainConfig(soft_tokens=tokens, num_steps=2, batch_size=3, validate_every_steps=0)
        key = f"t-{name.replace(' ', '-')}"
        done[name] = encoded, train(encoded, backbone, config, Runtime(num_threads=1), store, key, "tiny")
    return done


@pytest.fixture(params=FAMILIES)
def name(request):
    return request.param


def pipeline_of(name, models):
    kind = StableDiffusionXLPipeline if name == "sdxl" else StableDiffusion3Pipeline
    options = {"text_encoder_3": None, "tokenizer_3": None} if "without" in name else {}
    pipe = kind.from_pretrained(models[name.split()[0]], **options)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def image_of(pipe, **changes):
    generator = torch.Generator().manual_seed(0)
    options = {} if isinstance(pipe, StableDiffusionXLPipeline) else {"max_sequence_length": T5_LENGTH}
    return pipe(
        ["a red circle", "a photo of a square"],
        num_inference_steps=2,
        height=RESOLUTION,
        width=RESOLUTION,
        generator=generator,
        output_type="np",
        **{"guidance_scale": 4.0, **options, **changes},
    ).images


@pytest.mark.parametrize("name", ["sd3 without t5", "sdxl"])
def test_training_is_the_same_with_stored_texts_and_with_encoders_beside_it(trained, models, tmp_path, name):
    root = Path(trained[name][0].uri).parents[1]
    store = Store(str(root))
    dataset = store.find(DatasetManifest, "d")
    backbone, key = config_of(name, models), f"online-{name.replace(' ', '-')}"
    encoded = encode(dataset, backbone, Runtime(), store, key, text="online")
    tokens = UNetTokensConfig(init="normal") if name == "sdxl" else MMDiTTokensConfig(num_layers=2)
    config = TrainConfig(soft_tokens=tokens, num_steps=2, batch_size=3, validate_every_steps=0)
    adapter = train(encoded, backbone, config, Runtime(), store, key, "tiny")
    weights = [Path(made.uri) / "soft_tokens.safetensors" for made in (trained[name][1], adapter)]
    stored, online = map(load_file, weights)
    assert stored.keys() == online.keys()
    for tensor, expected in stored.items():
        torch.testing.assert_close(online[tensor], expected, rtol=1e-3, atol=1e-5)


@torch.no_grad()
def test_tokens_can_start_as_padding(trained, models):
    encoded, _ = trained["sd3"]
    tokens = MMDiTTokensConfig(num_layers=2, init="padding", init_std=0.05)
    config = TrainConfig(soft_tokens=tokens, num_steps=1, batch_size=3, validate_every_steps=0)
    store = Store(str(Path(encoded.uri).parents[1]))
    with torch.enable_grad():
        adapter = train(encoded, config_of("sd3", models), config, Runtime(num_threads=1), store, "t-padding", "tiny")
    start = load_file(Path(adapter.uri) / "initial" / "soft_tokens.safetensors")
    pipe = pipeline_of("sd3", models)
    empty = pipe.encode_prompt("", None, None, device=CPU, max_sequence_length=T5_LENGTH)[0]
    padding = pipe.transformer.context_embedder(empty)[0, -1]
    first = start["soft_tokens.positive"][0]
    torch.testing.assert_close(
        first, (0.05 * padding / padding.square().mean().sqrt()).expand_as(first), rtol=0.01, atol=1e-4
    )
    assert torch.equal(start["soft_tokens.negative"], start["soft_tokens.positive"])
    assert not start["timestep_offsets"].any()


def test_the_encoded_set_has_the_pipelines_shapes(trained, name):
    encoded, _ = trained[name]
    is_xl = name == "sdxl"
    length = tiny_sd3.TEXT_LENGTH + (0 if is_xl else T5_LENGTH)
    assert encoded.text_shape == (length, tiny_sdxl.TEXT_WIDTH if is_xl else tiny_sd3.JOINT_WIDTH)
    assert encoded.pooled_width == (tiny_sdxl.POOLED_WIDTH if is_xl else tiny_sd3.POOLED_WIDTH)
    assert encoded.latent_shape == (4, RESOLUTION // 8, RESOLUTION // 8)


@torch.no_grad()
def test_encodings_are_the_pipelines_own(models, name):
    backbone = load_backbone(config_of(name, models), device=CPU, dtype=torch.float32)
    pipe = pipeline_of(name, models)
    prompts = ["a red circle", "two squares"]
    if name == "sdxl":
        expected = pipe.encode_prompt(prompts, device=CPU)
    else:
        expected = pipe.encode_prompt(prompts, None, None, device=CPU, max_sequence_length=T5_LENGTH)
    own, unconditional = backbone.encode_for_guidance(prompts)
    alone = backbone.encode_prompts(prompts)
    for found, place in ((own, 0), (alone, 0), (unconditional, 1)):
        assert torch.equal(found.prompt_embeds_NLD, expected[place])
        assert torch.equal(found.pooled_NP, expected[place + 2])
    assert len(backbone.text_encoders) == len(backbone.tokenizers) == (3 if name in {"sd3", "sd35"} else 2)


@pytest.mark.parametrize("name", ["sd3 without t5", "sdxl"])
def test_an_adapter_is_diagnosed_on_held_out_images(trained, models, name, tmp_path):
    encoded, adapter = trained[name]
    store = Store(str(Path(encoded.uri).parents[1]))
    folder, base = store.fetch(adapter), config_of(name, models)
    found = diagnose(DiagnosisRequest("tiny", folder, base, Runtime(), tmp_path, 8, 0, 16, encoded=encoded), store)
    assert found.num_images == encoded.num_val_samples == 3
    assert {one.kind for one in found.ranks} == {"color"}
    assert found.missing == ("edits of count, position, object; no caption of these images gives any.",)
    assert {one.arm for one in found.attention} == {one.arm for one in found.likeness} == {"adapter", "untrained"}
    assert len(found.weights) == len(found.changes) == 5
    assert all(one.norm.mean > 0 for one in found.gradients)
    assert {path.name for path in tmp_path.iterdir()} == {"diagnosis.html", "diagnosis.json"}


def test_images_that_another_model_encoded_are_refused_for_a_diagnosis(trained, models, tmp_path):
    store = Store(str(Path(trained["sdxl"][0].uri).parents[1]))
    folder, base = store.fetch(trained["sdxl"][1]), config_of("sdxl", models)
    request = DiagnosisRequest("a", folder, base, Runtime(), tmp_path, 8, 0, 16, encoded=trained["sd35"][0])
    with pytest.raises(CompatibilityError, match="encoded by another"):
        diagnose(request, store)


def test_the_adapter_says_where_it_belongs(trained, models, name):
    _, adapter = trained[name]
    config = read_adapter_config(resolve_adapter(adapter))
    assert (config.family, config.has_ema) == (name.split()[0], True)
    layers = () if name == "sdxl" else (config.placement.num_layers,)
    assert layers == (() if name == "sdxl" else (2,))
    expected = (None, None) if name == "sdxl" else ("without" not in name, T5_LENGTH)
    assert (config.has_t5, config.max_sequence_length) == expected
    assert adapter.num_parameters == (2 * 4 + 100) * prod(layers) * config.width
    card = (Path(resolve_adapter(adapter)) / "README.md").read_text()
    assert ("StableDiffusionXLPipeline" if name == "sdxl" else "StableDiffusion3Pipeline") in card
    assert ("text_encoder_3=None" in card) == ("without" in name)


def test_loaded_into_the_pipeline_and_out_again_bit_for_bit(trained, models, name):
    pipe = pipeline_of(name, models)
    base = image_of(pipe)
    handle = load_soft_tokens(pipe, trained[name][1])
    with_tokens = image_of(pipe)
    assert np.abs(with_tokens - base).max() > 1e-4
    assert np.array_equal(image_of(pipe), with_tokens)
    handle.set_scale(0.5)
    assert 0 < np.abs(image_of(pipe) - base).max()
    assert not np.array_equal(image_of(pipe), with_tokens)
    handle.set_scale(0.0)
    assert np.array_equal(image_of(pipe), base)
    handle.set_scale(1.0)
    handle.disable()
    assert np.array_equal(image_of(pipe), base)
    handle.enable()
    assert np.array_equal(image_of(pipe), with_tokens)
    handle.unload()
    assert np.array_equal(image_of(pipe), base)
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in denoiser_of(pipe).modules())


def denoiser_of(pipe):
    return pipe.unet if isinstance(pipe, StableDiffusionXLPipeline) else pipe.transformer


def test_the_negative_bank_on_the_unconditional_branch(trained, models, name):
    pipe = pipeline_of(name, models)
    with load_soft_tokens(pipe, trained[name][1]):
        positive = image_of(pipe)
    with load_soft_tokens(pipe, trained[name][1], unconditional_bank="negative"):
        assert np.abs(image_of(pipe) - positive).max() > 1e-5
        assert np.isfinite(image_of(pipe, guidance_scale=1.0)).all()


def test_skip_layer_guidance_of_sd35(trained, models):
    pipe = pipeline_of("sd35", models)
    options = {"skip_guidance_layers": [1], "skip_layer_guidance_start": 0.0, "skip_layer_guidance_stop": 1.0}
    for bank in ("positive", "negative"):
        base = image_of(pipe, **options)
        with load_soft_tokens(pipe, trained["sd35"][1], unconditional_bank=bank):
            assert np.abs(image_of(pipe, **options) - base).max() > 1e-5
        assert np.array_equal(image_of(pipe, **options), base)


def test_beside_lora(trained, models, name):
    peft = pytest.importorskip("peft")
    pipe = pipeline_of(name, models)
    torch.manual_seed(3)
    lora = peft.LoraConfig(r=2, target_modules=["to_q", "to_k", "add_k_proj"], init_lora_weights=False)
    denoiser_of(pipe).add_adapter(lora)
    with_lora = image_of(pipe)
    handle = load_soft_tokens(pipe, trained[name][1], scale=0.5)
    assert np.abs(image_of(pipe) - with_lora).max() > 1e-5
    handle.unload()
    assert np.array_equal(image_of(pipe), with_lora)


def test_beside_offloading(trained, models, name):
    from accelerate import cpu_offload

    pipe, offloaded = pipeline_of(name, models), pipeline_of(name, models)
    cpu_offload(denoiser_of(offloaded), execution_device=CPU)
    generator = torch.Generator().manual_seed(1)
    denoiser = denoiser_of(pipe)
    arguments = example_inputs(denoiser.config, generator)
    with load_soft_tokens(pipe, trained[name][1], scale=0.5), load_soft_tokens(offloaded, trained[name][1], scale=0.5):
        assert torch.equal(denoiser_of(offloaded)(**arguments).sample, denoiser(**arguments).sample)


@pytest.mark.parametrize("order", ["tokens first", "offloaded first"])
@pytest.mark.parametrize("family", ["sdxl", "sd3"])
def test_beside_the_pipelines_own_offloading(trained, models, family, order):
    """``enable_model_cpu_offload`` with the CPU as its device: its hooks, and what they call, are those of a GPU."""
    adapter, plain, pipe = trained[family][1], pipeline_of(family, models), pipeline_of(family, models)
    base = image_of(plain)
    with load_soft_tokens(plain, adapter):
        expected = image_of(plain)
    assert not np.array_equal(expected, base)
    if order == "tokens first":
        handle = load_soft_tokens(pipe, adapter)
        pipe.enable_model_cpu_offload(device="cpu")
    else:
        pipe.enable_model_cpu_offload(device="cpu")
        assert np.array_equal(image_of(pipe), base)
        handle = load_soft_tokens(pipe, adapter)
    assert np.array_equal(image_of(pipe), expected)
    handle.unload()
    assert np.array_equal(image_of(pipe), base)


def example_inputs(config, generator):
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    if "joint_attention_dim" in config:
        own = {"hidden_states": draw(2, 4, 4, 4), "pooled_projections": draw(2, config.pooled_projection_dim)}
        return {**own, "encoder_hidden_states": draw(2, 9, config.joint_attention_dim), "timestep": torch.tensor([7.5])}
    added = {"text_embeds": draw(2, tiny_sdxl.POOLED_WIDTH), "time_ids": draw(2, 6)}
    own = {"sample": draw(2, 4, 4, 4), "timestep": torch.tensor(7), "added_cond_kwargs": added}
    return {**own, "encoder_hidden_states": draw(2, 9, config.cross_attention_dim)}


def test_torch_compile_needs_no_graph_break(trained, models, without_shape_checks):
    """A whole MMDiT as one graph: with ``fullgraph`` the hooks and the tokens must all be traced."""
    torch.compiler.reset()
    pipe = pipeline_of("sd3", models)
    transformer = pipe.transformer
    arguments = example_inputs(transformer.config, torch.Generator().manual_seed(1))
    with torch.no_grad():
        base = transformer(**arguments).sample
        handle = load_soft_tokens(pipe, trained["sd3"][1])
        expected = transformer(**arguments).sample
        pipe.transformer = torch.compile(transformer, backend="eager", fullgraph=True)
        assert torch.allclose(pipe.transformer(**arguments).sample, expected, atol=1e-6)
        assert not torch.allclose(expected, base, atol=1e-5)
        handle.unload()
        assert torch.allclose(pipe.transformer(**arguments).sample, base, atol=1e-6)
    torch.compiler.reset()


@pytest.mark.slow  # torch.compile of whole denoisers
def test_torch_compile_sees_the_tokens_come_and_go(trained, models, name, without_shape_checks):
    torch.compiler.reset()
    pipe = pipeline_of(name, models)
    denoiser = denoiser_of(pipe)
    arguments = example_inputs(denoiser.config, torch.Generator().manual_seed(1))
    with torch.no_grad():
        base = denoiser(**arguments).sample
        with load_soft_tokens(pipe, trained[name][1]):
            expected = denoiser(**arguments).sample
        setattr(pipe, "unet" if name == "sdxl" else "transformer", torch.compile(denoiser, backend="eager"))
        compiled = denoiser_of(pipe)
        assert torch.allclose(compiled(**arguments).sample, base, atol=1e-6)
        handle = load_soft_tokens(pipe, trained[name][1])
        assert torch.allclose(compiled(**arguments).sample, expected, atol=1e-6)
        handle.set_scale(0.0)
        assert torch.allclose(compiled(**arguments).sample, base, atol=1e-6)
        handle.unload()
        assert torch.allclose(compiled(**arguments).sample, base, atol=1e-6)
    torch.compiler.reset()


def test_our_sampling_is_diffusers_own(models, name, tmp_path):
    backbone = load_backbone(config_of(name, models), device=CPU, dtype=torch.float32)
    request = ImageRequest("a red circle", 1, 0, tmp_path / "x.png")
    ours = next(iter(generate_batch(backbone, [request], SETTINGS)))
    latents = initial_noise(SETTINGS, request, (4, 4, 4))[None].repeat(2, 1, 1, 1)
    theirs = image_of(pipeline_of(name, models), latents=latents)[0]
    assert np.abs(ours.astype(int) - np.rint(theirs * 255).astype(int)).max() <= 1


def test_the_scheduler_of_the_papers(models):
    backbone = load_backbone(config_of("sd3", models), device=CPU, dtype=torch.float32)
    own = backbone.pipeline.scheduler
    backbone.use_papers_sampler()
    assert backbone.pipeline.scheduler is own
    assert type(own).__name__ == "FlowMatchEulerDiscreteScheduler"


def pixels_of(path):
    with Image.open(path) as image:
        return image.tobytes()


def test_generate_uses_the_adapters_family(trained, models, name, tmp_path):
    settings = GenerationSettings(num_images=1, num_inference_steps=1, guidance_scale=2.0, scale=1.0, seed=0)
    folder = str(resolve_adapter(trained[name][1]))
    paths = generate_to_folder(folder, ["a red circle"], tmp_path / "with", None, settings).images
    first, positive = paths[0].read_bytes(), pixels_of(paths[0])
    assert Image.open(paths[0]).size == (RESOLUTION, RESOLUTION)
    if "without" not in name:
        plain = generate_to_folder("none", ["a red circle"], tmp_path / "base", models[name], settings)
        assert pixels_of(plain.images[0]) != pixels_of(paths[0])
    other = replace(settings, unconditional_bank="negative")
    with pytest.raises(ConfigError, match="nothing was written"):
        generate_to_folder(folder, ["a red circle"], tmp_path / "with", None, other)
    assert paths[0].read_bytes() == first
    negative = generate_to_folder(folder, ["a red circle"], tmp_path / "with", None, other, is_overwriting=True)
    assert negative.images == paths
    assert pixels_of(negative.images[0]) != positive


def test_generate_samples_as_the_papers_unless_told(trained, name, tmp_path, monkeypatch):
    used = []

    def record(_backbone, requests, sampling):
        used.append(sampling)
        return [np.zeros((RESOLUTION, RESOLUTION, 3), np.uint8) for _ in requests]

    monkeypatch.setattr(to_folder, "generate_batch", record)
    folder = str(resolve_adapter(trained[name][1]))
    for steps, guidance in ((None, None), (3, 1.0)):
        generate_to_folder(folder, ["a"], tmp_path / str(steps), None, GenerationSettings(1, steps, guidance, 1.0, 0))
    found = [(settings.num_inference_steps, settings.guidance_scale) for settings in used]
    assert found == [(30, 7.0) if name == "sdxl" else (28, 4.0), (3, 1.0)]


def test_generate_refuses_a_base_of_another_family_before_it_is_read(trained, tmp_path):
    folder = str(resolve_adapter(trained["sdxl"][1]))
    settings = GenerationSettings(num_images=1, num_inference_steps=1, guidance_scale=2.0, scale=1.0, seed=0)
    with pytest.raises(CompatibilityError, match="of sd35"):
        generate_to_folder(folder, ["a"], tmp_path, "stabilityai/stable-diffusion-3.5-large", settings)


def test_generate_takes_an_adapter_of_unknown_base_only_by_force(trained, models, tmp_path):
    folder = tmp_path / "adapter"
    shutil.copytree(resolve_adapter(trained["sdxl"][1]), folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "base_fingerprint": None}))
    settings = GenerationSettings(num_images=1, num_inference_steps=1, guidance_scale=2.0, scale=1.0, seed=0)
    with pytest.raises(CompatibilityError):
        generate_to_folder(str(folder), ["a circle"], tmp_path / "out", None, settings)
    forced = replace(settings, is_forced=True)
    assert generate_to_folder(str(folder), ["a circle"], tmp_path / "out", None, forced).images[0].is_file()


def test_the_family_is_read_from_the_model(models, tmp_path):
    assert {name: family_of(models[name]) for name in ("sd15", "sdxl", "sd3", "sd35")} == {
        name: name for name in ("sd15", "sdxl", "sd3", "sd35")
    }
    assert family_of("shapes") == "sd21"
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))
    with pytest.raises(CompatibilityError, match="FluxPipeline"):
        family_of(str(tmp_path))
    with pytest.raises(MissingInputError, match="cannot be loaded"):
        family_of(str(tmp_path / "nothing"))


@pytest.mark.parametrize(
    ("family", "model", "fix"),
    [
        ("sd15", "sd3", "sd3 or sd35"),
        ("sd15", "sdxl", "sdxl"),
        ("sdxl", "sd15", "sd15 or sd21"),
        ("sd3", "sdxl", "sdxl"),
        ("sd3", "sd35", "sd35"),
        ("sd35", "sd3", "sd3"),
        ("sd3", "sd3 bare", "has_t5 to false"),
    ],
)
def test_a_model_of_another_family_is_refused_with_the_one_that_fits(models, family, model, fix):
    config = BackboneConfig(family=family, model=models[model], resolution_px=RESOLUTION)
    with pytest.raises(CompatibilityError) as error:
        load_backbone(config, device=CPU, dtype=torch.float32)
    assert fix in error.value.fix


def test_a_gated_model_says_where_to_accept_its_licence(monkeypatch):
    import httpx
    from huggingface_hub.errors import GatedRepoError

    def refuse(*_args, **_kwargs):
        response = httpx.Response(401, request=httpx.Request("GET", "https://hub.invalid"))
        try:
            raise GatedRepoError("Access to this model is restricted.", response=response)
        except GatedRepoError as error:
            raise OSError("some/model is not a local folder") from error

    monkeypatch.setattr(DiffusionPipeline, "load_config", refuse)
    monkeypatch.setattr("softalign.backbones.locating.hub_silence", lambda: "")
    config = BackboneConfig(family="sd3", model="stabilityai/stable-diffusion-3-medium-diffusers")
    with pytest.raises(MissingInputError, match="gated") as error:
        load_backbone(config, device=CPU, dtype=torch.float32)
    assert "stabilityai/stable-diffusion-3-medium-diffusers" in error.value.fix
    assert "HF_TOKEN" in error.value.fix


def test_the_length_of_t5s_part_is_part_of_what_texts_are(models):
    from softalign.data.encoding.encoders import FrozenEncoders

    config = config_of("sd3", models)
    longer = config.model_copy(update={"max_sequence_length": T5_LENGTH + 1})
    backbones = [load_backbone(one, device=CPU, dtype=torch.float32) for one in (config, longer)]
    encoders = [FrozenEncoders(backbone, RESOLUTION) for backbone in backbones]
    assert encoders[0].texts_spec != encoders[1].texts_spec
    assert encoders[1].text_states_of(["a"]).prompt_embeds_NLD.shape[1] == tiny_sd3.TEXT_LENGTH + T5_LENGTH + 1


def test_an_adapter_of_another_family_is_refused_even_by_force(trained, models):
    pairs = [("sd3", "sdxl"), ("sdxl", "sd3"), ("sd3", "sd35"), ("sd35", "sd3")]
    for adapter, model in pairs:
        pipe = pipeline_of(model, models)
        with pytest.raises(CompatibilityError, match=r"another family|cannot be attached"):
            load_soft_tokens(pipe, trained[adapter][1], force=True)
    pipe = DiffusionPipeline.from_pretrained(models["sd15"])
    with pytest.raises(CompatibilityError, match="another family"):
        load_soft_tokens(pipe, trained["sdxl"][1], force=True)


def test_another_base_of_the_family_is_refused_unless_forced(trained, models, tmp_path):
    other = StableDiffusion3Pipeline.from_pretrained(tiny_sd3.save_tiny_sd3(tmp_path / "other", seed=1))
    with pytest.raises(CompatibilityError, match="other weights"):
        load_soft_tokens(other, trained["sd3"][1])
    load_soft_tokens(other, trained["sd3"][1], force=True).unload()


@pytest.mark.parametrize("change", [{"num_layers": 4}, {"dual_attention_layers": (1,)}, {"pos_embed_max_size": 16}])
def test_a_transformers_architecture_is_in_its_fingerprint(change):
    own, other = (fingerprint_of(tiny_sd3.make_transformer(**changes)) for changes in ({}, change))
    assert own.architecture != other.architecture


def test_more_layers_than_the_model_has_blocks_are_refused(trained, models, tmp_path):
    encoded, _ = trained["sd3"]
    config = TrainConfig(soft_tokens=MMDiTTokensConfig(num_layers=5), num_steps=1, batch_size=3)
    store = Store(str(tmp_path))
    with pytest.raises(ConfigError, match="joint blocks"):
        backbone = load_backbone(config_of("sd3", models), device=CPU, dtype=torch.float32)
        backbone.training_denoiser(config.soft_tokens, _tokens(5))
    assert encoded.digest
    assert not list(Path(store.uri).iterdir())


def _tokens(num_layers):
    from softalign.method.soft_tokens import SoftTokens

    width = tiny_sd3.STREAM_WIDTH
    return SoftTokens(torch.zeros(2, num_layers, 4, width), torch.zeros(100, num_layers * width))


def test_old_adapter_files_need_not_say_how_texts_were_encoded(trained):
    config = read_adapter_config(resolve_adapter(trained["sdxl"][1]))
    data = config.model_dump(mode="json", exclude={"has_t5", "max_sequence_length"})
    assert AdapterConfig.model_validate(data) == config
