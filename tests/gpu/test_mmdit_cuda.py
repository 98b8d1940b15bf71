"""On a CUDA device: an MMDiT in bf16 with soft tokens in its first blocks. Run with ``pytest -m gpu tests/gpu``."""

import copy

import pytest
import torch

from softalign.backbones.frozen_pipeline import backbone_dtype, resolve_device
from softalign.backbones.joint_injection import JointAttentionInjection
from softalign.backbones.mmdit import MMDiTDenoiser, joint_blocks
from softalign.backbones.padding import padding_states
from softalign.config import AGSMConfig, Runtime
from softalign.config.objective import OBJECTIVES
from softalign.method.forward_process import FlowProcess, draw_noise
from softalign.method.objective import candidate_mask
from softalign.method.soft_tokens import SoftTokens
from softalign.method.text_states import TextStates
from softalign.training.pair_grid import Division, backward_grid, num_banks
from tests import tiny_sd3

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
B, L, S, NUM_LAYERS, WIDTH = 4, 6, 4, 2, 64
EVERYONE = (tuple(range(B)),) * B


@pytest.fixture
def device():
    return resolve_device(Runtime(device="cuda"))


@pytest.fixture(params=[{}, tiny_sd3.SD35], ids=["sd3", "sd35"])
def transformer(request, device):
    return tiny_sd3.make_transformer(width=WIDTH, **request.param).to(device, backbone_dtype(device))


def drawn(device, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(device)


def gradients(transformer, device, config, micro_batch_size=None):
    banks = drawn(device, num_banks(config), NUM_LAYERS, S, WIDTH)
    live = SoftTokens(banks, drawn(device, 100, NUM_LAYERS * WIDTH))
    ema = SoftTokens(live.banks.detach().clone(), live.timestep_offsets.detach().clone())
    text = TextStates(drawn(device, B, L, tiny_sd3.JOINT_WIDTH), drawn(device, B, tiny_sd3.POOLED_WIDTH))
    denoiser = MMDiTDenoiser(transformer, live, FlowProcess(3.0))
    draw = draw_noise((B, 4, 4, 4), sharing="per_image", seed=0, samples_seen=0)
    noisy = denoiser.process.diffuse(drawn(device, B, 4, 4, 4), draw)

    def predict(pairs, tokens):
        return denoiser.predict(
            noisy.noisy_latents_BCHW[pairs.images_N],
            noisy.timesteps_B[pairs.images_N],
            text.rows(pairs.prompts_N),
            tokens,
            pairs.banks_N,
        )

    mask = candidate_mask(EVERYONE, B, device)
    division = Division.into_chunks(micro_batch_size)
    result = backward_grid(predict, live, ema, noisy.target_BCHW, mask, config, division)
    denoiser.close()
    return float(result.loss.total), live


@pytest.mark.parametrize("name", ["agsm", "softrepa", "score_matching"])
def test_tokens_and_loss_stay_float32_and_micro_batches_agree(transformer, device, name):
    config = OBJECTIVES[name]()
    loss, whole = gradients(transformer, device, config)
    chunked_loss, chunked = gradients(transformer, device, config, micro_batch_size=3)
    assert transformer.dtype == torch.bfloat16
    assert whole.banks.grad.dtype == torch.float32
    assert loss == pytest.approx(chunked_loss, rel=1e-2)
    for left, right in zip(whole.parameters(), chunked.parameters(), strict=True):
        assert torch.nn.functional.cosine_similarity(left.grad.flatten(), right.grad.flatten(), dim=0) > 0.99


def test_the_backbone_keeps_its_bytes(transformer, device):
    before = {name: tensor.clone() for name, tensor in transformer.state_dict().items()}
    gradients(transformer, device, AGSMConfig())
    assert all(torch.equal(tensor, before[name]) for name, tensor in transformer.state_dict().items())


@torch.no_grad()
def test_scale_on_cuda_is_bit_exact_at_zero_and_near_plain_insertion_at_one(transformer, device):
    inputs = {
        "hidden_states": drawn(device, 2, 4, 4, 4).to(transformer.dtype),
        "encoder_hidden_states": drawn(device, 2, L, tiny_sd3.JOINT_WIDTH).to(transformer.dtype),
        "pooled_projections": drawn(device, 2, tiny_sd3.POOLED_WIDTH).to(transformer.dtype),
        "timestep": torch.tensor([12.5, 900.0], device=device),
    }
    base = transformer(**inputs).sample
    tokens = SoftTokens(torch.randn(1, NUM_LAYERS, S, WIDTH), torch.randn(100, NUM_LAYERS * WIDTH))
    injection = JointAttentionInjection(transformer, joint_blocks(transformer, NUM_LAYERS), tokens)
    plain = transformer(**inputs).sample
    injection.scale = 1.0 + 1e-6
    assert torch.allclose(transformer(**inputs).sample.float(), plain.float(), atol=5e-2)
    injection.scale = 0.0
    assert torch.equal(transformer(**inputs).sample, base)
    injection.remove()


def test_padding_is_that_of_the_cpu_in_float32(transformer, device):
    empty = TextStates(drawn(device, 1, L, tiny_sd3.JOINT_WIDTH), drawn(device, 1, tiny_sd3.POOLED_WIDTH))
    found = padding_states(transformer, joint_blocks(transformer, NUM_LAYERS), empty)
    here = copy.deepcopy(transformer).to("cpu", torch.float32)
    expected = padding_states(here, joint_blocks(here, NUM_LAYERS), empty.to(torch.device("cpu")))
    assert (found.device.type, found.dtype) == ("cpu", torch.float32)
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.02 * expected.abs().max().item())
