"""The published algorithm's loop, written from its description (METHOD 2), and the bare denoiser, as references.

For every image and candidate the pair goes through the whole denoiser, once with the live tokens and once with the
averaged ones: one pair per call, as the algorithm reads, or all in one call. Hooks concatenate the tokens into the
text. The module is as diffusers builds it: default memory format, frozen.

Shape legend: B images, N = B x B pairs, L text tokens, S soft tokens, D width, C H W latents.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from softalign.method.forward_process import NoisyBatch
from softalign.method.soft_tokens import SoftTokens, update_ema
from softalign.method.text_states import TextStates

TEMPERATURE = 0.1


@dataclass(frozen=True)
class Grid:
    """All pairs of a batch: what the denoiser reads of each, its target, and whether image and caption match."""

    latents_NCHW: Tensor
    timesteps_N: Tensor
    text: TextStates
    targets_NCHW: Tensor
    is_match_N: Tensor

    @classmethod
    def of(cls, noisy: NoisyBatch, text: TextStates) -> Grid:
        """Return the grid of a batch's images with its captions."""
        num_images = len(text)
        images_N = torch.arange(num_images).repeat_interleave(num_images)
        prompts_N = torch.arange(num_images).repeat(num_images)
        return cls(
            noisy.noisy_latents_BCHW[images_N],
            noisy.timesteps_B[images_N],
            text.rows(prompts_N),
            noisy.target_BCHW[images_N],
            images_N == prompts_N,
        )

    def part(self, place: slice) -> Grid:
        """Return consecutive pairs."""
        rows_N = torch.arange(len(self.is_match_N))[place]
        return Grid(
            self.latents_NCHW[place],
            self.timesteps_N[place],
            self.text.rows(rows_N),
            self.targets_NCHW[place],
            self.is_match_N[place],
        )


def denoise(module: nn.Module, grid: Grid, prompt_embeds_NLD: Tensor) -> Tensor:
    """Return the bare module's prediction of every pair."""
    latents, steps, pooled = grid.latents_NCHW, grid.timesteps_N, grid.text.pooled_NP
    if hasattr(module, "transformer_blocks"):
        return module(latents, prompt_embeds_NLD, pooled, steps, return_dict=False)[0]
    if pooled is None:
        return module(latents, steps, prompt_embeds_NLD, return_dict=False)[0]
    side = 8.0 * latents.shape[-1]
    sizes = torch.tensor([side, side, 0.0, 0.0, side, side]).expand(len(pooled), -1)
    added = {"text_embeds": pooled, "time_ids": sizes}
    return module(latents, steps, prompt_embeds_NLD, added_cond_kwargs=added, return_dict=False)[0]


class PlainLoop:
    """AGSM's step: live tokens with gradient, averaged ones without, AdamW, EMA.

    Args:
        module: the frozen denoiser.
        live, ema, optimizer: what is trained.
        pairs_per_call: of the denoiser.
    """

    def __init__(
        self,
        module: nn.Module,
        live: SoftTokens,
        ema: SoftTokens,
        optimizer: torch.optim.Optimizer,
        pairs_per_call: int,
    ) -> None:
        self.module, self.live, self.ema, self.optimizer = module, live, ema, optimizer
        self._pairs_per_call = pairs_per_call
        self._tokens_N: Tensor | None = None
        if hasattr(module, "transformer_blocks"):
            for layer in range(live.banks.shape[1]):
                block = module.transformer_blocks[layer]
                block.register_forward_pre_hook(self._appended(layer), with_kwargs=True)
                block.register_forward_hook(self._removed)
        else:
            for block in (*module.down_blocks, module.mid_block):
                if getattr(block, "has_cross_attention", False):
                    block.register_forward_pre_hook(self._inserted, with_kwargs=True)

    def step(self, grid: Grid, ema_decay: float) -> float:
        """Update tokens and average from a grid and return the loss."""
        self.optimizer.zero_grad(set_to_none=True)
        num_images = int(grid.is_match_N.sum())
        with torch.no_grad():
            averaged = self._predict(grid, self.ema).view(num_images, num_images, *grid.latents_NCHW.shape[1:])
            target = grid.targets_NCHW.view_as(averaged)
            rewards = -(target - averaged).square().mean(dim=(2, 3, 4))
            weights = torch.softmax(rewards / TEMPERATURE, dim=1)
            directions = averaged - torch.einsum("ik,ikchw->ichw", weights, averaged)[:, None]
            signs = torch.where(grid.is_match_N, 1.0, -1.0)[:, None, None, None]
            shifted_NCHW = grid.targets_NCHW + signs * directions.flatten(0, 1)
        errors_N = (self._predict(grid, self.live) - shifted_NCHW).square().mean(dim=(1, 2, 3))
        loss = errors_N[grid.is_match_N].mean() + errors_N[~grid.is_match_N].mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.live.parameters(), 1.0)
        self.optimizer.step()
        update_ema(self.ema, self.live, ema_decay)
        return float(loss.detach())

    def _predict(self, grid: Grid, tokens: SoftTokens) -> Tensor:
        predictions = []
        for start in range(0, len(grid.is_match_N), self._pairs_per_call):
            part = grid.part(slice(start, start + self._pairs_per_call))
            self._tokens_N = tokens(part.timesteps_N, (~part.is_match_N).long())
            predictions.append(denoise(self.module, part, part.text.prompt_embeds_NLD))
        return torch.cat(predictions)

    def _inserted(self, _block, args, kwargs):
        text = kwargs["encoder_hidden_states"]
        joined = torch.cat([text[:, :1], self._tokens_N, text[:, 1:]], dim=1)
        return args, {**kwargs, "encoder_hidden_states": joined}

    def _appended(self, layer):
        def hook(_block, args, kwargs):
            joined = torch.cat([kwargs["encoder_hidden_states"], self._tokens_N[:, layer]], dim=1)
            return args, {**kwargs, "encoder_hidden_states": joined}

        return hook

    def _removed(self, _block, _args, output):
        text, image = output
        return text[:, : -self._tokens_N.shape[2]], image


def bare_step(module: nn.Module, grid: Grid) -> float:
    """Run forward, backward and a forward without gradient, no tokens anywhere; return a loss nobody needs.

    The backward pass ends at the text states, which alone require a gradient: as with tokens, nothing before the first
    cross attention is differentiated.
    """
    text_NLD = grid.text.prompt_embeds_NLD.clone().requires_grad_(True)
    loss = (denoise(module, grid, text_NLD) - grid.targets_NCHW).square().mean()
    loss.backward()
    with torch.no_grad():
        denoise(module, grid, text_NLD)
    return float(loss.detach())
