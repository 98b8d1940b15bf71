"""The pool of captioned latents that text encoder and denoiser are trained on.

Shape legend: N scenes, P captions per scene, B rows, L = 16 tokens, latents (N, 16, 4, 4) scaled to unit deviation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
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
from softalign.shapes.pretraining.recipe import PoolConfig, PretrainConfig
from softalign.shapes.pretraining.train_autoencoder import encode_images
from softalign.shapes.scenes import COLORS, GRID_SIZE, SHAPES, Scene, render_batch, sample_scene
from softalign.store.files import replacing

_RENDER_BATCH = 4096
_MAX_EXTRA_OBJECTS = 2


@dataclass(frozen=True, slots=True)
class TrainingPool:
    """Latents, captions and layouts of N scenes.

    Attributes:
        latents: (N, 16, 4, 4) float32.
        token_ids: (N, P, L) int16, of their captions.
        layouts: (N, 16 cells, 2) int8: shape and colour in each grid cell, counted from 1; 0 is empty.
    """

    latents: Tensor
    token_ids: Tensor
    layouts: Tensor

    def captions_at(self, index: Tensor, config: PoolConfig, empty_ids: Tensor, generator: torch.Generator) -> Tensor:
        """Return token ids (B, L) of a drawn caption for each scene of ``index`` (B), some of them the empty one."""
        which = torch.randint(self.token_ids.shape[1], index.shape, generator=generator)
        token_ids = self.token_ids[index, which].long()
        is_dropped = torch.rand(index.shape, generator=generator) < config.caption_dropout
        return torch.where(is_dropped[:, None], empty_ids, token_ids)


def sample_captioned_scene(rng: np.random.Generator, config: PoolConfig) -> tuple[Scene, list[Caption]]:
    """Return a scene and its captions: incomplete for a scene with extra objects, else complete or wrong."""
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
    """Return token ids (B, L), padded to the model's length; every distinct text is tokenised once."""
    distinct = {text: row for row, text in enumerate(dict.fromkeys(texts))}
    encoded = tokenizer(list(distinct), padding="max_length", max_length=tokenizer.model_max_length, truncation=True)
    table = torch.tensor(encoded["input_ids"])
    return table[[distinct[text] for text in texts]]


def build_pool(
    config: PretrainConfig, scenes: PoolConfig, vae: AutoencoderKL, tokenizer: CLIPTokenizer, cache_path: Path
) -> TrainingPool:
    """Render, encode and caption a pool once; a finished pool of the same recipe is read back from ``cache_path``."""
    digest = _pool_digest(config, scenes)
    if cache_path.exists():
        with safe_open(cache_path, framework="pt") as file:
            if file.metadata() == {"digest": digest}:
                return TrainingPool(*(file.get_tensor(name) for name in ("latents", "token_ids", "layouts")))
    rng = np.random.default_rng([config.seed, 2])
    num_scenes = scenes.num_scenes
    pairs = [sample_captioned_scene(rng, scenes) for _ in range(num_scenes)]
    latents = torch.cat(
        [
            encode_images(vae, render_batch([scene for scene, _ in pairs[start : start + _RENDER_BATCH]]))
            for start in range(0, num_scenes, _RENDER_BATCH)
        ]
    )
    ids = tokenize(tokenizer, [caption.text for _, captions in pairs for caption in captions])
    pool = TrainingPool(
        latents=latents.contiguous(),
        token_ids=ids.view(num_scenes, scenes.captions_per_scene, -1).to(torch.int16),
        layouts=layouts_of([scene for scene, _ in pairs]),
    )
    with replacing(cache_path) as made:
        save_file(asdict(pool), made, metadata={"digest": digest})
    return pool


def layouts_of(scenes: Sequence[Scene]) -> Tensor:
    """Return shape and colour of every grid cell, (N, 16, 2) int8, counted from 1; 0 is empty."""
    layouts = torch.zeros(len(scenes), GRID_SIZE**2, 2, dtype=torch.int8)
    for row, scene in zip(layouts, scenes, strict=True):
        for obj in scene.objects:
            words = (1 + SHAPES.index(obj.shape), 1 + COLORS.index(obj.color))
            row[obj.row * GRID_SIZE + obj.column] = torch.tensor(words, dtype=torch.int8)
    return layouts


def _pool_digest(config: PretrainConfig, scenes: PoolConfig) -> str:
    """Return the digest of what a pool is made of: the autoencoder, the scenes and the captions."""
    captions = scenes.model_dump(mode="json", exclude={"caption_dropout"})
    return digest_of([config.seed, config.autoencoder.model_dump(mode="json"), captions])
