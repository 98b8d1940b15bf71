"""Images drawn while training: the same held-out captions and noise every time, side by side in one picture.

``samples/step-00000100.png`` holds one image per caption, drawn with the live psi+ on both branches of guidance;
``samples/prompts.json`` names the captions. Nothing of the training changes by drawing them.

Shape legend: B captions, C H W of latents and images.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from softalign.backbones.base import Backbone
from softalign.backbones.vae import decode_latents
from softalign.data.encoding.reader import HeldOutCaptions
from softalign.method.text_states import TextStates
from softalign.sampling.sampling import ImageRequest, SamplingSettings, as_arguments, initial_noise, png_bytes
from softalign.store.files import write_atomically
from softalign.training.micro_batches import is_out_of_memory
from softalign.training.run_files import SAMPLES_FOLDER

logger = logging.getLogger(__name__)

NUM_IMAGES = 4
NUM_INFERENCE_STEPS = 20
GUIDANCE_SCALE = 4.0
"""One setting for all families, between the papers' 4 and 7: the sheets of a run are compared with each other."""


class SampleSheets:
    """Draws the sheets of one run.

    Args:
        backbone: with the live tokens attached to its denoiser, which is on its device already; without text encoders.
        captions: what is drawn.
        folder: the run's; sheets lie in ``samples`` below.
        resolution_px: side of the images.
        seed: of the noise.
    """

    def __init__(
        self, backbone: Backbone, captions: HeldOutCaptions, folder: Path, resolution_px: int, seed: int
    ) -> None:
        self._backbone, self._captions, self._folder = backbone, captions, folder / SAMPLES_FOLDER
        self._settings = SamplingSettings(NUM_INFERENCE_STEPS, GUIDANCE_SCALE, resolution_px, seed)
        backbone.use_papers_sampler()
        prompts = {"captions": list(captions.captions), "seed": seed}
        write_atomically(self._folder / "prompts.json", json.dumps(prompts, indent=1).encode() + b"\n")

    def draw(self, step: int, on_pass: Callable[[], object] = lambda: None) -> None:
        """Write the sheet of a step; where memory is too short for it, training goes on without.

        Args:
            step: of the training.
            on_pass: called before the first pass of the denoiser and after each; what it raises ends the drawing.
        """
        try:
            sheet_HW3 = np.concatenate(list(self._images(on_pass)), axis=1)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            logger.warning("no sample images at step %d: %s", step, error)
            return
        write_atomically(self._folder / f"step-{step:08d}.png", png_bytes(sheet_HW3))

    @torch.no_grad()
    def _images(self, on_pass: Callable[[], object]) -> NDArray[np.uint8]:
        """Return the images (B, H, W, 3)."""
        pipeline, denoiser = self._backbone.pipeline, cast(Any, self._backbone.denoiser)
        vae = pipeline.vae
        home = vae.device

        def look_up(*_arguments: object) -> dict[str, Any]:
            on_pass()
            return {}

        on_pass()
        vae.to(denoiser.device)  # also tells the pipeline where it runs
        try:
            latents_BCHW = pipeline(
                **self._states(denoiser),
                latents=self._noise(denoiser),
                num_inference_steps=NUM_INFERENCE_STEPS,
                guidance_scale=GUIDANCE_SCALE,
                height=self._settings.resolution_px,
                width=self._settings.resolution_px,
                output_type="latent",
                callback_on_step_end=look_up,
            ).images
            return decode_latents(self._backbone, latents_BCHW)
        finally:
            vae.to(home)

    def _states(self, denoiser: Any) -> dict[str, torch.Tensor]:
        own = self._captions.text.to(denoiser.device, denoiser.dtype)
        empty = self._captions.empty.to(denoiser.device, denoiser.dtype)
        if self._backbone.pipeline.config.get("force_zeros_for_empty_prompt"):  # SDXL's unconditional branch
            empty = TextStates(*(torch.zeros_like(tensor) for tensor in empty.tensors()))
        return {**as_arguments(own), **as_arguments(empty.rows([0] * len(own)), "negative_")}

    def _noise(self, denoiser: Any) -> torch.Tensor:
        side = self._settings.resolution_px // self._backbone.pipeline.vae_scale_factor
        shape_CHW = (denoiser.config.in_channels, side, side)
        requests = [
            ImageRequest(caption, index, 0, self._folder) for index, caption in enumerate(self._captions.captions)
        ]
        noise_BCHW = torch.stack([initial_noise(self._settings, request, shape_CHW) for request in requests])
        return noise_BCHW.to(denoiser.device, denoiser.dtype)
