"""A training step and a run of them on CUDA: SDXL's grid, resuming, memory, pinned batches, two ranks.

Run there with ``pytest -m gpu tests/gpu``; the same tests run on the CPU in every other run.
"""

import json

import pytest
import torch

from softalign.backbones.frozen_pipeline import backbone_dtype
from softalign.config import AGSMConfig, Runtime, TrainConfig
from softalign.config.objective import OBJECTIVES
from softalign.data.encoding.reader import EncodedBatch
from softalign.errors import PreemptedError
from softalign.method.objective import candidate_mask
from softalign.training.checkpoints import TrainingState
from softalign.training.loop import run_steps
from softalign.training.micro_batches import MicroBatches, choose_size
from softalign.training.pair_grid import Division, backward_grid, num_banks
from softalign.training.step import StepInputs, diffuse_batch, pair_predictor
from tests.tiny_families import FAMILIES, drawn
from tests.unit.training import tiny_training as tiny
from tests.unit.training.test_process_group import finish, start

B, P, SIZE = 3, 5, 8
CANDIDATES = ((0, 1, 3), (1, 0, 2, 4), (2,))
RUNTIME = Runtime(num_threads=1, checkpoint_every_steps=2)
NUM_PAIRS = 1000


def make_step_inputs(name, device, config, size):
    """Return a family's inputs on a device, in the dtype that training uses there, with the row cache in use."""
    family, banks = FAMILIES[name], num_banks(config)
    live = family.tokens(banks, 1, torch.float32).to(device)
    ema = family.tokens(banks, 4, torch.float32).to(device)
    module = family.make_module(dtype=backbone_dtype(device)).to(device)
    state = TrainingState(live, ema, torch.optim.AdamW(live.parameters()))
    denoiser = family.denoiser(live, module=module)
    return StepInputs(TrainConfig(objective=config), denoiser, state, device, Division.into_chunks(size))


def make_batch(name):
    text, latents = FAMILIES[name].text(P, 8, torch.float32), drawn(B, 4, SIZE, SIZE, seed=7, dtype=torch.float32)
    names = tuple(map(str, range(P)))
    return EncodedBatch(keys=names[:B], prompts=names, candidates=CANDIDATES, latents_BCHW=latents, text=text)


def gradients(name, device, config, size):
    inputs, batch = make_step_inputs(name, device, config, size), make_batch(name)
    noisy = diffuse_batch(inputs, batch, seed=0, samples_seen=0, sharing="per_image")
    predict = pair_predictor(inputs, noisy, batch.text.to(device))
    mask, state = candidate_mask(CANDIDATES, P, device), inputs.state
    with inputs.denoiser.row_cache.one_batch():
        result = backward_grid(predict, state.live, state.ema, noisy.target_BCHW, mask, config, inputs.division)
    inputs.denoiser.close()
    assert next(inputs.denoiser.module.parameters()).dtype == backbone_dtype(device)
    return float(result.loss.total), [parameter.grad for parameter in state.live.parameters()]


@pytest.mark.parametrize("objective", ["agsm", "softrepa", "score_matching"])
@pytest.mark.parametrize("name", ["sd21", "sdxl", "sd35"])
def test_micro_batches_agree_and_gradients_are_float32(any_device, name, objective):
    config = OBJECTIVES[objective]()
    loss, whole = gradients(name, any_device, config, None)
    chunked_loss, chunked = gradients(name, any_device, config, 2)
    assert loss == pytest.approx(chunked_loss, rel=1e-2)
    for left, right in zip(whole, chunked, strict=True):
        assert left.dtype == torch.float32
        assert left.device.type == any_device.type
        assert torch.nn.functional.cosine_similarity(left.flatten(), right.flatten(), dim=0) > 0.99


