"""A whole study with stages that publish at once: what it finds, and that no cell is done twice."""

import functools
import json

import pytest

from softalign import registry
from softalign.config import load_recipe
from softalign.store.store import Store
from softalign.study import conduct as conducting
from softalign.study import outcomes, running
from softalign.study.conduct import conduct
from softalign.study.jobs import CellJob
from softalign.study.loading import parse_study
from softalign.study.outcomes import run_cell
from softalign.study.planning import plan_study
from softalign.study.prompts import halves_of, write_halves
from softalign.study.running import Pool
from tests.killing import Fuse, is_killed
from tests.study_fakes import STUDY, fake_step

NUM_OUTPUTS = {"curate": 1, "encode": 1, "train": 8}
"""Of the trainings: two objectives, seeds and lengths."""


def in_this_process(step, cells, cell, _pool, _is_stopping):
    return run_cell(CellJob(recipe=cells.recipe_of(cell), store=cells.store.uri), lambda _line: None)


@pytest.fixture
def faked(monkeypatch):
    """Return how to set what runs a step; nothing is logged in a registry."""

    def use(step):
        monkeypatch.setattr(outcomes, "run_step", step)
        monkeypatch.setattr(running, "_in_child", functools.partial(in_this_process, step))
        monkeypatch.setattr(registry, "log_study", lambda *_: "")

    use(fake_step)
    return use


def run_study(tmp_path):
    return conduct(parse_study(STUDY, "a test"), Store(str(tmp_path / "store")), tmp_path / "out", Pool(1), tmp_path)


def test_a_planted_effect_is_found_a_planted_nil_is_not_and_both_are_shown(tmp_path, faked):
    result = run_study(tmp_path)
    assert {choice.num_steps for choice in result.choices} <= {10, 20}
    verdict = result.verdicts[0]
    assert (verdict.outcome, verdict.recipe) == ("shown", "mmdit")
    assert verdict.value == pytest.approx(0.3, abs=0.1)
    assert verdict.low < 0.3 < verdict.high
    counting = [one for one in result.comparisons if one.measured == "counting"]
    assert all(one.p_adjusted > 0.05 for one in counting)
    adherence = [one for one in result.comparisons if one.measured == "adherence" and one.arm == "agsm"]
    assert {one.control for one in adherence} == {"base", "untrained", "positive"}
    assert all(one.value == pytest.approx(0.3, abs=0.12) and one.p_value < 0.1 for one in adherence)
    page = (tmp_path / "out" / "study.html").read_text(encoding="utf-8")
    assert "agsm adheres better" in page and "https://" not in page and "<svg" in page
    assert "Learning curves" in page and "start from others" not in page and "starts from others" not in page
    stored = json.loads((tmp_path / "out" / "study.json").read_text(encoding="utf-8"))
    assert stored["verdicts"][0]["outcome"] == "shown"
    assert {cell["scored_on"] for cell in stored["cells"]} == {"selection", "report"}


def test_the_page_says_which_arms_start_otherwise_and_has_no_curves_of_one_length(tmp_path, faked):
    padding = {"train.objective": {"name": "agsm"}, "train.soft_tokens": {"num_layers": 4, "init": "padding"}}
    matrix = {**STUDY["matrix"], "num_steps": [10]}
    matrix["objectives"] = {**matrix["objectives"], "padding": padding}
    study = parse_study({**STUDY, "matrix": matrix}, "a test")
    conduct(study, Store(str(tmp_path / "store")), tmp_path / "out", Pool(1), tmp_path)
    page = (tmp_path / "out" / "study.html").read_text(encoding="utf-8")
    assert "Learning curves" not in page
    assert "Untrained tokens are those that agsm starts from. padding starts from others" in page


def test_what_another_study_of_the_name_came_to_is_kept(tmp_path, faked):
    run_study(tmp_path)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("study*")}
    run_study(tmp_path)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").glob("study*")} == before
    other = parse_study({**STUDY, "about": "with another word"}, "a test")
    result = conduct(other, Store(str(tmp_path / "store")), tmp_path / "out", Pool(1), tmp_path)
    after = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("study*")}
    assert json.loads(after["study.json"])["study_digest"] == result.study_digest
    digest = json.loads(before["study.json"])["study_digest"]
    assert {f"study-{digest[:12]}.json", f"study-{digest[:12]}.html", "study.json", "study.html"} == {*after}
    assert {before["study.json"], before["study.html"]} < {*after.values()}


