import dataclasses
import hashlib
import importlib.util
import json
import logging
import math
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from statistics import fmean

import pytest
import torch

from softalign.adapters.files import load_adapter
from softalign.config import (
    AGSMConfig,
    ConstantConfig,
    CosineConfig,
    CosineRestartsConfig,
    NegativesConfig,
    Runtime,
    ScoreMatchingConfig,
    SoftREPAConfig,
    TrainConfig,
    UNetTokensConfig,
)
from softalign.config.objective import OBJECTIVES
from softalign.config.optimizer import SCHEDULES
from softalign.errors import DataError, PreemptedError, TrainingError
from softalign.processes.progress import listening
from softalign.processes.stopping import StopRequest
from softalign.processes.watchdog import Watchdog
from softalign.training import loop, validation
from softalign.training.loop import run_steps
from softalign.training.pair_grid import Pairs
from softalign.training.start import initial_tokens
from softalign.training.step import diffuse_batch, pair_predictor
from softalign.training.validation import VALIDATION_NOISE_SEED, judge
from tests.killing import is_killed

CHILD = Path(__file__).with_name("tiny_training.py")
_spec = importlib.util.spec_from_file_location("tiny_training", CHILD)
tiny = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tiny)

BASE = {"num_steps": 6, "batch_size": 3, "validate_every_steps": 0}
RUNTIME = Runtime(num_threads=1, checkpoint_every_steps=100)


def train(folder, *, runtime=RUNTIME, stop=None, batches=None, unet=None, val_batches=None, **changes):
    config = TrainConfig(**{**BASE, **changes})
    run = tiny.make_run(folder, config, runtime, batches, unet, val_batches)
    progress = run_steps(run, stop or StopRequest())
    run.step_inputs.denoiser.close()
    return run, progress


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def digest_of_tokens(run):
    tensors = run.step_inputs.state.to_tensors()
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].numpy().tobytes())
    return digest.hexdigest()


