"""A plain re-statement of what the ComfyUI node uses of ComfyUI, around denoisers of diffusers.

Written from ComfyUI's public behaviour: a ModelPatcher's clones and wrappers; ``apply_model``, which runs the wrappers
around the model's call and turns noise levels into timesteps; ``attn2_patch`` in a U-Net's cross attention, with the
block's name among the extra options; ``patches_replace["dit"]`` around an MMDiT's joint blocks.
"""

import contextlib
import copy
import sys
import types
from functools import partial

import torch


class Executor:
    """Calls the next wrapper, or the model."""

    def __init__(self, model, wrappers):
        self.class_obj, self.wrappers = model, wrappers

    def __call__(self, *args, **kwargs):
        if not self.wrappers:
            return self.class_obj._apply_model(*args, **kwargs)
        first, *rest = self.wrappers
        return first(Executor(self.class_obj, rest), *args, **kwargs)


class Sampling:
    """Noise levels in [0, 1] whose timestep is a thousand times as much."""

    sigma_max = torch.tensor(1.0)

    def timestep(self, sigma):
        return sigma * 1000


class BaseModel:
    def __init__(self, denoiser, call):
        self.model_sampling, self._denoiser, self._call = Sampling(), denoiser, call
        kind = "joint_blocks" if hasattr(denoiser, "transformer_blocks") else "input_blocks"
        blocks = list(getattr(denoiser, "transformer_blocks", ()))
        self.diffusion_model = types.SimpleNamespace(**{kind: blocks})

    def apply_model(self, x, sigma, options):
        wrappers = [one for named in options.get("wrappers", {}).get("apply_model", {}).values() for one in named]
        return Executor(self, wrappers)(x, sigma, None, None, None, options)

    def _apply_model(self, x, sigma, _concat, _context, _control, options):
        options = {**options, "sigmas": sigma}
        with patched(self._denoiser, options):
            return self._call(self._denoiser, x, self.model_sampling.timestep(sigma).float())


class ModelPatcher:
    def __init__(self, model):
        self.model, self.options, self.wrappers = model, {}, {}

    def clone(self):
        other = ModelPatcher(self.model)
        other.options, other.wrappers = copy.deepcopy(self.options), copy.deepcopy(self.wrappers)
        return other

    def add_wrapper_with_key(self, kind, key, wrapper):
        self.wrappers.setdefault(kind, {}).setdefault(key, []).append(wrapper)

    def predict(self, x, sigma):
        return self.model.apply_model(x, sigma, {**self.options, "wrappers": self.wrappers})


@contextlib.contextmanager
def patched(denoiser, options):
    """Have a denoiser of diffusers look at a call's options where ComfyUI's own denoisers do."""
    forwards = []

    def replace(module, forward):
        forwards.append((module, module.forward))
        module.forward = forward

    if hasattr(denoiser, "transformer_blocks"):
        for number, block in enumerate(denoiser.transformer_blocks):
            replace(block, partial(joint_block, options, number, block.forward))
    else:
        parts = {"input": denoiser.down_blocks, "middle": [denoiser.mid_block], "output": denoiser.up_blocks}
        for part, blocks in parts.items():
            for number, block in enumerate(blocks):
                for name, module in block.named_modules():
                    if name.endswith(".attn2"):
                        replace(module, partial(cross_attention, options, (part, number), module.forward))
    try:
        yield
    finally:
        for module, forward in forwards:
            module.forward = forward


def cross_attention(options, block, plain, hidden_states, encoder_hidden_states=None, **rest):
    context = value = encoder_hidden_states
    for patch in options.get("patches", {}).get("attn2_patch", []):
        hidden_states, context, value = patch(hidden_states, context, value, {**options, "block": block})
    assert value is context  # the attention of diffusers makes keys and values of one text
    return plain(hidden_states, encoder_hidden_states=context, **rest)


def joint_block(options, number, plain, hidden_states, encoder_hidden_states, temb, **rest):
    def original(args):
        text, image = plain(args["img"], args["txt"], args["vec"], **rest)
        return {"txt": text, "img": image}

    args = {"img": hidden_states, "txt": encoder_hidden_states, "vec": temb}
    replaced = options.get("patches_replace", {}).get("dit", {}).get(("double_block", number))
    out = original(args) if replaced is None else replaced(args, {"original_block": original})
    return out["txt"], out["img"]


def install(monkeypatch, models_dir):
    """Put the modules that the node imports in place."""
    folders = {}

    def add_model_folder_path(name, path):
        folders[name] = path

    def get_filename_list(name):
        return sorted(path.name for path in (models_dir / name).iterdir())

    folder_paths = types.ModuleType("folder_paths")
    folder_paths.models_dir = str(models_dir)
    folder_paths.add_model_folder_path = add_model_folder_path
    folder_paths.get_filename_list = get_filename_list
    folder_paths.get_full_path_or_raise = lambda name, file: f"{folders[name]}/{file}"
    extension = types.ModuleType("comfy.patcher_extension")
    extension.WrappersMP = types.SimpleNamespace(APPLY_MODEL="apply_model")
    for name, module in {
        "folder_paths": folder_paths,
        "comfy": types.ModuleType("comfy"),
        "comfy.patcher_extension": extension,
    }.items():
        monkeypatch.setitem(sys.modules, name, module)


SIGMAS = torch.tensor([1.0, 0.5053, 0.0099])
