"""The model that a command draws with: a base model, with an adapter or without; found first, loaded once all fits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from softalign.adapters.attach import AdapterHandle, load_soft_tokens
from softalign.adapters.files import AdapterConfig, read_adapter_config
from softalign.adapters.locating import resolve_adapter
from softalign.artifacts import Family
from softalign.backbones.base import Backbone
from softalign.backbones.frozen_pipeline import backbone_dtype, explained_access, require_family, resolve_device
from softalign.backbones.loading import family_of, load_backbone
from softalign.backbones.locating import model_fingerprint, resolve_model
from softalign.backbones.mmdit import comes_with_t5
from softalign.config.backbone import BackboneConfig
from softalign.config.evaluation import UnconditionalBank
from softalign.config.families import FAMILIES, is_embedded, misfit
from softalign.config.runtime import Runtime
from softalign.errors import CompatibilityError, ConfigError
from softalign.sampling.image_facts import NO_ADAPTER
from softalign.sampling.sampling import side_px
from softalign.store.files import is_local


@dataclass(frozen=True)
class ChosenModel:
    """What is drawn with, found but not loaded.

    Attributes:
        base: the base model.
        base_digest: of its files; of a hub model's id and revision.
        folder: the adapter's files; None without one.
        adapter: the adapter as an image's facts name it, or ``none``.
        adapter_sha256: of its weights; empty without one.
    """

    base: BackboneConfig
    base_digest: str
    folder: Path | None = None
    adapter: str = NO_ADAPTER
    adapter_sha256: str = ""

    def facts(self, scale: float) -> dict[str, Any]:
        """Return what images' facts say of the model.

        Args:
            scale: the tokens' strength.
        """
        place = Path(self.base.model)
        return {
            "adapter": self.adapter,
            "adapter_sha256": self.adapter_sha256,
            "adapter_scale": scale if self.folder else 0.0,
            "base_model": place.resolve().name if place.is_dir() and not self.base.is_embedded else self.base.model,
            "base_digest": self.base_digest,
        }

    def without_adapter(self) -> ChosenModel:
        """Return the base model alone."""
        return ChosenModel(self.base, self.base_digest)


@dataclass(frozen=True)
class LoadedModel:
    """A loaded base model with the papers' sampler, and the handle of its soft tokens where there are some."""

    backbone: Backbone
    handle: AdapterHandle | None


def choose_model(adapter: str, base: str | None, *, embedded_family: Family = "sd21") -> ChosenModel:
    """Return the adapter's own base model with it, or another that is named, or a base model alone.

    Args:
        adapter: what ``load_soft_tokens`` takes, or ``none``.
        base: another base model than the adapter's, of the same architecture and weights (a local copy, say).
        embedded_family: which of the embedded models ``shapes`` means without an adapter.

    Raises:
        ConfigError: ``none`` without a base model.
        MissingInputError: there is no such adapter or base model.
        CompatibilityError: the base model is of another family than the adapter's.
    """
    if adapter == NO_ADAPTER:
        if base is None:
            raise ConfigError("There is neither an adapter nor a base model.", fix="name a base model with --base")
        alone = _base_alone(base, embedded_family)
        return ChosenModel(alone, model_fingerprint(alone))
    folder, name = _found(adapter)
    config = read_adapter_config(folder)
    own = _base_of(config, base)
    return ChosenModel(own, model_fingerprint(own), folder, name, config.weights_sha256)


def load_model(
    chosen: ChosenModel,
    scale: float,
    *,
    is_forced: bool = False,
    unconditional_bank: UnconditionalBank = "positive",
    divide_by_guidance: bool = False,
) -> LoadedModel:
    """Load a model, on the GPU where there is one.

    Args:
        chosen: which.
        scale: strength of the tokens.
        is_forced: accept a base model that the adapter does not know.
        unconditional_bank: which tokens guidance's other branch sees.
        divide_by_guidance: the tokens' strength is divided by guidance on the conditional branch.

    Raises:
        CompatibilityError: the base model is not the adapter's.
    """
    device = resolve_device(Runtime())
    backbone = load_backbone(chosen.base, device=device, dtype=backbone_dtype(device))
    backbone.use_papers_sampler()
    if chosen.folder is None:
        return LoadedModel(backbone, None)
    handle = load_soft_tokens(
        backbone.pipeline,
        chosen.folder,
        scale=scale,
        force=is_forced,
        unconditional_bank=unconditional_bank,
        divide_by_guidance=divide_by_guidance,
    )
    return LoadedModel(backbone, handle)


def drawn_side_px(base: BackboneConfig, asked_px: int | None) -> int:
    """Return the side of the images to draw: as asked, else the model's own by its configuration; nothing is loaded.

    Raises:
        MissingInputError: the model is not there, or it is gated.
        CompatibilityError: it is of another family, or says no side where none was asked for.
    """
    from diffusers import AutoencoderKL, SD3Transformer2DModel, UNet2DConditionModel

    model, own = resolve_model(base), {"revision": base.revision}
    with explained_access(base.model):
        require_family(model, base)
        if FAMILIES[base.family].is_unet:
            denoiser: Any = UNet2DConditionModel.load_config(model, subfolder="unet", **own)
        else:
            denoiser = SD3Transformer2DModel.load_config(model, subfolder="transformer", **own)
        vae: Any = AutoencoderKL.load_config(model, subfolder="vae", **own)
    return asked_px or side_px(denoiser["sample_size"], 2 ** (len(vae["block_out_channels"]) - 1))


@contextmanager
def without_tokens(loaded: LoadedModel) -> Iterator[None]:
    """Let the base model itself work within the block."""
    if loaded.handle is not None:
        loaded.handle.disable()
    try:
        yield
    finally:
        if loaded.handle is not None:
            loaded.handle.enable()


def _found(adapter: str) -> tuple[Path, str]:
    """Return an adapter's folder, and how it is named: a version by its number, whatever alias it was asked for by."""
    if adapter.startswith("models:/"):
        from softalign.registry import pull_version

        found = pull_version(adapter)
        return found.path, f"{found.name}/{found.version}"
    folder = resolve_adapter(adapter)
    is_path = is_local(adapter) and Path(adapter.removeprefix("file://")).exists()
    return folder, folder.resolve().name if is_path else adapter


def _base_alone(base: str, embedded_family: Family) -> BackboneConfig:
    family = embedded_family if is_embedded(base) else family_of(base)
    return _with_own_encoders(BackboneConfig(family=family, model=base))


def _with_own_encoders(config: BackboneConfig) -> BackboneConfig:
    """Return a configuration without T5 where the model was saved without it."""
    return config if not config.has_t5 or comes_with_t5(config) else config.model_copy(update={"has_t5": False})


def _base_of(config: AdapterConfig, base: str | None) -> BackboneConfig:
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
    own = BackboneConfig(family=config.family, model=model, revision=revision, **texts)
    return own if "has_t5" in texts else _with_own_encoders(own)
