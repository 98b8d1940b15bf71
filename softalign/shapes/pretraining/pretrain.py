"""Pretraining of the embedded model: autoencoder, text encoder, then the denoiser; then export with its scores.

Everything a killed run needs is in the output folder: a checkpoint of each (parameters, averages, optimiser state,
step), ``pool.safetensors`` (latents, captions, layouts) and ``scores_FAMILY.jsonl`` (quick scores on the way).
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from softalign.artifacts import digest_of
from softalign.errors import ConfigError, MissingInputError
from softalign.shapes.pretraining.data import build_pool
from softalign.shapes.pretraining.export import (
    RECIPE_FILENAME,
    WeightsRecipe,
    export_pipeline,
    half,
    read_recipe,
    write_recipe,
)
from softalign.shapes.pretraining.models import (
    EMBEDDED_MODELS,
    EmbeddedModel,
    Foundation,
    denoiser_file,
    shipped_foundation,
    weights_folder,
)
from softalign.shapes.pretraining.recipe import EmbeddedFamily, PretrainConfig
from softalign.shapes.pretraining.scoring import score_suite
from softalign.shapes.pretraining.train_autoencoder import train_autoencoder
from softalign.shapes.pretraining.train_text_encoder import train_text_encoder
from softalign.shapes.pretraining.training_state import ResumableTraining
from softalign.shapes.tokenizer import build_tokenizer
from softalign.store.files import require_folder_place, sha256_of_file

logger = logging.getLogger(__name__)

AUTOENCODER_STATE = "autoencoder.safetensors"
TEXT_ENCODER_STATE = "text_encoder.safetensors"
POOL_CACHE = "pool.safetensors"
DENOISER_POOL_CACHE = "denoiser_pool.safetensors"
SCORES_LOG = "scores_{family}.jsonl"
FINAL_GUIDANCE_SCALES = (1.0, 1.5, 2.0, 3.0, 4.0)
_FINAL_INFERENCE_STEPS = 20
_QUICK_GUIDANCE_SCALE = 2.5
_QUICK_INFERENCE_STEPS = 15


@dataclass(frozen=True, slots=True)
class PretrainResult:
    """Where the exported folder is, and how many images the denoiser has seen."""

    weights_path: Path
    samples_seen: int


def autoencoder_digest(config: PretrainConfig) -> str:
    """Return the digest of what decides the autoencoder's weights."""
    return digest_of([config.seed, config.autoencoder.model_dump(mode="json")])


def text_encoder_digest(config: PretrainConfig) -> str:
    """Return the digest of what decides the text encoder's weights: captions and layouts, not the autoencoder."""
    return digest_of([config.seed, *(part.model_dump(mode="json") for part in (config.pool, config.text_encoder))])


def denoiser_digest(config: PretrainConfig, model: EmbeddedModel) -> str:
    """Return the digest of what decides a denoiser's weights."""
    settings = [part.model_dump(mode="json") for part in (model.settings(config), config.captions)]
    parts = [config.foundation, config.start_sha256, autoencoder_digest(config), text_encoder_digest(config)]
    return digest_of([*parts, *settings])


def pretrain(
    config: PretrainConfig,
    out_dir: Path,
    family: EmbeddedFamily = "sd21",
    max_steps: int | None = None,
    start: Path | None = None,
) -> PretrainResult:
    """Run the recipe, or what is left of it, in ``out_dir``, and export to a folder below it, with scores.

    Args:
        config: the recipe.
        out_dir: folder of checkpoints, pool, scores and result; both families may share one.
        family: ``sd21`` trains the U-Net, ``sd3`` its MMDiT twin.
        max_steps: denoiser updates of this call at most; what an interrupted run would have done.
        start: the weights folder whose denoiser training goes on from, if the recipe has a ``start_sha256``.

    Raises:
        ConfigError: what is in ``out_dir`` is of another recipe, or a file, or ``start`` is not the recipe's.
        MissingInputError: ``start`` has no weights.
        TrainingError: a loss is not finite.
    """
    require_folder_place(out_dir)
    torch.set_num_threads(config.num_threads)
    model = EMBEDDED_MODELS[family]
    _require_own_weights(config, model, out_dir / weights_folder(model))
    start_file = _start_file(config, model, start)
    foundation = make_foundation(config, out_dir)
    cache = out_dir / (POOL_CACHE if config.denoiser_pool is None else DENOISER_POOL_CACHE)
    pool = build_pool(config, config.captions, foundation.vae, foundation.tokenizer, cache)
    training = model.start(config, denoiser_digest(config, model), out_dir / model.state_name, start_file)

    def after_save(samples_seen: int) -> None:
        if config.score_images_per_tag and samples_seen % config.score_every_samples < config.checkpoint_every_samples:
            scores = _quick_scores(_averaged(training, model, config), model, foundation, config)
            logger.info("samples_seen %d scores %s", samples_seen, scores)
            with (out_dir / SCORES_LOG.format(family=family)).open("a", encoding="utf-8") as log:
                log.write(json.dumps({"samples_seen": samples_seen, **scores}) + "\n")

    training.run(model.loss(training.model, foundation, pool, config), after_save, max_steps)
    return export(config, out_dir, out_dir / weights_folder(model), family, start)


