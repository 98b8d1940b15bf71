"""The learning rate is a function of the step and of the optimiser's settings alone."""

import math

import pytest
import torch
from pydantic import ValidationError

from softalign.config import OptimizerConfig, TrainConfig
from softalign.training.learning_rate import learning_rate_at


def rates(num_steps, **settings):
    config = OptimizerConfig(**settings)
    return [learning_rate_at(config, step, num_steps) for step in range(num_steps)]


def test_constant_after_a_linear_warm_up():
    assert rates(8, learning_rate=1.0, num_warmup_steps=4) == [0.25, 0.5, 0.75, 1, 1, 1, 1, 1]


def test_a_cosine_falls_from_the_peak_to_its_floor():
    values = rates(8, learning_rate=1.0, num_warmup_steps=4, schedule="cosine", min_learning_rate=0.2)
    assert values[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert values[6] == pytest.approx(0.6)
    assert values[7] == pytest.approx(0.2 + 0.8 * 0.5 * (1 + math.cos(0.75 * math.pi)))
    assert rates(9, learning_rate=1.0, schedule="cosine")[-1] > 0


def test_restarts_are_torchs_warm_restarts():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=5, eta_min=1e-5)
    expected = []
    for _ in range(17):
        expected.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    found = rates(17, schedule="cosine_restarts", restart_period_steps=5)
    assert found == pytest.approx(expected, rel=1e-12)
    assert found[5] == found[10] == 1e-3


def test_the_papers_floor_and_period_are_the_defaults_of_restarts():
    config = OptimizerConfig(schedule="cosine_restarts")
    assert (config.min_learning_rate, config.restart_period_steps) == (1e-5, 1000)
    assert OptimizerConfig.model_validate(config.model_dump()) == config


@pytest.mark.parametrize(
    "settings",
    [
        {"schedule": "constant", "min_learning_rate": 1e-5},
        {"schedule": "constant", "restart_period_steps": 10},
        {"schedule": "cosine", "restart_period_steps": 10},
        {"schedule": "cosine", "min_learning_rate": 1e-3},
        {"schedule": "cosine_restarts", "learning_rate": 1e-5},
    ],
    ids=str,
)
def test_a_field_without_effect_is_refused(settings):
    with pytest.raises(ValidationError, match="no effect"):
        OptimizerConfig(**settings)


def test_a_warm_up_as_long_as_the_run_is_refused():
    with pytest.raises(ValidationError, match="never begin"):
        TrainConfig(num_steps=5, optimizer=OptimizerConfig(num_warmup_steps=5))
