"""What every family offers: the frozen pipeline, and a denoiser that predicts with soft tokens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from jaxtyping import Float, Int, Real
from torch import Tensor, nn

from softalign.backbones.injection import SoftTokenInjection
from softalign.backbones.row_cache import RowCache
from softalign.config.soft_tokens import SoftTokensConfig
from softalign.method.forward_process import ForwardProcess
from softalign.method.soft_tokens import SoftTokens
from softalign.method.text_states import TextStates


class Denoiser(ABC):
    """A frozen denoiser that predicts with any soft tokens, each row with its own bank.

    Args:
        module: the diffusers module, frozen.
        injection: of the tokens that the module sees outside of ``predict``; its hooks are gone after ``close``.
        process: the noise schedule and what the module predicts.
        row_cache: of what rows share within a step.
    """

    def __init__(
        self, module: nn.Module, injection: SoftTokenInjection, process: ForwardProcess, row_cache: RowCache
    ) -> None:
        self.module, self._injection, self.process, self.row_cache = module, injection, process, row_cache

    def predict(
        self,
        noisy_latents_NCHW: Float[Tensor, "N C H W"],
        timesteps_N: Real[Tensor, " N"],
        text: TextStates,
        tokens: SoftTokens,
        banks_N: Int[Tensor, " N"],
    ) -> Float[Tensor, "N C H W"]:
        """Return the prediction (N, C, H, W) with these tokens and each row's bank, in the module's dtype."""
        parameter = next(self.module.parameters())
        with self._injection.using(tokens, banks_N):
            return self._call(
                noisy_latents_NCHW.to(parameter.dtype), timesteps_N, text.to(parameter.device, parameter.dtype)
            )

    @contextmanager
    def without_tokens(self) -> Iterator[None]:
        """Let the frozen module itself predict inside."""
        before, self._injection.is_enabled = self._injection.is_enabled, False
        try:
            yield
        finally:
            self._injection.is_enabled = before

    @abstractmethod
    def _call(
        self, noisy_latents_NCHW: Float[Tensor, "N C H W"], timesteps_N: Real[Tensor, " N"], text: TextStates
    ) -> Tensor:
        """Return the module's prediction; latents and text have its dtype."""

    def close(self) -> None:
        """Take all hooks off the module."""
        self._injection.remove()


class Backbone(Protocol):
    """A frozen pipeline of one family, and what the stages ask of it."""

    pipeline: Any

    @property
    def denoiser(self) -> nn.Module:
        """The U-Net or transformer."""

    @property
    def text_encoders(self) -> tuple[nn.Module, ...]:
        """The text encoders that are there, in the pipeline's order."""

    @property
    def tokenizers(self) -> tuple[Any, ...]:
        """Their tokenizers."""

    @property
    def has_pooled_text(self) -> bool:
        """Whether the denoiser reads pooled text states too."""

    @property
    def text_options(self) -> tuple[int, ...]:
        """What shapes the text encodings besides encoders and tokenizers: for MMDiTs the length of T5's part."""

    @property
    def latents_shift(self) -> float:
        """What the pipeline adds to unscaled latents before the VAE decodes them."""

    @property
    def token_width(self) -> int:
        """Width of the soft tokens."""

    def encode_prompts(self, prompts: list[str]) -> TextStates:
        """Return the encodings of prompts, on the pipeline's device."""

    def encode_for_guidance(self, prompts: list[str]) -> tuple[TextStates, TextStates]:
        """Return the encodings of prompts and those of the unconditional branch, as the pipeline has them."""

    def use_papers_sampler(self) -> None:
        """Give the pipeline the sampler of the papers."""

    def start_states(self, config: SoftTokensConfig, empty: TextStates) -> Float[Tensor, "*N D"]:
        """Return the states that tokens start as, each layer's where layers have their own.

        Args:
            config: of the tokens; its ``init`` is not ``normal``.
            empty: the empty prompt's text states, one row.

        Raises:
            ConfigError: the tokens cannot be placed so in this denoiser.
        """

    def training_denoiser(self, config: SoftTokensConfig, tokens: SoftTokens) -> Denoiser:
        """Return the denoiser with soft tokens attached.

        Raises:
            ConfigError: the tokens cannot be placed so in this denoiser.
        """
