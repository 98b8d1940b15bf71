"""Checkpoints of SoftREPA and AGSM as adapters of this library: what ``softalign convert`` does.

The files say which shape the tokens have, not where they stand. Blocks, end of the layers, banks and whether there is
a timestep table are facts of a checkpoint: stated (``CheckpointFacts``), or taken from the published checkpoint of
that project and backbone, and then said to be assumed. Nothing is written unless everything fits.

Shape legend: K banks, N layers, S soft tokens, D width, T timestep bins.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from softalign.adapters.card import converted_card
from softalign.adapters.checkpoint_facts import Block, CheckpointFacts, check_facts, with_stated
from softalign.adapters.files import AdapterConfig, MMDiTPlacement, PeerFiles, Placement, UNetPlacement, save_adapter
from softalign.adapters.peer_bases import OLD_SD3_WIDTH, Base, PeerFamily, published_base, read_base
from softalign.adapters.peer_files import PeerCheckpoint, PeerFormat, checkpoint_in
from softalign.config.families import FAMILIES
from softalign.errors import CompatibilityError, MissingInputError
from softalign.method.soft_tokens import SoftTokens
from softalign.store.adapter_files import CARD_FILENAME
from softalign.store.files import file_entry, replacing, require_free_folder
from softalign.version import __version__

NUM_TIMESTEP_BINS = 100
"""Rows of both projects' tables: one for ten timesteps."""


@dataclass(frozen=True)
class _Published:
    """A published checkpoint, by its authors' scripts; ``blocks`` is empty for SD3, whose layers are the first."""

    num_soft_tokens: int
    has_table: bool
    blocks: tuple[Block, ...] = ()
    num_layers: int | None = None

    @property
    def text(self) -> str:
        """Its shape, in words."""
        layers = "" if self.num_layers is None else f" in each of {self.num_layers} layers"
        return f"{self.num_soft_tokens} tokens{layers} {'with' if self.has_table else 'without'} a timestep table"


_PUBLISHED: dict[tuple[str, PeerFamily], _Published] = {
    ("softrepa", "sd15"): _Published(4, True, ("down",)),
    ("softrepa", "sdxl"): _Published(8, False, ("down", "mid")),
    ("softrepa", "sd3"): _Published(4, True, num_layers=5),
    ("agsm", "sd15"): _Published(4, True, ("down", "mid")),
    ("agsm", "sdxl"): _Published(4, True, ("down", "mid")),
    ("agsm", "sd3"): _Published(4, True, num_layers=5),
}


def convert(
    peer: Path, out: Path, family: PeerFamily, base: Path | None = None, facts: CheckpointFacts | None = None
) -> AdapterConfig:
    """Write an adapter folder with a peer checkpoint's tokens and return its configuration.

    One bank becomes psi+. Values are the file's own, except that SD3 tokens from before the context embedder go through
    it. Without ``base`` the adapter has no fingerprint, so it loads with ``force=True`` alone.

    Args:
        peer: folder with the files of SoftREPA or of AGSM; without the table's file there are no timestep offsets.
        out: the adapter folder; must not exist, or be empty.
        family: of the base model.
        base: a local folder of the base model in diffusers layout.
        facts: what differs from the published checkpoint of that project and family.

    Raises:
        MissingInputError: ``peer`` holds neither project's files, or ``base`` is no model folder.
        DataError: a file is not what the project saves: other classes, types or numbers.
        CompatibilityError: shapes that do not fit together, the family, the facts or the base.
        ConfigError: ``out`` is taken, ``peer`` holds both projects' files, or a fact is of another kind of backbone.
    """
    facts, found = facts or CheckpointFacts(), checkpoint_in(peer)
    check_facts(facts, family)
    require_free_folder(out)
    facts, project = with_stated(facts, found, family), found.project
    tokens_path, table_path, tokens = found.tokens_path, found.table_path, found.tokens()
    table_TD = found.table() if _has_table(found, facts) else None
    target = read_base(base, family) if base is not None else published_base(family)
    num_banks, is_unet = facts.num_banks or project.num_banks, FAMILIES[family].is_unet
    banks = _banks(tokens, num_banks, has_layers=not is_unet, where=str(tokens_path))
    soft = SoftTokens(_at_width(banks, target, where=str(tokens_path)), table_TD)
    _check_layers_and_table(soft, target, where=str(tokens_path if table_TD is None else table_path))
    files = PeerFiles(
        project=project.name,
        tokens=file_entry(tokens_path, tokens_path.name),
        table=None if table_TD is None else file_entry(table_path, table_path.name),
        assumed=_assumed(soft, project, family, facts, is_embedded=banks.shape[-1] != target.width),
    )
    placement = _placement_of(soft, _PUBLISHED[project.name, family], facts)
    return _write(out, _adapter_config(soft, files, placement, family, target), soft)


def unverified(config: AdapterConfig) -> tuple[str, ...]:
    """Return, in sentences, what a converted adapter claims and what could not be checked."""
    assumed = config.converted_from.assumed if config.converted_from else ()
    if config.base_fingerprint is None:
        return (*assumed, "No base model was at hand: the tokens load with force=True alone.")
    return assumed


