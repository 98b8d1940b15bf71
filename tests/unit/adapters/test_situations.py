"""Soft tokens in what people do with diffusers' pipelines: without effect bit for bit the pipeline's own output, with
effect the same in threads as alone, and an interrupted call changes nothing."""

import copy
import threading

import diffusers
import pytest
import torch

from softalign import load_soft_tokens, loaded_tokens, unload_soft_tokens
from tests.tiny_adapter import write_adapter
from tests.tiny_pipeline import save_tiny_pipeline
from tests.tiny_sd3 import save_tiny_sd3
from tests.tiny_sdxl import save_tiny_sdxl

MAKERS = {
    "sd15": (diffusers.StableDiffusionPipeline, save_tiny_pipeline),
    "sdxl": (diffusers.StableDiffusionXLPipeline, save_tiny_sdxl),
    "sd3": (diffusers.StableDiffusion3Pipeline, save_tiny_sd3),
}
PREFIX = {"sd15": "StableDiffusion", "sdxl": "StableDiffusionXL", "sd3": "StableDiffusion3"}
PICTURE = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
MASK = (PICTURE[:, :1] > 0.5).float()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A pipeline of each family and an adapter's folder; a situation gets a deep copy."""
    found = {}
    for name, (kind, save) in MAKERS.items():
        folder = tmp_path_factory.mktemp(name)
        pipe = kind.from_pretrained(save(folder / "base"))
        denoiser = denoiser_of(pipe)
        denoiser.register_to_config(sample_size=denoiser.config.sample_size or 64)
        found[name] = pipe, write_adapter(folder / "adapter", name, denoiser, is_random=True)
    return found


def denoiser_of(pipe):
    return pipe.transformer if hasattr(pipe, "transformer") else pipe.unet


def draw(pipe, options):
    size = {} if "image" in options else {"height": 32, "width": 32}
    generator = torch.Generator().manual_seed(0)
    call = {"prompt": "a red circle", "num_inference_steps": 2, "guidance_scale": 4.0, "output_type": "latent", **size}
    pipe.set_progress_bar_config(disable=True)
    return pipe(generator=generator, **{**call, **options}).images


def sibling(pipe, name, ending="", **parts):
    """Return another pipeline on the same parts."""
    kind = getattr(diffusers, f"{PREFIX[name]}{ending}Pipeline")
    return kind.from_pipe(pipe, **parts)


def plain(pipe, _name):
    return pipe, {}


def guidance_1(pipe, _name):
    return pipe, {"guidance_scale": 1.0}


def batch_of_prompts(pipe, _name):
    return pipe, {"prompt": ["a red circle", "a blue cross"], "negative_prompt": ["a square", ""]}


def images_per_prompt(pipe, _name):
    return pipe, {"num_images_per_prompt": 2}


def lora(pipe, _name):
    peft = pytest.importorskip("peft")
    torch.manual_seed(3)
    config = peft.LoraConfig(r=2, target_modules=["to_q", "to_k", "add_k_proj"], init_lora_weights=False)
    denoiser_of(pipe).add_adapter(config)
    return pipe, {}


def lora_at_half_strength(pipe, name):
    options = "joint_attention_kwargs" if name == "sd3" else "cross_attention_kwargs"
    return lora(pipe, name)[0], {options: {"scale": 0.5}}


def ip_adapter(pipe, name):
    if name == "sd3":
        pytest.skip("its image encoder is another kind")
    unet, torch_seed = pipe.unet, torch.Generator().manual_seed(4)
    drawn = lambda *shape: torch.randn(*shape, generator=torch_seed)  # noqa: E731
    width, weights = unet.config.cross_attention_dim, {}
    attentions = [key for key in unet.attn_processors if key.endswith("attn2.processor")]
    for place, key in enumerate(attentions):
        inner = unet.get_submodule(key.removesuffix(".processor")).to_q.out_features
        weights |= {f"{2 * place + 1}.to_{part}_ip.weight": drawn(inner, width) for part in "kv"}
    projection = {"proj.weight": drawn(4 * width, 6), "proj.bias": drawn(4 * width)}
    projection |= {"norm.weight": drawn(width), "norm.bias": drawn(width)}
    unet._load_ip_adapter_weights([{"image_proj": projection, "ip_adapter": weights}])
    pipe.set_ip_adapter_scale(0.7)
    return pipe, {"ip_adapter_image_embeds": [drawn(2, 1, 6)]}


def controlnet(pipe, name):
    if name == "sd3":
        pytest.skip("of the U-Nets")
    torch.manual_seed(5)
    control = diffusers.ControlNetModel.from_unet(pipe.unet, conditioning_embedding_out_channels=(8, 8, 8, 8))
    for zero in (*control.controlnet_down_blocks, control.controlnet_mid_block):
        torch.nn.init.normal_(zero.weight)
    return sibling(pipe, name, "ControlNet", controlnet=control), {"image": PICTURE}


def freeu(pipe, name):
    if name == "sd3":
        pytest.skip("of the U-Nets")
    pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
    return pipe, {}


def offloading(pipe, _name):
    pipe.enable_model_cpu_offload(device="cpu")
    return pipe, {}


def offloading_by_module(pipe, _name):
    from accelerate import cpu_offload

    cpu_offload(denoiser_of(pipe), execution_device=torch.device("cpu"))
    return pipe, {}


def attention_slicing(pipe, name):
    if name == "sd3":
        pytest.skip("of the U-Nets")
    pipe.enable_attention_slicing(1)
    return pipe, {}


def fused_projections(pipe, _name):
    denoiser_of(pipe).fuse_qkv_projections()
    return pipe, {}


def with_scheduler(kind):
    def situation(pipe, name):
        if name == "sd3":
            pytest.skip("of the U-Nets")
        pipe.scheduler = kind.from_config(pipe.scheduler.config)
        return pipe, {}

    situation.__name__ = kind.__name__
    return situation


