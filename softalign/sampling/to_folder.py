"""Images from prompts with an adapter, in a folder: what ``softalign generate`` does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from softalign.adapters.attach import load_soft_tokens
from softalign.adapters.locating import resolve_adapter
from softalign.artifacts import Family
from softalign.backbones.base import Backbone
from softalign.backbones.frozen_pipeline import backbone_dtype, resolve_device
from softalign.backbones.loading import family_of, load_backbone
from softalign.config.backbone import BackboneConfig
from softalign.config.evaluation import UnconditionalBank
from softalign.config.families import FAMILIES, misfit
from softalign.config.runtime import Runtime
from softalign.errors import CompatibilityError, ConfigError
from softalign.sampling.sampling import ImageRequest, SamplingSettings, generate_batch, png_bytes
from softalign.store.files import require_folder_place, write_atomically

NO_ADAPTER = "none"
SHOWN_NAMES = 3
"""How many of the files in the way an error names."""


@dataclass(frozen=True)
class GenerationSettings:
    """How many images and how: steps and guidance (None: the family's), strength of the soft tokens, seed of the noise.

    ``is_forced`` and ``unconditional_bank`` are the arguments of ``load_soft_tokens``.
    """

    num_images: int
    num_inference_steps: int | None
    guidance_scale: float | None
    scale: float
    seed: int
    is_forced: bool = False
    unconditional_bank: UnconditionalBank = "positive"


def generate_to_folder(
    adapter: str,
    prompts: Sequence[str],
    out: Path,
    base: str | None,
    settings: GenerationSettings,
    *,
    is_overwriting: bool = False,
) -> list[Path]:
    """Write ``prompt-000-0.png`` and so on to ``out`` and return the paths.

    An image's name and noise depend on the prompt's place, the image's place and (noise alone) the seed.

    Args:
        adapter: what ``load_soft_tokens`` takes, or ``none`` for the base model itself.
        prompts: one or more.
        out: folder, made if absent.
        base: another base model than the adapter's, of the same architecture and weights (a local copy, say).
        settings: how to sample.
        is_overwriting: replace images of the same name.

    Raises:
        ConfigError: ``none`` without a base model, ``out`` lies below a file, or images of these names are there.
        CompatibilityError: the base model is not the adapter's.
    """
    require_folder_place(out)
    paths = [[_path(out, prompt, image) for image in range(settings.num_images)] for prompt in range(len(prompts))]
    if not is_overwriting:
        _refuse_existing([path for row in paths for path in row], out)
    config, folder = _resolve(adapter, base)
    backbone = _load(config, folder, settings)
    sampling = _sampling(backbone, config.family, settings)
    for index, prompt in enumerate(prompts):
        requests = [ImageRequest(prompt, index, image, path) for image, path in enumerate(paths[index])]
        for request, pixels in zip(requests, generate_batch(backbone, requests, sampling), strict=True):
            write_atomically(request.path, png_bytes(pixels))
    return [path for row in paths for path in row]


def _load(config: BackboneConfig, folder: Path | None, settings: GenerationSettings) -> Backbone:
    """Return the base model with the papers' sampler and, where there is an adapter's folder, its tokens."""
    device = resolve_device(Runtime())
    backbone = load_backbone(config, device=device, dtype=backbone_dtype(device))
    backbone.use_papers_sampler()
    if folder is not None:
        load_soft_tokens(
            backbone.pipeline,
            folder,
            scale=settings.scale,
            force=settings.is_forced,
            unconditional_bank=settings.unconditional_bank,
        )
    return backbone


def _sampling(backbone: Backbone, family: Family, settings: GenerationSettings) -> SamplingSettings:
    defaults = FAMILIES[family].defaults
    side = cast(Any, backbone.denoiser).config.sample_size
    return SamplingSettings(
        num_inference_steps=settings.num_inference_steps or defaults["evaluate.num_inference_steps"],
        guidance_scale=settings.guidance_scale or defaults["evaluate.guidance_scale"],
        resolution_px=side * backbone.pipeline.vae_scale_factor,
        seed=settings.seed,
    )


def _path(out: Path, prompt_index: int, image_index: int) -> Path:
    return out / f"prompt-{prompt_index:03d}-{image_index}.png"


def _refuse_existing(paths: Sequence[Path], out: Path) -> None:
    existing = [path.name for path in paths if path.exists()]
    if existing:
        num_more = len(existing) - SHOWN_NAMES
        shown = ", ".join(existing[:SHOWN_NAMES]) + (f" and {num_more} more" if num_more > 0 else "")
        raise ConfigError(
            "Images of these names are already there; nothing was written.",
            expected="a folder without them",
            found=shown,
            where=str(out),
            fix="name another folder with --out, or add --overwrite to replace them",
        )


def _resolve(adapter: str, base: str | None) -> tuple[BackboneConfig, Path | None]:
    if adapter == NO_ADAPTER:
        if base is None:
            raise ConfigError("There is neither an adapter nor a base model.", fix="name a base model with --base")
        return BackboneConfig(family=family_of(base), model=base), None
    from softalign.adapters.files import read_adapter_config

    folder = resolve_adapter(adapter)
    config = read_adapter_config(folder)
    revision = (config.base_model_revision or None) if base is None else None
    model = base if base is not None else config.base_model
    if problem := misfit(config.family, model):
        raise CompatibilityError(
            "The base model does not belong to the adapter's family.",
            expected=config.family,
            found=problem,
            where=model,
            fix=f"name a base model of the family {config.family} with --base",
        )
    known = {"has_t5": config.has_t5, "max_sequence_length": config.max_sequence_length}
    texts: dict[str, Any] = {field: value for field, value in known.items() if value is not None}
    return BackboneConfig(family=config.family, model=model, revision=revision, **texts), folder
