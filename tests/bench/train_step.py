"""A training step on 4 images x 4 captions beside the published algorithm's plain loop and the bare denoiser.

The plain loop puts one pair after the other through the whole denoiser. The same with all pairs in one call stands
beside it: there, what is left to save are the products that pairs share (the FLOPs column counts matrix products and
convolutions, not attention).

    python -m tests.bench.train_step [--rounds 3] [--shapes sd15,sdxl,sd3] [--objectives]

One process, one thread, the same weights, batch and tokens for all. Each round times every variant once, in random
order; a ratio is the median over rounds of two variants' times in the same round. Times are the process's CPU seconds:
on one thread what the wall clock shows on an idle machine, and other processes' turns are not counted. Peak memory is
what the operating system saw, each variant in a process of its own: the growth during one step (Linux).
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from torch.utils.flop_counter import FlopCounterMode

from softalign.config import AGSMConfig, ObjectiveConfig, ScoreMatchingConfig, SoftREPAConfig, TrainConfig
from softalign.data.encoding.reader import EncodedBatch
from softalign.method.forward_process import draw_noise
from softalign.method.soft_tokens import SoftTokens, TokensShape, soft_tokens_from_normal, update_ema
from softalign.method.text_states import TextStates
from softalign.training.checkpoints import TrainingState
from softalign.training.pair_grid import Division
from softalign.training.step import StepInputs, train_step
from tests.bench.denoisers import LATENTS_PX, SHAPES, Shape, build_frozen
from tests.bench.plain_loop import Grid, PlainLoop, bare_step

B = 4
MICRO_BATCH_SIZE = 8
PLAIN, BATCHED, OURS, BARE = "plain loop", "plain loop, one call", "ours", "bare denoiser"
OBJECTIVES = {
    "ours, softrepa": SoftREPAConfig(),
    "ours, score_matching": ScoreMatchingConfig(),
    "ours, whole grid": AGSMConfig(),
}
LOSS_TOLERANCE = 1e-5
TARGETS = {
    "sd15": {PLAIN: 0.80, BARE: 1.05},
    "sdxl": {PLAIN: 0.80, BARE: 1.05},
    "sd3": {PLAIN: 0.90, BARE: 1.05},
}
MAX_UPDATE_SHARE = 0.02


@dataclass(frozen=True)
class Variant:
    """One way to do a step: ``reset`` brings back the tokens it starts from, ``step`` returns its loss."""

    reset: Callable[[], None]
    step: Callable[[], float]


def make_config(shape: Shape, objective: ObjectiveConfig) -> TrainConfig:
    """Return a run's configuration for a shape."""
    return TrainConfig(soft_tokens=shape.tokens, objective=objective, batch_size=B)


def make_batch(shape: Shape) -> EncodedBatch:
    """Return random latents and texts."""
    generator = torch.Generator().manual_seed(2)
    names = tuple("abcd"[:B])
    pooled = torch.randn(B, shape.pooled_width, generator=generator) if shape.pooled_width else None
    text = TextStates(torch.randn(B, shape.text_length, shape.text_width, generator=generator), pooled)
    latents = torch.randn(B, shape.channels, LATENTS_PX, LATENTS_PX, generator=generator)
    candidates = tuple(tuple(range(B)) for _ in range(B))
    return EncodedBatch(keys=names, prompts=names, candidates=candidates, latents_BCHW=latents, text=text)


def make_state(shape: Shape, num_banks: int) -> TrainingState:
    """Return tokens of deviation 1, an average that differs from them, and AdamW."""

    def tokens(seed: int) -> SoftTokens:
        return soft_tokens_from_normal(
            shape.token_width,
            TokensShape(
                num_banks, shape.tokens.num_soft_tokens, shape.tokens.num_timestep_bins, shape.tokens.num_layers
            ),
            std=1.0,
            generator=torch.Generator().manual_seed(seed),
        )

    live, ema = tokens(3), tokens(4).requires_grad_(False)
    return TrainingState(live, ema, torch.optim.AdamW(live.parameters(), lr=1e-3, weight_decay=1e-4))


def make_ours(shape: Shape, objective: ObjectiveConfig, micro_batch_size: int | None) -> Variant:
    """Return our step, the one that ``softalign train`` runs."""
    config = make_config(shape, objective)
    state = make_state(shape, 2 if objective.name == "agsm" else 1)
    denoiser = shape.attach(build_frozen(shape), state.live)
    inputs = StepInputs(config, denoiser, state, torch.device("cpu"), Division.into_chunks(micro_batch_size))
    batch = make_batch(shape)
    return Variant(_restorer(state), lambda: train_step(inputs, batch, step=0, samples_seen=0).loss)


def make_plain(shape: Shape, pairs_per_call: int) -> Variant:
    """Return the published algorithm's step on the same weights, batch, noise and tokens."""
    config = make_config(shape, AGSMConfig())
    state = make_state(shape, 2)
    loop = PlainLoop(build_frozen(shape), state.live, state.ema, state.optimizer, pairs_per_call)
    grid = make_grid(shape)
    return Variant(_restorer(state), lambda: loop.step(grid, config.ema_decay))


def make_bare(shape: Shape) -> Variant:
    """Return the bare denoiser's forward, backward and forward."""
    module, grid = build_frozen(shape), make_grid(shape)
    return Variant(lambda: None, lambda: bare_step(module, grid))


def make_grid(shape: Shape) -> Grid:
    """Return the pairs of the batch with the noise that a run's first step draws."""
    config, batch = make_config(shape, AGSMConfig()), make_batch(shape)
    draw = draw_noise(tuple(batch.latents_BCHW.shape), sharing="shared", seed=config.seed, samples_seen=0)
    process = shape.attach(build_frozen(shape), make_state(shape, 2).live).process
    return Grid.of(process.diffuse(batch.latents_BCHW, draw), batch.text)


