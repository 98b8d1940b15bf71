"""Verdicts of any tool are read whole or refused, and compared in pairs."""

import json
import random
import sys

import pytest

from softalign.cli import app
from softalign.errors import ConfigError, DataError
from softalign.evaluation.intervals import OVERALL
from softalign.evaluation.set_comparison import compare_sets
from softalign.evaluation.suites import suite_named
from softalign.evaluation.verdicts import read_verdicts, statistics
from softalign.geneval.prompts import Clause, GenevalPrompt, drawn_prompts, official_prompts, to_json_line, to_metadata

OWN = tuple(
    GenevalPrompt(tag=tag, include=(Clause(class_name="dog", count=count),), prompt=f"{count} dogs")
    for tag, count in (("many dogs", 7), ("Few-Dogs", 2), ("many dogs", 9))
)


def write(path, verdicts, prompts=OWN, name="outputs/sdxl/{:05d}/samples/{:05d}.png"):
    """Write results as the official tool does: names with a folder in front, in no order."""
    rows = [
        {
            "filename": name.format(index, image),
            "tag": prompt.tag,
            "prompt": prompt.prompt,
            "correct": is_correct,
            "reason": "",
            "metadata": json.dumps(to_metadata(prompt)),
            "details": "{}",
        }
        for index, prompt in enumerate(prompts)
        for image, is_correct in enumerate(verdicts[index])
    ]
    random.Random(1).shuffle(rows)
    path.write_text("".join(json.dumps(row).replace("/", "\\/") + "\n" for row in rows))
    return str(path)


@pytest.fixture
def theirs(tmp_path):
    return write(tmp_path / "theirs.jsonl", [[True, False], [True, True], [False, False]])


def test_the_official_tools_results_have_the_same_summary(theirs):
    found = read_verdicts(theirs)
    assert found.results[0].filename == "00000/samples/00000.png"
    summary = statistics(found.results, found.lacks)
    assert list(summary.summary.tags) == ["many dogs", "Few-Dogs"]  # as they first appear
    assert summary.summary.overall_score == pytest.approx((1 / 4 + 1) / 2)
    assert summary.summary.num_prompts_any_correct == 2
    assert summary.to_json()["intervals"]["Few-Dogs"] == [1.0, 1.0]
    assert "many dogs      0.2500  1/4" in summary.to_text()


def drop(lines):
    return lines[1:]


def twice(lines):
    return [*lines, lines[0]]


def copied(lines):
    return [*lines, *(line.replace("00001\\/", "1\\/") for line in lines if "00001\\/samples" in line)]


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (drop, "missing images: 1"),
        (twice, "samples/"),
        (copied, "folders with the same number: 2"),
        (lambda lines: [line for line in lines if "00001\\/samples" not in line], "missing numbers"),
        (lambda lines: [line.replace('"tag": "Few-Dogs"', '"tag": "many dogs"') for line in lines], "many dogs"),
        (lambda lines: [lines[0].replace("sdxl", "sd15"), *lines[1:]], "sd15"),
    ],
)
def test_results_that_are_not_whole_are_refused(tmp_path, theirs, change, found):
    path = tmp_path / "changed.jsonl"
    with open(theirs) as file:
        path.write_text("".join(change(file.readlines())))
    with pytest.raises(DataError) as caught:
        read_verdicts(str(path))
    assert found in caught.value.found


def test_a_suite_that_is_named_must_be_there(tmp_path, theirs):
    suite = tmp_path / "suite.jsonl"
    suite.write_text(
        "".join(to_json_line(prompt) + "\n" for prompt in (*OWN, OWN[0].model_copy(update={"tag": "new"})))
    )
    with pytest.raises(DataError, match="tags with nothing to score"):
        read_verdicts(theirs, suite_named(str(suite)))
    assert len(read_verdicts(theirs, suite_named(str(suite)), is_partial_allowed=True).lacks) == 2


def test_three_sets_are_compared_in_pairs_whatever_their_names(tmp_path, theirs):
    names = "{:d}/samples/{:04d}.jpg"
    better = write(tmp_path / "b.jsonl", [[True, True], [True, True], [False, True]], name=names)
    reordered = write(tmp_path / "c.jsonl", [[True, True], [False, False], [True, True]], tuple(reversed(OWN)))
    comparison = compare_sets([theirs, better, reordered])
    found = {(pair.candidate, pair.reference): pair.differences for pair in comparison.pairs}
    assert {pair: one[OVERALL].value for pair, one in found.items()} == {
        ("B", "A"): pytest.approx((0.75 - 0.25) / 2),
        ("C", "A"): pytest.approx((1.0 - 0.25 + 0.0 - 1.0) / 2),
        ("C", "B"): pytest.approx((1.0 - 0.75 + 0.0 - 1.0) / 2),
    }
    assert found["B", "A"]["Few-Dogs"].low == found["B", "A"]["Few-Dogs"].high == 0.0
    assert "B - A" in comparison.to_text()


def test_unpaired_images_are_refused_or_said(tmp_path, theirs):
    other = write(tmp_path / "other.jsonl", [[True], [True], [False]])
    with pytest.raises(DataError, match=r"B .*lacks 3"):
        compare_sets([theirs, other])
    comparison = compare_sets([theirs, other], is_partial_allowed=True)
    assert comparison.num_unpaired == 3
    assert [score.num_images for score in comparison.scores] == [3, 3]
    assert "Left out, as not every set has them: 3 images." in comparison.to_text()
    with pytest.raises(ConfigError):
        compare_sets([theirs])


def test_the_commands_print_json(tmp_path, theirs, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def printed(*arguments):
        monkeypatch.setattr(sys, "argv", ["softalign", "geneval", *arguments, "--json"])
        with pytest.raises(SystemExit) as caught:
            app.main()
        assert not caught.value.code
        return json.loads(capsys.readouterr().out)

    assert printed("read", theirs)["num_images"] == 6
    compared = printed("compare", theirs, theirs)
    assert compared["sets"]["B"]["overall_score"] == printed("read", theirs)["overall_score"]
    assert compared["differences"][0]["tags"]["overall"] == {"difference": 0.0, "ci_low": 0.0, "ci_high": 0.0}


def test_other_sizes_and_seeds_are_drawn_as_the_official_suite():
    few = drawn_prompts(3, 7)
    assert len(few) == 80 + 5 * 3
    assert few == drawn_prompts(3, 7) != drawn_prompts(3, 8)
    assert drawn_prompts(100, 43) == official_prompts()
