"""ComfyUI node: soft text tokens of softalign in a MODEL.

SPDX-License-Identifier: Apache-2.0

This file is a custom node as it is: it needs what ComfyUI itself needs, and no softalign. It reads the file that
``softalign export --format comfyui`` writes, draws each call's tokens by its timestep, and sends them along in the
options of that call, so that nothing of a call lives on the model:

- U-Nets: behind the first (BOS) position of the text, in the cross attention of the blocks the tokens were trained for;
- MMDiTs (SD3): at the end of the text of a joint block, each layer's own, and off its output again.

Shape legend: B rows, L text tokens, N layers, S soft tokens, D width, T timestep bins.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

FORMAT, VERSION = "softalign.soft_tokens", 1
"""Of the file: the key in its header, and what stands there."""
FOLDER = "soft_tokens"
"""Below ComfyUI's ``models``."""
NUM_TRAIN_TIMESTEPS = 1000
PARTS = {"input": "down", "middle": "mid", "output": "up"}
"""Names of a U-Net's blocks in ComfyUI, and in the file."""


class SoftTokens:
    """The tokens of a file, float32.

    Args:
        path: the file.

    Raises:
        ValueError: it is not of this format and version.
    """

    def __init__(self, path: str) -> None:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get(FORMAT, "{}"))
            if about.get("version") != VERSION:
                raise ValueError(f"{path} is no file of `softalign export --format comfyui`, or of another version")
            self.bank: Tensor = file.get_tensor("soft_tokens")  # (S, D), or (N, S, D)
            self.table: Tensor | None = file.get_tensor("table") if "table" in file.keys() else None
        self.place: dict[str, Any] = about["placement"]
        self.base_model = about["base_model"]

    @property
    def num_layers(self) -> int | None:
        """How many joint blocks have tokens of their own; None: the tokens are a U-Net's."""
        return self.bank.shape[0] if self.bank.ndim == 3 else None

    def at(self, timesteps: Tensor) -> Tensor:
        """Return each row's tokens, (B, S, D) or (B, N, S, D), for timesteps 0..1000 (B)."""
        bank = self.bank.to(timesteps.device)
        if self.table is None:
            return bank.expand(len(timesteps), *bank.shape)
        num_bins = self.table.shape[0]
        bins = torch.floor(timesteps.float() * num_bins / NUM_TRAIN_TIMESTEPS).long().clamp(0, num_bins - 1)
        offsets = self.table.to(timesteps.device)[bins]
        return bank + offsets.view(len(bins), *bank.shape[:-2], 1, bank.shape[-1])

    def check(self, denoiser: Any) -> None:
        """Refuse a model of another kind, or with fewer blocks than there are layers of tokens.

        Raises:
            ValueError: it is one.
        """
        kind = "joint_blocks" if self.num_layers else "input_blocks"
        if not hasattr(denoiser, kind):
            raise ValueError(f"these soft tokens are for {self.base_model}, not for {type(denoiser).__name__}")
        if self.num_layers and self.num_layers > len(denoiser.joint_blocks):
            raise ValueError(f"these soft tokens are for {self.num_layers} blocks or more ({self.base_model})")


class Insertion:
    """A wrapper of the model's calls that sends the tokens along; see the module's text."""

    def __init__(self, tokens: SoftTokens) -> None:
        self.tokens = tokens

    def __call__(
        self,
        executor: Any,
        x: Tensor,
        t: Tensor,
        c_concat: Any = None,
        c_crossattn: Any = None,
        control: Any = None,
        transformer_options: dict[str, Any] | None = None,
        **rest: Any,
    ) -> Any:
        """Call the model with the tokens of these noise levels.

        Raises:
            RuntimeError: none of the model's blocks took them.
            ValueError: the model counts its timesteps otherwise.
        """
        sampling = executor.class_obj.model_sampling
        require_timesteps(sampling)
        drawn = self.tokens.at(sampling.timestep(t).float())
        seen: list[bool] = []
        options = transformer_options or {}
        if self.tokens.num_layers is None:
            options = with_text_patch(options, drawn, self.tokens.place["blocks"], seen)
        else:
            num_blocks = len(executor.class_obj.diffusion_model.joint_blocks)
            is_last = self.tokens.place["layers"] == "last"
            options = with_block_patches(options, drawn, num_blocks - drawn.shape[1] if is_last else 0, seen)
        result = executor(x, t, c_concat, c_crossattn, control, options, **rest)
        if not seen:
            raise RuntimeError("no block of the model took the soft tokens: update ComfyUI, or take the node out")
        return result