def _require_own_weights(config: PretrainConfig, model: EmbeddedModel, folder: Path) -> None:
    """Refuse a weights folder that is not empty and not of this run: the export would replace it."""
    require_folder_place(folder)
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    try:
        made = read_recipe(folder / RECIPE_FILENAME)
    except ConfigError as error:
        found = f"no {RECIPE_FILENAME} that can be read: {error.found}"
    else:
        digest = denoiser_digest(made.config, EMBEDDED_MODELS[made.family])
        if (made.family, digest) == (model.family, denoiser_digest(config, model)):
            return
        found = f"weights of another recipe ({made.family}, {made.samples_seen} images seen)"
    raise ConfigError(
        "Weights that this run did not make would be replaced.",
        expected="no such folder, an empty one, or weights of the same recipe",
        found=found,
        where=str(folder),
        fix="use another --out folder, or move these weights away",
    )


def _start_file(config: PretrainConfig, model: EmbeddedModel, folder: Path | None) -> Path | None:
    """Return the file of the weights that training starts from: its digest is the recipe's, and it has its own."""
    file = None if folder is None else denoiser_file(model.family, folder)
    if file is not None and not file.is_file():
        raise MissingInputError(
            "there are no weights to start from",
            expected="a weights folder",
            found="no such file",
            where=str(file),
            fix="name the weights folder that the recipe was made with, by --start",
        )
    found = None if file is None else sha256_of_file(file)
    if found != config.start_sha256:
        raise ConfigError(
            "These are not the weights that the recipe starts from.",
            expected=f"sha256 {config.start_sha256}"
            if config.start_sha256
            else "no start: the recipe has no start_sha256",
            found=f"sha256 {found}" if found else "no start",
            where="start" if file is None else str(file),
            fix="name the weights folder that the recipe was made with, by --start",
        )
    if folder is not None:  # the export writes it down
        read_recipe(folder / RECIPE_FILENAME, "put the recipe.json of these weights back into the folder of --start")
    return file


def make_foundation(config: PretrainConfig, out_dir: Path, *, is_finished: bool = False) -> Foundation:
    """Return what the denoisers stand on: trained in ``out_dir``, or what is left of it, or as it was shipped.

    Args:
        config: the recipe.
        out_dir: the folder of ``pretrain``.
        is_finished: take the last checkpoints as they are.
    """
    tokenizer = build_tokenizer()
    if config.foundation == "shipped":
        return shipped_foundation(tokenizer).map(lambda part: part.to(config.device))
    max_steps = 0 if is_finished else None
    vae = train_autoencoder(config, autoencoder_digest(config), out_dir / AUTOENCODER_STATE, max_steps)
    vae.to(config.device)
    pool = None if is_finished else build_pool(config, config.pool, vae, tokenizer, out_dir / POOL_CACHE)
    text_encoder = train_text_encoder(
        config, pool, tokenizer, text_encoder_digest(config), out_dir / TEXT_ENCODER_STATE
    )
    return Foundation(vae, text_encoder.to(config.device), tokenizer)


def _quick_scores(
    denoiser: nn.Module, model: EmbeddedModel, foundation: Foundation, config: PretrainConfig
) -> dict[str, float]:
    draw = model.drawing(denoiser, foundation, config, _QUICK_GUIDANCE_SCALE, _QUICK_INFERENCE_STEPS)
    return score_suite(foundation.vae, draw, images_per_tag=config.score_images_per_tag)


def _rounded(module: Any) -> Any:
    """Return a module as its half-precision weights make it, in single precision, where it was."""
    return half(module).float().to(module.device)


def _averaged(training: ResumableTraining[Any], model: EmbeddedModel, config: PretrainConfig) -> nn.Module:
    denoiser = model.build(config)
    training.load_ema_into(denoiser)
    return denoiser.to(config.device).requires_grad_(False).eval()


def export(
    config: PretrainConfig,
    out_dir: Path,
    weights_path: Path,
    family: EmbeddedFamily = "sd21",
    start: Path | None = None,
) -> PretrainResult:
    """Export the averaged weights of the last checkpoints in ``out_dir``, finished or not, and score what was exported.

    Args:
        config: the recipe the checkpoints belong to; ``final_images_per_tag`` images for the scores, 0 for none.
        out_dir: the folder of ``pretrain``.
        weights_path: the folder to write; replaced.
        family: which of the two denoisers.
        start: the weights folder that training went on from, whose recipe is written down too.
    """
    model = EMBEDDED_MODELS[family]
    foundation = make_foundation(config, out_dir, is_finished=True)
    training = model.start(config, denoiser_digest(config, model), out_dir / model.state_name)
    samples_seen = training.step * model.settings(config).batch_size
    recipe = WeightsRecipe(
        family=family,
        config=config,
        samples_seen=samples_seen,
        num_inference_steps=_FINAL_INFERENCE_STEPS,
        start=None if start is None else read_recipe(start / RECIPE_FILENAME),
    )
    denoiser = _averaged(training, model, config)
    export_pipeline(weights_path, model.pipeline(denoiser, foundation, config), recipe)
    if config.final_images_per_tag:  # of the weights as they are shipped, rounded to fp16
        scores = _final_scores(model, _rounded(denoiser), foundation.map(_rounded), config)
        write_recipe(weights_path, recipe.model_copy(update={"scores_by_guidance_scale": scores}))
    return PretrainResult(weights_path, samples_seen)


def _final_scores(
    model: EmbeddedModel, denoiser: nn.Module, foundation: Foundation, config: PretrainConfig
) -> dict[str, dict[str, float]]:
    scores = {}
    for guidance_scale in FINAL_GUIDANCE_SCALES:
        draw = model.drawing(denoiser, foundation, config, guidance_scale, _FINAL_INFERENCE_STEPS)
        found = score_suite(foundation.vae, draw, images_per_tag=config.final_images_per_tag, seed=1)
        scores[str(guidance_scale)] = found
        logger.info("guidance_scale %s scores %s", guidance_scale, found)
    return scores