def folder_bytes(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_tokens_move_the_loss_falls_and_rows_say_so(tmp_path):
    batches = tiny.SyntheticBatches(3)
    batch = batches.batch_at(0)
    batches.batch_at = lambda _samples_seen: batch
    run, progress = train(
        tmp_path,
        batches=batches,
        num_steps=60,
        objective=ScoreMatchingConfig(),
        optimizer=ConstantConfig(learning_rate=0.05, max_grad_norm=100.0),
        validate_every_steps=20,
        noise_sharing="per_image",
        val_batches=[batch],
    )
    found = rows(tmp_path)
    training = [row for row in found if row["split"] == "train"]
    assert [row["step"] for row in training] == list(range(1, 61))
    assert [row["samples_seen"] for row in training] == [3 * step for step in range(1, 61)]
    at_fixed_noise = [row for row in found if row["split"] == "val"]
    assert [row["step"] for row in at_fixed_noise] == [0, 20, 40, 60]
    assert at_fixed_noise[-1]["val_loss"] < at_fixed_noise[0]["val_loss"]
    assert progress.step == 60
    assert not torch.equal(
        run.step_inputs.state.live.banks, initial_tokens(run.step_inputs.config, tiny.BOS_D, tiny.D).banks
    )


@pytest.mark.parametrize("name", ["agsm", "softrepa", "score_matching"])
def test_only_soft_tokens_get_a_gradient_and_the_backbone_keeps_its_bytes_over_100_steps(tmp_path, name):
    unet = tiny.make_unet()
    before = {key: tensor.numpy().tobytes() for key, tensor in unet.state_dict().items()}
    run, _ = train(tmp_path, unet=unet, num_steps=100, objective=OBJECTIVES[name](), ema_decay=0.9)
    assert {key: tensor.numpy().tobytes() for key, tensor in unet.state_dict().items()} == before
    assert all(parameter.grad is None for parameter in unet.parameters())
    state = run.step_inputs.state
    assert all(parameter.grad is None for parameter in state.ema.parameters())
    assert all(parameter.grad is not None for parameter in state.live.parameters())
    assert not torch.equal(state.live.banks, state.ema.banks)
    assert not any(module._forward_pre_hooks for module in unet.modules())


def test_the_average_starts_as_a_copy(tmp_path):
    run, _ = train(tmp_path, num_steps=1, ema_decay=0.0)
    assert torch.equal(run.step_inputs.state.ema.banks, run.step_inputs.state.live.banks)
    run, _ = train(tmp_path / "slow", num_steps=1, ema_decay=0.999999)
    start = initial_tokens(run.step_inputs.config, tiny.BOS_D, tiny.D)
    assert torch.allclose(run.step_inputs.state.ema.banks, start.banks, atol=1e-6)


@pytest.mark.parametrize("micro_batch_size", [1, 4, 9])
def test_micro_batches_change_nothing_but_rounding(tmp_path, micro_batch_size):
    whole, _ = train(tmp_path / "whole", num_steps=3)
    runtime = RUNTIME.model_copy(update={"micro_batch_size": micro_batch_size})
    chunked, _ = train(tmp_path / "chunked", runtime=runtime, num_steps=3)
    for left, right in zip(
        whole.step_inputs.state.live.parameters(), chunked.step_inputs.state.live.parameters(), strict=True
    ):
        assert torch.allclose(left, right, atol=1e-5)


MUTATIONS = {
    "soft_tokens.num_soft_tokens": {"soft_tokens": UNetTokensConfig(num_soft_tokens=2)},
    "soft_tokens.blocks": {"soft_tokens": UNetTokensConfig(blocks=("mid",))},
    "soft_tokens.num_timestep_bins": {"soft_tokens": UNetTokensConfig(num_timestep_bins=10)},
    "soft_tokens.init": {"soft_tokens": UNetTokensConfig(init="normal")},
    "soft_tokens.init_std": {"soft_tokens": UNetTokensConfig(init_std=0.1)},
    "objective.name": {"objective": SoftREPAConfig()},
    "negatives.num_negatives": {"negatives": NegativesConfig(num_negatives=1)},
    "negatives.num_hard": {"negatives": NegativesConfig(num_hard=1)},
    "negatives.max_similarity": {"negatives": NegativesConfig(max_similarity=0.1)},
    "optimizer.learning_rate": {"optimizer": ConstantConfig(learning_rate=2e-3)},
    "optimizer.weight_decay": {"optimizer": ConstantConfig(weight_decay=0.5)},
    "optimizer.beta1": {"optimizer": ConstantConfig(beta1=0.5)},
    "optimizer.beta2": {"optimizer": ConstantConfig(beta2=0.9)},
    "optimizer.max_grad_norm": {"optimizer": ConstantConfig(max_grad_norm=1e-9)},
    "optimizer.num_warmup_steps": {"optimizer": ConstantConfig(num_warmup_steps=5)},
    "optimizer.schedule": {"optimizer": CosineConfig()},
    "optimizer.min_learning_rate": {"optimizer": CosineConfig(min_learning_rate=1e-4)},
    "optimizer.restart_period_steps": {"optimizer": CosineRestartsConfig(restart_period_steps=3)},
    "num_steps": {"num_steps": 5},
    "batch_size": {"batch_size": 2},
    "noise_sharing": {"noise_sharing": "per_image"},
    "ema_decay": {"ema_decay": 0.5},
    "seed": {"seed": 1},
}
FIXED_OR_ELSEWHERE = {  # one value only; rows, not tokens (below); see test_between_steps.py, test_start.py
    "validate_every_steps",
    "sample_every_steps",
    "early_stop_patience",
    "export_step",
    "init_from",
    "negatives.kinds",  # and counts: which edits there are, in tests/unit/data
    "negatives.counts",
}


def fields_of(model, prefix=""):
    for name in type(model).model_fields:
        value = getattr(model, name)
        if hasattr(type(value), "model_fields") and name != "objective":
            yield from fields_of(value, f"{prefix}{name}.")
        else:
            yield prefix + ("objective.name" if name == "objective" else name)


def test_the_mutations_below_cover_every_field():
    of_schedules = {f"optimizer.{name}" for kind in SCHEDULES.values() for name in kind.model_fields}
    assert set(fields_of(TrainConfig())) | of_schedules == set(MUTATIONS) | FIXED_OR_ELSEWHERE


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    run, _ = train(tmp_path_factory.mktemp("reference"))
    return run.step_inputs.config.digest, digest_of_tokens(run)


def test_without_a_largest_norm_no_gradient_is_scaled(tmp_path):
    settings = {"none": None, "beyond": 1e9, "small": 1e-9}
    runs = {
        name: train(tmp_path / name, optimizer=ConstantConfig(max_grad_norm=norm))[0] for name, norm in settings.items()
    }
    tokens = {name: digest_of_tokens(run) for name, run in runs.items()}
    assert tokens["none"] == tokens["beyond"] != tokens["small"]


@pytest.mark.parametrize("field", MUTATIONS)
def test_every_field_changes_the_digest_and_the_trained_tokens(tmp_path, reference, field):
    run, _ = train(tmp_path, **MUTATIONS[field])
    assert run.step_inputs.config.digest != reference[0]
    assert digest_of_tokens(run) != reference[1]


@pytest.mark.parametrize("name", ["agsm", "softrepa"])
def test_a_batch_without_any_negative_is_counted_and_trains_the_own_captions_alone(tmp_path, name):
    alone = NegativesConfig(max_similarity=0.0)
    train(tmp_path, num_steps=2, objective=OBJECTIVES[name](), negatives=alone)
    found = [row for row in rows(tmp_path) if row["split"] == "train"]
    assert [row["num_without_negative"] for row in found] == [3, 3]
    assert all(row["loss_negative"] == 0 and row["loss_positive"] > 0 and not row["is_skipped"] for row in found)
    assert all(row["match_weight"] is row["chance"] is None for row in found)


def test_rows_count_hard_negatives_among_the_candidates(tmp_path):
    train(tmp_path, num_steps=2, negatives=NegativesConfig(num_negatives=4, num_hard=2))
    found = [row for row in rows(tmp_path) if row["split"] == "train"]
    assert all(row["chance"] == pytest.approx(1 / 5) and row["num_without_negative"] == 0 for row in found)


def test_the_validation_interval_changes_rows_and_not_the_tokens(tmp_path, reference):
    run, _ = train(tmp_path, validate_every_steps=3)
    assert digest_of_tokens(run) == reference[1]
    assert [row["step"] for row in rows(tmp_path) if row["split"] == "val"] == [0, 3, 6]


def test_validation_ranks_captions_through_the_positive_bank(tmp_path):
    train(tmp_path, num_steps=2, validate_every_steps=1)
    found = [row for row in rows(tmp_path) if row["split"] == "val"]
    assert all(0 <= row["val_accuracy"] <= 1 and row["val_chance"] == pytest.approx(1 / 3) for row in found)
    assert found[0]["num_images"] == 3
    assert found[0]["val_loss"] != found[2]["val_loss"]


def test_validation_weights_are_those_of_a_plain_loop(tmp_path):
    held_out = tiny.SyntheticBatches(3).batch_at(30_000)
    run, _ = train(tmp_path, num_steps=1, validate_every_steps=1, val_batches=[held_out, held_out])
    inputs = dataclasses.replace(run.step_inputs, denoiser=tiny.make_denoiser(run.step_inputs.state.live))
    weights, timesteps = [], []
    for seen in (0, 3):
        noisy = diffuse_batch(inputs, held_out, seed=VALIDATION_NOISE_SEED, samples_seen=seen, sharing="per_image")
        predict = pair_predictor(inputs, noisy, held_out.text)
        for image in range(3):
            errors = []
            for prompt in range(3):
                pair = Pairs(torch.tensor([image]), torch.tensor([prompt]), torch.tensor([0]))
                with torch.no_grad():
                    prediction = predict(pair, inputs.state.live)
                errors.append(float((prediction[0] - noisy.target_BCHW[image]).double().square().mean()))
            exponents = [math.exp(-error / 0.1) for error in errors]
            weights.append(exponents[image] / sum(exponents))
            timesteps.append(int(noisy.timesteps_B[image]))
    row = rows(tmp_path)[-1]
    assert row["val_match_weight"] == pytest.approx(sum(weights) / 6, rel=1e-4)
    for low in range(0, 1000, 200):
        bucket = [3 * weight for weight, t in zip(weights, timesteps, strict=True) if low <= t < low + 200]
        found = row[f"val_weight_over_chance_{low}_{low + 200}"]
        assert found == (pytest.approx(sum(bucket) / len(bucket), rel=1e-4) if bucket else None)
    assert row["norm_positive_bank"] == pytest.approx(float(inputs.state.live.banks[0].detach().norm()), rel=1e-6)


def test_a_run_gives_the_same_bytes_twice(tmp_path):
    outputs = []
    for name in ("a", "b"):
        run, progress = train(tmp_path / name, validate_every_steps=2)
        tiny.write_output(run, tmp_path / name / "adapter", progress)
        outputs.append(folder_bytes(tmp_path / name / "adapter"))
    assert outputs[0] == outputs[1]
    names = {"README.md", "adapter_config.json", "metrics.jsonl", "soft_tokens.safetensors", "train_config.json"}
    assert set(outputs[0]) == names | {"initial/adapter_config.json", "initial/soft_tokens.safetensors"}


def test_the_initial_folder_holds_the_step_0_adapter(tmp_path):
    run, progress = train(tmp_path)
    tiny.write_output(run, tmp_path / "adapter", progress)
    start = initial_tokens(run.step_inputs.config, tiny.BOS_D, tiny.D)
    loaded = load_adapter(tmp_path / "adapter" / "initial")
    assert torch.equal(loaded.banks, start.banks)
    assert torch.equal(loaded.timestep_offsets, start.timestep_offsets)
    assert torch.equal(load_adapter(tmp_path / "adapter").banks, run.step_inputs.state.live.banks)
    assert torch.equal(load_adapter(tmp_path / "adapter", use_ema=True).banks, run.step_inputs.state.ema.banks)


def test_a_batch_that_is_not_finite_changes_nothing_and_is_named(tmp_path, caplog):
    batches = tiny.SyntheticBatches(3, poisoned=(2,))
    with caplog.at_level(logging.WARNING):
        run, progress = train(tmp_path, batches=batches, num_steps=3)
    before, _ = train(tmp_path / "before", num_steps=2)
    assert torch.equal(run.step_inputs.state.live.banks, before.step_inputs.state.live.banks)
    assert torch.equal(run.step_inputs.state.ema.banks, before.step_inputs.state.ema.banks)
    assert progress.num_skipped == 1
    assert [row["is_skipped"] for row in rows(tmp_path)] == [False, False, True]
    assert rows(tmp_path)[2]["loss"] is None
    assert "sample-6" in caplog.text


def test_held_out_data_that_is_not_finite_is_reported_and_does_not_end_the_run(tmp_path):
    batch = tiny.SyntheticBatches(3, poisoned=(0,)).batch_at(0)
    train(tmp_path, num_steps=1, validate_every_steps=1, val_batches=[batch])
    assert [row["val_loss"] for row in rows(tmp_path) if row["split"] == "val"] == [None, None]


def test_ten_batches_that_are_not_finite_end_the_run_with_their_keys(tmp_path):
    batches = tiny.SyntheticBatches(3, poisoned=range(1, 30, 2))
    with pytest.raises(TrainingError, match="not finite") as error:
        train(tmp_path, batches=batches, num_steps=50)
    assert "step 20" in error.value.found
    assert "sample-57" in error.value.where


def test_batches_are_read_ahead_in_order_by_another_thread_and_no_further_than_the_run_goes(tmp_path):
    readers = []

    class Watched(tiny.SyntheticBatches):
        def batch_at(self, samples_seen):
            readers.append(threading.current_thread())
            return super().batch_at(samples_seen)

    batches = Watched(3)
    train(tmp_path, batches=batches, num_steps=4)
    measured, *ahead = readers  # the first batch is also what the micro-batch size is measured on
    assert measured is threading.main_thread()
    assert batches.asked[1:] == [0, 3, 6, 9]
    assert len(set(ahead)) == 1
    assert not ahead[0].is_alive()


@pytest.mark.parametrize("objective", [AGSMConfig(), AGSMConfig(temperature="calibrated")], ids=str)
def test_a_stop_request_writes_a_checkpoint_and_the_next_call_continues(tmp_path, objective):
    settings = {"num_steps": 6, "validate_every_steps": 3, "objective": objective}
    undisturbed, _ = train(tmp_path / "undisturbed", **settings)
    with tiny.stopped_after(3) as stop, pytest.raises(PreemptedError, match="step 3") as error:
        train(tmp_path / "run", stop=stop, **settings)
    assert error.value.exit_code == 75
    again = tiny.SyntheticBatches(3)
    resumed, _ = train(tmp_path / "run", batches=again, **settings)
    assert again.asked == [9, 12, 15]
    assert digest_of_tokens(resumed) == digest_of_tokens(undisturbed)
    metrics = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("run", "undisturbed")]
    assert metrics[0] == metrics[1]


