"""Pretraining of the embedded model: autoencoder, then text encoder and denoiser on its latents, then export.

Everything a killed run needs is in the output folder: `autoencoder.safetensors` and `denoiser.safetensors`
(parameters, averages, optimiser state, step), `pool.safetensors` (latents and captions) and `scores.jsonl` (quick
scores on the way).
"""

from __future__ import annotations

import argparse
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from transformers import CLIPTokenizer

from softalign.artifacts import digest_of
from softalign.shapes.data import build_pool
from softalign.shapes.export import export_pipeline
from softalign.shapes.recipe import PretrainConfig
from softalign.shapes.scoring import score_suite
from softalign.shapes.tokenizer import build_tokenizer
from softalign.shapes.train_autoencoder import train_autoencoder
from softalign.shapes.train_denoiser import TextToLatent, start_training, velocity_loss
from softalign.shapes.training_state import ResumableTraining

logger = logging.getLogger(__name__)

AUTOENCODER_STATE = "autoencoder.safetensors"
DENOISER_STATE = "denoiser.safetensors"
POOL_CACHE = "pool.safetensors"
SCORES_LOG = "scores.jsonl"
WEIGHTS_FOLDER = "weights"
FINAL_GUIDANCE_SCALES = (1.5, 2.0, 3.0, 4.0)
_QUICK_GUIDANCE_SCALE = 2.5


@dataclass(frozen=True, slots=True)
class PretrainResult:
    """Where the exported folder is, and how many images the denoiser has seen."""

    weights_path: Path
    samples_seen: int


def autoencoder_digest(config: PretrainConfig) -> str:
    """Digest of what decides the autoencoder's weights."""
    return digest_of([config.seed, config.autoencoder.model_dump(mode="json")])


def denoiser_digest(config: PretrainConfig) -> str:
    """Digest of what decides the denoiser's weights."""
    return digest_of([autoencoder_digest(config), config.denoiser.model_dump(mode="json")])


def pretrain(config: PretrainConfig, out_dir: Path, max_steps: int | None = None) -> PretrainResult:
    """Run the recipe, or what is left of it, in `out_dir`, and export to `out_dir/weights`.

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
    training = start_training(config, tokenizer, denoiser_digest(config), out_dir / DENOISER_STATE)

    def after_save(samples_seen: int) -> None:
        if config.score_images_per_tag and samples_seen % config.score_every_samples < config.checkpoint_every_samples:
            scores = _quick_scores(training, vae, tokenizer, config)
            logger.info("samples_seen %d scores %s", samples_seen, scores)
            with (out_dir / SCORES_LOG).open("a", encoding="utf-8") as log:
                log.write(json.dumps({"samples_seen": samples_seen, **scores}) + "\n")

    training.run(velocity_loss(training.model, pool, tokenizer, config), after_save, max_steps)
    return export(config, out_dir, out_dir / WEIGHTS_FOLDER)


def _averaged_model(
    training: ResumableTraining[TextToLatent], config: PretrainConfig, tokenizer: CLIPTokenizer
) -> TextToLatent:
    model = TextToLatent(config, tokenizer)
    training.load_ema_into(model)
    return model.requires_grad_(False).eval()


def _quick_scores(
    training: ResumableTraining[TextToLatent], vae: AutoencoderKL, tokenizer: CLIPTokenizer, config: PretrainConfig
) -> dict[str, float]:
    model = _averaged_model(training, config, tokenizer)
    return score_suite(
        vae,
        model.text_encoder,
        model.unet,
        tokenizer,
        images_per_tag=config.score_images_per_tag,
        guidance_scale=_QUICK_GUIDANCE_SCALE,
        num_inference_steps=15,
    )


def export(config: PretrainConfig, out_dir: Path, weights_path: Path, images_per_tag: int = 0) -> PretrainResult:
    """Export the averaged weights of the last checkpoint in `out_dir`, finished or not.

    Args:
        config: the recipe the checkpoints belong to.
        out_dir: the folder of `pretrain`.
        weights_path: the folder to write; replaced.
        images_per_tag: images for the scores in `recipe.json`, at each of FINAL_GUIDANCE_SCALES; 0 for none.
    """
    tokenizer = build_tokenizer()
    vae = train_autoencoder(config, autoencoder_digest(config), out_dir / AUTOENCODER_STATE, max_steps=0)
    training = start_training(config, tokenizer, denoiser_digest(config), out_dir / DENOISER_STATE)
    model = _averaged_model(training, config, tokenizer)
    samples_seen = training.step * config.denoiser.batch_size
    scores: dict[str, Any] = {}
    for guidance_scale in FINAL_GUIDANCE_SCALES if images_per_tag else ():
        scores[str(guidance_scale)] = score_suite(
            vae,
            model.text_encoder,
            model.unet,
            tokenizer,
            images_per_tag=images_per_tag,
            guidance_scale=guidance_scale,
            seed=1,
        )
        logger.info("guidance_scale %s scores %s", guidance_scale, scores[str(guidance_scale)])
    recipe = {
        "config": config.model_dump(mode="json"),
        "samples_seen": samples_seen,
        "scores_by_guidance_scale": scores,
        "num_images_per_tag": images_per_tag,
        "num_inference_steps": 20,
    }
    export_pipeline(
        weights_path, vae=vae, text_encoder=model.text_encoder, unet=model.unet, tokenizer=tokenizer, recipe=recipe
    )
    return PretrainResult(weights_path, samples_seen)


def main() -> None:
    """Command line: `python -m softalign.shapes.pretrain --out DIR [--threads N] [--export WEIGHTS]`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of checkpoints; an unfinished run continues")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--export", type=Path, help="only export the last checkpoint to this folder")
    parser.add_argument("--images-per-tag", type=int, default=0, help="score the export on that many images per tag")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    config = PretrainConfig(num_threads=args.threads)
    torch.set_num_threads(config.num_threads)
    if args.export:
        export(config, args.out, args.export, args.images_per_tag)
    else:
        pretrain(config, args.out)


if __name__ == "__main__":
    main()
