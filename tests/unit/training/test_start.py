"""A run can start from an adapter's tokens: checked, and part of what was asked for by content, not by place."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch

from softalign.adapters.files import read_adapter_config, save_adapter
from softalign.adapters.locating import resolved
from softalign.config import BackboneConfig, MMDiTTokensConfig, Runtime, TrainConfig, UNetTokensConfig
from softalign.errors import CompatibilityError, IntegrityError, MissingInputError
from softalign.method.soft_tokens import SoftTokens
from softalign.method.text_states import TextStates
from softalign.processes.stopping import StopRequest
from softalign.training.loop import run_steps
from softalign.training.process_group import ALONE
from softalign.training.start import START_STATES, initial_state, initial_tokens, start_states, starting_tokens
from tests.unit.training import tiny_training as tiny

BACKBONE = BackboneConfig(family="sd15", model="tiny")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    config = TrainConfig(num_steps=3, batch_size=3, validate_every_steps=0)
    run = tiny.make_run(folder, config, Runtime(num_threads=1))
    progress = run_steps(run, StopRequest())
    tiny.write_output(run, folder / "adapter", progress)
    run.step_inputs.denoiser.close()
    return folder / "adapter", run.step_inputs.state


def start(**changes):
    config = TrainConfig(**changes)
    return starting_tokens(config, BACKBONE, initial_tokens(config, tiny.BOS_D, tiny.D))


def test_live_tokens_and_their_average_start_from_the_adapters_last_ones(exported):
    folder, state = exported
    assert torch.equal(start(init_from=str(folder)).banks, state.live.banks)
    fresh = initial_state(TrainConfig(), start(init_from=str(folder)), torch.device("cpu"))
    for tokens in (fresh.live, fresh.ema):
        assert torch.equal(tokens.banks, state.live.banks)
        assert torch.equal(tokens.timestep_offsets, state.live.timestep_offsets)
    assert fresh.live.banks.data_ptr() != fresh.ema.banks.data_ptr()
    assert not fresh.optimizer.state
    assert not torch.equal(start().banks, state.live.banks)


@pytest.mark.parametrize(
    "changes",
    [
        {"soft_tokens": UNetTokensConfig(num_soft_tokens=2)},
        {"soft_tokens": UNetTokensConfig(num_timestep_bins=10)},
        {"objective": {"name": "softrepa"}},
    ],
    ids=str,
)
def test_tokens_of_another_shape_are_refused(exported, changes):
    with pytest.raises(CompatibilityError, match="another shape"):
        start(init_from=str(exported[0]), **changes)


def test_tokens_without_a_timestep_table_are_refused(exported, tmp_path):
    folder, state = exported
    config = read_adapter_config(folder).model_copy(update={"timestep_bins": 0, "has_ema": False})
    save_adapter(tmp_path, config, SoftTokens(state.live.banks.detach(), None), None)
    with pytest.raises(CompatibilityError, match=r"(?s)timestep_offsets none.*with a timestep table"):
        start(init_from=str(tmp_path))


def test_tokens_of_another_place_are_refused(exported):
    with pytest.raises(CompatibilityError, match="another place") as error:
        start(init_from=str(exported[0]), soft_tokens=UNetTokensConfig(blocks=("mid",)))
    assert "mid blocks" in error.value.expected
    assert "down and mid" in error.value.found


def test_an_adapter_of_another_family_is_refused(exported):
    config = TrainConfig(init_from=str(exported[0]))
    drawn = initial_tokens(config, tiny.BOS_D, tiny.D)
    with pytest.raises(CompatibilityError, match="another family"):
        starting_tokens(config, BackboneConfig(family="sd21", model="tiny"), drawn)


def test_another_base_model_of_the_family_is_said(exported, caplog):
    config = TrainConfig(init_from=str(exported[0]))
    starting_tokens(config, BackboneConfig(model="other"), initial_tokens(config, tiny.BOS_D, tiny.D))
    assert "an adapter of tiny" in caplog.text


def test_the_request_is_known_by_the_adapters_weights(exported, tmp_path):
    copy = shutil.copytree(exported[0], tmp_path / "elsewhere")
    here, there = (resolved(TrainConfig(init_from=str(place))) for place in (exported[0], copy))
    assert here.digest == there.digest != resolved(TrainConfig()).digest
    changed = json.loads((copy / "adapter_config.json").read_text())
    (copy / "adapter_config.json").write_text(json.dumps({**changed, "weights_sha256": "0" * 64}))
    assert resolved(TrainConfig(init_from=str(copy))).digest != here.digest
    (copy / "adapter_config.json").write_text("[]")
    with pytest.raises(IntegrityError, match="no adapter configuration"):
        resolved(TrainConfig(init_from=str(copy)))


def test_an_adapter_that_is_not_there_is_missing(tmp_path):
    with pytest.raises(MissingInputError):
        resolved(TrainConfig(init_from=str(tmp_path / "none")))
    with pytest.raises(MissingInputError):
        start(init_from=str(tmp_path / "none"))


def backbone_of(states):
    return SimpleNamespace(start_states=lambda config, empty: states)


def test_tokens_start_as_the_states_that_the_backbone_has_for_them(tmp_path):
    states, empty = torch.arange(1.0, 9.0).view(2, 4), TextStates(torch.zeros(1, 3, 4))
    config = TrainConfig(soft_tokens=MMDiTTokensConfig(num_layers=2, init="padding", init_std=0.5))
    found = start_states(config, backbone_of(states), empty, ALONE, tmp_path)
    assert torch.equal(found, states)
    tokens = initial_tokens(config, found, 4)
    assert tokens.banks.shape == (2, 2, 4, 4)
    torch.testing.assert_close(tokens.banks[1, 1, 3], 0.5 * states[1] / states[1].square().mean().sqrt())
    assert not tokens.timestep_offsets.any()


def test_an_attempt_on_another_device_keeps_the_first_ones_start(tmp_path):
    config = TrainConfig(soft_tokens=MMDiTTokensConfig(num_layers=2, init="padding"))
    empty, first = TextStates(torch.zeros(1, 3, 4)), torch.ones(2, 4)
    assert torch.equal(start_states(config, backbone_of(first), empty, ALONE, tmp_path), first)
    assert torch.equal(start_states(config, backbone_of(first + 1e-6), empty, ALONE, tmp_path), first)
    assert [path.name for path in tmp_path.iterdir()] == [START_STATES]


@pytest.mark.parametrize("tokens", [UNetTokensConfig(), UNetTokensConfig(init="normal"), MMDiTTokensConfig()], ids=str)
def test_nothing_is_kept_of_other_starts(tmp_path, tokens):
    config, bos = TrainConfig(soft_tokens=tokens), torch.ones(4)
    found = start_states(config, backbone_of(bos), TextStates(bos.view(1, 1, 4)), ALONE, tmp_path)
    assert found.tolist() == ([1.0] * 4 if tokens.init == "bos" else [])
    assert list(tmp_path.iterdir()) == []