def test_steps_are_reported_with_their_figures_and_a_resumed_run_says_where_it_starts(tmp_path):
    heard = []
    with listening(heard.append), tiny.stopped_after(2) as stop, pytest.raises(PreemptedError):
        train(tmp_path, stop=stop)
    first_attempt = heard.copy()
    heard.clear()
    with listening(heard.append):
        train(tmp_path)
    assert (first_attempt[0].done, first_attempt[-1].done, first_attempt[-1].is_last) == (0, 2, True)
    assert (heard[0].done, heard[0].num_reused, heard[0].figures) == (2, 2, ())
    assert (heard[-1].stage, heard[-1].unit, heard[-1].done, heard[-1].total) == ("train", "step", 6, 6)
    of_this_attempt = [row for row in rows(tmp_path) if row["split"] == "train"][2:]
    loss, win_rate, weight = heard[-1].figures
    assert weight.name == "match weight"
    shown = {"loss": loss.value, "win_rate": win_rate.value, "match_weight": weight.value, "chance": weight.chance}
    for name, value in shown.items():
        assert value == pytest.approx(fmean(row[name] for row in of_this_attempt)), name


def test_the_temperature_of_each_step_is_logged(tmp_path):
    def temperatures(name, **objective):
        train(tmp_path / name, num_steps=3, objective=AGSMConfig(**objective))
        return [(row["temperature"], row["reward_spread"]) for row in rows(tmp_path / name)]

    assert [tau for tau, _ in temperatures("code")] == pytest.approx([0.1] * 3)
    assert [tau for tau, _ in temperatures("paper", reward_reduction="sum", temperature=1.0)] == [1.0] * 3
    calibrated = temperatures("calibrated", temperature="calibrated")
    assert all(tau == pytest.approx(spread) for tau, spread in calibrated)
    assert len({tau for tau, _ in calibrated}) == 3


