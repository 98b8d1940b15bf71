"""Checkpoints of SoftREPA and AGSM as adapters of this library: what ``softalign convert`` does.

Both projects save two files with ``torch.save``: an ``nn.Parameter`` with the tokens, and a whole pickled
``nn.Embedding`` with the timestep table. They are read without running code of the pickle: ``nn.Embedding`` is the only
class allowed beyond tensors. Nothing is written unless everything fits.

    SoftREPA  dc_tokens.pth     (S, D), SD3 (N, S, D)          dc_t_tokens.pth     (100, D), SD3 (100, N * D)
    AGSM      soft_tokens.pth   the same with two banks first  soft_t_tokens.pth   the same

Shape legend: K banks, N layers, S soft tokens, D width, J width of the text before SD3's context embedder.
"""

from __future__ import annotations

import os
import re
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from softalign import __version__
from softalign.adapter_io import AdapterConfig, MMDiTPlacement, PeerFiles, Placement, UNetPlacement, save_adapter
from softalign.artifacts import FileEntry
from softalign.base_fingerprint import BaseFingerprint, fingerprint_of
from softalign.errors import CompatibilityError, ConfigError, DataError, MissingInputError
from softalign.files import file_entry, write_atomically
from softalign.model_card import converted_card
from softalign.soft_tokens import SoftTokens

PeerFamily = Literal["sd15", "sdxl", "sd3"]
"""The backbones that the two projects have checkpoints for."""
NUM_TIMESTEP_BINS = 100
"""Rows of both projects' tables: one for ten timesteps."""
_EXACT_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
"""What float32 holds without rounding."""


@dataclass(frozen=True)
class PeerFormat:
    """The files of a project, and how many banks they hold."""

    name: Literal["softrepa", "agsm"]
    tokens_name: str
    table_name: str
    num_banks: Literal[1, 2]


FORMATS = (
    PeerFormat("softrepa", "dc_tokens.pth", "dc_t_tokens.pth", 1),
    PeerFormat("agsm", "soft_tokens.pth", "soft_t_tokens.pth", 2),
)


@dataclass(frozen=True)
class _Family:
    """A backbone's published model, the width of its text states, and where its denoiser lies in a folder."""

    model: str
    width: int
    subfolder: str


_FAMILIES: dict[PeerFamily, _Family] = {
    "sd15": _Family("stable-diffusion-v1-5/stable-diffusion-v1-5", 768, "unet"),
    "sdxl": _Family("stabilityai/stable-diffusion-xl-base-1.0", 2048, "unet"),
    "sd3": _Family("stabilityai/stable-diffusion-3-medium-diffusers", 1536, "transformer"),
}


@dataclass(frozen=True)
class _Base:
    """What the tokens must fit; ``embedder`` and ``num_layers`` are SD3's, ``fingerprint`` is None without a model."""

    model: str
    width: int
    fingerprint: BaseFingerprint | None = None
    embedder: nn.Linear | None = None
    num_layers: int | None = None


