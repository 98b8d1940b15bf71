"""U-Nets (Stable Diffusion 1.x, 2.x, XL): where soft tokens enter, and the denoiser for training.

Shape legend: N rows, C H W latents, L text tokens, D text width, P pooled width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from jaxtyping import Float, Real
from torch import Tensor, nn

from softalign.backbones.base import Denoiser
from softalign.backbones.frozen_pipeline import ALL_PARTS, Part, load_frozen_pipeline, present_parts
from softalign.backbones.injection import INSERT_AT, CrossAttentionInjection
from softalign.backbones.row_cache import RowCache, SharedParts
from softalign.config.backbone import BackboneConfig
from softalign.config.families import FAMILIES
from softalign.config.soft_tokens import SoftTokensConfig, UNetTokensConfig
from softalign.errors import CompatibilityError, ConfigError
from softalign.method.forward_process import DDPMProcess, ForwardProcess
from softalign.method.soft_tokens import SoftTokens
from softalign.method.text_states import TextStates


def injection_sites(unet: nn.Module, blocks: Sequence[str]) -> list[nn.Module]:
    """Return the blocks with cross attention among the chosen parts (``down``, ``mid``, ``up``) of a U-Net.

    Raises:
        ConfigError: a part has no cross attention, so tokens placed there would have no effect.
        CompatibilityError: this is no U-Net of diffusers.
    """
    if not (hasattr(unet, "down_blocks") and hasattr(unet, "mid_block") and hasattr(unet, "up_blocks")):
        raise CompatibilityError(
            "Soft tokens for a U-Net cannot be attached to this denoiser.",
            expected="UNet2DConditionModel",
            found=type(unet).__name__,
        )
    parts: dict[str, list[Any]] = {"down": list(unet.down_blocks), "mid": [unet.mid_block], "up": list(unet.up_blocks)}  # type: ignore[arg-type]
    sites = {name: [block for block in parts[name] if _has_cross_attention(block)] for name in dict.fromkeys(blocks)}
    empty = [name for name, found in sites.items() if not found]
    if empty:
        raise ConfigError(
            "Soft tokens are placed where the denoiser has no cross attention.",
            expected="blocks among "
            + ", ".join(name for name, all_ in parts.items() if any(map(_has_cross_attention, all_))),
            found=", ".join(empty),
            where="train.soft_tokens.blocks",
        )
    return [block for found in sites.values() for block in found]


def shared_parts(unet: Any, sites: Sequence[nn.Module]) -> SharedParts:
    """Return the modules ahead of the first soft token whose outputs rows of an image or prompt share, and the text's.

    Up to the first site these are whole blocks; in it, what comes before its first cross attention. Pooled text enters
    the time embedding, and cross attention on plain text its block: from there on, rows share by image and prompt.
    """
    per_image: list[nn.Module] = []
    per_pair: list[nn.Module] = []
    is_image_alone = unet.config.addition_embed_type is None
    for block in (*unet.down_blocks, *filter(None, [unet.mid_block]), *unet.up_blocks):
        is_site = any(block is site for site in sites)
        is_image_alone = is_image_alone and (is_site or not _has_cross_attention(block))
        (per_image if is_image_alone else per_pair).extend(_ahead_of_cross_attention(block) if is_site else [block])
        if is_site:
            break
    attentions = [attention for module in unet.modules() if (attention := getattr(module, "attn2", None)) is not None]
    of_text = [attention for attention in attentions if attention.is_cross_attention and attention.norm_cross is None]
    projections = tuple(projection for attention in of_text for projection in (attention.to_k, attention.to_v))
    return SharedParts(tuple(per_image), tuple(per_pair), projections, INSERT_AT)


def _ahead_of_cross_attention(block: Any) -> list[nn.Module]:
    return [block.resnets[0], block.attentions[0].transformer_blocks[0].attn1]


def text_width(unet: nn.Module) -> int:
    """Return the width of the text states that cross attention reads.

    Raises:
        CompatibilityError: the blocks differ in it, so one token cannot serve them all.
    """
    width = unet.config.cross_attention_dim  # type: ignore[union-attr]
    if not isinstance(width, int):
        raise CompatibilityError(
            "The denoiser's blocks read text states of different widths.", expected="one width", found=str(width)
        )
    return width


def _has_cross_attention(block: Any) -> bool:
    return bool(getattr(block, "has_cross_attention", False))


class UNetDenoiser(Denoiser):
    """A frozen U-Net that predicts with any soft tokens, each row with its own bank.

    Its convolutions are laid out channels-last from now on: same values, faster on CUDA and CPU.

    Args:
        unet: diffusers' U-Net, frozen; its hooks are gone after ``close``.
        blocks: the parts that see the tokens.
        tokens: the tokens used outside of ``predict``.
        process: the noise schedule and what the U-Net predicts.
        resolution_px: side of the images, which SDXL is told.
    """

    def __init__(
        self,
        unet: nn.Module,
        blocks: Sequence[str],
        tokens: SoftTokens,
        process: ForwardProcess,
        resolution_px: int,
    ) -> None:
        module = unet.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        sites = injection_sites(unet, blocks)
        injection = CrossAttentionInjection(unet, sites, tokens)
        super().__init__(module, injection, process, RowCache(shared_parts(unet, sites)))
        self._size_ids = [float(value) for value in (resolution_px, resolution_px, 0, 0, resolution_px, resolution_px)]

    def _call(
        self, noisy_latents_NCHW: Float[Tensor, "N C H W"], timesteps_N: Real[Tensor, " N"], text: TextStates
    ) -> Tensor:
        prediction: Tensor = self.module(
            noisy_latents_NCHW,
            timesteps_N,
            text.prompt_embeds_NLD,
            added_cond_kwargs=self._added_conditions(text.pooled_NP),
            return_dict=False,
        )[0]
        return prediction

    def _added_conditions(self, pooled_NP: Float[Tensor, "N P"] | None) -> dict[str, Tensor] | None:
        """Return what SDXL reads besides: pooled text, and the sizes of the original, the crop and the target."""
        if pooled_NP is None:
            return None
        sizes = torch.tensor(self._size_ids, dtype=pooled_NP.dtype, device=pooled_NP.device)
        return {"text_embeds": pooled_NP, "time_ids": sizes.expand(len(pooled_NP), -1)}


class UNetBackbone:
    """A Stable Diffusion 1.x, 2.x or XL pipeline, frozen.

    Args:
        pipeline: of diffusers.
        config: family and resolution.

    Raises:
        CompatibilityError: the model is not of the family.
    """

    def __init__(self, pipeline: Any, config: BackboneConfig) -> None:
        self.pipeline, self._config = pipeline, config
        _check_prediction_type(config, pipeline.scheduler.config.prediction_type)

    @classmethod
    def load(
        cls, config: BackboneConfig, *, device: torch.device, dtype: torch.dtype, parts: tuple[Part, ...] = ALL_PARTS
    ) -> Self:
        """Load the pipeline without safety checker and watermarker; see ``load_frozen_pipeline``."""
        from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

        kind: Any = StableDiffusionPipeline
        options: dict[str, Any] = {"safety_checker": None, "requires_safety_checker": False}
        if FAMILIES[config.family].has_pooled_text:
            kind, options = StableDiffusionXLPipeline, {"add_watermarker": False}
        return cls(load_frozen_pipeline(kind, config, device=device, dtype=dtype, parts=parts, **options), config)

    @property
    def denoiser(self) -> nn.Module:
        """The U-Net."""
        unet: nn.Module = self.pipeline.unet
        return unet

    @property
    def text_encoders(self) -> tuple[nn.Module, ...]:
        """CLIP, for SDXL two of them."""
        return present_parts(self.pipeline, "text_encoder", "text_encoder_2")

    @property
    def tokenizers(self) -> tuple[Any, ...]:
        """The text encoders' tokenizers."""
        return present_parts(self.pipeline, "tokenizer", "tokenizer_2")

    @property
    def has_pooled_text(self) -> bool:
        """True for SDXL."""
        return FAMILIES[self._config.family].has_pooled_text

    @property
    def text_options(self) -> tuple[int, ...]:
        """None: the encoders and tokenizers have no further options."""
        return ()

    @property
    def latents_shift(self) -> float:
        """None: these pipelines know no shift, whatever a VAE's configuration says."""
        return 0.0

    @property
    def token_width(self) -> int:
        """Width of the text states that cross attention reads."""
        return text_width(self.denoiser)

    def encode_prompts(self, prompts: list[str]) -> TextStates:
        """Return the encodings of prompts."""
        encoded = self.pipeline.encode_prompt(
            prompts, device=self.text_encoders[0].device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        return TextStates(encoded[0], encoded[2] if self.has_pooled_text else None)

    def encode_for_guidance(self, prompts: list[str]) -> tuple[TextStates, TextStates]:
        """Return the encodings of prompts and of the unconditional branch."""
        encoded = self.pipeline.encode_prompt(
            prompts, device=self.text_encoders[0].device, num_images_per_prompt=1, do_classifier_free_guidance=True
        )
        if self.has_pooled_text:
            return TextStates(encoded[0], encoded[2]), TextStates(encoded[1], encoded[3])
        return TextStates(encoded[0]), TextStates(encoded[1])

    def use_papers_sampler(self) -> None:
        """Give the pipeline a DDIM scheduler with its own noise schedule, as in the papers, unless it has one."""
        from diffusers import DDIMScheduler

        if not isinstance(self.pipeline.scheduler, DDIMScheduler):
            self.pipeline.scheduler = DDIMScheduler.from_config(self.pipeline.scheduler.config)

    def start_states(self, _config: SoftTokensConfig, empty: TextStates) -> Float[Tensor, " D"]:
        """Return the state of the first position (BOS)."""
        return empty.prompt_embeds_NLD[0, 0].cpu()

    def training_denoiser(self, config: SoftTokensConfig, tokens: SoftTokens) -> UNetDenoiser:
        """Return the U-Net with soft tokens attached to the configured blocks."""
        assert isinstance(config, UNetTokensConfig)  # noqa: S101  Recipe checks it
        scheduler = self.pipeline.scheduler
        process = DDPMProcess(torch.as_tensor(scheduler.alphas_cumprod).cpu(), scheduler.config.prediction_type)
        return UNetDenoiser(self.denoiser, config.blocks, tokens, process, self._config.resolution_px)


def _check_prediction_type(config: BackboneConfig, found: str) -> None:
    expected = FAMILIES[config.family].prediction_type
    if found != expected:
        fitting = " or ".join(family for family, record in FAMILIES.items() if record.prediction_type == found)
        raise CompatibilityError(
            "The base model does not belong to this family.",
            expected=f"prediction_type {expected} ({config.family})",
            found=f"prediction_type {found}",
            where=f"backbone.model {config.model}",
            fix=f"set backbone.family to {fitting or 'another family'}",
        )
