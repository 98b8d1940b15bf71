"""An adapter on disk: ``soft_tokens.safetensors`` and ``adapter_config.json``; loading is strict and knows its base.

Tensors: ``soft_tokens.positive`` (S, D), ``soft_tokens.negative`` (S, D, with two banks), ``timestep_offsets`` (T, D),
and the same under ``ema.`` for the averaged tokens. float32. Where each of N layers has its own tokens (MMDiT) they are
(N, S, D), and the table is (T, N * D). Tokens without a table have ``timestep_bins`` 0 and no such tensor: a table of
zeros would add the same nothing, and claim that one was trained.
"""

from __future__ import annotations

import json
import logging
from math import prod
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import torch
from pydantic import Field, ValidationError
from safetensors.torch import save
from torch import Tensor

from softalign.adapters.base_fingerprint import BaseFingerprint
from softalign.adapters.weights import read_tensors, require_finite
from softalign.artifacts import Family, FileEntry, Frozen, read_known, require_format
from softalign.config.soft_tokens import LayersEnd, SoftTokensConfig, UNetTokensConfig
from softalign.errors import CompatibilityError, IntegrityError, MissingInputError
from softalign.method.soft_tokens import SoftTokens
from softalign.problems import problems
from softalign.store.adapter_files import CONFIG_FILENAME, WEIGHTS_FILENAME
from softalign.store.files import sha256_of_file, write_atomically
from softalign.store.weights_file import MAX_CONFIG_BYTES
from softalign.version import __version__

logger = logging.getLogger(__name__)

SCHEMA_VERSION: Final = 1
EMA_PREFIX = "ema."
MEANING = ("placement",)
"""Fields that say where tokens act: one that is not known there is refused. Elsewhere it only adds information, as
what changes the meaning of the others comes with another ``schema_version``."""
BANK_NAMES = ("soft_tokens.positive", "soft_tokens.negative")
TABLE_NAME = "timestep_offsets"


class UNetPlacement(Frozen):
    """Which parts of a U-Net see the tokens, and at which position of the text."""

    blocks: tuple[Literal["down", "mid", "up"], ...]
    position: Literal["after_bos"]

    @property
    def layer_axis(self) -> tuple[int, ...]:
        """The tensors' axis of layers: none, all blocks see the same tokens."""
        return ()

    @property
    def text(self) -> str:
        """Where the tokens enter, in words."""
        return f"after the first position of the text, seen by the {' and '.join(self.blocks)} blocks"


class MMDiTPlacement(Frozen):
    """How many of an MMDiT's first or last joint blocks have tokens of their own, and at which position of the text."""

    num_layers: int
    layers: LayersEnd = "first"
    position: Literal["append"]

    @property
    def layer_axis(self) -> tuple[int, ...]:
        """The tensors' axis of layers."""
        return (self.num_layers,)

    @property
    def text(self) -> str:
        """Where the tokens enter, in words."""
        return f"at the end of the text of each of the {self.layers} {self.num_layers} joint blocks"


Placement = UNetPlacement | MMDiTPlacement


def placement_of(config: SoftTokensConfig) -> Placement:
    """Return where a training run's tokens enter."""
    if isinstance(config, UNetTokensConfig):
        return UNetPlacement(blocks=config.blocks, position="after_bos")
    return MMDiTPlacement(num_layers=config.num_layers, layers=config.layers, position="append")


class PeerFiles(Frozen):
    """The files of another project that an adapter was converted from.

    Attributes:
        table: None where the tokens have no timestep table.
        assumed: in sentences, what neither the files nor the user stated.
    """

    project: Literal["softrepa", "agsm"]
    tokens: FileEntry
    table: FileEntry | None
    assumed: tuple[str, ...] = ()


