"""A training run small enough for a test, here or in a child process: ``tiny_training.py FOLDER [NAME=VALUE]...``."""

import dataclasses
import json
import logging
import os
import signal
import sys
import threading
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel

from softalign.adapters.base_fingerprint import fingerprint_of
from softalign.adapters.files import AdapterConfig, UNetPlacement
from softalign.backbones.unet import UNetDenoiser
from softalign.config import NegativesConfig, Runtime, TrainConfig
from softalign.config.objective import OBJECTIVES
from softalign.data.captions.candidates import choose_candidates
from softalign.data.encoding.reader import EncodedBatch
from softalign.errors import SoftAlignError
from softalign.method.forward_process import DDPMProcess
from softalign.method.text_states import TextStates
from softalign.processes.locking import exclusive
from softalign.processes.stopping import StopRequest
from softalign.processes.watchdog import Watchdog
from softalign.training import loop
from softalign.training.checkpoint_copies import CheckpointUploads
from softalign.training.export import write_adapter
from softalign.training.loop import run_steps
from softalign.training.micro_batches import MicroBatches
from softalign.training.pair_grid import Division
from softalign.training.process_group import ALONE, join_group, leave_group
from softalign.training.run import Run
from softalign.training.start import initial_state, initial_tokens
from softalign.training.step import StepInputs

COATS = ("warm", "torn", "long", "new", "wet", "thin", "loose")
DEFAULT_NEGATIVES = NegativesConfig()
C, SIZE, L, D = 4, 4, 5, 8
CPU = torch.device("cpu")
BOS_D = torch.linspace(-1, 1, D)


def make_unet():
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=SIZE,
        in_channels=C,
        out_channels=C,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(8, 8),
        layers_per_block=1,
        cross_attention_dim=D,
        attention_head_dim=4,
        norm_num_groups=4,
    )
    return unet.eval().requires_grad_(False)


def make_denoiser(tokens, unet=None, blocks=("down", "mid")):
    process = DDPMProcess(DDIMScheduler().alphas_cumprod, "epsilon")
    return UNetDenoiser(unet if unet is not None else make_unet(), blocks, tokens, process, 8 * SIZE)


class SyntheticBatches:
    """Random latents and texts, a function of samples_seen; some batches can be poisoned, one may never arrive.

    The captions are much alike, but no near-duplicates by default; each has two edits.
    """

    def __init__(self, batch_size, poisoned=(), negatives=DEFAULT_NEGATIVES, block_at=None):
        self.negatives = negatives
        self.batch_size, self.poisoned, self.block_at = batch_size, set(poisoned), block_at
        self.asked = []

    def batch_at(self, samples_seen):
        self.asked.append(samples_seen)
        index = samples_seen // self.batch_size
        if index == self.block_at:
            threading.Event().wait()
        generator = torch.Generator().manual_seed(samples_seen)
        latents = torch.randn(self.batch_size, C, SIZE, SIZE, generator=generator)
        if index in self.poisoned:
            latents[0] = float("nan")
        keys = tuple(f"sample-{samples_seen + place}" for place in range(self.batch_size))
        captions = [f"man in a {COATS[(samples_seen + place) % len(COATS)]} coat" for place in range(self.batch_size)]
        edits = [[f"{caption} and {number} dogs" for number in ("two", "three")] for caption in captions]
        chosen = choose_candidates(captions, edits, self.negatives, np.random.default_rng(samples_seen))
        prompts = (*captions, *chosen.hard_negatives)
        texts = torch.randn(self.batch_size, L, D, generator=generator)
        texts = torch.cat([texts, torch.randn(len(chosen.hard_negatives), L, D, generator=generator)])
        return EncodedBatch(
            keys=keys, prompts=prompts, candidates=chosen.rows, latents_BCHW=latents, text=TextStates(texts)
        )


@contextmanager
def steps_counted(before=lambda step: None, after=lambda step: None):
    """Call ``before`` with the steps done so far and ``after`` with one more, around each step of the block."""
    own = loop.train_step

    def counted(*args, step, **kwargs):
        before(step)
        row = own(*args, step=step, **kwargs)
        after(row.step)
        return row

    loop.train_step = counted
    try:
        yield
    finally:
        loop.train_step = own


