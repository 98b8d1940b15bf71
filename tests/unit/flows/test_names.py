"""Names of flow runs: what they tell, and that runs of one deployment differ."""

from datetime import UTC, datetime

from flows import curate, evaluate, register, retrain, train
from flows.names import name_of, run_name

MOMENT = datetime(2026, 11, 26, 1, 42, tzinfo=UTC)


def test_a_name_tells_flow_recipe_and_moment():
    assert name_of("retrain", "shapes", (), MOMENT, "0c1f-9f3e") == "retrain-shapes-20261126-0142-9f3e"
    assert name_of("train", "a/cats.yaml", (), MOMENT, "0c1f-9f3e") == "train-cats-20261126-0142-9f3e"
    assert name_of("train", "s3://bucket/cats.yml", (), MOMENT, "0c1f-9f3e") == "train-cats-20261126-0142-9f3e"


def test_overrides_are_told_apart_and_recognised():
    ten, same, twenty = (
        name_of("train", "shapes", (f"train.num_steps={steps}",), MOMENT, "aaaa") for steps in (10, 10, 20)
    )
    assert ten == same != twenty
    assert ten.startswith("train-shapes-set")


def test_two_runs_of_one_minute_differ():
    first, second = (name_of("retrain", "shapes", (), MOMENT, run_id) for run_id in ("11-aaaa", "11-bbbb"))
    assert first != second


def test_every_flow_names_its_runs_so():
    flows = (curate.curate, train.train, evaluate.evaluate, register.register, retrain.retrain)
    assert [flow.flow_run_name for flow in flows] == [run_name] * len(flows)