def test_a_resumed_run_keeps_its_number_of_threads(tmp_path):
    stop = StopRequest(is_set=True)
    with pytest.raises(PreemptedError):
        train(tmp_path, stop=stop)
    before = torch.get_num_threads()
    _, progress = train(tmp_path, runtime=RUNTIME.model_copy(update={"num_threads": 2}))
    assert progress.num_threads == 1
    assert torch.get_num_threads() == before


def test_checkpoints_of_another_configuration_are_not_continued(tmp_path):
    with pytest.raises(PreemptedError):
        train(tmp_path, stop=StopRequest(is_set=True))
    with pytest.raises(DataError, match="another run"):
        train(tmp_path, seed=5)


def run_child(folder, **options):
    command = [
        sys.executable,
        str(CHILD),
        str(folder),
        *(f"{name}={json.dumps(value)}" for name, value in options.items()),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(CHILD.parents[3])}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def test_killed_at_three_random_steps_the_run_ends_with_the_bytes_of_an_undisturbed_one(tmp_path, caplog):
    steps = sorted(random.Random(os.urandom(4)).sample(range(1, 24), 3))
    for step in steps:
        killed = run_child(tmp_path / "killed", kill_at=step)
        _, log = killed.communicate()
        assert killed.returncode == -signal.SIGKILL, log
        assert not (tmp_path / "killed" / "adapter").exists()
    with caplog.at_level(logging.INFO):
        assert tiny.main(tmp_path / "killed", {}) == 0
    assert steps[-1] < 5 or f"resuming at step {steps[-1] // 5 * 5}" in caplog.text
    assert tiny.main(tmp_path / "undisturbed", {}) == 0
    expected = folder_bytes(tmp_path / "undisturbed" / "adapter")
    assert folder_bytes(tmp_path / "killed" / "adapter") == expected, f"killed at steps {steps}"


