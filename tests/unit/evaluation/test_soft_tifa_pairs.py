"""Two judged folders of GenEval 2 in pairs; results that no judge gave are refused."""

import json
from statistics import geometric_mean

import numpy as np
import pytest
from typer.testing import CliRunner

from softalign.cli.options import app
from softalign.errors import DataError, MissingInputError
from softalign.geneval.layout import image_filename
from tests.tiny_judge import ROWS, suite_text

NUM_IMAGES = 2


def judged(root, rows, prompts=tuple(ROWS)):
    """Write a judged folder: of each prompt and image the probabilities that a function gives."""
    root.mkdir()
    lines = []
    for place, (prompt, atom_count, asked) in enumerate(prompts):
        metadata = suite_text([(prompt, atom_count, asked)]).strip()
        for image in range(NUM_IMAGES):
            found = rows(prompt, image, len(asked))
            means = {"soft_tifa_am": float(np.mean(found)), "soft_tifa_gm": geometric_mean(found)}
            line = {"filename": image_filename(place, image), "prompt": prompt, "atom_count": atom_count}
            line |= {"skills": [skill for *_, skill in asked], "probabilities": found, **means}
            lines.append({**line, "metadata": metadata, "key": "k"})
    (root / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return root


def compare(*arguments):
    return CliRunner().invoke(app, ["geneval2", "compare", *map(str, arguments)], catch_exceptions=False)


def test_two_judged_folders_are_compared_in_pairs_whatever_their_order(tmp_path):
    rng = np.random.default_rng(0)
    found = {
        (prompt, image): rng.uniform(0.1, 0.8, len(asked)) for prompt, _, asked in ROWS for image in range(NUM_IMAGES)
    }
    a = judged(tmp_path / "a", lambda prompt, image, _: found[prompt, image].tolist())
    b = judged(tmp_path / "b", lambda prompt, image, _: (found[prompt, image] + 0.1).tolist(), prompts=ROWS[::-1])
    shown = json.loads(compare(a, b, "--json").stdout)
    assert shown["soft_tifa_am"]["difference"] == {"value": 0.1, "ci_low": 0.1, "ci_high": 0.1}
    assert all(one["difference"]["value"] == 0.1 for one in shown["skills"].values())
    images = {key: geometric_mean(own + 0.1) - geometric_mean(own) for key, own in found.items()}
    gains = {prompt: np.mean([images[prompt, image] for image in range(NUM_IMAGES)]) for prompt, *_ in ROWS}
    assert shown["soft_tifa_gm"]["difference"]["value"] == pytest.approx(np.mean([*gains.values()]), abs=1e-6)
    assert shown["atom_counts"]["3"]["difference"]["value"] == pytest.approx(gains["a cat on a mat"], abs=1e-6)
    assert shown["soft_tifa_am"]["p_value"] == 0.25  # all of three prompts are better: two of eight patterns are as far
    assert (shown["num_prompts"], shown["num_images"], shown["num_unpaired"]) == (3, 6, 0)
    text = compare(a, b).stdout
    assert "AM, position" in text and "GM, 3 atoms" in text


def test_judged_folders_with_other_images_are_compared_where_that_is_said(tmp_path):
    a = judged(tmp_path / "a", lambda prompt, image, number: [0.5] * number)
    b = judged(tmp_path / "b", lambda prompt, image, number: [0.6] * number, prompts=ROWS[:2])
    with pytest.raises(DataError, match=r"(?s)4 images that both have, 2 that one has.*--allow-partial"):
        compare(a, b)
    shown = json.loads(compare(a, b, "--allow-partial", "--json").stdout)
    assert (shown["num_images"], shown["num_unpaired"]) == (4, 2)
    with pytest.raises(MissingInputError, match="geneval2 score"):
        compare(a, tmp_path)
    (b / "results.jsonl").write_text('{"filename": "x"}\n')
    with pytest.raises(DataError, match=r"(?s)GenEval 2 cannot be read.*line 1"):
        compare(a, b)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"probabilities": [0.5]}, "1 probabilities, but 2 skills"),
        ({"probabilities": [0.5, 1.1]}, "probabilities"),
        ({"probabilities": [-0.1, 0.5]}, "probabilities"),
        ({"filename": image_filename(0, 1)}, "two results"),
        ({"metadata": "{}"}, "metadata"),
    ],
)
def test_results_that_no_judge_gave_are_not_compared(tmp_path, change, said):
    a = judged(tmp_path / "a", lambda prompt, image, number: [0.5] * number)
    first, *rest = (a / "results.jsonl").read_text().splitlines(keepends=True)
    (a / "results.jsonl").write_text(json.dumps(json.loads(first) | change) + "\n" + "".join(rest))
    with pytest.raises(DataError, match=said):
        compare(a, a)


def test_results_that_are_no_text_are_named(tmp_path):
    a = judged(tmp_path / "a", lambda prompt, image, number: [0.5] * number)
    (a / "results.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="UTF-8"):
        compare(a, a)
