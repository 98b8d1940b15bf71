"""What every family offers: the frozen pipeline, and a denoiser that predicts with soft tokens."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, Protocol

import torch
from jaxtyping import Float, Int, Real
from torch import Tensor, nn

from softalign.artifacts import canonical_json, digest_of
from softalign.config import BackboneConfig, Runtime, SoftTokensConfig
from softalign.errors import CompatibilityError, ConfigError, MissingInputError
from softalign.families import Family
from softalign.forward_process import ForwardProcess
from softalign.row_cache import RowCache
from softalign.soft_tokens import SoftTokens
from softalign.text_states import TextStates

PIPELINES: dict[Family, str] = {
    "sd15": "StableDiffusionPipeline",
    "sd21": "StableDiffusionPipeline",
    "sdxl": "StableDiffusionXLPipeline",
    "sd3": "StableDiffusion3Pipeline",
    "sd35": "StableDiffusion3Pipeline",
}
"""The diffusers pipeline of each family, as a model's ``model_index.json`` names it."""
FUNCTION_FIELDS = (
    *("hidden_act", "num_attention_heads", "layer_norm_eps", "eos_token_id"),  # CLIP, which pools at the end token
    *("num_heads", "d_kv", "feed_forward_proj", "layer_norm_epsilon", "relative_attention_max_distance"),  # T5
    *("scaling_factor", "shift_factor", "latents_mean", "latents_std"),  # VAE
    *("act_fn", "norm_num_groups", "norm_eps", "attention_head_dim", "cross_attention_norm", "attention_type"),
    *("down_block_types", "mid_block_type", "up_block_types", "downsample_padding", "mid_block_scale_factor"),
    *("only_cross_attention", "mid_block_only_cross_attention", "dual_cross_attention", "center_input_sample"),
    *("resnet_time_scale_shift", "resnet_out_scale_factor", "resnet_skip_time_act", "flip_sin_to_cos", "freq_shift"),
    *("time_embedding_type", "time_embedding_act_fn", "timestep_post_act", "addition_embed_type"),
    *("addition_time_embed_dim", "class_embed_type", "encoder_hid_dim_type", "qk_norm", "dual_attention_layers"),
)
"""What configurations say of a component's function that the names and shapes of its weights do not.

Named one by one: libraries add fields with every version, and keep there how a model was last called.
"""


Part = Literal["denoiser", "vae", "text"]
"""What can be loaded of a pipeline, besides its scheduler."""
ALL_PARTS: tuple[Part, ...] = ("denoiser", "vae", "text")
_COMPONENTS: dict[Part, tuple[str, ...]] = {
    "denoiser": ("unet", "transformer"),
    "vae": ("vae",),
    "text": (
        *("text_encoder", "text_encoder_2", "text_encoder_3"),
        *("tokenizer", "tokenizer_2", "tokenizer_3"),
    ),
}


class Denoiser(Protocol):
    """A frozen denoiser that predicts with any soft tokens, each row with its own bank."""

    process: ForwardProcess
    row_cache: RowCache

    @property
    def module(self) -> nn.Module:
        """The diffusers module."""

    def predict(
        self,
        noisy_latents_NCHW: Float[Tensor, "N C H W"],
        timesteps_N: Real[Tensor, " N"],
        text: TextStates,
        tokens: SoftTokens,
        banks_N: Int[Tensor, " N"],
    ) -> Float[Tensor, "N C H W"]:
        """Return the prediction (N, C, H, W) with these tokens and each row's bank."""

    def close(self) -> None:
        """Take all hooks off the module."""


