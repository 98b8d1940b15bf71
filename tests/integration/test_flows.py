"""The whole chain on Prefect, on a few scenes: what it publishes, what it reports, and that a rerun does nothing."""

import re
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowRunFilter,
    FlowRunFilterId,
    LogFilter,
    LogFilterFlowRunId,
)

from flows.curate import curate
from flows.evaluate import evaluate
from flows.register import register
from flows.retrain import retrain
from flows.train import train
from softalign.artifacts import Adapter, ComparisonReport, DatasetManifest, EncodedManifest, EvalReport, ModelVersion
from softalign.config import load_recipe
from softalign.errors import ConfigError, MissingInputError
from softalign.stages.chain import run_until
from softalign.store.store import Store
from tests.killing import children_at

pytestmark = pytest.mark.usefixtures("prefect_server")

LABELS = [
    *("curate", "encode", "train", "evaluate (base)", "evaluate (untrained)", "evaluate (adapter)"),
    *("evaluate (guided base)", "compare", "register"),
]


def artifacts_of(run):
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(
            artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run.id])), limit=100
        )
    return {artifact.key: artifact for artifact in found}


def missing_from_log(run, expected):
    """Return which of the expected texts the run's log on the server lacks; lines arrive there with a delay."""
    for _ in range(30):
        with get_client(sync_client=True) as client:
            records = client.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id])), limit=200)
        log = "\n".join(record.message for record in records)
        missing = [text for text in expected if text not in log]
        if not missing:
            break
        time.sleep(1)
    return missing


def summaries_of(run):
    return {
        key: found for key, found in artifacts_of(run).items() if found.type == "markdown" and key != "shapes-report"
    }


def files_of(folder):
    """Return size and time of every file below a folder, without databases and work in progress."""
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file() and ".work" not in path.parts
    }


@pytest.fixture(scope="module")
def first(finished_run):
    return finished_run


@pytest.fixture(scope="module")
def second(first, run_flow):
    before = files_of(first.store)
    again = run_flow(retrain, first.store)
    return SimpleNamespace(summary=again.summary, id=again.id, before=before, after=files_of(first.store))


def test_the_chain_runs_and_publishes_every_stage(first):
    assert (first.summary.num_stages_run, first.summary.num_stages_reused) == (len(LABELS), 0)
    for kind, num in (
        (DatasetManifest, 1),
        (EncodedManifest, 1),
        (Adapter, 1),
        (EvalReport, 4),
        (ComparisonReport, 1),
        (ModelVersion, 1),
    ):
        assert len(list((first.store / kind.stage).glob(f"*/{kind.filename}"))) == num
    assert Path(first.summary.report_uri).is_file()
    assert (first.summary.guidance_scale, first.summary.guided_base.guidance_scale) == (1.0, 2.0)
    assert (first.summary.denoiser_calls_per_image, first.summary.guided_base.denoiser_calls_per_image) == (1, 2)
    assert first.summary.version == 1
    assert first.summary.alias in {"champion", "challenger"}


def test_each_task_run_has_its_stages_name(first):
    with get_client(sync_client=True) as client:
        runs = client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[first.id])))
    assert sorted(run.name for run in runs) == sorted([*LABELS, "preflight"])


def test_artifacts_hold_summaries_scores_and_the_link(first):
    found = artifacts_of(first)
    assert len(summaries_of(first)) == len(LABELS)
    assert "num_samples" in found["shapes-curate"].data
    scores = found["shapes-scores"]
    assert scores.type == "table"
    assert '"overall"' in str(scores.data).replace("'", '"')
    assert Path(first.summary.report_uri).as_uri() in found["shapes-report"].data


def test_the_cards_snippet_loads_the_adapter_into_its_base(first):
    folder = Path(first.summary.adapter_uri)
    (snippet,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.S)
    loaded = {}
    exec(snippet.replace("PATH_OF_THIS_FOLDER", str(folder)), loaded)
    assert loaded["handle"].is_enabled


def test_the_child_processes_speak_in_the_run_log(first):
    assert missing_from_log(first, ["step 3/3", "images 150/150"]) == []


