"""Which rows of a running denoiser call are the unconditional branch: read off the pipeline whose code makes the call.

Pipelines made of the same parts share a denoiser, and differ in guidance and in the order of their rows, so the
pipeline that was given at loading says nothing of a later call. Code that is not listed here may order its rows in any
way: it is refused.
"""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from softalign.errors import CompatibilityError
from softalign.method.soft_tokens import NEGATIVE_BANK, NUM_TRAIN_TIMESTEPS, POSITIVE_BANK

_GUIDED = (
    *(f"stable_diffusion.pipeline_stable_diffusion{kind}" for kind in ("", "_img2img", "_inpaint", "_depth2img")),
    *(f"stable_diffusion_xl.pipeline_stable_diffusion_xl{kind}" for kind in ("", "_img2img", "_inpaint")),
    *(f"stable_diffusion_3.pipeline_stable_diffusion_3{kind}" for kind in ("", "_img2img", "_inpaint")),
    *(f"controlnet.pipeline_controlnet{kind}" for kind in ("", "_img2img", "_inpaint", "_inpaint_sd_xl")),
    *(f"controlnet.pipeline_controlnet{kind}" for kind in ("_sd_xl", "_sd_xl_img2img", "_union_sd_xl")),
    *(f"controlnet.pipeline_controlnet_union{kind}" for kind in ("_inpaint_sd_xl", "_sd_xl_img2img")),
    *(f"controlnet_sd3.pipeline_stable_diffusion_3_controlnet{kind}" for kind in ("", "_inpainting")),
    *(f"t2i_adapter.pipeline_stable_diffusion{kind}_adapter" for kind in ("", "_xl")),
    *(f"animatediff.pipeline_animatediff{kind}" for kind in ("", "_controlnet", "_sdxl", "_sparsectrl")),
    *(f"animatediff.pipeline_animatediff_video2video{kind}" for kind in ("", "_controlnet")),
)
"""Modules of diffusers whose calls have an unconditional and a conditional half where guidance is on."""
_PERTURBED = (
    *(f"pag.pipeline_pag_sd{kind}" for kind in ("", "_img2img", "_inpaint", "_animatediff", "_3", "_3_img2img")),
    *(f"pag.pipeline_pag_sd_xl{kind}" for kind in ("", "_img2img", "_inpaint")),
    *(f"pag.pipeline_pag_controlnet_sd{kind}" for kind in ("", "_inpaint", "_xl", "_xl_img2img")),
)
"""The same, with rows for perturbed attention behind the conditional ones."""
_EDITING = (
    "stable_diffusion.pipeline_stable_diffusion_instruct_pix2pix",
    "stable_diffusion_xl.pipeline_stable_diffusion_xl_instruct_pix2pix",
)
"""Three parts where guidance is on: text and image, image with the negative text, negative text alone."""
_BY_ARGUMENT = (
    *(f"controlnet.pipeline_controlnet{kind}" for kind in ("_img2img", "_inpaint", "_inpaint_sd_xl", "_sd_xl")),
    *(f"controlnet.pipeline_controlnet{kind}" for kind in ("_sd_xl_img2img", "_union_sd_xl")),
    *(f"controlnet.pipeline_controlnet_union{kind}" for kind in ("_inpaint_sd_xl", "_sd_xl_img2img")),
    *(f"t2i_adapter.pipeline_stable_diffusion{kind}_adapter" for kind in ("", "_xl")),
    *(f"animatediff.pipeline_animatediff{kind}" for kind in ("", "_controlnet", "_sparsectrl")),
    *(f"animatediff.pipeline_animatediff_video2video{kind}" for kind in ("", "_controlnet")),
    *(f"pag.pipeline_pag_{kind}" for kind in ("sd_animatediff", "controlnet_sd_inpaint")),
    *(f"pag.pipeline_pag_controlnet_sd_xl{kind}" for kind in ("", "_img2img")),
    "stable_diffusion_xl.pipeline_stable_diffusion_xl_instruct_pix2pix",
)
"""Those of all these that multiply by the guidance their call began with; the others by the pipeline's current one."""
_PREFIX = "diffusers.pipelines."