class Backbone(Protocol):
    """A frozen pipeline of one family, and what the stages ask of it."""

    pipeline: Any

    @property
    def denoiser(self) -> nn.Module:
        """The U-Net or transformer."""

    @property
    def text_encoders(self) -> tuple[nn.Module, ...]:
        """The text encoders that are there, in the pipeline's order."""

    @property
    def tokenizers(self) -> tuple[Any, ...]:
        """Their tokenizers."""

    @property
    def has_pooled_text(self) -> bool:
        """Whether the denoiser reads pooled text states too."""

    @property
    def text_options(self) -> tuple[int, ...]:
        """What shapes the text encodings besides encoders and tokenizers: for MMDiTs the length of T5's part."""

    @property
    def latents_shift(self) -> float:
        """What the pipeline adds to unscaled latents before the VAE decodes them."""

    @property
    def token_width(self) -> int:
        """Width of the soft tokens."""

    def encode_prompts(self, prompts: list[str]) -> TextStates:
        """Return the encodings of prompts, on the pipeline's device."""

    def encode_for_guidance(self, prompts: list[str]) -> tuple[TextStates, TextStates]:
        """Return the encodings of prompts and those of the unconditional branch, as the pipeline has them."""

    def use_papers_sampler(self) -> None:
        """Give the pipeline the sampler of the papers."""

    def training_denoiser(self, config: SoftTokensConfig, tokens: SoftTokens) -> Denoiser:
        """Return the denoiser with soft tokens attached.

        Raises:
            ConfigError: the tokens cannot be placed so in this denoiser.
        """


def resolve_device(runtime: Runtime) -> torch.device:
    """Return the device to compute on; ``auto`` is CUDA where there is one.

    Raises:
        ConfigError: CUDA was asked for and is not there.
    """
    if runtime.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "There is no CUDA device.", expected="a CUDA device", found="none", fix="set runtime.device to auto or cpu"
        )
    if runtime.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(runtime.device)


def backbone_dtype(device: torch.device) -> torch.dtype:
    """Return the frozen model's dtype: bf16 on CUDA, fp32 elsewhere."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def resolve_model(config: BackboneConfig) -> str:
    """Return what ``from_pretrained`` takes: the embedded model's folder, a local folder or a hub id."""
    if config.model == "shapes":
        from softalign.shapes import weights_path

        return str(weights_path(config.family))
    return config.model


def load_frozen_pipeline(
    pipeline_class: Any,
    config: BackboneConfig,
    *,
    device: torch.device,
    dtype: torch.dtype,
    parts: tuple[Part, ...] = ALL_PARTS,
    **options: Any,
) -> Any:
    """Return a diffusers pipeline with all its modules frozen and in eval mode.

    Args:
        pipeline_class: of diffusers.
        config: which model.
        device: where it goes.
        dtype: of all its modules but the VAE, which is float32 always.
        parts: what is loaded; the pipeline goes without the rest.
        options: further arguments of ``from_pretrained``.

    Raises:
        MissingInputError: the model is neither a local folder nor reachable on the hub, or it is gated.
        CompatibilityError: it is a model of another pipeline.
    """
    _silence_libraries()
    model = resolve_model(config)
    with explained_access(model):
        fitting = families_of_pipeline(model, config.revision)
        if config.family not in fitting:
            raise CompatibilityError(
                "The base model does not belong to this family.",
                expected=f"{PIPELINES[config.family]} ({config.family})",
                found=PIPELINES[fitting[0]],
                where=f"backbone.model {config.model}",
                fix=f"set backbone.family to {' or '.join(fitting)}",
            )
        if "vae" in parts:
            options["vae"] = _load_vae(config)
        options.update(_left_out(pipeline_class, parts))
        pipeline = pipeline_class.from_pretrained(model, revision=config.revision, dtype=dtype, **options)
    for module in pipeline.components.values():
        if isinstance(module, nn.Module):
            module.requires_grad_(False).eval()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def _left_out(pipeline_class: Any, parts: tuple[Part, ...]) -> dict[str, None]:
    """Return the arguments that keep a pipeline's other parts from being loaded."""
    known = inspect.signature(pipeline_class.__init__).parameters
    names = (name for part in ALL_PARTS if part not in parts for name in _COMPONENTS[part])
    return {name: None for name in names if name in known}