def _has_table(found: PeerCheckpoint, facts: CheckpointFacts) -> bool:
    if facts.has_table and not found.has_table:
        where, fix = str(found.table_path.parent), "add it, or use --no-table"
        raise MissingInputError("The timestep table is missing.", expected=found.table_path.name, where=where, fix=fix)
    return found.has_table and facts.has_table is not False


def _banks(tokens: Tensor, num_banks: int, *, has_layers: bool, where: str) -> Tensor:
    """Return tokens with the axis of banks, (K, S, D) or (K, N, S, D)."""
    num_axes = 3 + has_layers
    banks = tokens[None] if num_banks == 1 and tokens.ndim == num_axes - 1 else tokens
    if banks.ndim != num_axes or banks.shape[0] != num_banks or 0 in banks.shape:
        axes = ([f"{num_banks} banks"] if num_banks > 1 else []) + (["layers"] if has_layers else [])
        raise CompatibilityError(
            "The tokens' shape is not that of the format and the backbone.",
            expected=f"({', '.join([*axes, 'tokens', 'width'])})",
            found=str(tuple(tokens.shape)),
            where=where,
            fix="check --backbone and --banks",
        )
    return banks


@torch.no_grad()
def _at_width(banks: Tensor, base: Base, *, where: str) -> Tensor:
    """Return banks of the base's width: as they are, or through SD3's context embedder (older SoftREPA files)."""
    width = banks.shape[-1]
    if width == base.width:
        return banks
    if base.embedder is not None and width == base.embedder.in_features:
        weight, bias = base.embedder.weight.float(), base.embedder.bias.float()
        return functional.linear(banks, weight, bias)
    is_old = base.fingerprint is None and width == OLD_SD3_WIDTH
    raise CompatibilityError(
        "The tokens do not have the width of the base model's text states.",
        expected=f"width {base.width}" + (f" or {base.embedder.in_features}" if base.embedder else ""),
        found=f"width {width}",
        where=where,
        fix="these older tokens need the base model's context embedder: name its folder with --base"
        if is_old and base.width == published_base("sd3").width
        else "check --backbone and --base",
    )


def _check_layers_and_table(soft: SoftTokens, base: Base, *, where: str) -> None:
    num_layers = soft.num_layers or 1
    if base.num_layers is not None and num_layers > base.num_layers:
        raise CompatibilityError(
            "The tokens are for more blocks than the base model has.",
            expected=f"at most {base.num_layers} layers",
            found=f"{num_layers} layers",
            where=where,
        )
    expected = (NUM_TIMESTEP_BINS, num_layers * base.width)
    if soft.timestep_offsets is not None and tuple(soft.timestep_offsets.shape) != expected:
        raise CompatibilityError(
            "The timestep table does not belong to these tokens.",
            expected=str(expected),
            found=str(tuple(soft.timestep_offsets.shape)),
            where=where,
        )


def _placement_of(soft: SoftTokens, published: _Published, facts: CheckpointFacts) -> Placement:
    if soft.num_layers is None:
        return UNetPlacement(blocks=facts.blocks or published.blocks, position="after_bos")
    return MMDiTPlacement(num_layers=soft.num_layers, layers=facts.layers or "first", position="append")


def _assumed(
    soft: SoftTokens, project: PeerFormat, family: PeerFamily, facts: CheckpointFacts, *, is_embedded: bool
) -> tuple[str, ...]:
    """Return, in sentences, what the files do not say and the user did not state."""
    published = _PUBLISHED[project.name, family]
    name = f"{project.title}'s published {family} checkpoint"
    sentences = ["The files do not say which model or position they were trained for; the published ones are assumed."]
    if (facts.layers if published.num_layers else facts.blocks) is None:
        place = f"first {soft.num_layers} joint" if soft.num_layers else " and ".join(published.blocks)
        sentences.append(f"The {place} blocks are assumed, as in {name}.")
        own = _Published(soft.num_soft_tokens, soft.timestep_offsets is not None, published.blocks, soft.num_layers)
        if own != published:
            option = "--layers" if published.num_layers else "--blocks"
            sentences.append(f"But {name} has {published.text}, and this one {own.text}: check {option}.")
    if soft.timestep_offsets is None:
        reason = "is left out, as asked" if facts.has_table is False else "is not there"
        sentences.append(f"{project.table_name} {reason}: the tokens are the same at every timestep.")
    if is_embedded:
        sentences.append("The tokens are older ones: they went through the context embedder of the base model.")
    if project.name == "agsm" and family == "sdxl" and soft.num_banks > 1:
        sentences.append(
            "AGSM's own sampler for SDXL uses psi- on the unconditional branch: unconditional_bank='negative'."
        )
    return tuple(sentences)


def _adapter_config(
    soft: SoftTokens, files: PeerFiles, placement: Placement, family: PeerFamily, base: Base
) -> AdapterConfig:
    return AdapterConfig(
        base_model=base.model,
        base_model_revision="",
        family=family,
        placement=placement,
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
    with replacing(out) as made:
        final = save_adapter(made, config, soft, None)
        card = converted_card(final, out.name, unverified(final))
        (made / CARD_FILENAME).write_bytes(card.encode())
    return final
