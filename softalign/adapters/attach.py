"""For users of an adapter: soft tokens into a diffusers pipeline, and out again without a trace."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn

from softalign.adapters.base_fingerprint import BaseFingerprint, check_base
from softalign.adapters.files import AdapterConfig, MMDiTPlacement, load_adapter, read_adapter_config
from softalign.adapters.locating import resolve_adapter
from softalign.artifacts import Adapter
from softalign.backbones.injection import CrossAttentionInjection, SoftTokenInjection, checked_scale
from softalign.backbones.joint_injection import JointAttentionInjection
from softalign.backbones.mmdit import joint_blocks, stream_width
from softalign.backbones.unet import injection_sites, text_width
from softalign.config.evaluation import UnconditionalBank
from softalign.config.families import FAMILIES
from softalign.errors import CompatibilityError, ConfigError
from softalign.method.soft_tokens import SoftTokens


class AdapterHandle:
    """Soft tokens attached to a pipeline's denoiser.

    Scale 0, ``disable`` and ``unload`` all give the base model's own output bit for bit. As a context manager it
    unloads at the end.
    """

    def __init__(self, denoiser: nn.Module, injection: SoftTokenInjection, config: AdapterConfig) -> None:
        self.config = config
        self._denoiser = denoiser
        self._injection: SoftTokenInjection | None = injection

    @property
    def scale(self) -> float:
        """The tokens' strength: 0 base, 1 as trained."""
        return self._attached().scale

    @property
    def is_enabled(self) -> bool:
        """Whether the tokens are inserted at all."""
        return self._attached().is_enabled

    def set_scale(self, scale: float) -> None:
        """Change the strength: attention to the tokens is multiplied by ``scale`` before normalisation.

        Raises:
            ConfigError: it is negative or not a number, or the tokens were unloaded.
        """
        self._attached().scale = checked_scale(scale)

    def disable(self) -> None:
        """Stop inserting the tokens; ``enable`` takes it back."""
        self._attached().is_enabled = False

    def enable(self) -> None:
        """Insert the tokens again."""
        self._attached().is_enabled = True

    def unload(self) -> None:
        """Take the tokens out for good; the pipeline is as it was. A second call does nothing."""
        if self._injection is not None:
            self._injection.remove()
            self._injection = None
            _forget_compiled(self._denoiser)

    def _attached(self) -> SoftTokenInjection:
        if self._injection is None:
            raise ConfigError("These soft tokens were unloaded.", fix="call load_soft_tokens again")
        return self._injection

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.unload()


def load_soft_tokens(
    pipe: Any,
    source: str | Path | Adapter,
    scale: float = 1.0,
    *,
    revision: str | None = None,
    force: bool = False,
    use_ema: bool = False,
    unconditional_bank: UnconditionalBank = "positive",
) -> AdapterHandle:
    """Attach an adapter's psi+ to a diffusers pipeline, on both branches of classifier-free guidance.

    Works beside LoRA, CPU offloading and ``torch.compile``: no forward is replaced.

    Args:
        pipe: a Stable Diffusion pipeline (1.x, 2.x, XL, 3, 3.5), or anything with its ``unet`` or ``transformer``.
        source: a folder, ``s3://`` URI, ``models:/name@alias``, ``models:/name/3``, hub id (owner/name) or Adapter.
        scale: strength, >= 0; 1 as trained.
        revision: of a hub id: a branch, tag or commit.
        force: accept another base model than the adapter's, of the same family and text width.
        use_ema: the averaged tokens instead of the last ones.
        unconditional_bank: ``positive`` as in the papers, ``negative``: psi- on the unconditional branch (AGSM's SDXL).

    Raises:
        CompatibilityError: another family or base model, tensors that do not fit, soft tokens attached already, or
            psi- is wanted of an adapter or on a pipeline that has no such thing.
        IntegrityError, MissingInputError: the weights are not those of the configuration; no adapter at ``source``.
    """
    folder = resolve_adapter(source, revision)
    config = read_adapter_config(folder)
    tokens = load_adapter(folder, use_ema=use_ema).requires_grad_(False)
    denoiser = _denoiser_of(pipe, config)
    plain = getattr(denoiser, "_orig_mod", denoiser)  # what torch.compile wraps
    _check_family(config, pipe, plain)
    if not force:
        check_base(_fingerprint_in(config), plain, base_model=config.base_model)
    guidance = _guidance_of(pipe, config) if unconditional_bank == "negative" else None
    injection = _attach(config, plain, tokens, scale, guidance)
    _forget_compiled(denoiser)
    return AdapterHandle(denoiser, injection, config)


