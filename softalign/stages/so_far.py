"""What an unfinished attempt of a stage has kept in its work folder, in words; empty where it has kept nothing."""

from __future__ import annotations

from softalign.artifacts import Adapter
from softalign.evaluation.drawing_key import comes_with_its_scorer, drawing_key
from softalign.evaluation.evaluated_tokens import tokens_digest
from softalign.stages.requests import StageInputs


def nothing(_given: StageInputs, _key: str) -> str:
    """Say nothing: the stage begins anew."""
    return ""


def training_steps(given: StageInputs, key: str) -> str:
    """Return how many steps the newest checkpoint has."""
    # checkpoints.list_checkpoints would load torch, for seconds
    names = [path.name for path in (given.store.work_path("train", key) / "checkpoints").glob("step-*")]
    steps = max((int(name.removeprefix("step-")) for name in names), default=0)
    return f"{steps} of {given.recipe.train.num_steps} training steps" if steps else ""


def images(given: StageInputs, key: str) -> str:
    """Return how many images of an arm are there."""
    number = sum(1 for _ in given.store.work_path("evaluate", _drawn_as(given, key)).rglob("[0-9]*.png"))
    return f"{number} images of {given.evaluation_label}" if number else ""


def _drawn_as(given: StageInputs, key: str) -> str:
    arm, champion = given.evaluated_arm, given.recipe.evaluate.pinned_champion
    config = given.recipe.evaluate.of_arm(arm)
    if comes_with_its_scorer(config):
        return key
    tokens = tokens_digest(arm, given.inputs.find(Adapter), given.store, champion)
    return drawing_key(tokens, given.recipe.backbone, config)