class AdapterConfig(Frozen):
    """``adapter_config.json``: what the tensors are, where they belong and what they were made from.

    Attributes:
        has_t5: whether an MMDiT's texts were encoded with T5; None for U-Nets, and where it is not known.
        max_sequence_length: of T5's part; None likewise.
        timestep_bins: rows of the timestep table; 0: there is none, the tokens are the same at every timestep.
        base_fingerprint: None where the tokens were converted without their base model: nothing can be checked.
        converted_from: another project's files; these do not tell ``num_steps``, ``samples_seen`` (0) and
            ``dataset_digest`` (empty).
    """

    type: Literal["SOFT_TOKENS"] = "SOFT_TOKENS"
    schema_version: Literal[1] = SCHEMA_VERSION
    base_model: str
    base_model_revision: str
    family: Family
    has_t5: bool | None = None
    max_sequence_length: Annotated[int, Field(ge=1, le=512)] | None = None
    placement: Placement
    num_soft_tokens: int
    num_banks: Literal[1, 2]
    width: int
    timestep_bins: Annotated[int, Field(ge=0)]
    has_ema: bool
    objective: str
    num_steps: int
    samples_seen: int
    dataset_digest: str
    library_version: str
    weights_sha256: str
    base_fingerprint: BaseFingerprint | None
    converted_from: PeerFiles | None = None


def tensors_of(tokens: SoftTokens, prefix: str = "") -> dict[str, Tensor]:
    """Return a module's tensors under their names in the file, float32 on the CPU."""
    banks = {name: tokens.banks[index] for index, name in enumerate(BANK_NAMES[: tokens.num_banks])}
    table = tokens.timestep_offsets
    named = banks if table is None else {**banks, TABLE_NAME: table}
    return {prefix + name: tensor.detach().to("cpu", torch.float32).clone() for name, tensor in named.items()}


def save_adapter(folder: Path, config: AdapterConfig, live: SoftTokens, ema: SoftTokens | None) -> AdapterConfig:
    """Write weights and configuration and return the configuration with the weights' sha256.

    Args:
        folder: made if absent.
        config: its ``weights_sha256`` is replaced.
        live: the trained tokens.
        ema: their average, if it is kept.
    """
    tensors = {**tensors_of(live), **(tensors_of(ema, EMA_PREFIX) if ema is not None else {})}
    write_atomically(folder / WEIGHTS_FILENAME, save(tensors))
    final = config.model_copy(update={"weights_sha256": sha256_of_file(folder / WEIGHTS_FILENAME)})
    text = json.dumps(final.model_dump(mode="json"), indent=1, sort_keys=True)
    write_atomically(folder / CONFIG_FILENAME, text.encode() + b"\n")
    return final


def read_adapter_config(folder: Path) -> AdapterConfig:
    """Return an adapter folder's configuration.

    Raises:
        MissingInputError: there is none.
        IntegrityError: it is not an adapter configuration.
        CompatibilityError: it is of another format version.
    """
    path = folder / CONFIG_FILENAME
    if not path.is_file():
        raise MissingInputError(
            "This is no adapter folder.", expected=f"{CONFIG_FILENAME} and {WEIGHTS_FILENAME}", where=str(folder)
        )
    stored: Any = None
    data = _bounded(path)
    try:
        stored = json.loads(data)
        require_format(stored, SCHEMA_VERSION, "This adapter", where=str(path), fix="fetch or train the adapter again")
        config, ignored = read_known(AdapterConfig, stored, strict=MEANING)
    except (ValueError, RecursionError) as error:
        is_record = isinstance(error, ValidationError)
        raise IntegrityError(
            f"{CONFIG_FILENAME} does not describe soft tokens this version can read.",
            found="; ".join(problems(error, AdapterConfig)) if isinstance(error, ValidationError) else str(error)[:200],
            where=str(path),
            fix=_update(stored) if is_record else "fetch or train the adapter again",
        ) from error
    if ignored:
        writer = f"softalign {config.library_version}"
        logger.warning("%s, by %s, has fields that are not known here: %s", path, writer, ", ".join(ignored))
    return config