def convert(peer: Path, out: Path, family: PeerFamily, base: Path | None = None) -> AdapterConfig:
    """Write an adapter folder with a peer checkpoint's tokens and return its configuration.

    One bank becomes psi+. Values are the file's own, except that SD3 tokens from before the context embedder go through
    it. Without ``base`` the adapter has no fingerprint, so it loads with ``force=True`` alone.

    Args:
        peer: folder with the two files of SoftREPA or of AGSM.
        out: the adapter folder; must not exist, or be empty.
        family: of the base model.
        base: a local folder of the base model in diffusers layout.

    Raises:
        MissingInputError: ``peer`` holds neither project's files, or ``base`` is no model folder.
        DataError: a file is not what the project saves: other classes, types or numbers.
        CompatibilityError: shapes that do not fit together, the family or the base.
        ConfigError: ``out`` is taken, or ``peer`` holds both projects' files.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ConfigError("The output folder is taken.", expected="a new or empty folder", where=str(out))
    peer_format = _format_of(peer)
    tokens = _read_tokens(peer / peer_format.tokens_name)
    table_TD = _read_table(peer / peer_format.table_name)
    target = _read_base(base, family) if base is not None else _published_base(family)
    has_layers = family == "sd3"
    banks = _banks(tokens, peer_format, has_layers=has_layers, where=str(peer / peer_format.tokens_name))
    banks = _at_width(banks, target, where=str(peer / peer_format.tokens_name))
    _check_layers_and_table(banks, table_TD, target, has_layers=has_layers, where=str(peer / peer_format.table_name))
    soft = SoftTokens(banks, table_TD)
    files = PeerFiles(
        project=peer_format.name,
        tokens=_entry(peer, peer_format.tokens_name),
        table=_entry(peer, peer_format.table_name),
    )
    return _write(out, _adapter_config(soft, files, family, target), soft)


def unverified(config: AdapterConfig) -> tuple[str, ...]:
    """Return, in sentences, what a converted adapter claims and nobody could check."""
    facts = [
        "The files do not say which model, blocks or position they were trained for; the published layout is assumed."
    ]
    if config.base_fingerprint is None:
        facts.append("No base model was at hand: the tokens load with force=True alone.")
    return tuple(facts)


def _format_of(peer: Path) -> PeerFormat:
    found = [one for one in FORMATS if (peer / one.tokens_name).is_file() and (peer / one.table_name).is_file()]
    expected = " or ".join(f"{one.tokens_name} with {one.table_name} ({one.name})" for one in FORMATS)
    if not found:
        names = sorted(path.name for path in peer.glob("*.pth")) if peer.is_dir() else []
        raise MissingInputError(
            "There is no checkpoint of SoftREPA or AGSM.",
            expected=expected,
            found=", ".join(names) or "no .pth file",
            where=str(peer),
        )
    if len(found) > 1:
        raise ConfigError(
            "The folder holds checkpoints of both projects.",
            expected=expected,
            where=str(peer),
            fix="move one of them into a folder of its own",
        )
    return found[0]


def _read(path: Path, allowed: list[Any]) -> Any:
    """Return what a file of ``torch.save`` holds, with no class but tensors and the allowed ones.

    Raises:
        DataError: it holds something else, or is damaged.
    """
    try:
        with torch.serialization.safe_globals(allowed), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what damaged or hostile bytes raise is not bounded
        reason = re.search(r"(Unsupported global|Unsupported \w+|Trying to).*", str(error))
        raise DataError(
            "The file holds something else than a checkpoint's tensors, or is damaged; nothing of it was run.",
            expected="tensors" + "".join(f" and {kind.__name__}" for kind in allowed),
            found=(reason.group(0) if reason else str(error).splitlines()[0] if str(error) else type(error).__name__)[
                :300
            ],
            where=str(path),
            fix="do not load it in another way unless you trust who made it",
        ) from error


def _read_tokens(path: Path) -> Tensor:
    return _float32(_read(path, []), path)


def _read_table(path: Path) -> Tensor:
    table = _read(path, [nn.Embedding])
    if type(table) is not nn.Embedding or set(vars(table).get("_parameters", ())) != {"weight"}:
        raise DataError(
            "The timestep table is not an embedding.",
            expected="nn.Embedding",
            found=type(table).__name__,
            where=str(path),
        )
    if vars(table).get("max_norm") is not None:
        raise DataError(
            "The timestep table rescales its rows when it is read.", expected="max_norm None", where=str(path)
        )
    return _float32(vars(table)["_parameters"]["weight"], path)


def _float32(value: Any, path: Path) -> Tensor:
    """Return a tensor's own numbers in float32.

    Raises:
        DataError: no dense tensor, a type float32 does not hold exactly, or numbers that are not finite.
    """
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_meta or value.is_quantized:
        raise DataError(
            "The file holds no tensor.", expected="a dense tensor", found=type(value).__name__, where=str(path)
        )
    if value.dtype not in _EXACT_DTYPES:
        raise DataError(
            "The tensor's type cannot be kept.",
            expected=", ".join(map(str, _EXACT_DTYPES)),
            found=str(value.dtype),
            where=str(path),
        )
    tensor = value.detach().to(torch.float32).clone()
    if not bool(torch.isfinite(tensor).all()):
        raise DataError("The tensor holds numbers that are not finite.", where=str(path))
    return tensor


def _published_base(family: PeerFamily) -> _Base:
    return _Base(_FAMILIES[family].model, _FAMILIES[family].width)


def _read_base(folder: Path, family: PeerFamily) -> _Base:
    """Return what a local base model's denoiser says about its tokens.

    Raises:
        MissingInputError: no such folder, or no denoiser of the family in it.
        CompatibilityError: an MMDiT of another family.
    """
    from diffusers import SD3Transformer2DModel, UNet2DConditionModel

    from softalign.backbones.mmdit import QK_NORMS
    from softalign.backbones.unet import text_width

    kind: Any = SD3Transformer2DModel if family == "sd3" else UNet2DConditionModel
    subfolder = _FAMILIES[family].subfolder
    if not (folder / subfolder / "config.json").is_file():
        raise MissingInputError(
            "This is no base model of the family.",
            expected=f"a local folder in diffusers layout with {subfolder}/ ({family})",
            where=str(folder),
        )
    try:
        denoiser = kind.from_pretrained(folder, subfolder=subfolder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise MissingInputError(
            "The base model cannot be loaded.", found=str(error).splitlines()[0], where=str(folder / subfolder)
        ) from error
    if family != "sd3":
        return _Base(str(folder), text_width(denoiser), fingerprint_of(denoiser))
    if denoiser.config.qk_norm != QK_NORMS[family]:
        raise CompatibilityError(
            "The base model is of another family.",
            expected=f"qk_norm {QK_NORMS[family]} ({family})",
            found=f"qk_norm {denoiser.config.qk_norm}",
            where=str(folder),
        )
    return _Base(
        str(folder),
        int(denoiser.config.caption_projection_dim),
        fingerprint_of(denoiser),
        denoiser.context_embedder,
        len(denoiser.transformer_blocks),
    )


def _banks(tokens: Tensor, peer_format: PeerFormat, *, has_layers: bool, where: str) -> Tensor:
    """Return tokens with the axis of banks, (K, S, D) or (K, N, S, D)."""
    banks = tokens[None] if peer_format.num_banks == 1 else tokens
    if banks.ndim != 3 + has_layers or banks.shape[0] != peer_format.num_banks or 0 in banks.shape:
        axes = (
            (["2 banks"] if peer_format.num_banks == 2 else [])
            + (["layers"] if has_layers else [])
            + ["tokens", "width"]
        )
        raise CompatibilityError(
            "The tokens' shape is not that of the format and the backbone.",
            expected=f"({', '.join(axes)})",
            found=str(tuple(tokens.shape)),
            where=where,
            fix="check --backbone",
        )
    return banks


@torch.no_grad()
def _at_width(banks: Tensor, base: _Base, *, where: str) -> Tensor:
    """Return banks of the base's width: as they are, or through SD3's context embedder (older SoftREPA files)."""
    width = banks.shape[-1]
    if width == base.width:
        return banks
    if base.embedder is not None and width == base.embedder.in_features:
        weight, bias = base.embedder.weight.float(), base.embedder.bias.float()
        return functional.linear(banks, weight, bias)
    is_old = base.fingerprint is None and width == 4096  # the width of T5's states, SD3's joint text
    raise CompatibilityError(
        "The tokens do not have the width of the base model's text states.",
        expected=f"width {base.width}" + (f" or {base.embedder.in_features}" if base.embedder else ""),
        found=f"width {width}",
        where=where,
        fix="these older tokens need the base model's context embedder: name its folder with --base"
        if is_old and base.width == _FAMILIES["sd3"].width
        else "check --backbone and --base",
    )


def _check_layers_and_table(banks: Tensor, table_TD: Tensor, base: _Base, *, has_layers: bool, where: str) -> None:
    num_layers = banks.shape[1] if has_layers else 1
    if base.num_layers is not None and num_layers > base.num_layers:
        raise CompatibilityError(
            "The tokens are for more blocks than the base model has.",
            expected=f"at most {base.num_layers} layers",
            found=f"{num_layers} layers",
            where=where,
        )
    expected = (NUM_TIMESTEP_BINS, num_layers * base.width)
    if tuple(table_TD.shape) != expected:
        raise CompatibilityError(
            "The timestep table does not belong to these tokens.",
            expected=str(expected),
            found=str(tuple(table_TD.shape)),
            where=where,
        )


def _entry(peer: Path, name: str) -> FileEntry:
    return file_entry(peer / name, name)


def _placement_of(soft: SoftTokens) -> Placement:
    """Return where both projects' published code puts the tokens."""
    if soft.num_layers is None:
        return UNetPlacement(blocks=("down", "mid"), position="after_bos")
    return MMDiTPlacement(num_layers=soft.num_layers, layers="first", position="append")


def _adapter_config(soft: SoftTokens, files: PeerFiles, family: PeerFamily, base: _Base) -> AdapterConfig:
    return AdapterConfig(
        base_model=base.model,
        base_model_revision="",
        family=family,
        placement=_placement_of(soft),
        num_soft_tokens=soft.num_soft_tokens,
        num_banks=2 if soft.num_banks == 2 else 1,
        width=soft.width,
        timestep_bins=soft.num_timestep_bins,
        has_ema=False,
        objective=files.project,
        num_steps=0,
        samples_seen=0,
        dataset_digest="",
        library_version=__version__,
        weights_sha256="",
        base_fingerprint=base.fingerprint,
        converted_from=files,
    )


def _write(out: Path, config: AdapterConfig, soft: SoftTokens) -> AdapterConfig:
    """Write the adapter folder whole or not at all."""
    partial = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        final = save_adapter(partial, config, soft, None)
        card = converted_card(final, out.name, unverified(final))
        write_atomically(partial / "README.md", card.encode())
        partial.replace(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return final