def callback_with_a_call_inside(pipe, _name):
    def callback(running, _step, _timestep, tensors):
        draw(view_of(running), {"num_inference_steps": 1, "guidance_scale": 1.0})
        return tensors

    return pipe, {"callback_on_step_end": callback}


def guidance_cut_off(pipe, _name):
    return pipe, {"callback_on_step_end": _cut_off, "callback_on_step_end_tensor_inputs": CUT_OFF_TENSORS[type(pipe)]}


CUT_OFF_TENSORS = {
    diffusers.StableDiffusionPipeline: ["prompt_embeds"],
    diffusers.StableDiffusionXLPipeline: ["prompt_embeds", "add_text_embeds", "add_time_ids"],
    diffusers.StableDiffusion3Pipeline: ["prompt_embeds", "pooled_prompt_embeds"],
}


def _cut_off(pipe, _step, _timestep, tensors):
    pipe._guidance_scale = 0.0
    return {name: tensor[-1:] for name, tensor in tensors.items()}


def perturbed_attention(pipe, name):
    layers = {"sd15": ["down"], "sdxl": ["mid"], "sd3": ["blocks.0"]}[name]
    return sibling(pipe, name, "PAG", pag_applied_layers=layers), {"pag_scale": 3.0}


def from_picture(pipe, name):
    return sibling(pipe, name, "Img2Img"), {"image": PICTURE, "strength": 1.0}


def inpainting(pipe, name):
    if name == "sd3":
        pytest.skip("for latents with 16 channels alone")
    size = {"height": 32, "width": 32}
    return sibling(pipe, name, "Inpaint"), {"image": PICTURE, "mask_image": MASK, "strength": 1.0, **size}


def two_pipelines_on_the_same_parts(pipe, name):
    return sibling(pipe, name), {}


SITUATIONS = [
    *(plain, guidance_1, batch_of_prompts, images_per_prompt, lora, lora_at_half_strength, ip_adapter, controlnet),
    *(freeu, offloading, offloading_by_module, attention_slicing, fused_projections, callback_with_a_call_inside),
    *(guidance_cut_off, perturbed_attention, from_picture, inpainting, two_pipelines_on_the_same_parts),
    *map(
        with_scheduler,
        [diffusers.EulerDiscreteScheduler, diffusers.DPMSolverMultistepScheduler, diffusers.UniPCMultistepScheduler],
    ),
]
NOT_IN_THREADS = {
    perturbed_attention: "diffusers exchanges the attention processors of the shared denoiser",
    lora_at_half_strength: "peft scales the shared layers for a call",
    offloading: "accelerate moves the shared denoiser",
    offloading_by_module: "accelerate moves the shared denoiser",
}


def view_of(pipe):
    """Return a pipeline on the same models, with a scheduler and tokenizers of its own: those keep state."""
    view = copy.copy(pipe)
    for name in ("scheduler", "tokenizer", "tokenizer_2", "tokenizer_3"):
        if hasattr(pipe, name):
            setattr(view, name, copy.deepcopy(getattr(pipe, name)))
    return view


@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda situation: situation.__name__)
@pytest.mark.parametrize("name", MAKERS)
def test_with_and_without_tokens(made, name, situation):
    own, folder = made[name]
    owner = copy.deepcopy(own)
    pipe, options = situation(owner, name)
    base = draw(pipe, options)
    handle = load_soft_tokens(owner, folder)
    trained = draw(pipe, options)
    assert (trained - base).abs().max() > 1e-4
    handle.set_scale(0.0)
    assert torch.equal(draw(pipe, options), base)
    handle.set_scale(0.5)
    interrupt(pipe, options)
    handle.disable()
    assert torch.equal(draw(pipe, options), base)
    handle.enable()
    handle.set_scale(1.0)
    assert torch.equal(draw(pipe, options), trained)
    if situation not in NOT_IN_THREADS:
        longer = {**options, "num_inference_steps": 3}
        expected = [trained, draw(pipe, longer)]
        found = in_threads(*((view_of(pipe), chosen) for chosen in (options, longer)))
        assert [torch.equal(image, other) for image, other in zip(found, expected, strict=True)] == [True, True]
    assert unload_soft_tokens(pipe) == 1
    assert torch.equal(draw(pipe, options), base)


def interrupt(pipe, options):
    """Press Ctrl-C in the second step, inside a block that sees the tokens."""
    steps = []

    def press(*_):
        steps.append(1)
        if len(steps) == 2:
            raise KeyboardInterrupt

    site = next(module for module in denoiser_of(pipe).modules() if type(module).__name__ == "Attention")
    hook = site.register_forward_hook(press)
    with pytest.raises(KeyboardInterrupt):
        draw(pipe, options)
    hook.remove()


def in_threads(*calls):
    found = [None] * len(calls)

    def run(place, pipe, options):
        found[place] = draw(pipe, options)

    threads = [threading.Thread(target=run, args=(place, *call)) for place, call in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@pytest.mark.parametrize("name", MAKERS)
def test_saved_and_copied(made, name, tmp_path):
    own, folder = made[name]
    pipe = copy.deepcopy(own)
    base = draw(pipe, {})
    load_soft_tokens(pipe, folder)
    trained = draw(pipe, {})
    twin = copy.deepcopy(pipe)
    assert unload_soft_tokens(pipe) == 1
    assert torch.equal(draw(twin, {}), trained)
    assert torch.equal(draw(pipe, {}), base)
    twin.save_pretrained(tmp_path)
    stored = type(pipe).from_pretrained(tmp_path)
    assert loaded_tokens(stored) == ()
    assert torch.equal(draw(stored, {}), base)
