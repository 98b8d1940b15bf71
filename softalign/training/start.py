"""Where a run's tokens start: drawn, or those of an adapter that was trained before (``train.init_from``)."""

from __future__ import annotations

import copy
import logging
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load, save_file
from torch import Tensor

from softalign.adapters.files import load_adapter, placement_of, read_adapter_config
from softalign.adapters.locating import resolve_adapter
from softalign.backbones.base import Backbone
from softalign.config.backbone import BackboneConfig
from softalign.config.training import TrainConfig
from softalign.errors import CompatibilityError
from softalign.method.soft_tokens import (
    SoftTokens,
    TokensShape,
    soft_tokens_from_bos,
    soft_tokens_from_normal,
    soft_tokens_from_padding,
)
from softalign.method.text_states import TextStates
from softalign.store.files import replacing
from softalign.training.checkpoints import TrainingState
from softalign.training.pair_grid import num_banks
from softalign.training.process_group import ProcessGroup

logger = logging.getLogger(__name__)

START_STATES = "start_states.safetensors"


def starting_tokens(config: TrainConfig, backbone: BackboneConfig, drawn: SoftTokens) -> SoftTokens:
    """Return the step-0 tokens: ``drawn``, or the last (not the averaged) tokens of the adapter at ``init_from``.

    Args:
        config: says where an adapter lies, if the run starts from one.
        backbone: the frozen model.
        drawn: tokens of this run's shape.

    Raises:
        CompatibilityError: the adapter is of another family, or its tokens have another shape or place.
        MissingInputError: there is no adapter.
        IntegrityError: its weights are not those of its configuration.
    """
    if config.init_from is None:
        return drawn
    folder = resolve_adapter(config.init_from)
    adapter = read_adapter_config(folder)
    if adapter.family != backbone.family:
        raise CompatibilityError(
            "The adapter to start from belongs to another family.",
            expected=backbone.family,
            found=adapter.family,
            where=config.init_from,
            fix="start from an adapter of this family, or unset train.init_from",
        )
    loaded = load_adapter(folder)
    _require_same_shapes(loaded, drawn, config.init_from)
    placement = placement_of(config.soft_tokens)
    if adapter.placement != placement:
        raise CompatibilityError(
            "The adapter to start from has its tokens in another place.",
            expected=placement.text,
            found=adapter.placement.text,
            where=config.init_from,
            fix="place train.soft_tokens as that adapter has them, or unset train.init_from",
        )
    if adapter.base_model != backbone.model:
        logger.warning("the tokens start from an adapter of %s, and train on %s", adapter.base_model, backbone.model)
    return loaded


def _require_same_shapes(loaded: SoftTokens, drawn: SoftTokens, where: str) -> None:
    expected, found = _shapes(drawn), _shapes(loaded)
    if expected != found:
        raise CompatibilityError(
            "The adapter to start from has tokens of another shape.",
            expected=expected,
            found=found,
            where=where,
            fix="start from an adapter with a timestep table, which training always has, or unset train.init_from"
            if loaded.timestep_offsets is None
            else "set train.soft_tokens and train.objective.banks as that adapter has them, or unset train.init_from",
        )


def _shapes(tokens: SoftTokens) -> str:
    table = tokens.timestep_offsets
    return f"banks {tuple(tokens.banks.shape)}, timestep_offsets {'none' if table is None else tuple(table.shape)}"


def start_states(
    config: TrainConfig, backbone: Backbone, empty: TextStates, group: ProcessGroup, folder: Path
) -> Float[Tensor, "*N D"]:
    """Return the states that tokens start as, none where they are drawn; of padding the first attempt's are kept.

    So a run that is taken up on another device ends with the step-0 tokens that it began with.

    Args:
        config: says what the tokens start from.
        backbone: the frozen model.
        empty: the empty prompt's text states, one row.
        group: the ranks, which all call this; rank 0's answer is everyone's.
        folder: where rank 0 keeps it.

    Raises:
        ConfigError: the tokens cannot be placed so in this denoiser.
    """
    if config.soft_tokens.init == "normal":
        return torch.empty(0)
    states = backbone.start_states(config.soft_tokens, empty)
    if config.soft_tokens.init == "bos":
        return states
    path = folder / START_STATES
    if group.is_leader and not path.is_file():
        with replacing(path) as made:
            save_file({"states": states}, made)
    kept: Tensor = load(group.from_leader(path.read_bytes() if group.is_leader else b""))["states"]
    return kept


def initial_tokens(config: TrainConfig, states: Float[Tensor, "*N D"], width: int) -> SoftTokens:
    """Return the step-0 tokens of a run: a function of its configuration and of states of the empty prompt.

    Args:
        config: shape, start and seed.
        states: what ``init`` copies, see ``Backbone.start_states``; not looked at where it is ``normal``.
        width: of the tokens.
    """
    soft = config.soft_tokens
    generator = torch.Generator().manual_seed(config.seed)
    shape = TokensShape(num_banks(config.objective), soft.num_soft_tokens, soft.num_timestep_bins, soft.num_layers)
    if soft.init == "bos":
        return soft_tokens_from_bos(states, shape, std=soft.init_std, generator=generator)
    if soft.init == "padding":
        return soft_tokens_from_padding(states, shape, std=soft.init_std)
    return soft_tokens_from_normal(width, shape, std=soft.init_std, generator=generator)


def initial_state(config: TrainConfig, start: SoftTokens, device: torch.device) -> TrainingState:
    """Return live tokens and an average that start as copies of ``start``, and a fresh AdamW."""
    live, ema = (copy.deepcopy(start).to(device) for _ in range(2))
    ema.requires_grad_(False)
    settings = config.optimizer
    optimizer = torch.optim.AdamW(
        live.parameters(),
        lr=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        weight_decay=settings.weight_decay,
    )
    return TrainingState(live, ema, optimizer)
