"""What stages say: their place, and one line of counts, losses and scores."""

import json

import pytest

from softalign.artifacts import (
    ComparisonReport,
    DatasetManifest,
    EvalReport,
    ModelVersion,
    ReasonCount,
    TagDifference,
)
from softalign.config import load_recipe
from softalign.stages.narration import figures, headline, training_figures
from softalign.stages.run import StageResult, stage_labels
from softalign.stages.table import row_of, steps_of
from softalign.store.metrics_log import read_metrics
from softalign.store.store import Store
from tests.sample_records import ADAPTER, ENCODED

DATASET = DatasetManifest(
    stage_key="k",
    name="d",
    num_samples=1890,
    num_captions=3412,
    num_val_samples=95,
    num_shards=4,
    total_bytes=1,
    num_seen=2000,
    rejected=(ReasonCount(reason="blank", count=30), ReasonCount(reason="duplicate", count=80)),
)
REPORT = EvalReport(
    stage_key="k",
    arm="base",
    suite="shapes",
    adapter_digest="",
    overall_score=0.611,
    overall_ci_low=0.58,
    overall_ci_high=0.64,
    tags=(),
    num_images=2700,
    num_prompts=150,
    num_prompts_any_correct=1,
    guidance_scale=1.0,
)
COMPARISON = ComparisonReport(
    stage_key="k",
    suite="shapes",
    overall_base=0.6,
    overall_untrained=0.6,
    overall_adapter=0.65,
    adapter_vs_base=(TagDifference(tag="overall", difference=0.05, ci_low=0.0, ci_high=0.1),),
    adapter_vs_untrained=(),
    num_images_per_arm=1,
)
VERSION = ModelVersion(
    stage_key="k",
    name="cats",
    version=2,
    alias="champion",
    is_promoted=True,
    reason="",
    run_id="r",
    tracking_uri="store",
    weights_sha256="w",
)


@pytest.mark.parametrize(
    ("record", "text"),
    [
        (
            DATASET,
            "kept 1,890 of 2,000 images with 3,412 captions (95 images held out); rejected: 80 duplicate, 30 blank",
        ),
        (ENCODED, "1,890 images and 3,413 texts, 14.2 MB"),
        (REPORT, "2,700 images, score 61.1 (embedded, interval 58.0 to 64.0)"),
        (COMPARISON, "the adapter has +5.0 points over the base"),
        (VERSION, "cats version 2 is champion"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_stage_says_its_figures_in_one_line(tmp_path, record, text):
    assert figures(record, Store(str(tmp_path))) == text


def test_nothing_rejected_is_said():
    assert figures(DATASET.model_copy(update={"rejected": ()}), Store(".")).endswith("; nothing rejected")


def log_of(folder, *rows):
    path = folder / "metrics.jsonl"
    path.write_text("".join(json.dumps({"samples_seen": 4 * row["step"], **row}) + "\n" for row in rows))
    return read_metrics(path)


def row(step, **changes):
    fields = {"split": "train", "step": step, "loss": 2.0, "win_rate": 0.5, "match_weight": 0.3, "chance": 0.25}
    return {**fields, **changes}


def test_training_says_first_and_last_loss_as_means_of_a_tenth(tmp_path):
    rows = [
        {"split": "val", "step": 0, "val_loss": 0.7},
        *(row(step, loss=3.0 if step <= 2 else 1.0, win_rate=0.9 if step > 18 else 0.1) for step in range(1, 21)),
        {"split": "val", "step": 20, "val_loss": 0.6},
    ]
    assert training_figures(log_of(tmp_path, *rows)) == (
        "20 steps, loss 3 -> 1, validation loss 0.7 -> 0.6, win rate 90%, match weight 0.3 (chance 0.25)"
    )


def test_training_says_of_which_kinds_its_edits_were(tmp_path):
    rows = [row(1, num_count_edits=3, num_object_edits=0), row(2, num_count_edits=0, num_object_edits=1)]
    assert training_figures(log_of(tmp_path, *rows)).endswith(", edits count 75%, object 25%")


def test_training_without_rewards_or_with_losses_that_are_not_finite(tmp_path):
    rows = [row(1, win_rate=None, match_weight=None, chance=None), row(2, loss=None, win_rate=None)]
    assert training_figures(log_of(tmp_path, *rows)) == "2 steps, loss 2 -> not finite"
    assert training_figures([]) == ""


def test_an_adapters_figures_come_from_its_metrics(tmp_path):
    store = Store(str(tmp_path))
    folder = store.work_path("train", "k") / "out"
    folder.mkdir(parents=True)
    log_of(folder, row(1))
    assert figures(store.publish(ADAPTER, folder), store).startswith("1 steps, loss 2 -> 2")


def test_every_stage_has_a_headline_with_its_place():
    labels = stage_labels(load_recipe("shapes-unet"))
    lines = [headline(step.label, step.row.does, labels) for step in steps_of(load_recipe("shapes-unet"))]
    assert lines[2] == f"Stage 3 of 8, train: {row_of('train').does}"
    assert lines[3] == f"Stage 4 of 8, evaluate (base): {row_of('evaluate').does}"
    assert len({line.partition(", ")[0] for line in lines}) == len(labels)
    assert stage_labels(load_recipe("shapes"))[-3] == "evaluate (guided base)"


def test_messages_of_stages_that_ran_and_that_were_there():
    ran = StageResult("curate", DATASET, is_reused=False, seconds=1.52, figures="kept 3")
    assert ran.message == "curate: done in 1.5 s; kept 3"
    assert StageResult("curate", DATASET, is_reused=False, seconds=1.52).message == "curate: done in 1.5 s"
    reused = StageResult("compare", DATASET, is_reused=True, seconds=0.0, place="Stage 7 of 8, compare")
    assert reused.message == "Stage 7 of 8, compare: already there, reused"
