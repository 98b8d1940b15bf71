import json
import logging

import pytest
import torch

from softalign.errors import CompatibilityError, DataError, IntegrityError
from softalign.method.soft_tokens import SoftTokens
from softalign.training.checkpoints import (
    Progress,
    TrainingState,
    list_checkpoints,
    load_best,
    read_checkpoint,
    restore_newest,
    save_checkpoint,
)
from softalign.training.validation_history import ValidationHistory
from softalign.version import __version__

RUN = "r" * 64


def make_state(seed=0):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    live, ema = SoftTokens(draw(2, 3, 4), draw(5, 4)), SoftTokens(draw(2, 3, 4), draw(5, 4))
    return TrainingState(live, ema, torch.optim.AdamW(live.parameters(), lr=0.1))


def advance(state, num_steps=1):
    for _ in range(num_steps):
        state.optimizer.zero_grad()
        tokens = state.live(torch.tensor([3, 700]), torch.tensor([0, 1]))
        tokens.square().sum().backward()
        state.optimizer.step()


def progress_at(step, run=RUN, best_step=None):
    history = ValidationHistory(best_step=best_step)
    counters = {"step": step, "samples_seen": 4 * step, "num_skipped": 0, "num_threads": 1}
    return Progress(**counters, run_digest=run, validations=history)


def same(left, right):
    first, second = left.to_tensors(), right.to_tensors()
    assert first.keys() == second.keys()
    return all(torch.equal(first[name], second[name]) for name in first)


def test_a_restored_run_goes_on_bit_for_bit(tmp_path):
    state = make_state()
    advance(state, 3)
    save_checkpoint(tmp_path, state, progress_at(3), keep=2)
    advance(state, 5)
    other = make_state(seed=9)
    assert restore_newest(tmp_path, other, RUN) == progress_at(3)
    advance(other, 5)
    assert same(state, other)


def test_an_older_checkpoint_that_says_looked_at_is_read(tmp_path):
    state, progress = make_state(), progress_at(3).model_copy(update={"is_evaluated": False})
    meta = save_checkpoint(tmp_path, state, progress, keep=2) / "checkpoint.json"
    assert "is_evaluated" in meta.read_text()
    meta.write_text(meta.read_text().replace("is_evaluated", "is_looked_at"))
    assert restore_newest(tmp_path, state, RUN) == progress


def test_a_state_before_the_first_step_can_be_restored(tmp_path):
    state, other = make_state(), make_state(seed=9)
    save_checkpoint(tmp_path, state, progress_at(0), keep=2)
    restore_newest(tmp_path, other, RUN)
    advance(state)
    advance(other)
    assert same(state, other)


def test_the_same_state_gives_the_same_bytes(tmp_path):
    state = make_state()
    advance(state)
    for name in ("a", "b"):
        save_checkpoint(tmp_path / name, state, progress_at(1), keep=1)
    for file in ("state.safetensors", "checkpoint.json"):
        first, second = ((tmp_path / name / "step-00000001" / file).read_bytes() for name in ("a", "b"))
        assert first == second


def test_the_newest_are_kept_and_leftovers_of_dead_writers_removed(tmp_path):
    state = make_state()
    leftover = tmp_path / ".step-00000002.999"
    leftover.mkdir(parents=True)
    for step in (2, 4, 6, 8):
        save_checkpoint(tmp_path, state, progress_at(step), keep=2)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000006", "step-00000008"]
    assert not leftover.exists()


def test_the_best_is_kept_beside_the_newest(tmp_path):
    for step in (2, 4, 6, 8):
        save_checkpoint(tmp_path, make_state(step), progress_at(step, best_step=min(step, 4)), keep=1)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000004", "step-00000008"]
    state = make_state(9)
    assert load_best(tmp_path, state, progress_at(8, best_step=4)) == progress_at(4, best_step=4)
    assert same(state, make_state(4))


def test_a_damaged_best_sends_a_run_that_exports_it_back_to_before_it(tmp_path, caplog):
    for step in (2, 4, 6):
        save_checkpoint(tmp_path, make_state(step), progress_at(step, best_step=min(step, 4)), keep=3)
    (tmp_path / "step-00000004" / "state.safetensors").write_bytes(b"")
    assert restore_newest(tmp_path, make_state(), RUN).step == 6
    assert restore_newest(tmp_path, make_state(), RUN, is_best_needed=True).step == 2
    assert "step-00000004" in caplog.text
    with pytest.raises(IntegrityError):
        load_best(tmp_path, make_state(), progress_at(6, best_step=4))