@pytest.mark.slow
def test_200_steps_with_10_kills_end_in_the_bytes_of_200_without(tmp_path):
    steps = sorted(random.Random(os.urandom(4)).sample(range(1, 200), 10))
    for step in steps:
        assert is_killed(lambda step=step: tiny.main(tmp_path / "killed", {"num_steps": 200, "kill_at": step}))
    for name in ("killed", "undisturbed"):
        assert not is_killed(lambda name=name: tiny.main(tmp_path / name, {"num_steps": 200}))
    expected = folder_bytes(tmp_path / "undisturbed" / "adapter")
    assert json.loads(expected["metrics.jsonl"].splitlines()[-1])["step"] == 200
    assert folder_bytes(tmp_path / "killed" / "adapter") == expected, f"killed at steps {steps}"


def test_no_step_draws_from_the_global_generator(tmp_path):
    """Checkpoints hold no generator's state, because there is none to hold."""
    unet, before = tiny.make_unet(), torch.get_rng_state()
    train(tmp_path, num_steps=3, validate_every_steps=1, unet=unet)
    assert torch.equal(torch.get_rng_state(), before)


def test_sigterm_leaves_a_checkpoint_and_exit_code_75(tmp_path):
    child = run_child(tmp_path, num_steps=100000, checkpoint_every_steps=100000)
    metrics = tmp_path / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.is_file() and '"train"' in metrics.read_text()) and time.monotonic() < deadline:
        time.sleep(0.1)
    child.send_signal(signal.SIGTERM)
    _, log = child.communicate(timeout=60)
    assert child.returncode == 75, log
    assert "after a checkpoint" in log
    newest = max((tmp_path / "checkpoints").glob("step-*"))
    assert json.loads((newest / "checkpoint.json").read_text())["progress"]["step"] > 0