def require_timesteps(sampling: Any) -> None:
    """Refuse a model whose timesteps do not reach from 0 to about 1000: EDM's are logarithms of the noise level.

    Raises:
        ValueError: they do not.
    """
    last = float(sampling.timestep(sampling.sigma_max))
    if not 0.9 * NUM_TRAIN_TIMESTEPS <= last <= NUM_TRAIN_TIMESTEPS:
        raise ValueError(
            f"these soft tokens are for timesteps up to {NUM_TRAIN_TIMESTEPS}, this model's end at {last:g}"
        )


def with_text_patch(options: dict[str, Any], drawn: Tensor, blocks: list[str], seen: list[bool]) -> dict[str, Any]:
    """Return options of a U-Net's call whose cross attention sees the tokens (B, S, D) in the chosen blocks."""

    def patch(n: Tensor, context: Tensor, value: Tensor, extra: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
        if PARTS[extra["block"][0]] not in blocks:
            return n, context, value
        seen.append(True)
        joined = behind_first(context, drawn)
        return n, joined, joined if value is context else behind_first(value, drawn)

    patches = options.get("patches", {})
    return {**options, "patches": {**patches, "attn2_patch": [*patches.get("attn2_patch", []), patch]}}


def with_block_patches(options: dict[str, Any], drawn: Tensor, first: int, seen: list[bool]) -> dict[str, Any]:
    """Return options of an MMDiT's call whose blocks from ``first`` on see their tokens, (B, N, S, D)."""
    replaced = options.get("patches_replace", {})
    blocks = dict(replaced.get("dit", {}))
    for layer in range(drawn.shape[1]):
        key = ("double_block", first + layer)
        blocks[key] = block_patch(drawn[:, layer], blocks.get(key), seen)
    return {**options, "patches_replace": {**replaced, "dit": blocks}}


def block_patch(drawn: Tensor, before: Callable[..., Any] | None, seen: list[bool]) -> Callable[..., Any]:
    """Return what runs in the place of one joint block: the block, or what replaced it before, with the tokens."""

    def patch(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        seen.append(True)
        text: Tensor = args["txt"]
        own = for_text(drawn, text)
        joined = {**args, "txt": torch.cat([text, own], dim=1)}
        out: dict[str, Any] = extra["original_block"](joined) if before is None else before(joined, extra)
        after: Tensor | None = out["txt"]  # None behind the last block
        return {**out, "txt": after if after is None else after[:, : text.shape[1]]}

    return patch


def behind_first(text: Tensor, drawn: Tensor) -> Tensor:
    """Return text states (B, L, D) with the tokens behind their first position."""
    return torch.cat([text[:, :1], for_text(drawn, text), text[:, 1:]], dim=1)


def for_text(drawn: Tensor, text: Tensor) -> Tensor:
    """Return the tokens for the rows of a text, in its type.

    Raises:
        ValueError: they are of another width: the model is another than theirs.
    """
    if drawn.shape[-1] != text.shape[-1]:
        raise ValueError(f"soft tokens of width {drawn.shape[-1]} in a model whose text has width {text.shape[-1]}")
    return drawn.repeat_interleave(text.shape[0] // drawn.shape[0], dim=0).to(text)


def _folder_paths() -> Any:
    folder_paths = import_module("folder_paths")
    folder_paths.add_model_folder_path(FOLDER, os.path.join(folder_paths.models_dir, FOLDER))
    return folder_paths


class LoadSoftTokens:
    """The node: a MODEL in, the same MODEL with soft tokens out."""

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "load"
    CATEGORY = "softalign"
    DESCRIPTION = "Soft text tokens trained by softalign; put it behind LoRA loaders, ahead of the sampler."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Return what the node takes."""
        return {"required": {"model": ("MODEL",), "file": (_folder_paths().get_filename_list(FOLDER),)}}

    def load(self, model: Any, file: str) -> tuple[Any]:
        """Return a copy of the model that draws with the tokens.

        Raises:
            ValueError: the file or the model is not one for this.
        """
        tokens = SoftTokens(_folder_paths().get_full_path_or_raise(FOLDER, file))
        tokens.check(model.model.diffusion_model)
        patched = model.clone()
        kind = import_module("comfy.patcher_extension").WrappersMP.APPLY_MODEL
        patched.add_wrapper_with_key(kind, "softalign", Insertion(tokens))
        return (patched,)


NODE_CLASS_MAPPINGS = {"SoftalignLoadSoftTokens": LoadSoftTokens}
NODE_DISPLAY_NAME_MAPPINGS = {"SoftalignLoadSoftTokens": "Load Soft Tokens (softalign)"}