def test_without_a_finite_validation_there_is_no_best(tmp_path):
    with pytest.raises(DataError, match="No validation"):
        load_best(tmp_path, make_state(), progress_at(6))


def test_an_exported_adapter_is_no_checkpoint(tmp_path):
    save_checkpoint(tmp_path, make_state(), progress_at(5), keep=2)
    export = tmp_path / "step-00000009"
    export.mkdir()
    (export / "adapter_config.json").write_text("{}")
    (export / "soft_tokens.safetensors").write_bytes(b"")
    with pytest.raises(DataError, match="exported adapter") as error:
        restore_newest(tmp_path, make_state(), RUN)
    assert "train.init_from" in error.value.fix


@pytest.mark.parametrize("damage", ["truncated", "changed", "no state", "no meta", "another step", "meta is no JSON"])
def test_a_damaged_newest_checkpoint_is_passed_over_and_named(tmp_path, caplog, damage):
    state = make_state()
    for step in (5, 10):
        advance(state)
        path = save_checkpoint(tmp_path, state, progress_at(step), keep=2)
    data = (path / "state.safetensors").read_bytes()
    if damage == "truncated":
        (path / "state.safetensors").write_bytes(data[: len(data) // 2])
    elif damage == "changed":
        (path / "state.safetensors").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif damage == "no state":
        (path / "state.safetensors").unlink()
    elif damage == "another step":
        meta = path / "checkpoint.json"
        meta.write_text(meta.read_text().replace('"step":10', '"step":7').replace('"step": 10', '"step": 7'))
    elif damage == "no meta":
        (path / "checkpoint.json").unlink()
    else:
        (path / "checkpoint.json").write_bytes(b"{")
    with caplog.at_level(logging.WARNING):
        assert restore_newest(tmp_path, make_state(), RUN) == progress_at(5)
    assert "step-00000010" in caplog.text
    with pytest.raises(IntegrityError):
        read_checkpoint(path)
    assert [each.name for each in list_checkpoints(tmp_path)] == ["step-00000005"]
    assert (tmp_path / "damaged-step-00000010").is_dir()
    save_checkpoint(tmp_path, state, progress_at(10), keep=2)
    assert restore_newest(tmp_path, make_state(), RUN) == progress_at(10)


def test_nothing_to_restore(tmp_path):
    state = make_state()
    assert restore_newest(tmp_path, state, RUN) is None
    assert same(state, make_state())


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    save_checkpoint(tmp_path, make_state(), progress_at(5, run="other"), keep=2)
    with pytest.raises(DataError, match="another run"):
        restore_newest(tmp_path, make_state(), RUN)


def test_checkpoints_hold_no_pickle(tmp_path):
    path = save_checkpoint(tmp_path, make_state(), progress_at(1), keep=1)
    assert sorted(file.name for file in path.iterdir()) == ["checkpoint.json", "state.safetensors"]


@pytest.mark.parametrize(("version", "said"), [(1, "an older"), (3, "a newer")])
def test_a_checkpoint_of_another_format_is_not_passed_over_as_damaged(tmp_path, version, said):
    save_checkpoint(tmp_path, make_state(), progress_at(2), keep=2)
    path = save_checkpoint(tmp_path, make_state(), progress_at(4), keep=2) / "checkpoint.json"
    meta = json.loads(path.read_text())
    assert (meta["schema_version"], meta["library_version"]) == (2, __version__)
    changed = {"schema_version": version, "library_version": "9.1", "a field of that version": 1}
    path.write_text(json.dumps({**meta, **changed}))
    with pytest.raises(CompatibilityError, match=f"This checkpoint is of {said} format") as caught:
        restore_newest(tmp_path, make_state(), RUN)
    assert caught.value.found == f"schema_version {version}, written by softalign 9.1"
    assert caught.value.where == str(path)
    way = "update softalign to 9.1 or later" if version > 2 else "install the softalign that wrote it"
    assert caught.value.fix == f"{way}; or remove {tmp_path} to start over"
    assert path.is_file()
