"""MMDiTs (Stable Diffusion 3 medium, 3.5 medium and large): where soft tokens enter, and the denoiser for training.

Shape legend: N rows, C H W latents, L text tokens, D text width, P pooled width.
"""

from __future__ import annotations

from typing import Any, Self

import torch
from jaxtyping import Float, Real
from torch import Tensor, nn

from softalign.backbones.base import Denoiser
from softalign.backbones.calls import call_mmdit
from softalign.backbones.frozen_pipeline import (
    ALL_PARTS,
    Part,
    explained_access,
    load_frozen_pipeline,
    present_parts,
    working_device,
)
from softalign.backbones.joint_injection import JointAttentionInjection
from softalign.backbones.locating import resolve_model
from softalign.backbones.padding import padding_states
from softalign.backbones.row_cache import RowCache
from softalign.config.backbone import BackboneConfig
from softalign.config.families import FAMILIES
from softalign.config.soft_tokens import LayersEnd, MMDiTTokensConfig, SoftTokensConfig
from softalign.errors import CompatibilityError, ConfigError
from softalign.method.forward_process import FlowProcess, ForwardProcess
from softalign.method.soft_tokens import SoftTokens
from softalign.method.text_states import TextStates


def joint_blocks(transformer: nn.Module, num_layers: int, layers: LayersEnd = "first") -> list[nn.Module]:
    """Return the first or the last joint blocks of an MMDiT, in their order.

    Raises:
        ConfigError: there are fewer blocks than layers of tokens.
        CompatibilityError: this is no MMDiT of diffusers.
    """
    blocks: Any = getattr(transformer, "transformer_blocks", None)
    if blocks is None or not all(hasattr(block, "context_pre_only") for block in blocks):
        raise CompatibilityError(
            "Soft tokens for an MMDiT cannot be attached to this denoiser.",
            expected="SD3Transformer2DModel",
            found=type(transformer).__name__,
        )
    if num_layers > len(blocks):
        raise ConfigError(
            "There are more layers of soft tokens than the denoiser has joint blocks.",
            expected=f"at most {len(blocks)}",
            found=str(num_layers),
            where="train.soft_tokens.num_layers",
        )
    return list(blocks[:num_layers] if layers == "first" else blocks[len(blocks) - num_layers :])


def stream_width(transformer: nn.Module) -> int:
    """Return the width of the text stream inside the joint blocks, which is that of the tokens."""
    width: int = transformer.config.caption_projection_dim  # type: ignore[union-attr,assignment]
    return width


class MMDiTDenoiser(Denoiser):
    """A frozen MMDiT that predicts with any soft tokens, each row with its own bank.

    Args:
        transformer: diffusers' SD3 transformer, frozen; its hooks are gone after ``close``.
        tokens: the tokens used outside of ``predict``; they say how many blocks have some.
        process: the noise schedule.
        layers: whether these are the first or the last blocks.
    """

    def __init__(
        self, transformer: nn.Module, tokens: SoftTokens, process: ForwardProcess, layers: LayersEnd = "first"
    ) -> None:
        blocks = joint_blocks(transformer, tokens.num_layers or 0, layers)
        row_cache = RowCache()  # tokens enter the first block: too little comes before it to be worth keeping
        super().__init__(transformer, JointAttentionInjection(transformer, blocks, tokens), process, row_cache)

    def _call(
        self, noisy_latents_NCHW: Float[Tensor, "N C H W"], timesteps_N: Real[Tensor, " N"], text: TextStates
    ) -> Tensor:
        return call_mmdit(self.module, noisy_latents_NCHW, timesteps_N, text)


