"""Trainings that start alike share the evaluation of their untrained tokens; what starts otherwise does not."""

import pytest
import torch

from softalign.adapters.files import AdapterConfig, placement_of, save_adapter
from softalign.artifacts import Adapter, ArmReports, digest_of
from softalign.config import load_recipe
from softalign.errors import CompatibilityError, IntegrityError, MissingInputError
from softalign.evaluation.compare import compare
from softalign.evaluation.evaluated_tokens import tokens_digest
from softalign.store.store import Store
from softalign.training.start import initial_tokens
from tests.recorded_arms import publish_arm
from tests.steps import key_of

WIDTH = 8
BOS_D = torch.linspace(-1, 1, WIDTH)


def published(store, *overrides, has_initial=True):
    """Publish what a training of ``shapes-unet`` ends with: its own weights, and the tokens it started from."""
    train = load_recipe("shapes-unet", overrides).train
    start = initial_tokens(train, BOS_D, WIDTH)
    key = digest_of(["train", *overrides])
    config = AdapterConfig(
        base_model="shapes",
        base_model_revision="",
        family="sd21",
        placement=placement_of(train.soft_tokens),
        num_soft_tokens=train.soft_tokens.num_soft_tokens,
        num_banks=start.num_banks,
        width=WIDTH,
        timestep_bins=train.soft_tokens.num_timestep_bins,
        has_ema=True,
        objective=train.objective.name,
        num_steps=train.num_steps,
        samples_seen=0,
        dataset_digest=digest_of(list(overrides)),
        library_version="0",
        weights_sha256="",
        base_fingerprint=None,
    )
    folder = store.work_path("train", key) / "adapter"
    (folder / "weights").mkdir(parents=True)
    (folder / "weights" / "trained").write_text(key)
    (folder / "metrics.jsonl").write_text("")
    if has_initial:
        save_adapter(folder / "initial", config, start, start)
    record = Adapter(
        stage_key=key,
        name="shapes",
        base_model="shapes",
        base_model_revision="",
        backbone_digest="b",
        family="sd21",
        objective=train.objective.name,
        num_parameters=1,
        num_steps=train.num_steps,
        samples_seen=0,
        weights_sha256="w",
        dataset_digest="d",
    )
    return store.publish(record, folder)


def keys(store, arm, *overrides):
    recipe = load_recipe("shapes-unet", overrides)
    return key_of(recipe, f"evaluate ({arm})", store, published(store, *overrides))


@pytest.mark.parametrize(
    "override",
    [
        "train.num_steps=7",
        "train.optimizer.learning_rate=0.006",
        "train.objective={temperature: 0.5}",
        "train.objective={preset: paper}",
        "train.batch_size=6",
        "curation.val_share=0.2",
    ],
)
def test_trainings_that_start_alike_share_the_untrained_evaluation(tmp_path, override):
    store = Store(str(tmp_path))
    assert keys(store, "untrained") == keys(store, "untrained", override)
    if not override.startswith("curation"):
        assert keys(store, "adapter") != keys(store, "adapter", override)


@pytest.mark.parametrize(
    "override",
    [
        "train.seed=1",
        "train.soft_tokens.init=normal",
        "train.soft_tokens.num_soft_tokens=2",
        "train.soft_tokens.num_timestep_bins=10",
        "train.soft_tokens.blocks=[mid]",
        "train.objective={name: softrepa}",
        "evaluate.seed=5",
    ],
)
def test_other_step_0_tokens_another_place_or_other_noise_are_another_evaluation(tmp_path, override):
    store = Store(str(tmp_path))
    before = ["train.soft_tokens.init=normal"] if override == "train.seed=1" else []
    assert keys(store, "untrained", *before) != keys(store, "untrained", *before, override)


def test_a_shared_untrained_report_is_evidence_for_both_and_that_of_other_tokens_for_none(tmp_path, recorded, prompts):
    store = Store(str(tmp_path))
    first, second = published(store), published(store, "train.num_steps=7")
    stranger = published(store, "train.soft_tokens.num_soft_tokens=2")
    arms = {"base": None, "untrained": first, "adapter": second}
    reports = {arm: publish_arm(arm, adapter, prompts, recorded.config, store) for arm, adapter in arms.items()}
    assert reports["untrained"].parents == (tokens_digest("untrained", second, store),)
    done = compare(ArmReports.of(reports), second, recorded.config, store, "compare-key")
    assert reports["untrained"].digest in done.parents
    other = publish_arm("adapter", stranger, prompts, recorded.config, Store(str(tmp_path / "other")))
    with pytest.raises(CompatibilityError, match="untrained was evaluated with another adapter"):
        compare(ArmReports.of({**reports, "adapter": other}), stranger, recorded.config, store, "bad")


def test_missing_or_changed_step_0_tokens_are_named(tmp_path):
    store = Store(str(tmp_path))
    with pytest.raises(MissingInputError, match=r"step-0 tokens(?s:.)*train it again"):
        tokens_digest("untrained", published(store, has_initial=False), store)
    adapter = published(store, "train.num_steps=9")
    with (tmp_path / "train" / adapter.stage_key / "initial" / "adapter_config.json").open("a") as file:
        file.write(" ")
    with pytest.raises(IntegrityError, match=r"initial/adapter_config\.json"):
        tokens_digest("untrained", adapter, store)