def make_variant(shape: Shape, name: str) -> Variant:
    """Return a variant by its name in the report."""
    if name in {PLAIN, BATCHED}:
        return make_plain(shape, 1 if name == PLAIN else B * B)
    if name == BARE:
        return make_bare(shape)
    size = None if name == "ours, whole grid" else MICRO_BATCH_SIZE
    return make_ours(shape, OBJECTIVES.get(name, AGSMConfig()), size)


def _restorer(state: TrainingState) -> Callable[[], None]:
    tensors, fresh = state.to_tensors(), copy.deepcopy(state.optimizer.state_dict())

    def restore() -> None:
        state.live.load_state_dict({name[5:]: tensors[name] for name in tensors if name.startswith("live.")})
        state.ema.load_state_dict({name[4:]: tensors[name] for name in tensors if name.startswith("ema.")})
        state.optimizer.load_state_dict(copy.deepcopy(fresh))

    return restore


def measure(variants: dict[str, Variant], rounds: int) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Return CPU seconds by variant and round, and each variant's loss."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    losses: dict[str, float] = {}
    for _ in range(rounds):
        for name in random.sample(list(variants), len(variants)):
            variants[name].reset()
            started = time.process_time()
            losses[name] = variants[name].step()
            times[name].append(time.process_time() - started)
    return times, losses


def count_flops(variant: Variant) -> int:
    """Return the floating-point operations of one step's matrix products and convolutions."""
    variant.reset()
    with FlopCounterMode(display=False) as counter:
        variant.step()
    return counter.get_total_flops()


def update_seconds(shape: Shape) -> float:
    """Return the CPU seconds of one AdamW update and one EMA update."""
    state = make_state(shape, 2)
    for parameter in state.live.parameters():
        parameter.grad = torch.randn_like(parameter)
    seconds = []
    for _ in range(20):
        started = time.process_time()
        state.optimizer.step()
        update_ema(state.ema, state.live, 0.9999)
        seconds.append(time.process_time() - started)
    return statistics.median(seconds)


def peak_growth_bytes(shape_name: str, variant: str) -> int:
    """Return by how much a fresh process's resident memory grows at most during one step."""
    command = [sys.executable, "-m", "tests.bench.train_step", "--memory-of", shape_name, variant]
    result = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ)
    return int(json.loads(result.stdout))


def _print_own_peak(shape_name: str, variant: str) -> None:
    made = make_variant(SHAPES[shape_name], variant)
    before = psutil.Process().memory_info().rss
    # Linux: forget the highest mark so far. A new process inherits its parent's, so getrusage would show that one's.
    Path("/proc/self/clear_refs").write_text("5")
    made.step()
    _say(json.dumps(_highest_resident_bytes() - before))


def _highest_resident_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    (mark,) = (line for line in lines if line.startswith("VmHWM:"))
    return int(mark.split()[1]) * 1024


def report(shape_name: str, rounds: int, names: list[str]) -> bool:
    """Measure a shape, print its table and return whether all targets are met."""
    shape = SHAPES[shape_name]
    variants = {name: make_variant(shape, name) for name in names}
    flops = {name: count_flops(variants[name]) for name in names}  # and the libraries' first-call work
    times, losses = measure(variants, rounds)
    peaks = {name: peak_growth_bytes(shape_name, name) for name in names}
    _say(f"\n{shape_name}: {B} x {B} pairs, latents {LATENTS_PX} px, 1 thread, medians of {rounds} rounds")
    heads = ("CPU s", "/ plain", "/ 1 call", "/ bare", "GFLOP", "peak MB")
    _say(f"{'':24s} " + " ".join(f"{head:>8s}" for head in heads) + "  loss")
    ratios = {name: {to: _ratio(times[name], times[to]) for to in (PLAIN, BATCHED, BARE)} for name in names}
    for name in names:
        to = " ".join(f"{ratio:8.3f}" for ratio in ratios[name].values())
        _say(
            f"{name:24s} {statistics.median(times[name]):8.2f} {to} {flops[name] / 1e9:8.0f} "
            f"{peaks[name] / 1e6:8.0f}  {losses[name]:.7f}"
        )
    difference = abs(losses[OURS] - losses[PLAIN]) / abs(losses[PLAIN])
    share = update_seconds(shape) / statistics.median(times[OURS])
    checks = {
        **{f"time / {to} <= {most}": ratios[OURS][to] <= most for to, most in TARGETS[shape_name].items()},
        f"loss differs by {difference:.1e} <= {LOSS_TOLERANCE}": difference <= LOSS_TOLERANCE,
        "peak memory not above the plain loop's": peaks[OURS] <= peaks[PLAIN],
        f"EMA and optimiser {share:.2%} of a step < {MAX_UPDATE_SHARE:.0%}": share < MAX_UPDATE_SHARE,
    }
    for text, is_met in checks.items():
        _say(f"  {'ok  ' if is_met else 'MISS'} {text}")
    return all(checks.values())


def _ratio(mine: list[float], other: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(mine, other, strict=True))


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> int:
    """Print the tables; 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shapes", default=",".join(SHAPES))
    parser.add_argument("--objectives", action="store_true", help="the other objectives and the whole grid at once too")
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.memory_of:
        _print_own_peak(*arguments.memory_of)
        return 0
    names = [PLAIN, BATCHED, BARE, OURS, *(OBJECTIVES if arguments.objectives else ())]
    met = [report(shape, arguments.rounds, names) for shape in arguments.shapes.split(",")]
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