class MMDiTBackbone:
    """A Stable Diffusion 3 or 3.5 pipeline, frozen.

    Args:
        pipeline: of diffusers.
        config: family, resolution, and how texts are encoded.

    Raises:
        CompatibilityError: the model is not of the family.
    """

    def __init__(self, pipeline: Any, config: BackboneConfig) -> None:
        self.pipeline, self._config = pipeline, config
        _check_family(config, pipeline)

    @classmethod
    def load(
        cls, config: BackboneConfig, *, device: torch.device, dtype: torch.dtype, parts: tuple[Part, ...] = ALL_PARTS
    ) -> Self:
        """Load the pipeline, without T5 where it is not wanted; see ``load_frozen_pipeline``.

        Raises:
            CompatibilityError: also where T5 is wanted and was not saved with the model.
        """
        from diffusers import StableDiffusion3Pipeline

        if config.has_t5:
            _check_t5(config)
        options: dict[str, Any] = {} if config.has_t5 else {"text_encoder_3": None, "tokenizer_3": None}
        pipeline = load_frozen_pipeline(
            StableDiffusion3Pipeline, config, device=device, dtype=dtype, parts=parts, **options
        )
        return cls(pipeline, config)

    @property
    def denoiser(self) -> nn.Module:
        """The transformer."""
        transformer: nn.Module = self.pipeline.transformer
        return transformer

    @property
    def text_encoders(self) -> tuple[nn.Module, ...]:
        """Two CLIPs, and T5 if it is used."""
        return present_parts(self.pipeline, "text_encoder", "text_encoder_2", "text_encoder_3")

    @property
    def tokenizers(self) -> tuple[Any, ...]:
        """The text encoders' tokenizers."""
        return present_parts(self.pipeline, "tokenizer", "tokenizer_2", "tokenizer_3")

    @property
    def has_pooled_text(self) -> bool:
        """True."""
        return True

    @property
    def text_options(self) -> tuple[int, ...]:
        """The length of T5's part."""
        return (self._max_sequence_length,)

    @property
    def latents_shift(self) -> float:
        """The VAE's ``shift_factor``."""
        shift: float = self.pipeline.vae.config.shift_factor
        return shift

    @property
    def token_width(self) -> int:
        """Width of the text stream inside the joint blocks."""
        return stream_width(self.denoiser)

    def encode_prompts(self, prompts: list[str]) -> TextStates:
        """Return the encodings of prompts."""
        encoded = self._encoded(prompts, has_guidance=False)
        return TextStates(encoded[0], encoded[2])

    def encode_for_guidance(self, prompts: list[str]) -> tuple[TextStates, TextStates]:
        """Return the encodings of prompts and of the unconditional branch."""
        encoded = self._encoded(prompts, has_guidance=True)
        return TextStates(encoded[0], encoded[2]), TextStates(encoded[1], encoded[3])

    def use_papers_sampler(self) -> None:
        """Keep the pipeline's own scheduler, flow matching with Euler steps: the papers use it."""

    def start_states(self, config: SoftTokensConfig, empty: TextStates) -> Float[Tensor, "N D"]:
        """Return the state of padding in front of each block that has tokens.

        Raises:
            ConfigError: the transformer has fewer blocks than the tokens have layers.
        """
        assert isinstance(config, MMDiTTokensConfig)  # noqa: S101  Recipe checks it
        blocks = joint_blocks(self.denoiser, config.num_layers, config.layers)
        return padding_states(self.denoiser, blocks, empty)

    def training_denoiser(self, config: SoftTokensConfig, tokens: SoftTokens) -> MMDiTDenoiser:
        """Return the transformer with soft tokens attached to its first or last joint blocks.

        Raises:
            ConfigError: it has fewer blocks than the tokens have layers.
        """
        assert isinstance(config, MMDiTTokensConfig)  # noqa: S101  Recipe checks it
        process = FlowProcess(self.pipeline.scheduler.config.shift)
        return MMDiTDenoiser(self.denoiser, tokens, process, config.layers)

    @property
    def _max_sequence_length(self) -> int:
        assert self._config.max_sequence_length is not None  # noqa: S101  BackboneConfig fills it in
        return self._config.max_sequence_length

    def _encoded(self, prompts: list[str], *, has_guidance: bool) -> Any:
        return self.pipeline.encode_prompt(
            prompts,
            prompts,
            prompts,
            device=working_device(self.text_encoders[0]),
            num_images_per_prompt=1,
            do_classifier_free_guidance=has_guidance,
            max_sequence_length=self._max_sequence_length,
        )


def _check_family(config: BackboneConfig, pipeline: Any) -> None:
    where = f"backbone.model {config.model}"
    transformer = pipeline.transformer
    own = FAMILIES[config.family].qk_norm
    found = own if transformer is None else transformer.config.qk_norm
    if found != own:
        fitting = " or ".join(
            family for family, record in FAMILIES.items() if not record.is_unet and record.qk_norm == found
        )
        raise CompatibilityError(
            "The base model does not belong to this family.",
            expected=f"qk_norm {own} ({config.family})",
            found=f"qk_norm {found}",
            where=where,
            fix=f"set backbone.family to {fitting or 'another family'}",
        )
    if getattr(pipeline.scheduler.config, "shift", None) is None or pipeline.scheduler.config.get(
        "use_dynamic_shifting"
    ):
        raise CompatibilityError(
            "The base model's scheduler is not the one of its family.",
            expected="FlowMatchEulerDiscreteScheduler with a fixed shift",
            found=type(pipeline.scheduler).__name__,
            where=where,
        )


def comes_with_t5(config: BackboneConfig) -> bool:
    """Return whether a model was saved with T5, by its ``model_index.json``.

    Raises:
        MissingInputError: there is no such model.
    """
    from diffusers import DiffusionPipeline

    model = resolve_model(config)
    with explained_access(model):
        index = DiffusionPipeline.load_config(model, revision=config.revision)
    return bool(index.get("text_encoder_3", ()) != [None, None])


def _check_t5(config: BackboneConfig) -> None:
    """Check that a model from which T5 is wanted was saved with it."""
    if not comes_with_t5(config):
        raise CompatibilityError(
            "The base model comes without T5.",
            expected="text_encoder_3",
            found="none",
            where=f"backbone.model {config.model}",
            fix="set backbone.has_t5 to false",
        )
