"""The ending of a run: what is said for a clear gain, none, and a loss; and commands that fit this run."""

import json
import shlex
import sys
from pathlib import Path

import pytest

from softalign.artifacts import GuidedBase, PairEvidence, TagDifference, TaskStatistics, Usage
from softalign.artifacts.fronts import GuidanceFronts
from softalign.registry.gate import Check
from softalign.stages import ending
from softalign.stages.ending import ChainSummary, ending_text, time_text
from softalign.stages.spending import Spending, StageSpending


def gain(tag, difference, low, high):
    return TagDifference(tag=tag, difference=difference, ci_low=low, ci_high=high)


GAINED = (gain("counting", 0.12, 0.05, 0.2), gain("colors", -0.01, -0.03, 0.02), gain("overall", 0.056, 0.027, 0.083))
UNCLEAR = (gain("counting", 0.01, -0.02, 0.04), gain("colors", 0.0, 0.0, 0.0), gain("overall", 0.001, -0.01, 0.012))
LOST = (gain("counting", -0.2, -0.3, -0.1), gain("colors", 0.0, 0.0, 0.0), gain("overall", -0.1, -0.15, -0.05))
PASSED = Check(name="gain_significant", measured=0.027, threshold=0.0, comparison=">", is_passed=True)
FAILED = (
    Check(name="gain_significant", measured=-0.01, threshold=0.0, comparison=">", is_passed=False),
    Check(name="beats_untrained", measured=0.0, threshold=0.0, comparison=">", is_passed=False),
)


def summary(**changes):
    fields = {
        "name": "shapes",
        "store": "/somewhere/store",
        "num_stages_run": 8,
        "num_stages_reused": 0,
        "overall_base": 0.611,
        "overall_untrained": 0.609,
        "overall_adapter": 0.667,
        "tags": (("counting", 0.5, 0.5, 0.62), ("colors", 0.7, 0.7, 0.69)),
        "model": "softalign-shapes",
        "version": 3,
        "alias": "champion",
        "reason": "Promoted.",
        "adapter_uri": "/somewhere/store/train/k",
        "report_uri": "/somewhere/store/compare/a b/report.html",
        "tracking_uri": "sqlite:////somewhere/store/mlflow.db",
        "suite": "shapes",
        "confidence": 0.95,
        "adapter_vs_base": GAINED,
        "adapter_vs_untrained": GAINED,
        "checks": (PASSED,),
        "is_promoted": True,
        "is_registry_of_store": True,
        "num_inference_steps": 15,
        "guidance_scale": 1.0,
        "denoiser_calls_per_image": 15,
        "guided_base": None,
        "seconds": 187.4,
    }
    return ChainSummary(**{**fields, **changes})


