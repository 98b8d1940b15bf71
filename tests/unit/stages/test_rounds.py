"""Evaluations in rounds: drawn until the gate's answer is certain, found again, gone on with, and planned."""

import numpy as np
import pytest

from softalign.artifacts import EvalReport
from softalign.config import load_recipe
from softalign.errors import ConfigError, MissingInputError
from softalign.geneval.layout import image_filename
from softalign.geneval.scoring import RESULTS_FILENAME, ImageResult, write_results
from softalign.stages.chain import walk
from softalign.stages.champion import pinned, with_champion
from softalign.stages.checks import check_evaluation
from softalign.stages.held_rounds import holding_report, lent_report
from softalign.stages.kept import kept_line
from softalign.stages.plan import plan
from softalign.stages.published import Published
from softalign.stages.requests import asking
from softalign.stages.rounds import compared_steps, present_round
from softalign.stages.run import StageResult
from softalign.stages.table import steps_of
from softalign.store.store import Store
from tests.steps import key_of
from tests.unit.stages.test_champion import ALL, PIN, record_of

PROMPTS, TAGS = 150, ("single_object", "two_object")
"""As many as the embedded world's suite has."""
LARGE = {"base": 0.2, "untrained": 0.2, "champion": 0.2, "adapter": 0.9}
NIL = dict.fromkeys(LARGE, 0.5)
UNCLEAR = {**dict.fromkeys(LARGE, 0.5), "adapter": 0.56}
STAGES = ("curate", "encode", "train", "evaluate", "compare", "register")


@pytest.fixture
def recipe():
    changes = ("evaluate.champion=none", "evaluate.stop=when_decided", "evaluate.images_per_prompt=4")
    return load_recipe("shapes", [*changes, "register.policy.max_tag_drop=1"])


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return Store(str(tmp_path / "store"))


class Fake:
    """Publishes every step's record; an arm's verdicts are drawn of its chance, image by image."""

    def __init__(self, store, chances):
        self.store, self.chances = store, chances
        self.ran = []

    def __call__(self, step, published):
        key = step.request(published, self.store).key
        if (found := step.row.published(key, self.store)) is not None:
            return StageResult(step.label, found, is_reused=True, seconds=0.0)
        self.ran.append((step.label, step.recipe.evaluate.num_rounds) if step.arm else step.label)
        folder = self.store.work_path(step.row.name, key) / "out"
        (folder / "initial").mkdir(parents=True)
        (folder / "initial" / "soft_tokens.safetensors").write_bytes(b"0")
        (folder / "initial" / "adapter_config.json").write_text('{"placement": {}}')
        record = record_of(step, key)
        if step.arm is not None:
            rounds = step.recipe.evaluate.num_rounds
            counts = {"num_images": PROMPTS * rounds, "num_prompts": PROMPTS}
            record = record.model_copy(update=counts)
            write_results(folder / RESULTS_FILENAME, tuple(self.verdicts(step.arm, rounds)))
        with asking(step.request(published, self.store), self.store):
            published_record = self.store.publish(record, folder)
        return StageResult(step.label, published_record, is_reused=False, seconds=0.0)

    def verdicts(self, arm, rounds):
        for prompt in range(PROMPTS):
            for image in range(rounds):
                rng = np.random.default_rng([prompt, image, *arm.encode()])
                yield ImageResult(
                    filename=image_filename(prompt, image),
                    tag=TAGS[prompt % len(TAGS)],
                    prompt="p",
                    correct=bool(rng.random() < self.chances.get(arm, 0.5)),
                    reason="",
                    metadata="",
                    details="",
                )

    @property
    def drawn(self):
        """What arms were run, and up to which round."""
        return [one for one in self.ran if isinstance(one, tuple)]


def run(recipe, store, chances, stages=STAGES):
    fake = Fake(store, {"guided_base": 0.5, **chances})
    walked = walk(recipe, store, stages, fake)
    return fake, walked


def arms(*rounds, compared=("base", "untrained", "adapter")):
    return [(f"evaluate ({arm})", number) for number in rounds for arm in compared]