def _fingerprint_in(config: AdapterConfig) -> BaseFingerprint:
    """Return the fingerprint of an adapter's base.

    Raises:
        CompatibilityError: it has none, so it cannot be checked against a model.
    """
    if config.base_fingerprint is None:
        raise CompatibilityError(
            "The adapter was converted without its base model, so it cannot be told from another.",
            expected="an adapter with its base model's fingerprint",
            found=f"tokens said to be of {config.base_model}",
            fix="convert it again with --base, or pass force=True to use it with this model unchecked",
        )
    return config.base_fingerprint


def _attach(
    config: AdapterConfig,
    denoiser: nn.Module,
    tokens: SoftTokens,
    scale: float,
    has_unconditional_half: Callable[[], bool] | None,
) -> SoftTokenInjection:
    placement = config.placement
    is_joint = isinstance(placement, MMDiTPlacement)
    width = stream_width(denoiser) if is_joint else text_width(denoiser)
    if width != config.width:
        raise CompatibilityError(
            "The adapter's tokens do not fit this denoiser's text states.",
            expected=f"width {config.width}",
            found=f"width {width}",
            where=type(denoiser).__name__,
            fix=f"use a pipeline of {config.base_model}",
        )
    if isinstance(placement, MMDiTPlacement):
        blocks = joint_blocks(denoiser, placement.num_layers, placement.layers)
        return JointAttentionInjection(denoiser, blocks, tokens, scale, has_unconditional_half)
    sites = injection_sites(denoiser, placement.blocks)
    return CrossAttentionInjection(denoiser, sites, tokens, scale, has_unconditional_half)


def _check_family(config: AdapterConfig, pipe: Any, denoiser: Any) -> None:
    """Check what tells the families of one kind of denoiser apart; ``force`` does not help here."""
    if isinstance(config.placement, MMDiTPlacement):
        expected, found = f"qk_norm {FAMILIES[config.family].qk_norm}", f"qk_norm {denoiser.config.get('qk_norm')}"
    else:
        is_xl = denoiser.config.get("addition_embed_type") == "text_time"
        scheduler = getattr(getattr(pipe, "scheduler", None), "config", None)
        own = FAMILIES[config.family].prediction_type
        prediction = own if scheduler is None else scheduler.get("prediction_type", own)
        has_two = FAMILIES[config.family].has_pooled_text
        expected = f"prediction_type {own}, {'two text encoders' if has_two else 'one text encoder'}"
        found = f"prediction_type {prediction}, {'two text encoders' if is_xl else 'one text encoder'}"
    if found != expected:
        raise CompatibilityError(
            "The adapter belongs to another family of models.",
            expected=f"{expected} ({config.family})",
            found=found,
            where=type(pipe).__name__,
            fix=f"use a pipeline of {config.base_model}",
        )


def _denoiser_of(pipe: Any, config: AdapterConfig) -> nn.Module:
    part = "transformer" if isinstance(config.placement, MMDiTPlacement) else "unet"
    denoiser = getattr(pipe, part, None)
    if not isinstance(denoiser, nn.Module):
        raise CompatibilityError(
            "The adapter's soft tokens cannot be attached to this pipeline.",
            expected=f"a pipeline with a {part} ({config.family})",
            found=type(pipe).__name__,
            fix=f"use a pipeline of {config.base_model}",
        )
    return denoiser


def _guidance_of(pipe: Any, config: AdapterConfig) -> Callable[[], bool]:
    """Return what says whether the pipeline's call has an unconditional half in front, as diffusers' pipelines do.

    Raises:
        CompatibilityError: the adapter has no psi-, or the pipeline orders its rows otherwise.
    """
    if config.num_banks == 1:
        raise CompatibilityError(
            "The adapter has no psi- for the unconditional branch.",
            expected="two banks",
            found=f"one bank (objective {config.objective})",
            fix="load it with unconditional_bank='positive'",
        )
    kind = type(pipe)
    if not hasattr(kind, "do_classifier_free_guidance") or hasattr(kind, "do_perturbed_attention_guidance"):
        raise CompatibilityError(
            "This pipeline does not say which rows are its unconditional branch.",
            expected="a pipeline with plain classifier-free guidance",
            found=kind.__name__,
            fix="load the tokens with unconditional_bank='positive'",
        )
    return lambda: bool(pipe.do_classifier_free_guidance)


def _forget_compiled(denoiser: nn.Module) -> None:
    """Make torch.compile compile again: it does not notice that hooks came or went."""
    if hasattr(denoiser, "_orig_mod") or getattr(denoiser, "_compiled_call_impl", None) is not None:
        torch.compiler.reset()