def test_a_stopped_run_goes_on_bit_for_bit(any_device, deterministic, tmp_path):
    config = TrainConfig(num_steps=6, batch_size=3, validate_every_steps=3, noise_sharing="per_image")
    undisturbed = tiny.make_run(tmp_path / "undisturbed", config, RUNTIME, device=any_device)
    run_steps(undisturbed, tiny.StopRequest())
    with tiny.stopped_after(3) as stop, pytest.raises(PreemptedError):
        run_steps(tiny.make_run(tmp_path / "stopped", config, RUNTIME, device=any_device), stop)
    resumed = tiny.make_run(tmp_path / "stopped", config, RUNTIME, device=any_device)
    progress = run_steps(resumed, tiny.StopRequest())
    assert progress.step == 6
    for name in ("live", "ema"):
        pair = (getattr(run.step_inputs.state, name).parameters() for run in (undisturbed, resumed))
        assert all(torch.equal(left, right) for left, right in zip(*pair, strict=True))
    assert resumed.metrics_path.read_bytes() == undisturbed.metrics_path.read_bytes()


def test_pinned_batches_come_as_plain_ones(any_device):
    batch = make_batch("sdxl")
    pinned = batch.pinned() if any_device.type == "cuda" else batch
    inputs = make_step_inputs("sdxl", any_device, AGSMConfig(), None)
    noisy = [diffuse_batch(inputs, one, seed=0, samples_seen=0, sharing="shared") for one in (batch, pinned)]
    for name in ("timesteps_B", "noisy_latents_BCHW", "target_BCHW"):
        left, right = (getattr(one, name) for one in noisy)
        assert right.device.type == any_device.type
        assert torch.equal(left, right)
    texts = (one.text.to(any_device).tensors() for one in (batch, pinned))
    assert all(torch.equal(left, right) for left, right in zip(*texts, strict=True))


@pytest.fixture
def pair_bytes(any_device):
    """What a pair shall take; on CUDA all memory but that of 64 pairs is taken away meanwhile."""
    if any_device.type == "cpu":
        yield 1 << 12
        return
    torch.cuda.empty_cache()
    taken = torch.empty(torch.cuda.mem_get_info(any_device)[0] - (64 << 22), dtype=torch.uint8, device=any_device)
    yield 1 << 22
    del taken
    torch.cuda.empty_cache()


@pytest.fixture
def predict(any_device, pair_bytes):
    """A prediction whose graph keeps ``pair_bytes`` of each pair."""
    weight = torch.zeros(pair_bytes // 4, device=any_device, requires_grad=True)
    return lambda num_pairs: weight.expand(num_pairs, -1).exp()


def test_the_chosen_size_fits_into_what_memory_there_is(any_device, predict):
    size = choose_size(predict, NUM_PAIRS, any_device)
    assert 1 <= size <= (64 if any_device.type == "cuda" else NUM_PAIRS)
    predict(size).square().sum().backward()


def test_out_of_memory_halves_the_micro_batch(any_device, predict):
    micro_batches = MicroBatches(None)

    def work(size):
        for begin in range(0, NUM_PAIRS, size or NUM_PAIRS):
            predict(min(size or NUM_PAIRS, NUM_PAIRS - begin)).sum().backward()
        return size

    done_at = micro_batches.run(work, NUM_PAIRS)
    assert done_at == micro_batches.size
    if any_device.type == "cuda":
        assert 1 <= done_at <= 64


@pytest.mark.parametrize(
    "device", [pytest.param("cpu", marks=pytest.mark.slow), pytest.param("cuda", marks=pytest.mark.gpu)]
)
def test_two_ranks_do_what_one_does(device, tmp_path):
    """Each with a GPU of its own, over NCCL; on the CPU, over gloo, ``test_team_training`` says more."""
    if device == "cuda" and torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    losses = []
    for number in (1, 2):
        folder = tmp_path / str(number)
        code, log = finish(start(folder, number, device=device, num_steps=6, poisoned=(), validate_every_steps=3))
        assert code == 0, log
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        losses.append([row["loss"] for row in rows if "loss" in row])
    assert len(losses[0]) == 6
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)
