"""Time of one training step by objective and micro-batch, against a plain loop over pairs, side by side in one run.

    python tests/bench/train_step.py [--pairs 7] [--threads 1]

Each round times every variant once, in a new order; ratios are medians over rounds of (variant / plain loop in the same
round), so that load which changes slowly cancels. The denoiser is the embedded model's.
"""

import argparse
import random
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel

from softalign.backbones.unet import UNetDenoiser
from softalign.config import ObjectiveConfig
from softalign.forward_process import DDPMProcess
from softalign.objective import Alignment, align, candidate_mask, squared_error
from softalign.pair_grid import Division, backward_grid, num_banks
from softalign.shapes import weights_path
from softalign.soft_tokens import SoftTokens
from softalign.text_states import TextStates

B, L, S, NUM_BINS = 4, 16, 4, 100


@dataclass(frozen=True)
class Bench:
    """One batch on the embedded denoiser."""

    denoiser: UNetDenoiser
    latents: torch.Tensor
    texts: torch.Tensor
    target: torch.Tensor
    timesteps: torch.Tensor

    def predict(self, pairs, tokens):
        return self.denoiser.predict(
            self.latents[pairs.images_N],
            self.timesteps[pairs.images_N],
            TextStates(self.texts[pairs.prompts_N]),
            tokens,
            pairs.banks_N,
        )


def make_tokens(banks, width):
    generator = torch.Generator().manual_seed(0)
    table = 0.02 * torch.randn(NUM_BINS, width, generator=generator)
    return SoftTokens(torch.randn(banks, S, width, generator=generator), table)


def make_bench():
    unet = UNet2DConditionModel.from_pretrained(Path(weights_path()) / "unet", torch_dtype=torch.float32)
    unet.eval().requires_grad_(False)
    width, channels, size = unet.config.cross_attention_dim, unet.config.in_channels, unet.config.sample_size
    generator = torch.Generator().manual_seed(0)
    latents, target = (torch.randn(B, channels, size, size, generator=generator) for _ in range(2))
    texts = torch.randn(B, L, width, generator=generator)
    tokens = make_tokens(2, width)
    denoiser = UNetDenoiser(unet, ("down", "mid"), tokens, DDPMProcess(torch.linspace(1, 0, 1000), "v_prediction"), 32)
    return Bench(denoiser, latents, texts, target, torch.full((B,), 500)), width


def plain_agsm_step(bench, live, ema, mask, config):
    """Compute AGSM as its formulas are written: one pair after the other, all graphs kept until one backward."""

    def one(i, j, tokens):
        bank = torch.tensor([0 if i == j else 1])
        return bench.denoiser.predict(
            bench.latents[[i]], bench.timesteps[[i]], TextStates(bench.texts[[j]]), tokens, bank
        )[0]

    with torch.no_grad():
        grid = torch.stack([torch.stack([one(i, j, ema) for j in range(B)]) for i in range(B)])
    aligned: Alignment = align(grid, bench.target, mask, config)
    own, others = [], []
    for i in range(B):
        for j in range(B):
            error = squared_error(one(i, j, live), aligned.targets_BPCHW[i, j])
            (own if i == j else others).append(error)
    (torch.stack(own).mean() + torch.stack(others).mean()).backward()


def variants(bench, width):
    mask = candidate_mask([range(B)] * B, B)

    def grid(config, micro_batch_size):
        live, ema = make_tokens(num_banks(config), width), make_tokens(num_banks(config), width)
        division = Division.into_chunks(micro_batch_size)
        return lambda: backward_grid(bench.predict, live, ema, bench.target, mask, config, division)

    agsm = ObjectiveConfig()
    live, ema = make_tokens(2, width), make_tokens(2, width)
    return {
        "plain loop, agsm": lambda: plain_agsm_step(bench, live, ema, mask, agsm),
        "agsm, whole grid": grid(agsm, None),
        "agsm, micro-batch 8": grid(agsm, 8),
        "agsm, micro-batch 4": grid(agsm, 4),
        "agsm, micro-batch 1": grid(agsm, 1),
        "agsm, no negatives": grid(ObjectiveConfig(gamma_negative=0.0), None),
        "softrepa, whole grid": grid(ObjectiveConfig(name="softrepa"), None),
        "softrepa, micro-batch 4": grid(ObjectiveConfig(name="softrepa"), 4),
        "score_matching": grid(ObjectiveConfig(name="score_matching"), None),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=7, help="rounds")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    bench, width = make_bench()
    steps = variants(bench, width)
    for step in steps.values():
        step()
    times = {name: [] for name in steps}
    order = list(steps)
    for _ in range(arguments.pairs):
        random.shuffle(order)
        for name in order:
            started = time.perf_counter()
            steps[name]()
            times[name].append(time.perf_counter() - started)
    reference = times["plain loop, agsm"]
    sys.stdout.write(f"4 x 4 pairs, {arguments.threads} thread(s), medians of {arguments.pairs} rounds\n")
    for name, own in times.items():
        ratio = statistics.median(mine / plain for mine, plain in zip(own, reference, strict=True))
        sys.stdout.write(f"{name:26s} {statistics.median(own):7.3f} s  {ratio:5.2f} of the plain loop\n")


if __name__ == "__main__":
    main()