@torch.compiler.disable  # type: ignore[untyped-decorator]  # reads the calling frames: outside of compiled code
def banks_of_running_call(_denoiser: nn.Module, num_rows: int) -> Tensor:
    """Return each row's bank, int64: psi- for rows with the negative prompt, psi+ for all others.

    Raises:
        CompatibilityError: the calling code is not a pipeline of diffusers whose order of rows is known, or the rows
            cannot be divided into its parts.
    """
    are_negative, _frame = _branches(num_rows, "unconditional_bank='positive'")
    banks = torch.tensor([NEGATIVE_BANK if is_negative else POSITIVE_BANK for is_negative in are_negative])
    return banks.repeat_interleave(num_rows // len(are_negative))


@torch.compiler.disable  # type: ignore[untyped-decorator]
def shares_of_running_call(_denoiser: nn.Module, num_rows: int) -> Tensor:
    """Return each row's share of the strength, float32: 1 with the negative prompt, else 1 / guidance of this step.

    Guidance multiplies what the conditional rows' tokens change; so they change as much as without it. Without guidance
    all have the share 1.

    Raises:
        CompatibilityError: as ``banks_of_running_call``.
    """
    are_negative, frame = _branches(num_rows, "divide_by_guidance=False")
    guidance = _guidance(frame) if any(are_negative) else 1.0
    shares = torch.tensor([1.0 if is_negative else 1.0 / guidance for is_negative in are_negative])
    return shares.repeat_interleave(num_rows // len(are_negative))


def _branches(num_rows: int, remedy: str) -> tuple[tuple[bool, ...], FrameType]:
    """Return for each part of the running call's rows whether it has the negative prompt, and the pipeline's frame."""
    frame = _pipeline_frame(sys._getframe())
    module = "" if frame is None else _module(frame)
    if frame is None or module not in (*_GUIDED, *_PERTURBED, *_EDITING):
        raise CompatibilityError(
            "It is not known which rows of this call are the unconditional branch.",
            expected="a call by a pipeline of diffusers whose order of rows is known",
            found="a call outside of a pipeline" if frame is None else f"{type(frame.f_locals['self']).__name__}",
            where=module,
            fix=f"load the tokens with {remedy}",
        )
    are_negative = _parts(module, frame)
    if num_rows % len(are_negative):
        raise CompatibilityError(
            "The rows of this call cannot be divided into the pipeline's branches.",
            expected=f"a multiple of {len(are_negative)} rows",
            found=f"{num_rows} rows",
            fix=f"load the tokens with {remedy}",
        )
    return are_negative, frame


def psi_plus_of_running_call(_denoiser: nn.Module, _num_rows: int) -> None:
    """Return None, psi+ for all rows, once the running pipeline's scheduler is known to have the adapter's times.

    Raises:
        CompatibilityError: it has others; see ``check_times``. Inside a compiled call the scheduler is not looked at.
    """
    frame = None if torch.compiler.is_compiling() else _pipeline_frame(sys._getframe())
    if frame is not None:
        check_times(getattr(frame.f_locals["self"], "scheduler", None))


def check_times(scheduler: Any) -> None:
    """Check that a U-Net is called with timesteps 0..999 of a noise schedule, which the rows of the table stand for.

    Schedulers of EDM's kind call it with logarithms of the noise level instead, those of flow matching with its shares.

    Raises:
        CompatibilityError: the scheduler counts its times otherwise.
    """
    if scheduler is None:
        return
    config = scheduler.config
    num_timesteps = config.get("num_train_timesteps", NUM_TRAIN_TIMESTEPS)
    is_logarithm = config.get("timestep_type") == "continuous" and config.get("prediction_type") == "v_prediction"
    is_flow = bool(config.get("use_flow_sigmas")) or config.get("prediction_type") == "flow_prediction"
    if is_logarithm or is_flow or num_timesteps != NUM_TRAIN_TIMESTEPS or not hasattr(scheduler, "alphas_cumprod"):
        raise CompatibilityError(
            "The scheduler's times are not those the soft tokens were trained with.",
            expected=f"timesteps from 0 to {NUM_TRAIN_TIMESTEPS - 1} of a noise schedule",
            found=f"{num_timesteps} timesteps" if num_timesteps != NUM_TRAIN_TIMESTEPS else "times on another scale",
            where=type(scheduler).__name__,
            fix="give the pipeline a scheduler such as DDIMScheduler or DPMSolverMultistepScheduler",
        )


def _parts(module: str, frame: FrameType) -> tuple[bool, ...]:
    """Return for each part of a call's rows, all of one size, whether its text is the negative prompt."""
    guidance, pipe = "do_classifier_free_guidance", frame.f_locals["self"]
    is_guided = bool(getattr(pipe, guidance) if hasattr(pipe, guidance) else frame.f_locals[guidance])
    if module in _EDITING:
        return (False, True, True) if is_guided else (False,)
    is_perturbed = module in _PERTURBED and bool(pipe.do_perturbed_attention_guidance)
    return (*((True,) if is_guided else ()), False, *((False,) if is_perturbed else ()))


def _guidance(frame: FrameType) -> float:
    """Return what the running step's guidance multiplies by; a callback may change the pipeline's while it runs."""
    module, pipe = _module(frame), frame.f_locals["self"]
    is_perturbed = module in _PERTURBED and bool(pipe.do_perturbed_attention_guidance)  # then by the pipeline's in all
    by_argument = module in _BY_ARGUMENT and not is_perturbed
    return float(frame.f_locals["guidance_scale"] if by_argument else pipe.guidance_scale)


def _module(frame: FrameType) -> str:
    """Return the name of the module of diffusers whose code a frame runs."""
    return str(frame.f_globals.get("__name__", "")).removeprefix(_PREFIX)


def _pipeline_frame(frame: FrameType | None) -> FrameType | None:
    """Return the innermost calling frame that runs a method of a pipeline."""
    from diffusers import DiffusionPipeline

    while frame is not None:
        names = frame.f_code.co_varnames
        if names[:1] == ("self",) and isinstance(frame.f_locals.get("self"), DiffusionPipeline):
            return frame
        frame = frame.f_back
    return None
