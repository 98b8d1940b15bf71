"""The two embedded models, as ``pretrain`` sees them: how each denoiser is trained, sampled and exported.

Both share autoencoder, captions and text encoder.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from diffusers import (
    AutoencoderKL,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from softalign.shapes import WEIGHTS_FOLDERS, weights_path
from softalign.shapes.pretraining import train_denoiser, train_transformer
from softalign.shapes.pretraining.batch_loss import BatchLoss
from softalign.shapes.pretraining.data import TrainingPool, tokenize
from softalign.shapes.pretraining.export import half
from softalign.shapes.pretraining.networks import (
    build_denoiser,
    build_flow_scheduler,
    build_scheduler,
    build_transformer,
    with_projection,
)
from softalign.shapes.pretraining.recipe import DenoiserConfig, EmbeddedFamily, PretrainConfig, TransformerConfig
from softalign.shapes.pretraining.scoring import sample_latents
from softalign.shapes.pretraining.training_state import ResumableTraining

DrawLatents = Callable[[list[str], torch.Generator], Tensor]


@dataclass(frozen=True)
class Foundation:
    """What both denoisers share: the frozen autoencoder and text encoder, and the captions' tokenizer."""

    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer

    def map(self, change: Callable[[Any], Any]) -> Foundation:
        """Return the foundation with both networks changed."""
        return replace(self, vae=change(self.vae), text_encoder=change(self.text_encoder))


def shipped_foundation(tokenizer: CLIPTokenizer) -> Foundation:
    """Return the networks that come with the package, frozen, on the CPU."""
    folder = weights_path()
    vae = AutoencoderKL.from_pretrained(folder, subfolder="vae", dtype=torch.float32)
    text_encoder = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32)
    return Foundation(vae, text_encoder, tokenizer).map(lambda part: part.requires_grad_(False).eval())


class EmbeddedModel(Protocol):
    """One of the two embedded models: its settings, its training, its sampler and its pipeline."""

    family: EmbeddedFamily
    state_name: str

    def settings(self, config: PretrainConfig) -> DenoiserConfig | TransformerConfig:
        """Return the model's section of the recipe."""

    def build(self, config: PretrainConfig) -> nn.Module:
        """Return an untrained denoiser."""

    def start(
        self, config: PretrainConfig, digest: str, state_path: Path, start: Path | None = None
    ) -> ResumableTraining[Any]:
        """Return its training: continued from its checkpoint, or from the weights in ``start``, or from nothing."""

    def loss(self, denoiser: Any, foundation: Foundation, pool: TrainingPool, config: PretrainConfig) -> BatchLoss:
        """Return the loss of a step."""

    def drawing(
        self, denoiser: Any, foundation: Foundation, config: PretrainConfig, guidance_scale: float, num_steps: int
    ) -> DrawLatents:
        """Return a sampler of latents."""

    def pipeline(self, denoiser: Any, foundation: Foundation, config: PretrainConfig) -> Any:
        """Return the diffusers pipeline in half precision; the modules given are left as they are."""


