"""Updates that are captured on CUDA do what plain ones do. Run there with ``pytest -m gpu tests/gpu``."""

import pytest
import torch

from softalign.shapes.pretraining.batch_loss import BatchLoss
from softalign.shapes.pretraining.training_state import LoopSettings, ResumableTraining

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
NUM_STEPS = 12


def trained(tmp_path, device):
    """Train a small network on batches of two shapes, in turns; return it and its losses."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.GELU(), torch.nn.Linear(8, 1)).to(device)
    settings = LoopSettings(8 * NUM_STEPS, 8, 1e-2, 16, 0.4, 0.9, 8 * NUM_STEPS, "x")
    training = ResumableTraining(network, settings, tmp_path / f"{device}.safetensors")

    def draw(step):
        generator = torch.Generator().manual_seed(step)
        inputs = torch.randn(8 if step % 2 else 5, 4, generator=generator)
        return inputs.to(device), inputs.sum(dim=1, keepdim=True).to(device)

    losses = []

    def loss(inputs, target):
        return (network(inputs) - target).square().mean()

    update = training._update

    def noted(loss_at):
        losses.append(float(update(loss_at)))
        return torch.tensor(losses[-1])

    training._update = noted
    training.run(BatchLoss(draw, loss))
    return training, losses


def test_captured_updates_are_those_of_the_cpu(tmp_path):
    on_cuda, cuda_losses = trained(tmp_path, "cuda")
    on_cpu, cpu_losses = trained(tmp_path, "cpu")
    assert sum(one.graph is not None for one in on_cuda._captured._of_shapes.values()) == 2
    assert cuda_losses == pytest.approx(cpu_losses, rel=1e-3)
    for name, tensor in on_cpu.ema.items():
        assert torch.allclose(on_cuda.ema[name].cpu(), tensor, atol=1e-4)