def _update(stored: Any) -> str:
    """Return what to do about a configuration that is not understood, by who wrote it."""
    writer = stored.get("library_version") if isinstance(stored, dict) else None
    if not isinstance(writer, str) or writer == __version__:
        return "fetch or train the adapter again"
    return f"softalign {writer} wrote it, this is {__version__}: update softalign, or fetch the adapter again"


def _bounded(path: Path) -> bytes:
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise IntegrityError(
            f"{CONFIG_FILENAME} is too large to be one.",
            expected=f"at most {MAX_CONFIG_BYTES} bytes",
            found=f"{path.stat().st_size} bytes",
            where=str(path),
        )
    return path.read_bytes()


def load_adapter(folder: Path, *, use_ema: bool = False) -> SoftTokens:
    """Return the tokens of an adapter folder, every tensor of the file checked.

    Args:
        folder: holds weights and configuration.
        use_ema: the averaged tokens instead of the last ones.

    Raises:
        MissingInputError: a file is missing, or there are no averaged tokens.
        IntegrityError: the weights are not those the configuration was written for, not safetensors, or not finite.
        CompatibilityError: a tensor is missing, extra or misshaped, or the adapter is of another format version.
    """
    config = read_adapter_config(folder)
    path = folder / WEIGHTS_FILENAME
    if not path.is_file():
        raise MissingInputError("The adapter's weights are missing.", expected=WEIGHTS_FILENAME, where=str(folder))
    found_sha256 = sha256_of_file(path)
    if found_sha256 != config.weights_sha256:
        raise IntegrityError(
            "The adapter's weights are not those of its configuration.",
            expected=f"sha256 {config.weights_sha256}",
            found=f"sha256 {found_sha256}",
            where=str(path),
            fix="fetch the adapter again: `softalign pull NAME/VERSION --to` this folder repairs a pulled one",
        )
    if use_ema and not config.has_ema:
        raise MissingInputError(
            "The adapter holds no averaged tokens.",
            expected="has_ema",
            where=str(folder),
            fix="load with use_ema=False",
        )
    tensors = read_tensors(path)
    check_tensors(tensors, config, where=str(path))
    require_finite(tensors, where=str(path))
    prefix = EMA_PREFIX if use_ema else ""
    banks = [tensors[prefix + name] for name in BANK_NAMES[: config.num_banks]]
    return SoftTokens(torch.stack(banks), tensors.get(prefix + TABLE_NAME))  # checked: absent where timestep_bins is 0


def check_tensors(tensors: dict[str, Tensor], config: AdapterConfig, where: str) -> None:
    """Check that a file holds exactly the tensors of its configuration.

    Raises:
        CompatibilityError: names every tensor that is missing, extra, misshaped or not float32.
    """
    expected = _expected_shapes(config)
    problems = [f"{name} is missing" for name in expected if name not in tensors]
    problems += [f"{name} is not part of this adapter" for name in tensors if name not in expected]
    for name, shape in expected.items():
        found = tensors.get(name)
        if found is not None and tuple(found.shape) != shape:
            problems.append(f"{name} has shape {tuple(found.shape)}, not {shape}")
        elif found is not None and found.dtype != torch.float32:
            problems.append(f"{name} is {found.dtype}, not torch.float32")
    if problems:
        raise CompatibilityError(
            "The adapter's tensors are not those its configuration promises.",
            expected=", ".join(f"{name} {shape}" for name, shape in expected.items()),
            found="; ".join(problems),
            where=where,
        )


def _expected_shapes(config: AdapterConfig) -> dict[str, tuple[int, ...]]:
    layers = config.placement.layer_axis
    tokens, table = (*layers, config.num_soft_tokens, config.width), (config.timestep_bins, prod(layers) * config.width)
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(BANK_NAMES[: config.num_banks], tokens)
    if config.timestep_bins:
        shapes[TABLE_NAME] = table
    return {**shapes, **({EMA_PREFIX + name: shape for name, shape in shapes.items()} if config.has_ema else {})}
