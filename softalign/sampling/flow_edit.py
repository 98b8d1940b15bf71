"""FlowEdit (arXiv 2412.08629): an image follows the difference of two velocities, of the target and of the source.

No noise is inverted. At each time fresh noise gives a noisy source; the noisy target is as far from it as the edited
image is from the source image. The names are the paper's: times t_T = 1 (noise) to t_0 = 0 (image), i counts down.

Both papers of the soft tokens edit with it. AGSM (arXiv 2605.30038) says of its tokens that psi+ is seen by both
branches of guidance; SoftREPA's released script inserts its tokens into all four, source and target, conditional and
unconditional. So they act on all of them here. With its tokens that script takes ``n_max`` 30 and for the target a
guidance of 9, to which its code adds 1; the source's stays 3.5.

Shape legend: B images, C H W latents, T steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from softalign.errors import ConfigError
from softalign.method.forward_process import keyed_generator

Velocity = Callable[[Tensor, float], Tensor]
"""Returns the guided velocity (B, C, H, W) of noisy latents at a noise level, 0..1."""


@dataclass(frozen=True)
class FlowEditSettings:
    """FlowEdit's numbers, the defaults those of the paper for Stable Diffusion 3.

    Attributes:
        num_inference_steps: T, into how many times the way from noise to image is cut.
        n_max: how many of them are gone, the last: more change more; 0: the image is returned.
        n_min: how many of these, the last, are plain sampling of the target; the paper's 0 is without.
        n_avg: noises that each velocity difference is averaged over.
        source_guidance_scale: classifier-free guidance of the source; 1: without.
        target_guidance_scale: that of the target.
        seed: of the noise.
    """

    num_inference_steps: int = 50
    n_max: int = 33
    n_min: int = 0
    n_avg: int = 1
    source_guidance_scale: float = 3.5
    target_guidance_scale: float = 13.5
    seed: int = 0

    def __post_init__(self) -> None:
        are_steps = 0 <= self.n_min <= self.n_max <= self.num_inference_steps
        if not are_steps or min(self.num_inference_steps, self.n_avg) < 1:
            raise ConfigError(
                "FlowEdit cannot go these steps.",
                expected="0 <= n_min <= n_max <= steps, at least 1 step, and n_avg >= 1",
                found=f"n_min {self.n_min}, n_max {self.n_max}, steps {self.num_inference_steps}, n_avg {self.n_avg}",
            )
        if not all(scale >= 1.0 for scale in (self.source_guidance_scale, self.target_guidance_scale)):
            raise ConfigError(
                "FlowEdit cannot guide so.",
                expected="guidance of source and target >= 1 (1: without)",
                found=f"{self.source_guidance_scale} and {self.target_guidance_scale}",
            )


@torch.no_grad()
def flow_edit(
    source_BCHW: Float32[Tensor, "B C H W"],
    sigmas_T1: Float[Tensor, " T1"],
    source_velocity: Velocity,
    target_velocity: Velocity,
    settings: FlowEditSettings,
    on_step: Callable[[int], object] = lambda _done: None,
) -> Float32[Tensor, "B C H W"]:
    """Return the edited latents (algorithm 1 of the paper).

    Args:
        source_BCHW: latents of the image, scaled as the denoiser has them.
        sigmas_T1: the times, from t_T to t_0 = 0.
        source_velocity: of the source prompt, with its guidance.
        target_velocity: of the target prompt.
        settings: how far, and with which noise.
        on_step: told how many steps are done.
    """
    times = [float(sigma) for sigma in reversed(sigmas_T1)]
    edited_BCHW = source_BCHW
    for i in range(settings.n_max, settings.n_min, -1):
        # not (edited + noisy source) - source: so a difference of 0 leaves the noisy source itself, to the last bit
        change_BCHW = edited_BCHW - source_BCHW
        differences = []
        for k in range(settings.n_avg):
            noisy_BCHW = _noisy(source_BCHW, times[i], settings.seed, i, k)
            target_BCHW = target_velocity(noisy_BCHW + change_BCHW, times[i])
            differences.append(target_BCHW - source_velocity(noisy_BCHW, times[i]))
        edited_BCHW = edited_BCHW + (times[i - 1] - times[i]) * torch.stack(differences).mean(dim=0)
        on_step(settings.n_max - i + 1)
    if settings.n_min == 0:
        return edited_BCHW
    return _sampled(source_BCHW, edited_BCHW, times, target_velocity, settings, on_step)


def _sampled(
    source_BCHW: Tensor,
    edited_BCHW: Tensor,
    times: list[float],
    target_velocity: Velocity,
    settings: FlowEditSettings,
    on_step: Callable[[int], object],
) -> Tensor:
    """Return the image that plain sampling of the target makes of the noisy edited one in the last ``n_min`` steps."""
    first = settings.n_min
    noisy_BCHW = _noisy(source_BCHW, times[first], settings.seed, first, 0) + (edited_BCHW - source_BCHW)
    for i in range(first, 0, -1):
        noisy_BCHW = noisy_BCHW + (times[i - 1] - times[i]) * target_velocity(noisy_BCHW, times[i])
        on_step(settings.n_max - i + 1)
    return noisy_BCHW


def _noisy(source_BCHW: Tensor, time: float, seed: int, i: int, k: int) -> Tensor:
    """Return the source at a time; its noise depends on seed, step and place in the average alone."""
    generator = keyed_generator("flowedit", seed, i, k)
    noise_BCHW = torch.randn(source_BCHW.shape, generator=generator).to(source_BCHW)
    return (1.0 - time) * source_BCHW + time * noise_BCHW