class UNetModel:
    """The Stable Diffusion 1-style model: U-Net, velocity, DDIM."""

    family: EmbeddedFamily = "sd21"
    state_name = "denoiser.safetensors"

    def settings(self, config: PretrainConfig) -> DenoiserConfig:
        """Return the recipe's section ``denoiser``."""
        return config.denoiser

    def build(self, config: PretrainConfig) -> UNet2DConditionModel:
        """Return an untrained U-Net."""
        return build_denoiser(config.denoiser, config.text_encoder.width)

    def start(
        self, config: PretrainConfig, digest: str, state_path: Path, start: Path | None = None
    ) -> ResumableTraining[UNet2DConditionModel]:
        """Return its training, fresh or continued from its checkpoint."""
        return train_denoiser.start_training(config, digest, state_path, start)

    def loss(
        self, denoiser: UNet2DConditionModel, foundation: Foundation, pool: TrainingPool, config: PretrainConfig
    ) -> BatchLoss:
        """Return the mean squared error of the velocity."""
        return train_denoiser.velocity_loss(denoiser, foundation.text_encoder, pool, foundation.tokenizer, config)

    def drawing(
        self,
        denoiser: UNet2DConditionModel,
        foundation: Foundation,
        config: PretrainConfig,
        guidance_scale: float,
        num_steps: int,
    ) -> DrawLatents:
        """Return a sampler: DDIM with guidance."""
        tokenizer = foundation.tokenizer

        def draw(prompts: list[str], generator: torch.Generator) -> Tensor:
            return sample_latents(
                foundation.text_encoder,
                denoiser,
                tokenize(tokenizer, prompts),
                tokenize(tokenizer, [""]),
                guidance_scale=guidance_scale,
                num_inference_steps=num_steps,
                generator=generator,
            )

        return draw

    def pipeline(self, denoiser: UNet2DConditionModel, foundation: Foundation, config: PretrainConfig) -> Any:
        """Return a StableDiffusionPipeline."""
        return StableDiffusionPipeline(
            vae=half(foundation.vae),
            text_encoder=half(foundation.text_encoder),
            tokenizer=foundation.tokenizer,
            unet=half(denoiser),
            scheduler=build_scheduler(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )


class TransformerModel:
    """The Stable Diffusion 3-style twin: MMDiT, flow matching, no T5."""

    family: EmbeddedFamily = "sd3"
    state_name = "transformer.safetensors"

    def settings(self, config: PretrainConfig) -> TransformerConfig:
        """Return the recipe's section ``transformer``."""
        return config.transformer

    def build(self, config: PretrainConfig) -> SD3Transformer2DModel:
        """Return an untrained transformer."""
        return build_transformer(config.transformer, config.text_encoder.width)

    def start(
        self, config: PretrainConfig, digest: str, state_path: Path, start: Path | None = None
    ) -> ResumableTraining[SD3Transformer2DModel]:
        """Return its training, fresh or continued from its checkpoint."""
        return train_transformer.start_training(config, digest, state_path, start)

    def loss(
        self, denoiser: SD3Transformer2DModel, foundation: Foundation, pool: TrainingPool, config: PretrainConfig
    ) -> BatchLoss:
        """Return the mean squared error of the flow."""
        encoder = with_projection(foundation.text_encoder)
        return train_transformer.flow_loss(denoiser, encoder, pool, foundation.tokenizer, config)

    def drawing(
        self,
        denoiser: SD3Transformer2DModel,
        foundation: Foundation,
        config: PretrainConfig,
        guidance_scale: float,
        num_steps: int,
    ) -> DrawLatents:
        """Return a sampler: Euler steps with guidance."""
        encoder, tokenizer = with_projection(foundation.text_encoder), foundation.tokenizer

        def draw(prompts: list[str], generator: torch.Generator) -> Tensor:
            return train_transformer.sample_flow_latents(
                encoder,
                denoiser,
                tokenize(tokenizer, prompts),
                tokenize(tokenizer, [""]),
                config.transformer,
                guidance_scale=guidance_scale,
                num_inference_steps=num_steps,
                generator=generator,
            )

        return draw

    def pipeline(self, denoiser: SD3Transformer2DModel, foundation: Foundation, config: PretrainConfig) -> Any:
        """Return a StableDiffusion3Pipeline; both CLIP slots hold the one text encoder."""
        vae = half(foundation.vae)
        vae.register_to_config(shift_factor=0.0)  # the pipeline adds it to every latent
        encoder = with_projection(foundation.text_encoder)
        return StableDiffusion3Pipeline(
            transformer=half(denoiser),
            scheduler=build_flow_scheduler(config.transformer),
            vae=vae,
            text_encoder=half(encoder),
            tokenizer=foundation.tokenizer,
            text_encoder_2=half(encoder),
            tokenizer_2=foundation.tokenizer,
            text_encoder_3=None,
            tokenizer_3=None,
        )


EMBEDDED_MODELS: dict[EmbeddedFamily, EmbeddedModel] = {"sd21": UNetModel(), "sd3": TransformerModel()}


def denoiser_file(family: EmbeddedFamily, folder: Path) -> Path:
    """Return the file of the denoiser's weights in a weights folder."""
    return folder / ("unet" if family == "sd21" else "transformer") / "diffusion_pytorch_model.safetensors"


def weights_folder(model: EmbeddedModel) -> str:
    """Return the name of the weights' folder below the run's folder, the same as in the package."""
    return WEIGHTS_FOLDERS[model.family]
