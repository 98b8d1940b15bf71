"""Pretraining of the embedded model: autoencoder, text encoder, then the denoiser; then export with its scores.

Everything a killed run needs is in the output folder: a checkpoint of each (parameters, averages, optimiser state,
step), `pool.safetensors` (latents, captions, layouts) and `scores.jsonl` (quick scores on the way).
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel

from softalign.artifacts import digest_of
from softalign.shapes.data import build_pool
from softalign.shapes.export import export_pipeline, write_recipe
from softalign.shapes.networks import build_denoiser
from softalign.shapes.recipe import PretrainConfig
from softalign.shapes.scoring import score_suite
from softalign.shapes.tokenizer import build_tokenizer
from softalign.shapes.train_autoencoder import train_autoencoder
from softalign.shapes.train_denoiser import start_training, velocity_loss
from softalign.shapes.train_text_encoder import train_text_encoder
from softalign.shapes.training_state import ResumableTraining

logger = logging.getLogger(__name__)

AUTOENCODER_STATE = "autoencoder.safetensors"
TEXT_ENCODER_STATE = "text_encoder.safetensors"
DENOISER_STATE = "denoiser.safetensors"
POOL_CACHE = "pool.safetensors"
SCORES_LOG = "scores.jsonl"
WEIGHTS_FOLDER = "weights"
FINAL_GUIDANCE_SCALES = (1.5, 2.0, 3.0)
_FINAL_INFERENCE_STEPS = 20
_QUICK_GUIDANCE_SCALE = 2.5


@dataclass(frozen=True, slots=True)
class PretrainResult:
    """Where the exported folder is, and how many images the denoiser has seen."""

    weights_path: Path
    samples_seen: int


def autoencoder_digest(config: PretrainConfig) -> str:
    """Digest of what decides the autoencoder's weights."""
    return digest_of([config.seed, config.autoencoder.model_dump(mode="json")])


def text_encoder_digest(config: PretrainConfig) -> str:
    """Digest of what decides the text encoder's weights: captions and layouts, not the autoencoder."""
    return digest_of([config.seed, *(part.model_dump(mode="json") for part in (config.pool, config.text_encoder))])


def denoiser_digest(config: PretrainConfig) -> str:
    """Digest of what decides the denoiser's weights."""
    return digest_of([autoencoder_digest(config), text_encoder_digest(config), config.denoiser.model_dump(mode="json")])


def pretrain(config: PretrainConfig, out_dir: Path, max_steps: int | None = None) -> PretrainResult:
    """Run the recipe, or what is left of it, in `out_dir`, and export to `out_dir/weights` with scores.

    Args:
        config: the recipe.
        out_dir: folder of checkpoints, pool, scores and result.
        max_steps: denoiser updates of this call at most; what an interrupted run would have done.

    Raises:
        ConfigError: if the folder holds checkpoints of another recipe.
        TrainingError: if a loss is not finite.
    """
    torch.set_num_threads(config.num_threads)
    tokenizer = build_tokenizer()
    vae = train_autoencoder(config, autoencoder_digest(config), out_dir / AUTOENCODER_STATE)
    pool = build_pool(config, vae, tokenizer, out_dir / POOL_CACHE)
    text_encoder = train_text_encoder(
        config, pool, tokenizer, text_encoder_digest(config), out_dir / TEXT_ENCODER_STATE
    )
    training = start_training(config, denoiser_digest(config), out_dir / DENOISER_STATE)

    def after_save(samples_seen: int) -> None:
        if config.score_images_per_tag and samples_seen % config.score_every_samples < config.checkpoint_every_samples:
            scores = score_suite(
                vae,
                text_encoder,
                _averaged_denoiser(training, config),
                tokenizer,
                images_per_tag=config.score_images_per_tag,
                guidance_scale=_QUICK_GUIDANCE_SCALE,
                num_inference_steps=15,
            )
            logger.info("samples_seen %d scores %s", samples_seen, scores)
            with (out_dir / SCORES_LOG).open("a", encoding="utf-8") as log:
                log.write(json.dumps({"samples_seen": samples_seen, **scores}) + "\n")

    training.run(velocity_loss(training.model, text_encoder, pool, tokenizer, config), after_save, max_steps)
    return export(config, out_dir, out_dir / WEIGHTS_FOLDER)


def _averaged_denoiser(
    training: ResumableTraining[UNet2DConditionModel], config: PretrainConfig
) -> UNet2DConditionModel:
    unet = build_denoiser(config.denoiser, config.text_encoder.width)
    training.load_ema_into(unet)
    return unet.requires_grad_(False).eval()


def export(config: PretrainConfig, out_dir: Path, weights_path: Path) -> PretrainResult:
    """Export the averaged weights of the last checkpoints in `out_dir`, finished or not, and score what was exported.

    Args:
        config: the recipe the checkpoints belong to; `final_images_per_tag` images for the scores, 0 for none.
        out_dir: the folder of `pretrain`.
        weights_path: the folder to write; replaced.
    """
    tokenizer = build_tokenizer()
    vae = train_autoencoder(config, autoencoder_digest(config), out_dir / AUTOENCODER_STATE, max_steps=0)
    text_encoder = train_text_encoder(
        config, None, tokenizer, text_encoder_digest(config), out_dir / TEXT_ENCODER_STATE
    )
    training = start_training(config, denoiser_digest(config), out_dir / DENOISER_STATE)
    samples_seen = training.step * config.denoiser.batch_size
    recipe: dict[str, Any] = {
        "config": config.model_dump(mode="json"),
        "samples_seen": samples_seen,
        "scores_by_guidance_scale": {},
        "num_inference_steps": _FINAL_INFERENCE_STEPS,
    }
    export_pipeline(
        weights_path,
        vae=vae,
        text_encoder=text_encoder,
        unet=_averaged_denoiser(training, config),
        tokenizer=tokenizer,
        recipe=recipe,
    )
    if config.final_images_per_tag:
        recipe["scores_by_guidance_scale"] = _final_scores(weights_path, config)
        write_recipe(weights_path, recipe)
    return PretrainResult(weights_path, samples_seen)


def _final_scores(weights_path: Path, config: PretrainConfig) -> dict[str, dict[str, float]]:
    """Scores by guidance scale of the exported folder: of the weights as they are shipped, rounded to fp16."""
    pipeline = StableDiffusionPipeline.from_pretrained(weights_path, dtype=torch.float32)
    scores = {}
    for guidance_scale in FINAL_GUIDANCE_SCALES:
        scores[str(guidance_scale)] = score_suite(
            pipeline.vae,
            pipeline.text_encoder,
            pipeline.unet,
            pipeline.tokenizer,
            images_per_tag=config.final_images_per_tag,
            guidance_scale=guidance_scale,
            num_inference_steps=_FINAL_INFERENCE_STEPS,
            seed=1,
        )
        logger.info("guidance_scale %s scores %s", guidance_scale, scores[str(guidance_scale)])
    return scores
