"""For users of an adapter: soft tokens into a diffusers pipeline, and out again without a trace."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch import nn

from softalign.adapters.asked import AskedTokens
from softalign.adapters.base_fingerprint import BaseFingerprint, check_base
from softalign.adapters.files import AdapterConfig, MMDiTPlacement, load_adapter, read_adapter_config
from softalign.adapters.locating import resolve_adapter
from softalign.adapters.motion import say_when_left_behind
from softalign.adapters.row_roles import (
    banks_of_running_call,
    check_times,
    psi_plus_of_running_call,
    shares_of_running_call,
)
from softalign.artifacts import Adapter
from softalign.backbones.calls import BanksOfRows
from softalign.backbones.injection import CrossAttentionInjection, SoftTokenInjection, checked_scale, find_injections
from softalign.backbones.joint_injection import JointAttentionInjection
from softalign.backbones.mmdit import joint_blocks, stream_width
from softalign.backbones.unet import injection_sites, text_width
from softalign.config.evaluation import UnconditionalBank
from softalign.config.families import FAMILIES
from softalign.errors import CompatibilityError, ConfigError
from softalign.method.soft_tokens import SoftTokens

DENOISERS = ("unet", "transformer")
"""Names of the denoiser among a pipeline's parts."""


class AdapterHandle:
    """Soft tokens attached to a pipeline's denoiser; it does not keep the denoiser alive.

    Scale 0, ``disable`` and ``unload`` all give the base model's own output bit for bit. As a context manager it
    unloads at the end.
    """

    def __init__(self, injection: SoftTokenInjection, config: AdapterConfig) -> None:
        self.config = config
        self._injection = injection

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
            ConfigError: it is not a number from 0 to 1,000, or the tokens were unloaded.
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
        self._injection.remove()

    def _attached(self) -> SoftTokenInjection:
        if not self._injection.is_attached:
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
    divide_by_guidance: bool = False,
    replace: bool = False,
    compose: bool = False,
) -> AdapterHandle:
    """Attach an adapter's psi+ to a diffusers pipeline, on both branches of classifier-free guidance.

    Works beside LoRA, CPU offloading and ``torch.compile``: no forward is replaced. Calls may overlap in threads.

    Args:
        pipe: a Stable Diffusion pipeline (1.x, 2.x, XL, 3, 3.5), or anything with its ``unet`` or ``transformer``.
        source: a folder, ``s3://`` URI, ``models:/name@alias``, ``models:/name/3``, hub id (owner/name) or Adapter.
        scale: strength, 0 to 1,000; 1 as trained.
        revision: of a hub id: a branch, tag or commit.
        force: accept another base model than the adapter's, of the same family and text width.
        use_ema: the averaged tokens instead of the last ones.
        unconditional_bank: ``positive`` as in the papers, or ``negative``: psi- on the unconditional branch (AGSM's
            SDXL code). Which rows these are is read off the running pipeline; where it cannot be, the call is refused.
        divide_by_guidance: the conditional branch sees the tokens with strength ``scale / guidance_scale``, so that
            guidance does not multiply what they change; each step's, read off the running pipeline as above.
        replace: take out the soft tokens that are there, once the new ones are known to fit.
        compose: attach beside the soft tokens that are there, each with its own scale.

    Raises:
        ConfigError: the scale, ``unconditional_bank`` or ``divide_by_guidance`` is none of these values, or both
            ``replace`` and ``compose`` are asked for.
        CompatibilityError: another family, base model or timesteps, tokens attached already, or there is no psi-.
        IntegrityError, MissingInputError: the files are damaged or not finite; there is no adapter at ``source``.
    """
    asked = AskedTokens(checked_scale(scale), force, use_ema, unconditional_bank, divide_by_guidance, replace, compose)
    return _attach_adapter(pipe, resolve_adapter(source, revision), asked)


def _attach_adapter(pipe: Any, folder: Path, asked: AskedTokens) -> AdapterHandle:
    config = read_adapter_config(folder)
    tokens = load_adapter(folder, use_ema=asked.use_ema).requires_grad_(False)
    denoiser = _denoiser_of(pipe, config)
    _check_family(config, pipe, denoiser)
    if not isinstance(config.placement, MMDiTPlacement):
        check_times(getattr(pipe, "scheduler", None))
    if not asked.force:
        check_base(_fingerprint_in(config), denoiser, base_model=config.base_model)
    if asked.unconditional_bank == "negative":
        _require_negative_bank(config)
    before = find_injections(denoiser) if asked.replace else ()
    injection = _attach(config, denoiser, tokens, asked)
    for other in before:
        other.remove()
    first_part = getattr(denoiser, "conv_in", None)
    if isinstance(first_part, nn.Module):  # of a U-Net
        injection.keep_until_removed(say_when_left_behind(first_part))
    return AdapterHandle(injection, config)


def loaded_tokens(pipe: Any) -> tuple[AdapterHandle, ...]:
    """Return handles of all soft tokens in a pipeline's denoiser, in the order they were loaded; none: empty.

    They work as the handles that ``load_soft_tokens`` returned, also where those are gone or the pipeline is a copy.
    """
    parts = (getattr(pipe, name, None) for name in DENOISERS)
    injections = [
        found for part in parts if isinstance(part, nn.Module) for found in find_injections(_uncompiled(part))
    ]
    return tuple(
        AdapterHandle(injection, injection.origin)
        for injection in injections
        if isinstance(injection.origin, AdapterConfig)
    )


def unload_soft_tokens(pipe: Any) -> int:
    """Take all soft tokens out of a pipeline's denoiser, and return how many adapters these were."""
    handles = loaded_tokens(pipe)
    for handle in handles:
        handle.unload()
    return len(handles)


def _uncompiled(denoiser: nn.Module) -> nn.Module:
    """Return what torch.compile wraps, or the module itself."""
    plain = getattr(denoiser, "_orig_mod", denoiser)
    assert isinstance(plain, nn.Module)  # noqa: S101
    return plain


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
    asked: AskedTokens,
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
    banks_of: BanksOfRows | None = banks_of_running_call if asked.unconditional_bank == "negative" else None
    if isinstance(placement, MMDiTPlacement):
        blocks = joint_blocks(denoiser, placement.num_layers, placement.layers)
        kind: type[SoftTokenInjection] = JointAttentionInjection
    else:
        blocks, kind = injection_sites(denoiser, placement.blocks), CrossAttentionInjection
        banks_of = banks_of or psi_plus_of_running_call
    return kind(
        denoiser,
        blocks,
        tokens,
        asked.scale,
        banks_of,
        shares_of=shares_of_running_call if asked.divide_by_guidance else None,
        is_composed=asked.replace or asked.compose,
        origin=config,
    )


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
    part = DENOISERS[1] if isinstance(config.placement, MMDiTPlacement) else DENOISERS[0]
    denoiser = getattr(pipe, part, None)
    if not isinstance(denoiser, nn.Module):
        raise CompatibilityError(
            "The adapter's soft tokens cannot be attached to this pipeline.",
            expected=f"a pipeline with a {part} ({config.family})",
            found=type(pipe).__name__,
            fix=f"use a pipeline of {config.base_model}",
        )
    return _uncompiled(denoiser)


def _require_negative_bank(config: AdapterConfig) -> None:
    if config.num_banks == 1:
        raise CompatibilityError(
            "The adapter has no psi- for the unconditional branch.",
            expected="two banks",
            found=f"one bank (objective {config.objective})",
            fix="load it with unconditional_bank='positive'",
        )
