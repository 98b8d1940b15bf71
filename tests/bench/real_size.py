"""A training step and a sampler's call of each family at its real size, random weights, on a CUDA device.

A training step is 4 images x 4 captions at the family's own resolution, as ``softalign train`` runs it: bf16 frozen
denoiser, fp32 tokens, the micro-batch that free memory allows. Beside it, in turns and in chunks of the same size: the
bare denoiser's forward, backward and forward, without tokens. A sampler's call is one forward pass of 8 images, with
the tokens in and with the tokens taken out. Times lie between CUDA events; a ratio is the median over rounds of two
times of the same round.

    python -m tests.bench.real_size [--rounds 5] [--families sd15,sdxl,sd3]
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from diffusers import DDIMScheduler
from torch import nn

from softalign.artifacts import Family
from softalign.backbones.base import Denoiser
from softalign.backbones.mmdit import MMDiTDenoiser
from softalign.backbones.unet import UNetDenoiser
from softalign.config import AGSMConfig, MMDiTTokensConfig, SoftTokensConfig, TrainConfig, UNetTokensConfig
from softalign.data.encoding.reader import EncodedBatch
from softalign.method.forward_process import DDPMProcess, FlowProcess, draw_noise
from softalign.method.soft_tokens import SoftTokens
from softalign.method.text_states import TextStates
from softalign.training.micro_batches import choose_size
from softalign.training.pair_grid import Division, Pairs
from softalign.training.step import StepInputs, diffuse_batch, live_predictor, pair_predictor, train_step
from tests.bench.cost import MODELS
from tests.bench.denoisers import Shape
from tests.bench.plain_loop import Grid, bare_step, denoise
from tests.bench.train_step import make_state

B = 4
NUM_SAMPLED = 8
DTYPE = torch.bfloat16


@dataclass(frozen=True)
class Real:
    """A family's denoiser as its hub config has it: how it is built, its inputs, its latents' side."""

    shape: Shape
    latents_px: int


def _attach_unet(resolution_px: int) -> Callable[[nn.Module, SoftTokens], Denoiser]:
    process = DDPMProcess(DDIMScheduler().alphas_cumprod, "epsilon")
    return lambda unet, tokens: UNetDenoiser(unet, ("down", "mid"), tokens, process, resolution_px)


def _attach_mmdit(transformer: nn.Module, tokens: SoftTokens) -> Denoiser:
    return MMDiTDenoiser(transformer, tokens, FlowProcess(3.0))


UNET_TOKENS, MMDIT_TOKENS = UNetTokensConfig(init="normal"), MMDiTTokensConfig()
MMDIT_WIDTH = 1536
"""Of the soft tokens in SD3 medium's joint blocks."""


def _real(name: Family, attach: Callable[[nn.Module, SoftTokens], Denoiser], tokens: SoftTokensConfig, px: int) -> Real:
    """Return a published denoiser with what the papers train on it, for latents of ``px`` a side."""
    known = MODELS[name]
    width = MMDIT_WIDTH if isinstance(tokens, MMDiTTokensConfig) else known.text_width
    sizes = (known.channels, known.text_length, known.text_width, known.pooled_width, width)
    return Real(Shape(known.build, attach, tokens, *sizes), px)


FAMILIES = {
    "sd15": _real("sd15", _attach_unet(512), UNET_TOKENS, 64),
    "sdxl": _real("sdxl", _attach_unet(1024), UNET_TOKENS, 128),
    "sd3": _real("sd3", _attach_mmdit, MMDIT_TOKENS, 128),
}


def build(real: Real, device: torch.device) -> nn.Module:
    """Return the frozen module in bf16 on the device, its random weights drawn there."""
    torch.manual_seed(0)
    with device:
        return real.shape.build().to(DTYPE).eval().requires_grad_(False)


def make_batch(real: Real, num_images: int, seed: int) -> EncodedBatch:
    """Return random latents and texts of ``num_images`` images, every caption a candidate of every image."""
    shape, generator = real.shape, torch.Generator().manual_seed(seed)
    names = tuple(map(str, range(num_images)))
    pooled = torch.randn(num_images, shape.pooled_width, generator=generator) if shape.pooled_width else None
    text = TextStates(torch.randn(num_images, shape.text_length, shape.text_width, generator=generator), pooled)
    latents = torch.randn(num_images, shape.channels, real.latents_px, real.latents_px, generator=generator)
    everyone = (tuple(range(num_images)),) * num_images
    return EncodedBatch(keys=names, prompts=names, candidates=everyone, latents_BCHW=latents, text=text)


def make_inputs(real: Real, module: nn.Module, device: torch.device) -> StepInputs:
    """Return what ``softalign train`` gives a step: live and averaged tokens of deviation 1, AdamW, AGSM."""
    state = make_state(real.shape, 2)
    live, ema = state.live.to(device), state.ema.to(device)
    state = replace(state, live=live, ema=ema, optimizer=torch.optim.AdamW(live.parameters(), lr=1e-3))
    config = TrainConfig(soft_tokens=real.shape.tokens, objective=AGSMConfig(), batch_size=B)
    return StepInputs(config, real.shape.attach(module, live), state, device, Division.into_chunks(None))


