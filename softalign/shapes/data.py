"""The pool of captioned latents that the denoiser is trained on.

Shape legend: N scenes, P captions per scene, L = 16 tokens, latents (N, 16, 4, 4) scaled to unit deviation.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTokenizer

from softalign.artifacts import digest_of
from softalign.shapes.captions import Caption, complete_caption, incomplete_caption, wrong_caption
from softalign.shapes.recipe import DenoiserConfig, PretrainConfig
from softalign.shapes.scenes import Scene, render_batch, sample_scene
from softalign.shapes.train_autoencoder import encode_images

_RENDER_BATCH = 4096
_MAX_EXTRA_OBJECTS = 2


@dataclass(frozen=True, slots=True)
class TrainingPool:
    """Latents (N, 16, 4, 4) float32 and token ids (N, P, L) int16 of their captions."""

    latents: Tensor
    token_ids: Tensor


def sample_captioned_scene(rng: np.random.Generator, config: DenoiserConfig) -> tuple[Scene, list[Caption]]:
    """A scene and its captions: incomplete ones for a scene with extra objects, else complete or wrong ones."""
    if rng.random() < config.share_incomplete:
        scene = sample_scene(rng, int(rng.integers(1, _MAX_EXTRA_OBJECTS, endpoint=True)))
        return scene, [incomplete_caption(scene, rng) for _ in range(config.captions_per_scene)]
    scene = sample_scene(rng)
    wrong_share = config.share_wrong / max(1e-9, 1 - config.share_incomplete)
    return scene, [
        wrong_caption(scene, rng) if rng.random() < wrong_share else complete_caption(scene, rng)
        for _ in range(config.captions_per_scene)
    ]


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """Token ids (B, L), padded to the model's length; every distinct text is tokenised once."""
    distinct = {text: row for row, text in enumerate(dict.fromkeys(texts))}
    encoded = tokenizer(list(distinct), padding="max_length", max_length=tokenizer.model_max_length, truncation=True)
    table = torch.tensor(encoded["input_ids"])
    return table[[distinct[text] for text in texts]]


def build_pool(config: PretrainConfig, vae: AutoencoderKL, tokenizer: CLIPTokenizer, cache_path: Path) -> TrainingPool:
    """Render, encode and caption the pool once; a finished pool of the same recipe is read back from `cache_path`."""
    digest = _pool_digest(config)
    if cache_path.exists():
        with safe_open(cache_path, framework="pt") as file:
            if file.metadata() == {"digest": digest}:
                return TrainingPool(file.get_tensor("latents"), file.get_tensor("token_ids"))
    rng = np.random.default_rng([config.seed, 2])
    num_scenes = config.denoiser.num_scenes
    pairs = [sample_captioned_scene(rng, config.denoiser) for _ in range(num_scenes)]
    latents = torch.cat(
        [
            encode_images(vae, render_batch([scene for scene, _ in pairs[start : start + _RENDER_BATCH]]))
            for start in range(0, num_scenes, _RENDER_BATCH)
        ]
    )
    ids = tokenize(tokenizer, [caption.text for _, captions in pairs for caption in captions])
    pool = TrainingPool(
        latents.contiguous(), ids.view(num_scenes, config.denoiser.captions_per_scene, -1).to(torch.int16)
    )
    cache_path.parent.mkdir(parents=True, exist_ok=True)
    partial = cache_path.with_suffix(".partial")
    save_file({"latents": pool.latents, "token_ids": pool.token_ids}, partial, metadata={"digest": digest})
    partial.replace(cache_path)
    return pool


def _pool_digest(config: PretrainConfig) -> str:
    """Digest of what the pool is made of: the autoencoder, the scenes and the captions, not the denoiser's training."""
    fields = {"num_scenes", "captions_per_scene", "share_incomplete", "share_wrong"}
    captions = config.denoiser.model_dump(mode="json", include=fields)
    return digest_of([config.seed, config.autoencoder.model_dump(mode="json"), captions])