def test_a_large_effect_stops_after_the_first_round_and_a_rerun_does_nothing(recipe, store):
    fake, walked = run(recipe, store, LARGE)
    assert fake.drawn == [*arms(1), ("evaluate (guided base)", 1)]
    assert [report.num_images for report in walked.published.eval_reports] == [PROMPTS] * 4
    assert walked.published.labels == tuple(step.label for step in steps_of(recipe))
    again, second = run(recipe, store, LARGE)
    assert again.ran == [] and all(result.is_reused for result in second.results)
    assert second.published == walked.published
    assert {row.state for row in plan(recipe, store)} == {"done"}


def test_no_effect_stops_when_it_is_hopeless_and_an_unclear_one_is_drawn_to_the_end(recipe, store, tmp_path):
    fake, _ = run(recipe, store, NIL)
    assert fake.drawn[-1] == ("evaluate (guided base)", 1) and fake.ran[-1] == "register"
    fake, walked = run(recipe, Store(str(tmp_path / "unclear")), UNCLEAR)
    assert fake.drawn == [*arms(1, 2, 3, 4), ("evaluate (guided base)", 4)]
    assert [result.label for result in walked.results].count("evaluate (base)") == 4  # every round is a run of its own


def test_arms_have_the_keys_of_recipes_with_so_many_images_and_the_comparison_one_of_its_own(recipe, store):
    at = recipe.model_copy(update={"evaluate": recipe.evaluate.after_rounds(2)})
    plain = load_recipe("shapes", ["evaluate.champion=none", "evaluate.images_per_prompt=2"])
    for label in ("evaluate (base)", "evaluate (guided base)"):
        assert key_of(at, label, store) == key_of(plain, label, store)
    assert key_of(at, "compare", store) != key_of(plain, "compare", store)
    assert "stop" not in plain.evaluate.asked() and "stop" not in at.evaluate.of_arm("base").asked()


def test_a_run_that_was_killed_in_a_round_goes_on_there(recipe, store, tmp_path):
    whole, expected = run(recipe, Store(str(tmp_path / "whole")), UNCLEAR)
    fake = Fake(store, {"guided_base": 0.5, **UNCLEAR})

    def dying(step, published):
        if len(fake.drawn) == 5:
            raise KeyboardInterrupt
        return fake(step, published)

    with pytest.raises(KeyboardInterrupt):
        walk(recipe, store, STAGES, dying)
    assert "evaluate (base), evaluate (untrained)" in kept_line(recipe, store).replace(" and ", ", ")
    rows = {row.label: row for row in plan(recipe, store)}
    assert [rows[f"evaluate ({arm})"].state for arm in ("base", "untrained", "adapter")] == ["done", "done", "run"]
    assert "in rounds, 150 to 450 images" in rows["evaluate (adapter)"].reason
    rest, walked = run(recipe, store, UNCLEAR)
    assert fake.drawn + rest.drawn == whole.drawn
    assert [one.digest for one in walked.published.records] == [one.digest for one in expected.published.records]


def test_reports_with_more_rounds_serve_by_their_first_and_lend_their_images(recipe, store):
    plain = recipe.model_copy(update={"evaluate": recipe.evaluate.model_copy(update={"stop": "never"})})
    run(plain, store, LARGE, ("curate", "encode", "train", "evaluate"))
    fake, walked = run(recipe, store, LARGE)
    assert fake.drawn == [*arms(1), ("evaluate (guided base)", 1)]  # each once, not drawn but taken
    step = compared_steps(recipe.model_copy(update={"evaluate": recipe.evaluate.after_rounds(2)}))[0]
    given = step.inputs(walked.published, store)
    assert lent_report(given).num_images == 4 * PROMPTS
    assert holding_report(given).num_images == 4 * PROMPTS
    assert lent_report(compared_steps(plain)[0].inputs(walked.published, store)) is None


