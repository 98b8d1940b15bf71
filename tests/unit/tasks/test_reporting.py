"""Texts of the artifacts."""

import re

import pytest

from softalign.artifacts import ArmReports, DatasetManifest, EvalReport, ReasonCount, TagScore, Usage
from softalign.stages.run import StageResult
from tasks import reporting


def dataset(**changes):
    counts = {"num_samples": 3, "num_captions": 6, "num_val_samples": 1, "num_shards": 1, "num_seen": 5}
    fields = {"stage_key": "k", "name": "tiny", "total_bytes": 7, "uri": "/somewhere/curate/k", **counts, **changes}
    return DatasetManifest(**fields)


def report(arm, score):
    tag = TagScore(tag="colors", score=score, ci_low=0.0, ci_high=1.0, num_images=4, num_correct=2)
    return EvalReport(
        stage_key=arm,
        arm=arm,
        suite="shapes",
        adapter_digest="",
        overall_score=score / 2,
        overall_ci_low=0.0,
        overall_ci_high=1.0,
        tags=(tag,),
        num_images=4,
        num_prompts=1,
        num_prompts_any_correct=1,
        guidance_scale=3.0,
    )


def test_markdown_holds_every_field_and_says_what_was_reused():
    record = dataset(rejected=(ReasonCount(reason="a|b", count=2),))
    ran = reporting.stage_markdown(StageResult(label="curate", record=record, is_reused=False, seconds=1.25))
    reused = reporting.stage_markdown(StageResult(label="curate", record=record, is_reused=True, seconds=0.0))
    for name in ("num_samples", "total_bytes", "uri", "digest"):
        assert f"| {name} |" in ran
    assert record.digest in ran
    assert "reason a\\|b, count 2" in ran
    assert "Done in 1.2 s" in ran
    assert "Already there: nothing was done" in reused
    usage = Usage(attempts=1, cpu_s=2.0)
    known = StageResult(label="curate", record=record, is_reused=True, seconds=0.0, usage=usage)
    assert "Used, when it ran: 2.0 s of CPU, no GPU" in reporting.stage_markdown(known)
    assert all(line.count("|") - line.count("\\|") == 3 for line in ran.splitlines() if line.startswith("|"))


@pytest.mark.parametrize("label", ["evaluate (base)", "scores", "a_B c"])
def test_artifact_keys_are_what_prefect_allows(label):
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", reporting.artifact_key("shapes", label))


def test_scores_have_a_row_per_tag_and_the_overall_row_last():
    rows = reporting.score_rows(ArmReports(report("base", 0.5), report("untrained", 0.25), report("adapter", 0.75)))
    assert rows == [
        {"tag": "colors", "base": 0.5, "untrained": 0.25, "adapter": 0.75},
        {"tag": "overall", "base": 0.25, "untrained": 0.125, "adapter": 0.375},
    ]


def test_links():
    assert reporting.link_of("/a b/report.html") == "file:///a%20b/report.html"
    assert reporting.link_of("s3://bucket/report.html") == "s3://bucket/report.html"
