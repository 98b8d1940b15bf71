"""Two real processes (gloo) train one run: as one process does, resumable as one, and never one without the other."""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from softalign.config import Runtime
from softalign.processes.launch import RankProcesses, rank_environments
from tests.killing import exit_codes
from tests.unit.training import tiny_training as tiny

CHILD = Path(__file__).with_name("tiny_training.py")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(CHILD.parents[3])}


def start(folder, num_processes, **options):
    command = [sys.executable, str(CHILD), str(folder)]
    command += [f"{name}={json.dumps(value)}" for name, value in options.items()]
    return RankProcesses(command, rank_environments(Runtime(num_processes=num_processes)), ENVIRONMENT)


def finish(ranks):
    """Return the exit code and the log, once all ranks are gone."""
    while any(child.poll() is None for child in ranks._children):
        ranks.check()
        time.sleep(0.1)
    log = "".join(stream.read() for stream in (*ranks.outputs, *ranks.errors))
    return ranks.exit_code(), log


def fork_ranks(folder, num_processes, **options):
    """Train in forked processes, no interpreter to start; return their exit codes."""
    environments = rank_environments(Runtime(num_processes=num_processes))

    def work(rank):
        os.environ.update(environments[rank])
        return tiny.main(folder, options)

    return exit_codes(work, num_processes)


def train(folder, num_processes, **options):
    assert fork_ranks(folder, num_processes, **options) == [0] * num_processes


def folder_bytes(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def tokens(folder):
    return load_file(folder / "adapter" / "soft_tokens.safetensors")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    train(folder, 2)
    return folder


def test_two_processes_do_what_one_does(undisturbed, tmp_path):
    train(tmp_path, 1)
    one, two = tokens(tmp_path), tokens(undisturbed)
    assert one.keys() == two.keys()
    for name in one:
        assert (one[name] - two[name]).abs().max() < 1e-4, name
    pairs = zip(*((path / "metrics.jsonl").read_text().splitlines() for path in (tmp_path, undisturbed)), strict=True)
    for first, second in ((json.loads(left), json.loads(right)) for left, right in pairs):
        assert first.keys() == second.keys()
        for name, value in first.items():
            assert second[name] == (pytest.approx(value, rel=1e-2, abs=1e-3) if isinstance(value, float) else value)


def test_killed_at_random_steps_two_processes_end_with_the_bytes_of_undisturbed_ones(undisturbed, tmp_path):
    steps = sorted(random.Random(os.urandom(4)).sample(range(1, 24), 2))
    for number, step in enumerate(steps):
        assert fork_ranks(tmp_path, 2, kill_at=step, kill_rank=number)[number] == -signal.SIGKILL
    train(tmp_path, 2)
    assert folder_bytes(tmp_path / "adapter") == folder_bytes(undisturbed / "adapter"), f"killed at {steps}"


@pytest.mark.slow
def test_200_steps_of_two_processes_with_10_kills_end_in_the_bytes_of_200_without(tmp_path):
    steps = sorted(random.Random(os.urandom(4)).sample(range(1, 200), 10))
    for number, step in enumerate(steps):
        codes = fork_ranks(tmp_path / "killed", 2, num_steps=200, kill_at=step, kill_rank=number % 2)
        assert codes[number % 2] == -signal.SIGKILL
    for name in ("killed", "undisturbed"):
        train(tmp_path / name, 2, num_steps=200)
    expected = folder_bytes(tmp_path / "undisturbed" / "adapter")
    assert folder_bytes(tmp_path / "killed" / "adapter") == expected, f"killed at {steps}"


def test_another_number_of_processes_goes_on_at_the_same_sample(undisturbed, tmp_path):
    assert fork_ranks(tmp_path, 2, kill_at=13)[0] == -signal.SIGKILL
    assert max(path.name for path in (tmp_path / "checkpoints").iterdir()) == "step-00000010"
    train(tmp_path, 1)
    samples = [json.loads(line)["samples_seen"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    expected = [json.loads(line)["samples_seen"] for line in (undisturbed / "metrics.jsonl").read_text().splitlines()]
    assert samples == expected
    one, two = tokens(tmp_path), tokens(undisturbed)
    assert all((one[name] - two[name]).abs().max() < 1e-4 for name in one)


def test_sigterm_to_one_of_them_stops_both_after_a_checkpoint(tmp_path):
    ranks = start(tmp_path, 2, num_steps=100000, checkpoint_every_steps=100000)
    metrics = tmp_path / "metrics.jsonl"
    deadline = time.monotonic() + 240
    while not (metrics.is_file() and '"train"' in metrics.read_text()) and time.monotonic() < deadline:
        time.sleep(0.1)
    ranks._children[1].send_signal(signal.SIGTERM)
    asked = time.monotonic()
    code, log = finish(ranks)
    assert code == 75, log
    assert time.monotonic() - asked < 30
    assert "after a checkpoint" in log
    newest = max((tmp_path / "checkpoints").glob("step-*"))
    assert json.loads((newest / "checkpoint.json").read_text())["progress"]["step"] > 0


def test_sigterm_to_one_while_a_read_of_the_other_blocks_for_ever_stops_both_after_a_checkpoint(tmp_path):
    ranks = start(tmp_path, 2, block_at=7, block_rank=0)
    metrics = tmp_path / "metrics.jsonl"
    deadline = time.monotonic() + 240
    while not (metrics.is_file() and metrics.read_text().count('"train"') >= 7) and time.monotonic() < deadline:
        time.sleep(0.1)
    ranks._children[1].send_signal(signal.SIGTERM)
    asked = time.monotonic()
    code, log = finish(ranks)
    assert code == 75, log
    assert time.monotonic() - asked < 30
    assert (tmp_path / "checkpoints" / "step-00000007").is_dir()


@pytest.mark.parametrize("objective", ["softrepa", "score_matching"])
def test_other_objectives_divide_too(objective, tmp_path):
    options = {"objective": objective, "num_steps": 4, "validate_every_steps": 0, "poisoned": ()}
    for number in (1, 2):
        train(tmp_path / str(number), number, **options)
    one, two = tokens(tmp_path / "1"), tokens(tmp_path / "2")
    assert all((one[name] - two[name]).abs().max() < 1e-4 for name in one)
