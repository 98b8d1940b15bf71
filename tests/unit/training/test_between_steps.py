"""Which step a run ends at and which tokens it exports, from scripted validations."""

import json
import logging

import pytest
import torch
from pydantic import ValidationError

from softalign.config import Runtime, TrainConfig
from softalign.errors import PreemptedError
from softalign.processes.stopping import StopRequest
from softalign.training import between_steps
from softalign.training.checkpoints import load_best
from softalign.training.loop import run_steps
from softalign.training.validation import validate
from tests.unit.training import tiny_training as tiny

RUNTIME = Runtime(num_threads=1, checkpoint_every_steps=4, keep_checkpoints=1)


@pytest.fixture
def scripted(monkeypatch):
    """Replace the accuracies of the validations, by step, and the weights if they are given."""

    def script(accuracies, weights=None):
        def scripted_validate(inputs, batches, *, step, samples_seen):
            row = validate(inputs, batches, step=step, samples_seen=samples_seen)
            changes = {"val_accuracy": accuracies.get(step, 0.0), "val_loss": 1.0, "val_margin": 0.0}
            return row.model_copy(update=changes | ({} if weights is None else {"val_match_weight": weights[step]}))

        monkeypatch.setattr(between_steps, "validate", scripted_validate)

    return script


def train(folder, stop=None, **changes):
    config = TrainConfig(**{"num_steps": 12, "batch_size": 3, "validate_every_steps": 2, **changes})
    run = tiny.make_run(folder, config, RUNTIME)
    try:
        return run, run_steps(run, stop or StopRequest())
    finally:
        run.step_inputs.denoiser.close()


def rows(folder, split):
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [row for row in lines if row["split"] == split]


def test_the_best_tokens_are_those_of_the_best_validation(tmp_path, scripted):
    scripted({0: 0.1, 2: 0.2, 4: 0.3, 6: 0.9, 8: 0.5})
    run, progress = train(tmp_path / "a", export_step="best")
    assert (progress.step, progress.validations.best_step) == (12, 6)
    names = sorted(path.name for path in (tmp_path / "a" / "checkpoints").iterdir())
    assert names == ["step-00000006", "step-00000012"]
    last = run.step_inputs.state.live.banks.detach().clone()
    best = load_best(run.checkpoints_path, run.step_inputs.state, progress)
    assert (best.step, best.samples_seen) == (6, 18)
    shorter, _ = train(tmp_path / "b", num_steps=6)
    assert torch.equal(run.step_inputs.state.live.banks, shorter.step_inputs.state.live.banks)
    assert not torch.equal(run.step_inputs.state.live.banks, last)


def test_a_run_without_progress_ends_early_and_stays_ended(tmp_path, scripted):
    scripted({0: 0.1, 2: 0.5})
    _, progress = train(tmp_path, early_stop_patience=2)
    assert progress.step == 6
    assert [row["step"] for row in rows(tmp_path, "val")] == [0, 2, 4, 6]
    _, again = train(tmp_path, early_stop_patience=2)
    assert again == progress
    assert len(rows(tmp_path, "train")) == 6


def test_a_resumed_run_remembers_its_validations(tmp_path, scripted):
    scripted({0: 0.1, 2: 0.5})
    with pytest.raises(PreemptedError, match="step 5"), tiny.stopped_after(5) as stop:
        train(tmp_path, stop, early_stop_patience=2)
    _, progress = train(tmp_path, early_stop_patience=2)
    assert progress.step == 6
    assert progress.validations.best_step == 2


def test_weights_at_chance_raise_the_alarm(tmp_path, scripted, caplog):
    scripted({}, weights={0: 0.34, 2: 0.33, 4: 0.33, 6: 0.6, 8: 0.33, 10: 0.33, 12: 0.33})
    with caplog.at_level(logging.WARNING):
        train(tmp_path)
    assert [row["is_weight_at_chance"] for row in rows(tmp_path, "val")] == [
        False,
        False,
        True,
        False,
        False,
        False,
        True,
    ]
    assert "train.objective.temperature=calibrated" in caplog.text


@pytest.mark.parametrize("changes", [{"export_step": "best"}, {"early_stop_patience": 1}], ids=str)
def test_choosing_without_validating_is_refused(changes):
    with pytest.raises(ValidationError, match="no effect"):
        TrainConfig(validate_every_steps=0, **changes)
