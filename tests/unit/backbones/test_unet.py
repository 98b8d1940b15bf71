import pytest
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import nn

from softalign.backbones.injection import find_injections
from softalign.backbones.unet import UNetDenoiser, injection_sites, text_width
from softalign.errors import CompatibilityError, ConfigError
from softalign.method.forward_process import DDPMProcess
from softalign.method.soft_tokens import SoftTokens
from softalign.method.text_states import TextStates


def make_unet(down="CrossAttnDownBlock2D", mid="UNetMidBlock2DCrossAttn", width=8):
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=4,
        in_channels=4,
        out_channels=4,
        down_block_types=(down, "DownBlock2D"),
        mid_block_type=mid,
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(8, 16),
        layers_per_block=1,
        cross_attention_dim=width,
        attention_head_dim=4,
        norm_num_groups=4,
    ).eval()


def test_sites_are_the_blocks_with_cross_attention():
    unet = make_unet()
    assert injection_sites(unet, ("down", "mid")) == [unet.down_blocks[0], unet.mid_block]
    assert injection_sites(unet, ("up",)) == [unet.up_blocks[1]]
    assert len(injection_sites(unet, ("mid", "mid"))) == 1


@pytest.mark.parametrize(
    ("part", "unet"), [("down", make_unet(down="DownBlock2D")), ("mid", make_unet(mid="UNetMidBlock2D"))]
)
def test_a_place_without_cross_attention_is_refused_with_what_is_possible(part, unet):
    with pytest.raises(ConfigError, match="no cross attention") as error:
        injection_sites(unet, (part,))
    assert error.value.found == part
    assert "up" in error.value.expected


def test_another_kind_of_denoiser_is_refused():
    with pytest.raises(CompatibilityError, match="Linear"):
        injection_sites(nn.Linear(2, 2), ("mid",))


def test_text_width():
    assert text_width(make_unet(width=12)) == 12
    with pytest.raises(CompatibilityError, match="different widths"):
        text_width(make_unet(width=(8, 16)))


def test_predictions_use_each_rows_tokens_and_closing_takes_the_hooks_off():
    unet = make_unet().requires_grad_(False)
    tokens = SoftTokens(torch.randn(2, 3, 8), torch.randn(100, 8))
    denoiser = UNetDenoiser(unet, ("down", "mid"), tokens, DDPMProcess(DDIMScheduler().alphas_cumprod, "epsilon"), 32)
    latents, steps, text = torch.randn(2, 4, 4, 4), torch.tensor([10, 10]), TextStates(torch.randn(2, 6, 8))
    same = latents[:1].expand(2, -1, -1, -1), steps, text.rows([0, 0])
    first, second = denoiser.predict(*same, tokens, torch.tensor([0, 1])).detach()
    assert not torch.allclose(first, second, atol=1e-5)
    denoiser.close()
    assert find_injections(unet) == ()