def bare_pairs(real: Real, module: nn.Module, device: torch.device, size: int) -> Callable[[], None]:
    """Return forward, backward and forward of the same pairs through the module without tokens, in chunks."""
    batch, process = make_batch(real, B, 1), DDPMProcess(DDIMScheduler().alphas_cumprod, "epsilon")
    draw = draw_noise(tuple(batch.latents_BCHW.shape), sharing="shared", seed=0, samples_seen=0)
    grid = Grid.of(process.diffuse(batch.latents_BCHW, draw), batch.text)
    parts = [_on(grid.part(slice(at, at + size)), device) for at in range(0, B * B, size)]

    def run() -> None:
        with device:
            for part in parts:
                bare_step(module, part)

    return run


def _on(grid: Grid, device: torch.device) -> Grid:
    pooled = grid.text.pooled_NP
    text = TextStates(
        grid.text.prompt_embeds_NLD.to(device, DTYPE), None if pooled is None else pooled.to(device, DTYPE)
    )
    return Grid(
        grid.latents_NCHW.to(device, DTYPE),
        grid.timesteps_N.to(device),
        text,
        grid.targets_NCHW.to(device, DTYPE),
        grid.is_match_N.to(device),
    )


def milliseconds(work: Callable[[], object]) -> float:
    """Return the time between CUDA events around ``work``."""
    started, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    started.record()
    work()
    ended.record()
    torch.cuda.synchronize()
    return started.elapsed_time(ended)


def in_turns(works: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Return each work's milliseconds by round, after one unmeasured call of each."""
    for work in works.values():
        work()
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            times[name].append(milliseconds(work))
    return times


def ratio(mine: list[float], other: list[float]) -> float:
    """Return the median over rounds of two times of the same round."""
    return statistics.median(a / b for a, b in zip(mine, other, strict=True))


def report_training(name: str, real: Real, module: nn.Module, device: torch.device, rounds: int) -> None:
    """Print what a training step takes beside the bare denoiser, and the memory of both."""
    bare_module_bytes = torch.cuda.memory_allocated(device)
    inputs = make_inputs(real, module, device)
    batch = make_batch(real, B, 1)
    size = choose_size(live_predictor(inputs, batch), B * B // 2, device)
    inputs.division.micro_batches.size = size
    torch.cuda.reset_peak_memory_stats(device)
    losses = [train_step(inputs, batch, step=step, samples_seen=step * B).loss for step in range(2)]
    peak = torch.cuda.max_memory_allocated(device) - bare_module_bytes
    ours = in_turns({"ours": lambda: train_step(inputs, batch, step=2, samples_seen=2 * B)}, rounds)
    inputs.denoiser.close()
    torch.cuda.reset_peak_memory_stats(device)
    bare = in_turns({"bare": bare_pairs(real, module, device, size)}, rounds)
    bare_peak = torch.cuda.max_memory_allocated(device) - bare_module_bytes
    milliseconds_a_step = statistics.median(ours["ours"])
    num_trained = sum(parameter.numel() for parameter in inputs.state.live.parameters())
    _say(
        f"{name:5s} step {milliseconds_a_step:7.0f} ms, {B * B * 1000 / milliseconds_a_step:6.1f} pairs/s, "
        f"{ratio(ours['ours'], bare['bare']):.3f} of the bare denoiser; {size} pairs a call; beyond the weights "
        f"{peak / 1e9:.2f} GB (bare {bare_peak / 1e9:.2f}); {num_trained:,} trained; losses {losses}"
    )


@torch.no_grad()
def report_sampling(name: str, real: Real, module: nn.Module, device: torch.device, rounds: int) -> None:
    """Print what a sampler's call takes with the tokens in, beside the bare denoiser's."""
    inputs = make_inputs(real, module, device)
    batch = make_batch(real, NUM_SAMPLED, 2)
    noisy = diffuse_batch(inputs, batch, seed=0, samples_seen=0, sharing="shared")
    predict = pair_predictor(inputs, noisy, batch.text.to(device))
    each = torch.arange(NUM_SAMPLED)
    pairs = Pairs(each, each, torch.zeros_like(each))
    with_tokens = in_turns({"tokens": lambda: predict(pairs, inputs.state.live)}, rounds)["tokens"]
    inputs.denoiser.close()
    part = _on(Grid.of(noisy, batch.text.to(device)).part(slice(0, NUM_SAMPLED)), device)

    def bare() -> None:
        with device:
            denoise(module, part, part.text.prompt_embeds_NLD)

    without = in_turns({"bare": bare}, rounds)["bare"]
    _say(
        f"{name:5s} sampler's call of {NUM_SAMPLED}: {statistics.median(with_tokens):6.1f} ms with tokens, "
        f"{ratio(with_tokens, without):.3f} of {statistics.median(without):.1f} ms without"
    )


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> int:
    """Print a line per family and measurement."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--families", default=",".join(FAMILIES))
    arguments = parser.parse_args()
    device = torch.device("cuda")
    _say(f"{torch.cuda.get_device_name(device)}, PyTorch {torch.__version__}, bf16")
    for name in arguments.families.split(","):
        module = build(FAMILIES[name], device)
        report_training(name, FAMILIES[name], module, device, arguments.rounds)
        report_sampling(name, FAMILIES[name], module, device, arguments.rounds)
        del module
        torch.cuda.empty_cache()
    return 0


if __name__ == "__main__":
    sys.exit(main())
