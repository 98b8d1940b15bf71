"""An adapter for ComfyUI: one file, the node that reads it, and how they are installed."""

from __future__ import annotations

import shutil
from pathlib import Path

from safetensors.torch import save_file

from softalign.adapters.exporting import comfyui_node
from softalign.adapters.exporting.source import Source
from softalign.adapters.files import AdapterConfig
from softalign.artifacts import canonical_json
from softalign.config.families import is_embedded
from softalign.errors import CompatibilityError
from softalign.method.soft_tokens import POSITIVE_BANK

NODE_FOLDER = "softalign_soft_tokens"
_README = """# {name} for ComfyUI

Soft text tokens for `{base_model}`, {place}.

## Install

```sh
cp -r custom_nodes models COMFYUI_FOLDER/    # then start ComfyUI again
```

The node *Load Soft Tokens (softalign)* takes a MODEL and the file `{file}`, and gives a MODEL: put it behind the
checkpoint's loader and LoRAs, ahead of the sampler. Bypass it for the base model's own images. Several nodes in a row
insert several sets of tokens.

## What is to be known

- **It was not run inside ComfyUI.** The node was written against ComfyUI's public behaviour (wrappers of `apply_model`
  on a `ModelPatcher`, `attn2_patch` of U-Nets, `patches_replace["dit"]` of SD3's MMDiT) and is tested against a plain
  re-statement of these: on equal weights and inputs it gives the predictions of softalign's own insertion. It needs a
  ComfyUI with all three; where no block takes the tokens, sampling stops with an error.
- Text is encoded by ComfyUI, whose padding (T5's of SD3) need not be that of diffusers, for which the tokens were
  trained. Prompts of more than one chunk (75 words or so) are cut in diffusers and were not trained; ComfyUI repeats
  the shorter of two texts to the longer one's length, which weakens the tokens in it.
- The base model is told by the width of its text alone: use `{base_model}`, or models trained from it.
- The strength is 1, as trained; the node has no other.
- psi+ is used on both branches of guidance, as in the papers.{left_out}

The node is softalign's, under Apache-2.0. The tokens have the licence of the adapter they come from (weights sha256
`{sha256}`).
"""


def write_comfyui_folder(source: Source, folder: Path) -> tuple[str, ...]:
    """Write ``models/`` and ``custom_nodes/`` as ComfyUI has them, and a README; return in sentences what is left out.

    Raises:
        CompatibilityError: ComfyUI cannot load the adapter's base model.
    """
    config = source.config
    _require_possible(config)
    path = folder / "models" / comfyui_node.FOLDER / f"{source.name}.safetensors"
    node = folder / "custom_nodes" / NODE_FOLDER / "__init__.py"
    for place in (path, node):
        place.parent.mkdir(parents=True)
    _save(source, path)
    shutil.copyfile(comfyui_node.__file__, node)
    left_out = _left_out(config)
    text = _README.format(
        name=source.name,
        base_model=config.base_model,
        place=config.placement.text,
        file=path.name,
        left_out="".join(f" {sentence}" for sentence in left_out),
        sha256=config.weights_sha256,
    )
    (folder / "README.md").write_text(text, encoding="utf-8")
    return (*left_out, "The node was not run inside ComfyUI: see README.md.")


def _save(source: Source, path: Path) -> None:
    config, tokens = source.config, source.tokens
    tensors = {"soft_tokens": tokens.banks[POSITIVE_BANK].detach().clone()}
    if tokens.timestep_offsets is not None:
        tensors["table"] = tokens.timestep_offsets.detach().clone()
    about = {
        "version": comfyui_node.VERSION,
        "family": config.family,
        "base_model": config.base_model,
        "placement": config.placement.model_dump(mode="json"),
        "weights_sha256": config.weights_sha256,
        "library_version": config.library_version,
    }
    save_file(tensors, path, {comfyui_node.FORMAT: canonical_json(about).decode()})  # several would have no order


def _left_out(config: AdapterConfig) -> tuple[str, ...]:
    found = []
    if config.num_banks > 1:
        found.append("psi- is left out.")
    if config.has_ema:
        found.append("The averaged (EMA) tokens are left out.")
    return tuple(found)


def _require_possible(config: AdapterConfig) -> None:
    if is_embedded(config.base_model):
        raise CompatibilityError(
            "ComfyUI cannot load the base model of this adapter.",
            expected="a Stable Diffusion 1.x, 2.x, XL, 3 or 3.5",
            found="the embedded model, which only exists in the layout of diffusers and in sizes that ComfyUI lacks",
            fix="use --format hub",
        )