def test_another_policy_draws_on_from_what_is_there(recipe, store):
    run(recipe, store, LARGE)
    policy = recipe.register_.policy.model_copy(update={"min_images": 3 * PROMPTS})
    stricter = recipe.model_copy(update={"register_": recipe.register_.model_copy(update={"policy": policy})})
    fake, _ = run(stricter, store, LARGE)
    assert fake.drawn == [*arms(2, 3), ("evaluate (guided base)", 3)]
    assert run(recipe, store, LARGE)[0].ran == []


def test_the_champion_is_drawn_in_rounds_too_and_found_again(recipe, store, monkeypatch):
    beside = pinned(recipe, PIN)
    fake, _ = run(beside, store, LARGE)
    assert fake.drawn[:4] == arms(1, compared=("base", "untrained", "adapter", "champion"))
    monkeypatch.setattr("softalign.registry.pinned_champion", lambda *_: pytest.fail("asked the registry"))
    assert with_champion(pinned(recipe, "auto"), store, ALL) == beside
    rows = plan(pinned(recipe, "auto"), store)
    assert {row.state for row in rows} == {"done"}


def test_stages_after_the_evaluation_need_it_decided(recipe, store):
    with pytest.raises(MissingInputError):
        run(recipe, store, LARGE, ("register",))
    run(recipe, store, LARGE, STAGES[:-1])
    assert run(recipe, store, LARGE, ("register",))[0].ran == ["register"]


def test_a_plan_says_the_least_and_most_before_anything_is_there(recipe, store):
    rows = {row.label: row for row in plan(recipe, store)}
    assert "in rounds, 150 to 600 images" in rows["evaluate (base)"].reason
    assert "at the rate" not in rows["evaluate (base)"].reason
    assert rows["evaluate (base)"].predicted_bytes == 150 * (1 + 2 + 3 + 4) * 700
    assert "rounds" not in rows["compare"].reason
    plain = load_recipe("shapes", ["evaluate.images_per_prompt=4"])
    assert all("in rounds" not in row.reason for row in plan(plain, store))


def test_minutes_are_those_of_an_earlier_arm(recipe, store):
    from softalign.artifacts import Usage
    from softalign.store.usage import keep_usage

    _, walked = run(recipe, store, LARGE)
    report = walked.published.get(EvalReport, "base")
    keep_usage(store, report, Usage(attempts=1, rates={"images": 0.5}))
    other = recipe.model_copy(update={"evaluate": recipe.evaluate.model_copy(update={"seed": 5})})
    (row,) = (row for row in plan(other, store) if row.label == "evaluate (base)")
    assert (
        "in rounds, 150 to 600 images, about 5 min 0 s to 20 min 0 s at the rate of an earlier arm here" in row.reason
    )


def test_what_cannot_be_decided_in_rounds_is_refused():
    from pydantic import ValidationError

    from softalign.config import EvalConfig

    for change, found in (
        ({"images_per_prompt": 1, "stop": "when_decided"}, "images_per_prompt from 2 to 100"),
        ({"images_per_prompt": 4, "stop": "after 5"}, "more rounds than images_per_prompt 4"),
        ({"images_per_prompt": 101, "stop": "when_decided"}, "images_per_prompt from 2 to 100"),
        ({"stop": "sometimes"}, "pattern"),
    ):
        with pytest.raises(ValidationError, match=found):
            EvalConfig(**change)


def test_a_gate_that_no_number_of_rounds_satisfies_is_refused(recipe, store):
    policy = recipe.register_.policy.model_copy(update={"min_images": 601})
    asked = recipe.model_copy(update={"register_": recipe.register_.model_copy(update={"policy": policy})})
    with pytest.raises(ConfigError, match="promotes nothing of so few images") as raised:
        check_evaluation(asked, store)
    assert "min_images of at most 600" in raised.value.expected and raised.value.found == "601"


def test_nothing_is_known_before_the_tokens_are_there(recipe, store):
    found = present_round(recipe, Published(), store)
    assert (found.number, found.is_drawn, found.recipe.evaluate.num_rounds) == (1, False, 1)
    assert found.to_text() == "Round 1 of 4: an image of every prompt and arm"
