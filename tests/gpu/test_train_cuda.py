"""On a CUDA device: the same hooks, objectives and checkpoints in bf16. Run there with ``pytest -m gpu tests/gpu``."""

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel

from softalign.backbones.frozen_pipeline import backbone_dtype, resolve_device
from softalign.backbones.unet import UNetDenoiser
from softalign.config import AGSMConfig, Runtime
from softalign.config.objective import OBJECTIVES
from softalign.method.forward_process import DDPMProcess
from softalign.method.objective import candidate_mask
from softalign.method.soft_tokens import SoftTokens
from softalign.method.text_states import TextStates
from softalign.training.pair_grid import Division, backward_grid, num_banks

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
B, L, D, S = 4, 6, 32, 4


@pytest.fixture
def device():
    return resolve_device(Runtime(device="cuda"))


@pytest.fixture
def unet(device):
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=D,
        attention_head_dim=8,
    )
    return unet.eval().requires_grad_(False).to(device, backbone_dtype(device))


def gradients(unet, device, config, micro_batch_size=None):
    generator = torch.Generator().manual_seed(1)
    draw = lambda *shape: torch.randn(*shape, generator=generator).to(device)  # noqa: E731
    live = SoftTokens(draw(num_banks(config), S, D), draw(100, D))
    ema = SoftTokens(live.banks.detach().clone(), live.timestep_offsets.detach().clone())
    latents, texts, target = draw(B, 4, 8, 8), draw(B, L, D), draw(B, 4, 8, 8)
    timesteps = torch.full((B,), 400, device=device)
    denoiser = UNetDenoiser(unet, ("down", "mid"), live, DDPMProcess(DDIMScheduler().alphas_cumprod, "epsilon"), 32)

    def predict(pairs, tokens):
        return denoiser.predict(
            latents[pairs.images_N],
            timesteps[pairs.images_N],
            TextStates(texts[pairs.prompts_N]),
            tokens,
            pairs.banks_N,
        )

    mask, division = candidate_mask([range(B)] * B, B, device), Division.into_chunks(micro_batch_size)
    result = backward_grid(predict, live, ema, target, mask, config, division)
    denoiser.close()
    return float(result.loss.total), live


@pytest.mark.parametrize("name", ["agsm", "softrepa", "score_matching"])
def test_tokens_and_loss_stay_float32_and_micro_batches_agree(unet, device, name):
    config = OBJECTIVES[name]()
    loss, whole = gradients(unet, device, config)
    chunked_loss, chunked = gradients(unet, device, config, micro_batch_size=3)
    assert unet.dtype == torch.bfloat16
    assert whole.banks.grad.dtype == torch.float32
    assert loss == pytest.approx(chunked_loss, rel=1e-2)
    for left, right in zip(whole.parameters(), chunked.parameters(), strict=True):
        assert torch.nn.functional.cosine_similarity(left.grad.flatten(), right.grad.flatten(), dim=0) > 0.99


def test_the_backbone_keeps_its_bytes(unet, device):
    before = {name: tensor.clone() for name, tensor in unet.state_dict().items()}
    gradients(unet, device, AGSMConfig())
    assert all(torch.equal(tensor, before[name]) for name, tensor in unet.state_dict().items())
