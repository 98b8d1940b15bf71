"""The card that goes with an adapter: what it is, how it is used, what it was made from; facts alone.

A fact that is not known has no line. The card of a training knows recipe and data; registration adds the scores, the
pictures and what changed in the data (``softalign.registry.card``); export brings it to the hub.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from softalign.adapters.card_metadata import front_matter, licence_text
from softalign.adapters.files import AdapterConfig
from softalign.artifacts import EncodedManifest
from softalign.config.families import FAMILIES, is_embedded
from softalign.config.training import TrainConfig

_PROJECTS = {"agsm": "AGSM (arXiv 2605.30038)", "softrepa": "SoftREPA (arXiv 2503.08250)"}


def model_card(
    config: AdapterConfig,
    name: str,
    training: TrainConfig | None = None,
    encoded: EncodedManifest | None = None,
    edits: str = "",
) -> str:
    """Return the Markdown card of an adapter that was trained with this library.

    Args:
        config: of the adapter.
        name: of the adapter.
        training: how it was trained; None: only what ``config`` says is known.
        encoded: what it was trained on; None likewise.
        edits: the share of each kind among the hard negatives that training used; empty: there were none.
    """
    revision = f" (revision {config.base_model_revision})" if config.base_model_revision else ""
    intro = (
        f"Soft text tokens for `{config.base_model}`{revision}, trained for text alignment without a reward model "
        f"(objective `{config.objective}`). The base model is unchanged; {config.num_soft_tokens} tokens are inserted "
        f"{config.placement.text}."
    )
    files = (
        "`metrics.jsonl` holds one row per step, `initial/` the same tokens before training: compare with both the "
        "base model and these, since inserting tokens changes images even without training."
    )
    data = _data(config, encoded)
    return _card(
        f"{front_matter(config)}# {name}",
        intro,
        _how_to_load(config),
        _section("Recipe", _table(_recipe(config, training, edits)), *([] if training is None else [files])),
        _section("Data", _table(data)) if data else "",
        _section("Limits", _list(_limits(config))),
    )


def converted_card(config: AdapterConfig, name: str, unverified: Sequence[str]) -> str:
    """Return the Markdown card of an adapter converted from another project's files.

    Args:
        config: its ``converted_from`` is set.
        name: of the adapter.
        unverified: in sentences, what could not be checked.
    """
    assert config.converted_from is not None  # noqa: S101  what makes it a converted one
    files = config.converted_from
    intro = (
        f"Soft text tokens for `{config.base_model}`, converted from a checkpoint of {_PROJECTS[files.project]} (not "
        f"trained here). The base model is unchanged; {config.num_soft_tokens} tokens are inserted "
        f"{config.placement.text}."
    )
    facts = {
        "tokens / banks / timestep bins": f"{config.num_soft_tokens} / {config.num_banks} / "
        f"{config.timestep_bins or 'no timestep table'}",
        **{f"sha256 of `{entry.path}`": f"`{entry.sha256}`" for entry in (files.tokens, files.table) if entry},
        **_identity(config),
    }
    return _card(
        f"{front_matter(config)}# {name}",
        intro,
        _how_to_load(config),
        _section("Not verified", _list(unverified)),
        _section("Files", _table(facts)),
        _section("Limits", _list(_limits(config))),
    )


def _limits(config: AdapterConfig) -> tuple[str, ...]:
    """Return in sentences what an adapter cannot do, as far as its configuration says it."""
    checked = "another base model is refused when the tokens are loaded."
    if config.base_fingerprint is None:
        checked = "which model it is cannot be checked, as it was not at hand when the tokens were converted."
    return (
        f"For `{config.base_model}` and copies of it alone: {checked}",
        "What the base model cannot draw, and what it draws with a bias, the tokens were not made to change.",
        licence_text(config),
    )


def _card(*sections: str) -> str:
    return "\n\n".join(section for section in sections if section) + "\n"


def _section(title: str, *parts: str) -> str:
    return "\n\n".join((f"## {title}", *parts))


def _table(facts: Mapping[str, object]) -> str:
    return "\n".join(["| | |", "| --- | --- |", *(f"| {fact} | {value} |" for fact, value in facts.items())])


def _list(sentences: Iterable[str]) -> str:
    return "\n".join(f"- {sentence}" for sentence in sentences)


def _how_to_load(config: AdapterConfig) -> str:
    is_of_shapes = is_embedded(config.base_model)
    pipeline = FAMILIES[config.family].pipeline
    location = f'weights_path("{config.family}")' if is_of_shapes else repr(config.base_model)
    without_t5 = ", text_encoder_3=None, tokenizer_3=None" if config.has_t5 is False else ""
    has_revision = bool(config.base_model_revision) and not is_of_shapes
    revision = f", revision={config.base_model_revision!r}" if has_revision else ""
    force = "" if config.base_fingerprint else ", force=True"
    lines = (
        "```python",
        "import torch",
        f"from diffusers import {pipeline}",
        "from softalign import load_soft_tokens",
        *(["from softalign.shapes import weights_path"] if is_of_shapes else []),
        "",
        f"pipe = {pipeline}.from_pretrained({location}{revision}{without_t5}, dtype=torch.float32)",
        f'handle = load_soft_tokens(pipe, "PATH_OF_THIS_FOLDER", scale=1.0{force})  # or its hub id, OWNER/NAME',
        "```",
    )
    return _section("How to load", "\n".join(lines))


def _recipe(config: AdapterConfig, training: TrainConfig | None, edits: str) -> dict[str, object]:
    facts: dict[str, object] = {"updates": config.num_steps, "images seen": config.samples_seen}
    if training is not None:
        objective = training.objective.model_dump(mode="json", exclude_none=True)
        facts |= {
            "images per update": training.batch_size,
            "objective": ", ".join(f"{field} {value}" for field, value in objective.items()),
            "learning rate": f"{training.optimizer.learning_rate:g} ({training.optimizer.schedule})",
            "noise": training.noise_sharing,
            "average (EMA) decay": training.ema_decay,
            "seed": training.seed,
        }
    facts |= {"edits of captions among the negatives": edits} if edits else {}
    facts |= {"T5 positions": config.max_sequence_length} if config.has_t5 else {}
    shape = f"{config.num_soft_tokens} / {config.num_banks} / {config.timestep_bins}"
    return {**facts, "tokens / banks / timestep bins": shape, **_identity(config)}


def _identity(config: AdapterConfig) -> dict[str, object]:
    return {"weights sha256": f"`{config.weights_sha256}`", "library": f"softalign {config.library_version}"}


def _data(config: AdapterConfig, encoded: EncodedManifest | None) -> dict[str, object]:
    counts: dict[str, object] = {}
    if encoded is not None:
        counts = {
            "dataset": encoded.name,
            "images": encoded.num_samples,
            "of these held out for validation": encoded.num_val_samples,
            "different texts encoded": encoded.num_texts,
        }
    return {**counts, **({"dataset digest": f"`{config.dataset_digest}`"} if config.dataset_digest else {})}