def test_the_halves_share_no_prompt_and_have_the_same_tags(tmp_path):
    paths = write_halves(halves_of(load_recipe("shapes")), tmp_path, "mmdit")
    halves = [set(paths[name].read_text(encoding="utf-8").splitlines()) for name in ("selection", "report")]
    assert not halves[0] & halves[1] and len(halves[0]) == len(halves[1]) == 75
    tags = [{json.loads(line)["tag"] for line in half} for half in halves]
    assert tags[0] == tags[1]


def test_killed_anywhere_and_begun_again_no_cell_is_done_twice(tmp_path, faked):
    work, log = fake_step, tmp_path / "done.txt"

    def noting(step, published, store, on_line):
        result = work(step, published, store, on_line)
        if not result.is_reused:
            with log.open("a", encoding="utf-8") as file:
                file.write(f"{step.row.name} {result.record.stage_key}\n")
        return result

    for num_calls in (9, 40):
        faked(Fuse(num_calls).wrap(noting))
        assert is_killed(lambda: run_study(tmp_path) and None)
    faked(noting)
    result = run_study(tmp_path)
    done = log.read_text(encoding="utf-8").split("\n")[:-1]
    assert len(done) == len(set(done))
    for stage, number in NUM_OUTPUTS.items():
        assert sum(line.startswith(f"{stage} ") for line in done) == number
    faked(None)  # a step that ran would fail
    assert run_study(tmp_path) == result


@pytest.mark.parametrize(("init", "num_starts"), [("normal", 4), ("padding", 2)])
def test_the_plan_counts_shared_work_once_and_what_is_there_not_at_all(tmp_path, faked, init, num_starts):
    recipe = STUDY["recipes"]["mmdit"]
    fields = {**recipe["fields"], "train.soft_tokens.init": init}
    study = parse_study({**STUDY, "recipes": {"mmdit": {**recipe, "fields": fields}}}, "a test")
    store = Store(str(tmp_path / "store"))
    before = plan_study(study, store, 2, tmp_path)
    (model,) = before.models
    assert (model.num_there, model.num_trainings) == (0, 8)
    # selection: 8 adapters, base, untrained (by number of banks, drawn ones by seed) at one guidance;
    # report: 4 adapters, at two; of 75 prompts
    assert model.num_images == 75 * (2 * (8 + 1 + num_starts) + 4 * 2 * (4 + 1 + num_starts))
    assert before.hours > 0 and "8 trainings" in before.to_text()
    conduct(study, store, tmp_path / "out", Pool(1), tmp_path)
    (after,) = plan_study(study, store, 2, tmp_path).models
    assert (after.num_there, after.num_cells, after.hours, after.num_trainings) == (12, 12, 0.0, 0)


def test_arms_that_are_drawn_otherwise_share_their_trainings_and_what_is_drawn_alike(tmp_path, faked):
    objectives = {
        **STUDY["matrix"]["objectives"],
        "divided": {"train.objective": {"name": "agsm"}, "evaluate.divide_by_guidance": True},
    }
    changes = {
        "matrix": {**STUDY["matrix"], "objectives": objectives},
        "selection": {**STUDY["selection"], "guidance": [1.0, 2.0]},
    }
    study = parse_study({**STUDY, **changes}, "a test")
    store = Store(str(tmp_path / "store"))
    (model,) = plan_study(study, store, 2, tmp_path).models
    assert (model.num_cells, model.num_trainings) == (18, 8)
    # beside what both objectives need: divided adapters, and untrained tokens of two banks, at guidance 2
    assert model.num_images == 75 * (2 * (2 * (8 + 1 + 4) + 4 + 2) + 4 * (2 * (4 + 1 + 4) + 2 + 2))
    conduct(study, store, tmp_path / "out", Pool(1), tmp_path)
    assert len(list((tmp_path / "store" / "train").iterdir())) == 8
    (after,) = plan_study(study, store, 2, tmp_path).models
    assert (after.num_there, after.num_cells, after.hours, after.num_trainings) == (18, 18, 0.0, 0)


def test_a_failing_cell_ends_the_study_with_its_error(tmp_path, faked):
    from softalign.errors import TrainingError

    def failing(step, published, store, on_line):
        if step.row.name == "train":
            raise TrainingError("no usable pairs")
        return fake_step(step, published, store, on_line)

    faked(failing)
    with pytest.raises(TrainingError, match="no usable pairs"):
        run_study(tmp_path)
    assert not (tmp_path / "out" / conducting.STUDY_FILENAME).exists()
