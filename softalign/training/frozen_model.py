"""The frozen model of a training run: checked against the encoded set once; each rank keeps the parts that it calls."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from softalign.adapters.base_fingerprint import BaseFingerprint, fingerprint_of
from softalign.artifacts import EncodedManifest
from softalign.backbones.base import Backbone
from softalign.backbones.frozen_pipeline import backbone_dtype
from softalign.backbones.identity import component_digest, text_encoder_digest, text_length
from softalign.backbones.loading import load_backbone
from softalign.config.backbone import BackboneConfig
from softalign.config.families import FAMILIES
from softalign.data.encoding.text_sources import OnlineTexts
from softalign.errors import CompatibilityError, SoftAlignError
from softalign.training.process_group import ProcessGroup

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class ModelIdentity:
    """What identifies a denoiser: its digest and fingerprint, of float32 weights whatever the device computes in."""

    backbone_digest: str
    fingerprint: BaseFingerprint


@dataclass(frozen=True)
class FrozenModel:
    """The backbone with its denoiser on its device; ``identity`` is known to rank 0 alone, which writes the adapter."""

    backbone: Backbone
    identity: ModelIdentity | None


def load_frozen(
    config: BackboneConfig, encoded: EncodedManifest, device: torch.device, group: ProcessGroup, *, has_vae: bool
) -> FrozenModel:
    """Return a backbone's denoiser, after rank 0 has found that the backbone's encoders made the encoded set.

    No rank keeps these text encoders, and the others than rank 0 never read them (see ``load_online_texts``).

    Args:
        config: of the backbone.
        encoded: the set to be trained on.
        device: of the denoiser.
        group: the ranks, which all call this.
        has_vae: whether rank 0 keeps the VAE, on the CPU.

    Raises:
        CompatibilityError: another VAE or text encoder made the set, or this one at another resolution or text length.
    """
    if not group.is_leader:
        backbone = load_backbone(config, device=device, dtype=backbone_dtype(device), parts=("denoiser",))
        if refusal := group.from_leader(b"").decode():
            raise CompatibilityError(refusal)
        return FrozenModel(backbone, None)
    _check_for_all(config, encoded, group)
    backbone = load_backbone(
        config, device=_CPU, dtype=torch.float32, parts=("denoiser", "vae") if has_vae else ("denoiser",)
    )
    identity = ModelIdentity(component_digest(backbone.denoiser), fingerprint_of(backbone.denoiser))
    backbone.denoiser.to(device=device, dtype=backbone_dtype(device))
    return FrozenModel(backbone, identity)


def load_online_texts(
    config: BackboneConfig, encoded: EncodedManifest, frozen: Backbone, device: torch.device
) -> OnlineTexts | None:
    """Return the backbone's text encoders, in float32 on the training device; None where the set has its texts stored.

    Each rank calls this for itself, after ``load_frozen`` has found that the encoders are the set's.

    Args:
        config: of the backbone.
        encoded: the set to be trained on.
        frozen: the backbone with its denoiser.
        device: where the encoders compute.
    """
    if encoded.text == "stored":
        return None
    texts = load_backbone(config, device=device, dtype=torch.float32, parts=("text",))
    if not FAMILIES[config.family].is_unet:
        texts.pipeline.transformer = frozen.denoiser  # says how wide the zeros are that stand for T5
    return OnlineTexts(texts)


def _check_for_all(config: BackboneConfig, encoded: EncodedManifest, group: ProcessGroup) -> None:
    """Check the encoders and tell the other ranks, so that all of them end with the same refusal."""
    try:
        _check_encoders(config, encoded)
    except SoftAlignError as refusal:
        group.from_leader(str(refusal).encode())
        raise
    group.from_leader(b"")


def _check_encoders(config: BackboneConfig, encoded: EncodedManifest) -> None:
    encoders = load_backbone(config, device=_CPU, dtype=torch.float32, parts=("vae", "text"))
    require_encoders(
        encoded,
        vae_digest=component_digest(encoders.pipeline.vae),
        text_encoder_digest=text_encoder_digest(encoders),
    )
    require_shapes(
        encoded,
        latents_side=config.resolution_px // encoders.pipeline.vae_scale_factor,
        text_length=text_length(encoders),
    )


def require_encoders(manifest: EncodedManifest, *, vae_digest: str, text_encoder_digest: str) -> None:
    """Refuse encodings that another VAE or text encoder made.

    Raises:
        CompatibilityError: they differ; says which.
    """
    pairs = (
        ("VAE", manifest.vae_digest, vae_digest),
        ("text encoder", manifest.text_encoder_digest, text_encoder_digest),
    )
    for name, made_by, expected in pairs:
        if made_by != expected:
            raise CompatibilityError(
                f"The dataset was encoded by another {name}.",
                expected=f"{name} {expected}",
                found=f"{name} {made_by}",
                where=manifest.uri,
                fix="encode the dataset for this backbone: `softalign encode RECIPE`; if it says that this is done, "
                "the model at the hub has changed since (name its commit in backbone.revision), or a library that "
                "reads it (remove the encoded set)",
            )


def require_shapes(manifest: EncodedManifest, *, latents_side: int, text_length: int) -> None:
    """Refuse latents of another resolution, and texts of another length.

    Args:
        manifest: the encoded dataset.
        latents_side: of this backbone's latents at its resolution.
        text_length: positions of this backbone's text states.

    Raises:
        CompatibilityError: they differ; says which.
    """
    checks = (
        ("latents of another resolution", "side", manifest.latent_shape[1:], (latents_side, latents_side)),
        ("texts of another length", "positions", manifest.text_shape[:1], (text_length,)),
    )
    for what, unit, found, expected in checks:
        if found != expected:
            raise CompatibilityError(
                f"The dataset was encoded with {what}.",
                expected=f"{unit} {expected[0]}",
                found=f"{unit} {found[0]}",
                where=manifest.uri,
                fix="encode it for this backbone (`softalign encode RECIPE`), or set backbone.resolution_px and "
                "backbone.max_sequence_length to what it was encoded with",
            )