def wait_for_rows(folder, number):
    metrics = folder / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.is_file() and metrics.read_text().count('"train"') >= number) and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(0.5)


def test_sigterm_while_a_read_blocks_for_ever_leaves_a_checkpoint_of_the_steps_done(tmp_path):
    child = run_child(tmp_path / "run", block_at=7, num_steps=9)
    wait_for_rows(tmp_path / "run", 7)
    asked = time.monotonic()
    child.send_signal(signal.SIGTERM)
    _, log = child.communicate(timeout=60)
    assert child.returncode == 75, log
    assert time.monotonic() - asked < 20
    assert "stopped at step 7 after a checkpoint" in log
    for name in ("run", "undisturbed"):
        assert tiny.main(tmp_path / name, {"num_steps": 9}) == 0
    assert folder_bytes(tmp_path / "run" / "adapter") == folder_bytes(tmp_path / "undisturbed" / "adapter")


def test_the_watchdog_ends_a_run_whose_read_blocks_for_ever(tmp_path):
    child = run_child(tmp_path, block_at=3, hang_timeout_s=4.0)
    _, log = child.communicate(timeout=120)
    assert child.returncode == 1
    assert "Timeout" in log
    assert "batch_at" in log


@pytest.mark.parametrize("num_batches_before", [0, 1])
def test_a_stop_during_validation_leaves_it_to_the_next_attempt(tmp_path, monkeypatch, num_batches_before):
    held_out = [tiny.SyntheticBatches(3).batch_at(30_000 + 3 * number) for number in range(3)]
    settings = {"num_steps": 6, "validate_every_steps": 3, "val_batches": held_out}
    undisturbed, _ = train(tmp_path / "undisturbed", **settings)
    stop, judged = StopRequest(), []

    def judge_then_stop(*args, **kwargs):
        judged.append(args)
        stop.is_set = len(judged) == 3 + num_batches_before  # those at step 0 first
        return judge(*args, **kwargs)

    def stop_before_any(step):
        stop.is_set = num_batches_before == 0 and step == 3

    with monkeypatch.context() as patch, tiny.steps_counted(after=stop_before_any):
        patch.setattr(validation, "judge", judge_then_stop if num_batches_before else judge)
        with pytest.raises(PreemptedError, match="step 3"):
            train(tmp_path / "run", stop=stop, **settings)
    assert [row["step"] for row in rows(tmp_path / "run") if row["split"] == "val"] == [0]
    resumed, _ = train(tmp_path / "run", **settings)
    assert digest_of_tokens(resumed) == digest_of_tokens(undisturbed)
    metrics = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("run", "undisturbed")]
    assert metrics[0] == metrics[1]


