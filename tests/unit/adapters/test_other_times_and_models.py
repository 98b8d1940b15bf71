"""Schedulers that count their times otherwise, and the U-Net that AnimateDiff makes of a pipeline's own."""

import diffusers
import pytest
import torch

from softalign import load_soft_tokens, loaded_tokens
from softalign.errors import CompatibilityError
from tests.tiny_adapter import write_adapter
from tests.tiny_pipeline import save_tiny_pipeline

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
OTHER_TIMES = (
    diffusers.EDMEulerScheduler(),
    diffusers.EDMDPMSolverMultistepScheduler(),
    diffusers.EulerDiscreteScheduler(timestep_type="continuous", prediction_type="v_prediction"),
    diffusers.IPNDMScheduler(),
    diffusers.DDIMScheduler(num_train_timesteps=2000),
    diffusers.UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction"),
    diffusers.DPMSolverMultistepScheduler(use_flow_sigmas=True),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(save_tiny_pipeline(folder / "base"))
    pipe.set_progress_bar_config(disable=True)
    return pipe, write_adapter(folder / "adapter", "sd15", pipe.unet)


def draw(pipe, **options):
    generator = torch.Generator().manual_seed(0)
    call = {"num_inference_steps": 2, "generator": generator, "output_type": "latent", "height": 32, "width": 32}
    return pipe("a red circle", **{**call, **options})


@pytest.mark.parametrize("scheduler", OTHER_TIMES, ids=lambda scheduler: type(scheduler).__name__)
def test_times_on_another_scale_are_refused_at_loading_and_at_the_call(made, scheduler):
    pipe, folder = made
    own = pipe.scheduler
    copy = diffusers.StableDiffusionPipeline.from_pipe(pipe)
    copy.set_progress_bar_config(disable=True)
    copy.scheduler = scheduler
    with pytest.raises(CompatibilityError) as error:
        load_soft_tokens(copy, folder)
    assert type(scheduler).__name__ in f"{error.value.where} {error.value.found}" or "prediction" in str(error.value)
    with load_soft_tokens(pipe, folder) as handle:
        with pytest.raises(CompatibilityError, match="times"):
            draw(copy)
        handle.set_scale(0.0)
        draw(copy)
    assert pipe.scheduler is own


@pytest.mark.parametrize("kind", [diffusers.EulerDiscreteScheduler, diffusers.DPMSolverMultistepScheduler])
def test_karras_noise_levels_are_timesteps_between_the_trained_ones(made, kind):
    pipe, folder = made
    copy = diffusers.StableDiffusionPipeline.from_pipe(pipe)
    copy.scheduler = kind(use_karras_sigmas=True, **BETAS)
    with load_soft_tokens(copy, folder):
        draw(copy)
    assert 0 <= float(copy.scheduler.timesteps.min()) < float(copy.scheduler.timesteps.max()) <= 999


def test_a_pipeline_for_videos_says_that_it_has_no_tokens_and_takes_them(made):
    pipe, folder = made
    motion = diffusers.MotionAdapter(
        block_out_channels=(8,), motion_layers_per_block=1, motion_num_attention_heads=2, motion_norm_num_groups=4,
        use_motion_mid_block=False,
    )  # fmt: skip
    with load_soft_tokens(pipe, folder, unconditional_bank="negative"):
        pipe.unet.state_dict()
        with pytest.warns(UserWarning, match="made without them"):
            videos = diffusers.AnimateDiffPipeline.from_pipe(pipe, motion_adapter=motion)
    videos.set_progress_bar_config(disable=True)
    assert loaded_tokens(videos) == ()
    seen = []
    base = draw(videos, num_frames=3).frames
    with load_soft_tokens(videos, folder, unconditional_bank="negative"):
        hook = videos.unet.down_blocks[0].register_forward_hook(
            lambda _m, _a, kwargs, _o: seen.append(kwargs["encoder_hidden_states"][:, 1, 0].tolist()), with_kwargs=True
        )
        assert not torch.equal(draw(videos, num_frames=3, guidance_scale=5.0).frames, base)
        hook.remove()
    assert seen[0] == [2.0, 2.0, 2.0, 1.0, 1.0, 1.0]  # three frames of each branch
    assert torch.equal(draw(videos, num_frames=3).frames, base)