def test_every_long_stage_leaves_its_progress(first):
    found = {key: artifact for key, artifact in artifacts_of(first).items() if artifact.type == "progress"}
    arms = [f"shapes-evaluate-{arm}-images" for arm in ("base", "untrained", "adapter", "guided-base")]
    counts = ["shapes-curate-scenes", "shapes-curate-images", "shapes-encode-images", "shapes-encode-captions"]
    assert sorted(found) == sorted([*counts, "shapes-train-step", *arms])
    assert {artifact.data for artifact in found.values()} == {100.0}
    assert "loss" in found["shapes-train-step"].description and "kept 24" in found["shapes-curate-images"].description


def test_every_stage_says_its_place_and_its_figures_in_the_run_log(first):
    begun = [f"Stage {number} of {len(LABELS)}, {label}: " for number, label in enumerate(LABELS, start=1)]
    done = (
        "; kept ",
        " texts, ",
        "; 3 steps, loss ",
        "; 150 images, score ",
        " points over the base",
        " version 1 is ",
    )
    assert missing_from_log(first, [*begun, *done]) == []


def test_a_rerun_changes_nothing_and_says_so(first, second):
    assert (second.summary.num_stages_run, second.summary.num_stages_reused) == (0, len(LABELS))
    assert second.after == second.before
    assert missing_from_log(second, [f"{label}: already there, reused" for label in LABELS]) == []
    summaries = summaries_of(second)
    assert len(summaries) == len(LABELS)
    assert all("Already there: nothing was done" in artifact.data for artifact in summaries.values())
    of_the_run = {"num_stages_run", "num_stages_reused", "seconds", "spending"}
    assert second.summary.model_dump(exclude=of_the_run) == first.summary.model_dump(exclude=of_the_run)
    assert second.summary.spending.reused == first.summary.spending.run


def test_each_stage_is_a_flow_of_its_own(first, run_flow):
    for flow, labels in ((curate, LABELS[:1]), (train, LABELS[1:3]), (evaluate, LABELS[3:8]), (register, LABELS[8:])):
        stages = run_flow(flow, first.store).summary.stages
        assert [stage.label for stage in stages] == labels
        assert all(stage.is_reused for stage in stages)


@pytest.mark.parametrize(("flow", "earlier"), [(train, "curate"), (evaluate, "curate"), (register, "curate")])
def test_a_stage_without_its_inputs_names_the_stage_to_run(tmp_path, flow, earlier):
    with pytest.raises(MissingInputError, match=f"softalign {earlier} RECIPE"):
        flow("shapes", [], str(tmp_path))


def test_a_bad_recipe_fails_the_flow_at_once(tmp_path):
    with pytest.raises(ConfigError, match="num_stepz"):
        retrain("shapes", ["train.num_stepz=1"], str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_the_library_alone_and_a_killed_child_give_the_same_adapter(first, run_flow, tmp_path, monkeypatch):
    """The library makes the inputs; the flow's training child is killed at a step, retried, and resumes."""
    from tasks import progress, stages

    recipe, store = load_recipe("shapes", first.overrides), Store(str(tmp_path / "plain"))
    run_until("encode", recipe, store, lambda _: None, is_through=True)
    killed = []

    def kill_once(line, extra):
        if line.startswith("step 1/") and not killed:
            killed.append(kill_worker())

    monkeypatch.setitem(stages.TASKS, "train", stages.TASKS["train"].with_options(retry_delay_seconds=0))
    monkeypatch.setattr(progress, "run_logger", lambda: SimpleNamespace(info=kill_once))
    run = run_flow(train, store.uri)
    assert killed
    encoded, trained = run.summary.stages
    assert encoded.is_reused and not trained.is_reused
    (expected,) = first.store.glob("train/*/adapter.json")
    assert trained.digest in expected.read_text()
    assert weights_of(store.uri) == weights_of(first.store)


def weights_of(store):
    (path,) = Path(store).glob("train/*/soft_tokens.safetensors")
    return path.read_bytes()


def kill_worker():
    """Kill the training child of this process and return its id."""
    for child in children_at("softalign.stages.worker"):
        child.kill()
        return child.pid
    pytest.fail("no child process to kill")