def _load_vae(config: BackboneConfig) -> nn.Module:
    """Return the model's own VAE, or the one that takes its place."""
    from diffusers import AutoencoderKL

    own = {"subfolder": "vae", "revision": config.revision}
    with explained_access(config.vae or config.model, "backbone.vae" if config.vae else "backbone.model"):
        vae: nn.Module = AutoencoderKL.from_pretrained(
            config.vae or resolve_model(config), dtype=torch.float32, **({} if config.vae else own)
        )
    return vae


def present_parts(pipeline: Any, *names: str) -> tuple[Any, ...]:
    """Return those of a pipeline's parts that are there."""
    return tuple(part for name in names if (part := getattr(pipeline, name, None)) is not None)


def families_of_pipeline(model: str, revision: str | None = None) -> tuple[Family, ...]:
    """Return the families whose pipeline a model's ``model_index.json`` names.

    Raises:
        CompatibilityError: no family has such a pipeline.
        OSError: there is no such model; see ``explained_access``.
    """
    from diffusers import DiffusionPipeline

    found = str(DiffusionPipeline.load_config(model, revision=revision).get("_class_name"))
    fitting = tuple(family for family, name in PIPELINES.items() if name == found)
    if not fitting:
        raise CompatibilityError(
            "No family has such a pipeline.",
            expected=", ".join(dict.fromkeys(PIPELINES.values())),
            found=found,
            where=model,
        )
    return fitting


@contextmanager
def explained_access(model: str, field: str = "backbone.model") -> Iterator[None]:
    """Turn the libraries' errors about a model that cannot be read into ours.

    Args:
        model: the folder or hub id.
        field: what names it in a recipe.

    Raises:
        MissingInputError: the model is neither a local folder nor reachable on the hub, or it is gated.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        if _is_access_denied(error):
            raise MissingInputError(
                "The hub does not give the base model to this account: it is gated or private.",
                expected="a token of an account that accepted the model's licence",
                found=str(error).splitlines()[0],
                where=model,
                fix=f"accept the licence on the model's page, huggingface.co/{model}, and set HF_TOKEN to a read token "
                f"of that account; if there is no such page, correct {field}",
            ) from error
        raise MissingInputError(
            "The base model cannot be loaded.",
            expected="a folder in diffusers layout or a reachable hub id",
            found=str(error).splitlines()[0],
            where=model,
            fix=f"check {field} and the connection",
        ) from error


def _is_access_denied(error: BaseException) -> bool:
    """Return whether the hub refused the model; diffusers wraps its answer into other errors."""
    from huggingface_hub.errors import GatedRepoError

    cause: BaseException | None = error
    while cause is not None:
        status = getattr(getattr(cause, "response", None), "status_code", None)
        if isinstance(cause, GatedRepoError) or status in {401, 403}:
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _silence_libraries() -> None:
    """Leave out the libraries' component bars and advice; downloads still show their progress."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()


def text_length(backbone: Backbone) -> int:
    """Return how many positions a backbone's text states have: CLIP's, and for MMDiTs T5's after them."""
    return int(backbone.tokenizers[0].model_max_length) + sum(backbone.text_options)


def text_encoder_digest(backbone: Backbone) -> str:
    """Return one digest of all text encoders of a backbone."""
    digests = [component_digest(encoder) for encoder in backbone.text_encoders]
    return digests[0] if len(digests) == 1 else digest_of(digests)


def component_digest(module: nn.Module) -> str:
    """Return the sha256 of a diffusers or transformers component: what it computes and every weight's bytes.

    Taken in float32, so that a stored half-precision model has one digest on every device.
    """
    digest = hashlib.sha256()
    config: Any = module.config
    fields = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    said = {name: value for name in FUNCTION_FIELDS if (value := fields.get(name)) is not None}
    digest.update(canonical_json(json.loads(json.dumps(said, default=str))))
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()