@pytest.fixture(autouse=True)
def own_environment(tmp_path, monkeypatch):
    """Run in an empty folder whose environment's programs are on the path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))


def lines_of(found):
    return ending_text(found).splitlines()


def commands_of(found):
    return [line.strip() for line in lines_of(found) if line.startswith("    ")]


def test_a_clear_gain_is_called_help_and_its_figures_stand_in_points():
    lines = lines_of(summary())
    assert lines[0] == "Finished: 8 stages in 3 min 7 s."
    assert (
        "The adapter helped: it scores 66.7 against 61.1 of the base, +5.6 points, 95 % interval 2.7 to 8.3." in lines
    )
    assert "Against untrained tokens it gains +5.6 points, 2.7 to 8.3." in lines
    assert "Clearly better: counting (+12.0). Clearly worse: no tag." in lines
    assert "Promoted: softalign-shapes version 3 is champion; it passed the gate (1 check)." in lines
    assert "report    file:///somewhere/store/compare/a%20b/report.html" in lines
    table = [line.split() for line in lines[2:6]]
    assert table[0][:6] == ["embedded,", "of", "100", "base", "untrained", "adapter"]
    assert table[1] == ["counting", "50.0", "50.0", "62.0", "+12.0", "5.0", "to", "20.0"]
    assert table[3] == ["overall", "61.1", "60.9", "66.7", "+5.6", "2.7", "to", "8.3"]


def test_what_the_pairs_show_stands_in_the_table_and_in_a_sentence():
    def one(tag, p_value, p_adjusted, wins, losses):
        return TaskStatistics(
            tag=tag,
            p_value=p_value,
            p_adjusted=p_adjusted,
            wins=wins,
            losses=losses,
            prompts_better=1,
            prompts_worse=1,
            detectable=0.04,
        )

    shown = (one("counting", 0.001, 0.002, 30, 4), one("colors", 0.5, 0.5, 3, 4), one("overall", 0.0001, None, 33, 8))
    evidence = PairEvidence(p_value=0.0001, wins=33, losses=8, detectable=0.04)
    lines = lines_of(summary(over_base=evidence, statistics=shown))
    table = [line.split() for line in lines[2:6]]
    assert table[0][-2:] == ["p", "won:lost"]
    assert table[1][-2:] == ["0.0020", "30:4"]  # corrected for the number of tags
    assert table[3][-2:] == ["0.0001", "33:8"]
    assert (
        "It has 33 images right that the base has wrong, and 8 the other way round (p = 0.0001); so many images tell "
        "4.0 points in four cases of five."
    ) in lines


def test_what_so_few_prompts_give_by_luck_is_not_called_a_gain():
    counts = dict.fromkeys(("wins", "losses", "prompts_better", "prompts_worse"), 1)
    by_luck = PairEvidence(p_value=0.25, wins=1, losses=0, detectable=0.0)
    shown = TaskStatistics(tag="counting", p_value=0.25, p_adjusted=1.0, detectable=0.0, **counts)
    text = ending_text(summary(over_base=by_luck, over_untrained=by_luck, statistics=(shown,), over_champion=by_luck))
    assert "No difference to the base can be told" in text and "but luck gives as much too often (p)" in text
    assert "No difference to untrained tokens can be told" in text
    assert "No single tag gained or lost clearly." in text
    beside = summary(champion="cats/2#ab", adapter_vs_champion=GAINED, over_champion=by_luck)
    assert "No difference to the champion, cats/2, can be told" in ending_text(beside)


def test_a_sweep_over_guidance_is_said_in_a_sentence():
    fronts = GuidanceFronts(
        points=(),
        gains=(),
        best_base=3.0,
        best_adapter=1.5,
        adapter_over_base_at_best=gain("overall", 0.02, -0.01, 0.05),
    )
    said = "Each at its best guidance, 1.5 and 3, the adapter has +2.0 points over the base, -1.0 to 5.0."
    assert said in lines_of(summary(fronts=fronts))
    assert not any("best guidance" in line for line in lines_of(summary()))


def test_what_it_used_and_the_pages_of_a_registry_with_pages_are_said():
    used = StageSpending(label="train", is_reused=False, usage=Usage(attempts=1, cpu_s=3.0), cost=None)
    spending = Spending(stages=(used,), run=Usage(attempts=1, cpu_s=3.0))
    lines = lines_of(summary(spending=spending, registered_run_url="http://r/run", registered_report_url="http://r/x"))
    assert lines[1] == "Used: 3.0 s of CPU, no GPU, 0.0 MB read from the store, 0.0 MB written."
    assert lines[lines.index("report    http://r/x") + 1] == "run       http://r/run"


def test_guidance_and_what_an_image_costs_are_said():
    text = ending_text(summary())
    assert "All three were compared without guidance, with 15 calls of the denoiser an image." in text
    assert "For reference" not in text
    reference = GuidedBase(
        guidance_scale=2.0,
        denoiser_calls_per_image=30,
        overall_score=0.719,
        overall_ci_low=0.693,
        overall_ci_high=0.745,
    )
    text = ending_text(summary(guided_base=reference, guidance_scale=1.5))
    assert "compared at guidance 1.5," in text
    assert "the base at guidance 2 scores 71.9 (69.3 to 74.5), with 30 calls an image." in text


def test_an_interval_that_includes_zero_is_no_difference():
    lines = lines_of(
        summary(
            adapter_vs_base=UNCLEAR,
            adapter_vs_untrained=UNCLEAR,
            overall_adapter=0.612,
            is_promoted=False,
            checks=FAILED,
            alias="challenger",
            confidence=0.9,
        )
    )
    said = "it scores 61.2 against 61.1 of the base, +0.1 points, 90 % interval -1.0 to 1.2, which includes zero."
    assert f"No difference to the base can be told: {said}" in lines
    assert "No difference to untrained tokens can be told: +0.1 points, -1.0 to 1.2." in lines
    assert "No single tag gained or lost clearly." in lines
    assert (
        "Not promoted: not enough to say it is better than the base: its interval begins at -1.0 points; it "
        "does not beat untrained tokens (+0.0 points). softalign-shapes version 3 is registered as challenger, "
        "and can be used: softalign-shapes@challenger, or softalign-shapes/3 for good."
    ) in lines


def test_a_loss_is_called_harm():
    text = ending_text(summary(adapter_vs_base=LOST, adapter_vs_untrained=LOST, overall_adapter=0.511))
    assert "The adapter did harm: it scores 51.1 against 61.1 of the base, -10.0 points" in text
    assert "Against untrained tokens it loses: -10.0 points, -15.0 to -5.0." in text
    assert "Clearly better: no tag. Clearly worse: counting (-20.0)." in text


def test_a_rerun_says_that_nothing_was_to_do_and_names_the_version_by_number():
    found = summary(num_stages_run=0, num_stages_reused=8)
    assert lines_of(found)[0] == "Finished: nothing to do, all of it was already there (8 stages)."
    assert any("pull softalign-shapes/3 " in command for command in commands_of(found))
    partly = lines_of(summary(num_stages_run=3, num_stages_reused=5, seconds=4.25))
    assert partly[0] == "Finished: 3 stages in 4.2 s; 5 were already there and are reused."


def test_the_commands_fit_the_store_and_its_registry(tmp_path):
    store = tmp_path / "my store"
    found = summary(store=str(store), tracking_uri=f"sqlite:///{store}/mlflow.db")
    ui, pull, images, own = commands_of(found)
    assert shlex.split(ui) == ["mlflow", "ui", "--backend-store-uri", f"sqlite:///{store}/mlflow.db"]
    assert shlex.split(pull) == [
        *("softalign", "pull", "softalign-shapes@champion", "--to", "softalign-shapes-3", "--store", "my store")
    ]
    assert shlex.split(images) == [
        f"MLFLOW_TRACKING_URI=sqlite:///{store}/mlflow.db",
        *("softalign", "generate", "models:/softalign-shapes@champion", "a photo of three circles"),
        *("--out", "softalign-shapes-3-images", "--num-images", "4"),
        *("--num-inference-steps", "15", "--guidance-scale", "1"),
    ]
    assert own == "softalign init FOLDER"


def test_the_default_store_needs_no_variable(tmp_path):
    store = tmp_path / "softalign-store"
    images = commands_of(summary(store=str(store), tracking_uri=f"sqlite:///{store}/mlflow.db"))[2]
    assert images.startswith("softalign generate ")


def test_a_server_is_opened_in_a_browser_and_named_to_pull():
    found = summary(
        store="s3://bucket/store", tracking_uri="http://127.0.0.1:5000", is_registry_of_store=False, suite="geneval"
    )
    ui, pull, images, _ = commands_of(found)
    assert ui == "http://127.0.0.1:5000"
    assert pull.endswith("--to softalign-shapes-3 --tracking-uri http://127.0.0.1:5000")
    assert images.startswith("MLFLOW_TRACKING_URI=http://127.0.0.1:5000 softalign generate ")
    assert "circles" not in images


def test_a_server_that_the_environment_names_is_asked_anyway(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://someone:secret@127.0.0.1:5000")
    found = summary(tracking_uri="http://127.0.0.1:5000", is_registry_of_store=False)
    assert commands_of(found)[2].startswith("softalign generate ")
    assert "secret" not in ending_text(found)


def test_programs_that_the_shell_does_not_find_are_named_by_path(tmp_path, monkeypatch):
    folder = tmp_path / ".venv" / "bin"
    folder.mkdir(parents=True)
    (folder / "softalign").write_text("")
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    monkeypatch.setenv("PATH", "")
    assert ending.program("softalign") == ".venv/bin/softalign"
    assert ending.program("mlflow") == "mlflow"
    monkeypatch.chdir(folder)
    assert ending.program("softalign") == "./softalign"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(4.25, "4.2 s"), (59.9, "59.9 s"), (187.4, "3 min 7 s"), (3600.0, "1 h 0 min"), (9000, "2 h 30 min")],
)
def test_times_as_people_say_them(seconds, text):
    assert time_text(seconds) == text


def test_the_json_keeps_its_fields_and_adds_the_gains():
    data = json.loads(summary().model_dump_json())
    assert {"overall_base", "tags", "alias", "reason", "report_uri", "tracking_uri"} <= set(data)
    assert data["adapter_vs_base"][-1] == {"tag": "overall", "difference": 0.056, "ci_low": 0.027, "ci_high": 0.083}