@contextmanager
def stopped_after(num_steps):
    """Give a request that asks to stop when so many steps of the block are done (None: never)."""
    stop, done = StopRequest(), []

    def count(step):
        done.append(step)
        stop.is_set = len(done) == num_steps

    with steps_counted(after=count):
        yield stop


def make_run(folder, config, runtime, batches=None, unet=None, val_batches=None, group=ALONE, uploads=None, device=CPU):
    batches = batches or SyntheticBatches(config.batch_size, negatives=config.negatives)
    state = initial_state(config, initial_tokens(config, BOS_D, D), device)
    denoiser = make_denoiser(state.live, unet, config.soft_tokens.blocks)
    denoiser.module.to(device)
    held_out = SyntheticBatches(config.batch_size)
    if val_batches is None:
        val_batches = [held_out.batch_at(10_000 * config.batch_size)]
    return Run(
        step_inputs=StepInputs(config, denoiser, state, device, Division(MicroBatches(None), group)),
        train_batches=batches,
        val_batches=val_batches,
        folder=folder,
        run_digest=config.digest,
        runtime=runtime,
        uploads=uploads,
    )


def write_output(run, folder, progress):
    config = run.step_inputs.config
    state = run.step_inputs.state
    adapter_config = AdapterConfig(
        base_model="tiny",
        base_model_revision="",
        family="sd15",
        placement=UNetPlacement(blocks=config.soft_tokens.blocks, position="after_bos"),
        num_soft_tokens=config.soft_tokens.num_soft_tokens,
        num_banks=state.live.num_banks,
        width=D,
        timestep_bins=config.soft_tokens.num_timestep_bins,
        has_ema=True,
        objective=config.objective.name,
        num_steps=progress.step,
        samples_seen=progress.samples_seen,
        dataset_digest="0" * 64,
        library_version="test",
        weights_sha256="",
        base_fingerprint=fingerprint_of(run.step_inputs.denoiser.module),
    )
    return write_adapter(folder, run, adapter_config, initial_tokens(config, BOS_D, D), "tiny")


def main(folder, options):
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    defaults = {"num_steps": 24, "checkpoint_every_steps": 5, "validate_every_steps": 10, "objective": "agsm"}
    settings = {**defaults, "poisoned": (3,), "kill_at": None, "kill_rank": 0, "uri": None, **options}
    settings = {"block_at": None, "block_rank": 0, "hang_timeout_s": None, "device": "cpu", **settings}
    config = TrainConfig(
        num_steps=settings["num_steps"],
        batch_size=3,
        validate_every_steps=settings["validate_every_steps"],
        ema_decay=0.9,
        noise_sharing="per_image",
        objective=OBJECTIVES[settings["objective"]](),
    )
    runtime = Runtime(num_threads=1, checkpoint_every_steps=settings["checkpoint_every_steps"])
    stop = StopRequest()
    try:
        with stop.listening():
            group, device = join_group(torch.device(settings["device"]), 120)
            with exclusive(folder) if group.is_leader else nullcontext():
                kill_at = settings["kill_at"] if settings["kill_rank"] == group.rank else None
                block_at = settings["block_at"] if settings["block_rank"] == group.rank else None
                batches = SyntheticBatches(config.batch_size, settings["poisoned"], block_at=block_at)
                uploads = CheckpointUploads(settings["uri"]) if settings["uri"] and group.is_leader else None
                run = make_run(folder, config, runtime, batches, group=group, uploads=uploads, device=device)
                run = dataclasses.replace(run, watchdog=Watchdog(settings["hang_timeout_s"]))
                with steps_counted(before=lambda step: step == kill_at and os.kill(os.getpid(), signal.SIGKILL)):
                    progress = run_steps(run, stop)
                if group.is_leader:
                    write_output(run, folder / "adapter", progress)
                group.from_leader(b"")
                leave_group(group)
    except SoftAlignError as error:
        logging.getLogger(__name__).error("%s", error)
        return error.exit_code
    return 0


if __name__ == "__main__":
    pairs = (argument.partition("=") for argument in sys.argv[2:])
    sys.exit(main(Path(sys.argv[1]), {name: json.loads(value) for name, _, value in pairs}))
