"""Calls of the denoiser on images at one noise level, with the tokens of an arm or without any.

Shape legend: B images, P prompts, N pairs in a list, C H W latents.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from softalign.diagnosis.images import ProbeImage
from softalign.diagnosis.subject import Subject
from softalign.method.forward_process import NoiseDraw, NoisyBatch, keyed_generator
from softalign.method.objective import squared_error
from softalign.method.soft_tokens import POSITIVE_BANK, SoftTokens
from softalign.method.text_states import TextStates
from softalign.training.pair_grid import Pairs, Predict


@dataclass(frozen=True, eq=False)
class Level:
    """Some images at one noise level; the noise of an image is the same at every level and for all tokens."""

    subject: Subject
    noisy: NoisyBatch
    rows_per_call: int

    def predict(
        self, text: TextStates, tokens: SoftTokens | None, images_N: Int[Tensor, " N"] | None = None
    ) -> Float[Tensor, "N C H W"]:
        """Return predictions without gradient, float32 or better.

        Args:
            text: a prompt for each row.
            tokens: seen through psi+; None: the frozen module itself.
            images_N: each row's image; None: every image once.
        """
        rows_N = torch.arange(len(text)) if images_N is None else images_N
        predict = predictor(self.subject, self.noisy, text)
        places_N = torch.arange(len(rows_N))
        pairs = Pairs(rows_N, places_N, torch.full_like(places_N, POSITIVE_BANK))
        denoiser = self.subject.denoiser
        lent = tokens if tokens is not None else self.subject.tokens["adapter"]
        with torch.no_grad(), denoiser.without_tokens() if tokens is None else nullcontext():
            made = [predict(chunk, lent) for _, chunk in pairs.chunks(self.rows_per_call)]
        joined = torch.cat(made)
        return joined.to(torch.promote_types(joined.dtype, torch.float32))

    def errors(self, text: TextStates, tokens: SoftTokens | None, images_N: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
        """Return the mean squared errors of predictions, float64."""
        errors = []
        for places_K in torch.split(torch.arange(len(images_N)), self.rows_per_call):
            images_K = images_N[places_K]
            predicted = self.predict(text.rows(places_K), tokens, images_K)
            errors.append(squared_error(predicted, self.noisy.target_BCHW[images_K]))
        return torch.cat(errors).double().cpu()


def at_level(subject: Subject, images: Sequence[ProbeImage], timestep: float, seed: int, rows_per_call: int) -> Level:
    """Return images at one noise level.

    Args:
        subject: the adapter in its denoiser.
        images: which.
        timestep: the level, 0 to 1000.
        seed: of the noise.
        rows_per_call: pairs of one denoiser call.
    """
    latents_BCHW = torch.stack([image.latents_CHW for image in images]).to(subject.device)
    generators = [keyed_generator("diagnosis", seed, index) for index in range(len(images))]
    shape = latents_BCHW.shape[1:]
    noise = [torch.randn(*shape, generator=generator) for generator in generators]
    process = subject.denoiser.process
    times_B = torch.full((len(images),), process.time_at(timestep), dtype=torch.float64)
    return Level(subject, process.diffuse(latents_BCHW, NoiseDraw(times_B, torch.stack(noise))), rows_per_call)


def predictor(subject: Subject, noisy: NoisyBatch, text: TextStates) -> Predict:
    """Return the denoiser as a function of pairs: each an image with a prompt."""

    def predict(pairs: Pairs, tokens: SoftTokens) -> Tensor:
        return subject.denoiser.predict(
            noisy.noisy_latents_BCHW[pairs.images_N],
            noisy.timesteps_B[pairs.images_N],
            text.rows(pairs.prompts_N).to(subject.device),
            tokens,
            pairs.banks_N.to(subject.device),
        )

    return predict
