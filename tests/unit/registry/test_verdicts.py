import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from softalign.cli.app import app
from softalign.errors import CompatibilityError
from softalign.evaluation.versions import compare_versions
from softalign.registry import registry_of_store
from tests.registry_samples import NAME, register_sample


@pytest.fixture
def registered(store):
    register_sample(store, 0.125)
    register_sample(store, 0.375)
    register_sample(store, 0.3, suite="geneval")
    return registry_of_store(store)


def test_two_versions_are_compared_in_pairs_of_images(registered):
    found = compare_versions(f"{NAME}/1", f"{NAME}/2", registered)
    overall = found.differences[0]
    assert (found.b, found.why_unpaired, overall.tag, overall.difference) == (f"{NAME}/2", "", "overall", 0.25)
    assert overall.ci_low <= 0.25 <= overall.ci_high and len(found.differences) == 7
    assert f"{NAME}/2 minus {NAME}/1, in pairs of 24 images" in found.to_text() and "+25.0" in found.to_text()
    assert f"{NAME}/1: 62.5 points on shapes (embedded)" in found.to_text()
    backwards = compare_versions(f"{NAME}/2", f"{NAME}/1", registered)
    assert backwards.differences[0].difference == -0.25
    with pytest.raises(CompatibilityError, match="different suites"):
        compare_versions(f"{NAME}/1", f"{NAME}/3", registered)
    answer = CliRunner().invoke(app, ["compare", f"{NAME}/1", f"{NAME}/2", "--tracking-uri", registered, "--json"])
    assert json.loads(answer.stdout)["overall_b"] == pytest.approx(0.875)


def test_scores_of_different_detectors_are_told_apart_and_not_paired(registered, monkeypatch):
    from softalign.evaluation import versions

    def scores(reference, _uri, read=versions.registered_scores):
        found = read(reference, registered)
        judged = found.comparison.model_copy(update={"detector": "geneval-hf" if reference.version == 1 else "geneval"})
        return replace(found, comparison=judged)

    monkeypatch.setattr(versions, "registered_scores", scores)
    found = compare_versions(f"{NAME}/1", f"{NAME}/2", registered)
    assert (found.judge_a, found.judge_b, found.differences) == ("geneval-hf", "geneval", ())
    assert "(geneval-hf)" in found.to_text() and "different detectors" in found.to_text()
