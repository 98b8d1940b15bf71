"""How many pairs go at once: chosen from free memory, halved where that was too many, the gradient unchanged."""

import logging
import threading
from dataclasses import dataclass

import pytest
import torch

from softalign.config import Runtime, TrainConfig
from softalign.errors import TrainingError
from softalign.training import micro_batches
from softalign.training.micro_batches import MicroBatches, choose_size, free_bytes, is_out_of_memory, pass_bytes
from softalign.training.pair_grid import Division, backward_grid
from softalign.training.process_group import ProcessGroup
from tests.unit.method.test_objective import CANDIDATES, CONFIGS, ToyDenoiser, make_tokens

CPU = torch.device("cpu")
OUT_OF_MEMORY = {
    "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "cpu": RuntimeError("[enforce fail] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
}


class SmallDenoiser(ToyDenoiser):
    """Runs out of memory above some pairs, with or without gradient."""

    def __init__(self, limit, error, **options):
        super().__init__(**options)
        self.limit, self.error = limit, error

    def __call__(self, pairs, tokens):
        if len(pairs) > self.limit:
            raise self.error
        return super().__call__(pairs, tokens)


def gradient(denoiser, config, candidates, division=None):
    live, ema = make_tokens(config, 1), make_tokens(config, 2)
    result = backward_grid(denoiser, live, ema, denoiser.target, candidates.mask, config, division)
    return torch.cat([parameter.grad.flatten() for parameter in live.parameters()]), result


@pytest.mark.parametrize("kind", OUT_OF_MEMORY)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_running_out_of_memory_halves_the_chunks_and_leaves_the_gradient(config, kind, caplog):
    candidates = CANDIDATES["hard ones besides"]
    expected, whole = gradient(ToyDenoiser(num_prompts=10), config, candidates)
    division = Division.into_chunks(None)
    found, result = gradient(SmallDenoiser(3, OUT_OF_MEMORY[kind], num_prompts=10), config, candidates, division)
    assert (found - expected).abs().max() < 1e-12
    assert abs(float(result.loss.total - whole.loss.total)) < 1e-12
    assert division.micro_batches.size <= 3
    assert "out of memory at" in caplog.text
    assert found.dtype == torch.float64


def test_a_pass_that_fails_half_way_leaves_nothing_behind():
    """The error comes in the middle of the chunks, when some have added their gradient already."""
    config = CONFIGS["agsm no negatives"]
    expected, _ = gradient(ToyDenoiser(num_prompts=10), config, CANDIDATES["all"])

    class FailsOnce(ToyDenoiser):
        calls = 0

        def __call__(self, pairs, tokens):
            type(self).calls += torch.is_grad_enabled()
            if torch.is_grad_enabled() and self.calls == 2:
                raise OUT_OF_MEMORY["cuda"]
            return super().__call__(pairs, tokens)

    found, _ = gradient(FailsOnce(num_prompts=10), config, CANDIDATES["all"], Division.into_chunks(2))
    assert (found - expected).abs().max() < 1e-12


def test_one_pair_that_does_not_fit_is_an_error_that_says_what_to_do():
    with pytest.raises(TrainingError, match="one pair") as error:
        gradient(SmallDenoiser(0, OUT_OF_MEMORY["cpu"], num_prompts=10), CONFIGS["agsm"], CANDIDATES["all"])
    assert "resolution_px" in error.value.fix


def test_other_errors_are_not_taken_for_memory():
    def work(_size):
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        MicroBatches(4).run(work, 4)


def test_what_the_allocator_really_says_is_recognised():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 52, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize(
    "message",
    [
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "CUDA error: out of memory",
    ],
)
def test_what_cudas_libraries_say_is_recognised(message):
    assert is_out_of_memory(RuntimeError(message))


class Linear:
    """Keeps one tensor of a million floats per pair for the backward pass."""

    def __init__(self):
        self.weight = torch.ones(1_000_000, requires_grad=True)

    def __call__(self, num_pairs):
        return torch.ones(num_pairs, 1_000_000).mul(3.0) * self.weight


def test_the_size_is_what_free_memory_holds(monkeypatch, caplog):
    per_pair = 2 * 4_000_000
    monkeypatch.setattr(micro_batches, "free_bytes", lambda device: int(5.5 * per_pair / 0.7))
    with caplog.at_level(logging.INFO):
        assert choose_size(Linear(), 16, CPU) == 5
    assert "5 of 16 pairs" in caplog.text
    assert choose_size(Linear(), 4, CPU) == 4
    assert choose_size(Linear(), 16, CPU, num_sharing=2) == 2
    monkeypatch.setattr(micro_batches, "free_bytes", lambda device: 10)
    assert choose_size(Linear(), 16, CPU) == 1


def test_a_measured_pass_leaves_no_gradient():
    linear = Linear()
    assert pass_bytes(linear, 2, CPU) == 2 * 8_000_000
    assert linear.weight.grad is None


def test_a_containers_limit_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(micro_batches, "CGROUP_PATH", tmp_path)
    unlimited = free_bytes(CPU)
    (tmp_path / "memory.max").write_text("5000\n")
    (tmp_path / "memory.current").write_text("2000\n")
    (tmp_path / "memory.stat").write_text("anon 900\nfile 1100\ninactive_file 400\n")
    assert free_bytes(CPU) == 3400 < unlimited
    (tmp_path / "memory.max").write_text("max\n")
    assert free_bytes(CPU) > 3400


def test_the_setting_is_a_number_auto_or_the_whole_grid():
    assert Runtime().micro_batch_size == "auto"
    assert Runtime(micro_batch_size=3).micro_batch_size == 3
    assert Runtime(micro_batch_size=None).micro_batch_size is None
    assert "micro_batch_size" not in TrainConfig.model_fields


@dataclass
class Meeting:
    """Where threads that play ranks exchange tensors."""

    barrier: threading.Barrier
    box: dict


@dataclass(frozen=True)
class ThreadGroup(ProcessGroup):
    """Ranks that are threads of one process: the same shares and sums as real ones, in float64."""

    meeting: Meeting = None

    def exchanged(self, value):
        self.meeting.box[self.rank] = value
        self.meeting.barrier.wait(60)
        found = [self.meeting.box[rank] for rank in range(self.size)]
        self.meeting.barrier.wait(60)
        return found

    def gather(self, values_M, num_pairs):
        gathered = torch.cat(self.exchanged(values_M.detach()))
        assert len(gathered) == num_pairs
        return gathered

    def sum_gradients(self, parameters):
        parameters = list(parameters)
        for place, parts in enumerate(zip(*self.exchanged([one.grad for one in parameters]), strict=True)):
            parameters[place].grad = sum(part for part in parts if part is not None)


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_ranks_together_have_the_gradient_of_one(config, size):
    candidates = CANDIDATES["hard ones besides"]
    expected, whole = gradient(ToyDenoiser(num_prompts=10), config, candidates)
    meeting, found = Meeting(threading.Barrier(size), {}), {}

    def work(rank):
        division = Division(MicroBatches(None if rank == 0 else 2), ThreadGroup(rank, size, meeting))
        found[rank] = gradient(ToyDenoiser(num_prompts=10), config, candidates, division)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(found) == size
    for each, result in found.values():
        assert (each - expected).abs().max() < 1e-12
        assert abs(float(result.loss.total - whole.loss.total)) < 1e-12
