"""Evaluations in rounds through the whole chain: every stage for real, but for what the images of the arms show."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from softalign.artifacts import EvalReport
from softalign.config import load_recipe
from softalign.evaluation import arms
from softalign.evaluation.packs import ArmImages
from softalign.evaluation.suites import suite_prompts
from softalign.geneval.prompts import to_json_line
from softalign.registry import registry_of_store
from softalign.sampling.sampling import image_seed, png_bytes
from softalign.stages import work, worker
from softalign.stages.chain import run_chain, run_until
from softalign.store.store import Store
from tests.conftest import TINY
from tests.recorded_arms import draw_image
from tests.unit.evaluation.conftest import small_suite

ROUNDS = 3
LARGE = {"base": 0.2, "untrained": 0.2, "guided_base": 0.5, "adapter": 0.95}
UNCLEAR = {"base": 0.5, "untrained": 0.5, "guided_base": 0.5, "adapter": 0.62}


def silent(_line):
    """Say nothing."""


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A store in which a tiny adapter is trained, and the recipe's overrides."""
    root = tmp_path_factory.mktemp("begun")
    suite = root / "suite.jsonl"
    suite.write_text("".join(to_json_line(prompt) + "\n" for prompt in small_suite(4)))
    changes = [
        f"evaluate.prompts_uri={suite}",
        f"evaluate.images_per_prompt={ROUNDS}",
        "register.policy.max_tag_drop=1",
    ]
    overrides = [*TINY, *changes, "evaluate.champion=none", "runtime.generation_batch_size=7"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(work, "_in_child", in_this_process)
        run_until("train", load_recipe("shapes", overrides), Store(str(root / "store")), silent, is_through=True)
    return root / "store", overrides


def in_this_process(job, *_):
    return worker.run_job(job).model_dump(mode="json")


@pytest.fixture
def planted(monkeypatch):
    """Return a function that plants how often arms are right; images depend on the noise's numbers alone."""
    monkeypatch.setattr(work, "_in_child", in_this_process)
    of_files, looked_at = arms.file_detector, []

    def plant(chances, dies_after=None):
        batches = []

        def draw_arm(arm, _adapter, _backbone, config, *_):
            prompts = suite_prompts(config)

            def draw(batch):
                batches.append((arm, tuple((one.prompt_index, one.image_index) for one in batch)))
                if dies_after is not None and len(batches) > dies_after:
                    raise KeyboardInterrupt
                return tuple(_image(prompts, one, chances[arm], arm) for one in batch)

            return draw

        def file_detector(config, runtime):
            own = of_files(config, runtime)
            return lambda files: looked_at.append(len(files)) or own(files)

        monkeypatch.setattr(arms, "draw_arm", draw_arm)
        monkeypatch.setattr(arms, "file_detector", file_detector)
        looked_at.clear()
        return batches

    plant.looked_at = looked_at
    return plant


def _image(prompts, request, chance, arm):
    noise = np.random.default_rng(image_seed(0, request.prompt_index, request.image_index))
    own = np.random.default_rng([request.prompt_index, request.image_index, *arm.encode()])
    is_right = bool((noise if noise.random() < 0.5 else own).random() < chance)
    return png_bytes(draw_image(prompts[request.prompt_index], is_right, own))


def recipe_of(overrides, *more):
    return load_recipe("shapes", [*overrides, "evaluate.stop=when_decided", *more])


def copy_of(store, to):
    return Store(str(shutil.copytree(store, to, symlinks=True)))


def images_of(report):
    images = ArmImages(Path(report.uri))
    return {name: images.read(name) for folder in images.folders() for name in folder.filenames}


def test_a_large_effect_is_promoted_after_the_first_round_and_every_page_says_so(begun, planted, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    root, overrides = begun
    store = copy_of(root, tmp_path / "store")
    planted(LARGE)
    summary = run_chain(recipe_of(overrides), store, silent)
    assert (summary.stopping.rounds, summary.stopping.of_rounds) == (1, ROUNDS)
    assert summary.is_promoted and summary.stopping.boundary == pytest.approx(3.71, abs=0.01)
    said = "Drawn in rounds of one image a prompt: 1 of 3, as the promotion gate's answer was certain then."
    assert said in summary.to_text() and said in summary.reason
    page = Path(summary.report_uri)
    assert said.replace("'", "&#39;") in page.read_text()
    statistics = json.loads((page.parent / "statistics.json").read_text())
    assert statistics["stopping"] == summary.stopping.model_dump()
    gain = next(entry for entry in summary.adapter_vs_base if entry.tag == "overall")
    reach = summary.stopping.boundary / (summary.stopping.boundary + 0.842)
    assert statistics["adapter_vs_base"][-1]["detectable"] * reach == pytest.approx(
        (gain.ci_high - gain.ci_low) / 2, rel=1e-3
    )
    from mlflow import MlflowClient

    client = MlflowClient(registry_of_store(store))
    version = client.get_model_version(summary.model, str(summary.version))
    run = client.get_run(version.run_id)
    assert (run.data.metrics["evaluation/rounds"], run.data.metrics["evaluation/of_rounds"]) == (1, ROUNDS)
    assert said in run.data.tags["mlflow.note.content"] and said in version.description
    card = next(Path(client.download_artifacts(version.run_id, "model", str(tmp_path))).rglob("README.md")).read_text()
    assert said in card
    batches = planted(LARGE)
    again = run_chain(recipe_of(overrides), store, silent)
    assert (again.num_stages_run, batches) == (0, [])
    assert again.stopping == summary.stopping


def test_a_run_killed_in_a_round_ends_as_the_undisturbed_one_and_holds_the_first_images_of_the_whole(
    begun, planted, tmp_path
):
    root, overrides = begun
    recipe = recipe_of(overrides)
    whole = copy_of(root, tmp_path / "whole")
    drawn = planted(UNCLEAR)
    expected = run_until("evaluate", recipe, whole, silent, is_through=True).published
    rounds = expected.records[-1].stopping.rounds
    assert rounds > 1
    assert sum(planted.looked_at) == sum(len(images) for _, images in drawn)  # each image once
    assert set(planted.looked_at) == {expected.get(EvalReport, "base").num_prompts}  # no batch goes beyond a round
    store = copy_of(root, tmp_path / "killed")
    before_death = planted(UNCLEAR, dies_after=len(drawn) // 2)
    with pytest.raises(KeyboardInterrupt):
        run_until("evaluate", recipe, store, silent, is_through=True)
    rest = planted(UNCLEAR)
    resumed = run_until("evaluate", recipe, store, silent, is_through=True).published
    assert [one.digest for one in resumed.records] == [one.digest for one in expected.records]
    assert before_death[:-1] + rest == drawn  # no batch twice, none otherwise
    never = load_recipe("shapes", overrides)
    planted(UNCLEAR)
    full = run_until("evaluate", never, copy_of(root, tmp_path / "full"), silent, is_through=True).published
    for arm in ("base", "adapter", "guided_base"):
        ours, all_images = (images_of(one.get(EvalReport, arm)) for one in (resumed, full))
        assert ours.items() <= all_images.items() and len(ours) == rounds * len(all_images) // ROUNDS


def test_a_whole_evaluation_lends_its_images_to_one_in_rounds(begun, planted, tmp_path):
    root, overrides = begun
    store = copy_of(root, tmp_path / "store")
    planted(LARGE)
    never = run_until("evaluate", load_recipe("shapes", overrides), store, silent, is_through=True).published
    batches = planted(LARGE)
    found = run_until("evaluate", recipe_of(overrides), store, silent, is_through=True).published
    assert batches == [] and planted.looked_at == []
    assert found.records[-1].stopping.rounds == 1
    assert images_of(found.get(EvalReport, "base")).items() <= images_of(never.get(EvalReport, "base")).items()