def test_with_memory_to_spare_half_of_the_grid_goes_through_the_denoiser_at_once(tmp_path):
    _, progress = train(tmp_path, num_steps=1)
    assert progress.micro_batch_size == 5  # of 3 x 3 pairs


def test_a_run_keeps_its_micro_batch_size_however_early_it_is_killed(tmp_path, monkeypatch):
    chosen = iter([5, 2])
    monkeypatch.setattr(loop, "choose_size", lambda *args, **kwargs: next(chosen))

    def die(step):
        raise KeyboardInterrupt

    with tiny.steps_counted(before=die), pytest.raises(KeyboardInterrupt):
        train(tmp_path, validate_every_steps=3)
    _, progress = train(tmp_path, validate_every_steps=3)
    assert progress.micro_batch_size == 5
    assert [row["step"] for row in rows(tmp_path) if row["split"] == "val"] == [0, 3, 6]


def test_each_batch_of_a_validation_is_a_sign_of_life(tmp_path):
    signs = []

    class Noted(Watchdog):
        def note_progress(self):
            signs.append(1)

    config = TrainConfig(**{**BASE, "num_steps": 1, "validate_every_steps": 1})
    batches = [tiny.SyntheticBatches(3).batch_at(30_000)] * 8
    run = dataclasses.replace(tiny.make_run(tmp_path, config, RUNTIME, val_batches=batches), watchdog=Noted(None))
    run_steps(run, StopRequest())
    run.step_inputs.denoiser.close()
    assert len(signs) >= 16
