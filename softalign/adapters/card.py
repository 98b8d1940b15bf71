"""The card that goes with an adapter: what it is, how it is used, what it was made from."""

from __future__ import annotations

from collections.abc import Sequence

from softalign.adapters.files import AdapterConfig
from softalign.config.families import FAMILIES, is_embedded
from softalign.config.training import TrainConfig

_HEADER = """---
library_name: softalign
base_model: {base_model}
tags: [text-to-image, diffusion, soft-tokens]
---

# {name}

"""
_CARD = (
    _HEADER
    + """Soft text tokens for `{base_model}`{revision}, trained for text alignment without a reward model
(objective `{objective}`). The base model is unchanged; {num_soft_tokens} tokens are inserted {place}.

```python
import torch
from diffusers import {pipeline}
from softalign import load_soft_tokens
{imports}
pipe = {pipeline}.from_pretrained({location}{without_t5}, dtype=torch.float32)
handle = load_soft_tokens(pipe, "PATH_OF_THIS_FOLDER", scale=1.0)
```

| | |
| --- | --- |
{rows}

`metrics.jsonl` holds one row per step, `initial/` the same tokens before training: compare with both the base model and
these, since inserting tokens changes images even without training. Adapters inherit the licence and the limits of their
base model.
"""
)
_CONVERTED = (
    _HEADER
    + """Soft text tokens for `{base_model}`, converted from a checkpoint of {project} (not trained here).
The base model is unchanged; {num_soft_tokens} tokens are inserted {place}.

```python
import torch
from diffusers import {pipeline}
from softalign import load_soft_tokens

pipe = {pipeline}.from_pretrained({location}, dtype=torch.float32)
handle = load_soft_tokens(pipe, "PATH_OF_THIS_FOLDER"{force})
```

Not verified:
{unverified}

| | |
| --- | --- |
{rows}

The tokens are their authors' work, under their licence, with the limits of the base model.
"""
)
_PROJECTS = {"agsm": "AGSM (arXiv 2605.30038)", "softrepa": "SoftREPA (arXiv 2503.08250)"}


def model_card(config: AdapterConfig, training: TrainConfig, name: str) -> str:
    """Return the card's Markdown."""
    objective = training.objective.model_dump(mode="json", exclude_none=True)
    facts = {
        "updates": config.num_steps,
        "images seen": config.samples_seen,
        "images per update": training.batch_size,
        "objective": ", ".join(f"{field} {value}" for field, value in objective.items()),
        "learning rate": f"{training.optimizer.learning_rate:g} ({training.optimizer.schedule})",
        "noise": training.noise_sharing,
        "average (EMA) decay": training.ema_decay,
        "seed": training.seed,
        **({"T5 positions": config.max_sequence_length} if config.has_t5 else {}),
        "tokens / banks / timestep bins": f"{config.num_soft_tokens} / {config.num_banks} / {config.timestep_bins}",
        "dataset digest": f"`{config.dataset_digest}`",
        "weights sha256": f"`{config.weights_sha256}`",
        "library": f"softalign {config.library_version}",
    }
    is_of_shapes = is_embedded(config.base_model)
    return _CARD.format(
        name=name,
        base_model=config.base_model,
        imports="from softalign.shapes import weights_path\n" if is_of_shapes else "",
        location=f'weights_path("{config.family}")' if is_of_shapes else repr(config.base_model),
        revision=f" (revision {config.base_model_revision})" if config.base_model_revision else "",
        objective=config.objective,
        num_soft_tokens=config.num_soft_tokens,
        place=config.placement.text,
        without_t5=", text_encoder_3=None, tokenizer_3=None" if config.has_t5 is False else "",
        pipeline=FAMILIES[config.family].pipeline,
        rows="\n".join(f"| {fact} | {value} |" for fact, value in facts.items()),
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
    facts = {
        "tokens / banks / timestep bins": f"{config.num_soft_tokens} / {config.num_banks} / "
        f"{config.timestep_bins or 'no timestep table'}",
        **{f"sha256 of `{entry.path}`": f"`{entry.sha256}`" for entry in (files.tokens, files.table) if entry},
        "weights sha256": f"`{config.weights_sha256}`",
        "library": f"softalign {config.library_version}",
    }
    return _CONVERTED.format(
        name=name,
        base_model=config.base_model,
        project=_PROJECTS[files.project],
        location=repr(config.base_model),
        force="" if config.base_fingerprint else ", force=True",
        num_soft_tokens=config.num_soft_tokens,
        place=config.placement.text,
        pipeline=FAMILIES[config.family].pipeline,
        unverified="\n".join(f"- {fact}" for fact in unverified),
        rows="\n".join(f"| {fact} | {value} |" for fact, value in facts.items()),
    )
