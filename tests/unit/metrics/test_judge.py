"""The judge of GenEval 2: probabilities by their definition, whatever is asked beside them."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from softalign.errors import CompatibilityError, MissingInputError
from softalign.metrics.answers import first_tokens, spellings
from softalign.metrics.judge import load_judge
from tests.tiny_judge import ROWS, build_tokenizer, save_tiny_judge, some_images

CPU = torch.device("cpu")
PAIRS = [(question, answer) for _, _, asked in ROWS for question, answer, _ in asked]
TOLERANCE = 1e-6


@pytest.fixture(scope="module", params=["qwen3_vl", "qwen2_5_vl", "llava"])
def folder(request, tmp_path_factory):
    return save_tiny_judge(tmp_path_factory.mktemp(request.param), request.param)


def test_an_answer_has_the_authors_spellings_each_beginning_counted_once():
    assert set(spellings("Yes")) == {"yes", "Yes", " yes", " Yes"}
    assert set(spellings("two")) == {"two", "Two", " two", " Two", "2", " 2"}
    tokenizer = build_tokenizer()
    ids = first_tokens(tokenizer, "two")
    assert len(ids) == len(set(ids)) >= 4
    assert {tokenizer.encode(text)[0] for text in ("two", "Two", " two", " Two", "2", " 2")} == set(ids)


def test_numbers_do_not_depend_on_the_batch_or_on_what_is_asked_beside(folder):
    image = some_images(1)[0]
    together = load_judge(str(folder), None, CPU, 16)(image, PAIRS)
    judge = load_judge(str(folder), None, CPU, 3)
    assert np.ptp(together) > 1e-3  # the answers differ, so an exchange would show
    assert judge(image, PAIRS) == pytest.approx(together, abs=TOLERANCE)
    assert [judge(image, [pair])[0] for pair in PAIRS] == pytest.approx(together, abs=TOLERANCE)
    assert judge(255 - image, PAIRS) != pytest.approx(together, abs=1e-4)  # it looks at the image


def test_a_probability_is_the_share_of_the_first_token_over_the_whole_vocabulary(folder):
    """Restated: one forward call without a batch, softmax over the vocabulary, the spellings' first tokens added up."""
    judge, image = load_judge(str(folder), None, CPU, 8), some_images(2)[1]
    for question, answer in PAIRS:
        parts = [
            {"type": "image", "image": Image.fromarray(image)},
            {"type": "text", "text": f"{question} Answer in one word."},
        ]
        inputs = judge.processor.apply_chat_template(
            [{"role": "user", "content": parts}],
            tokenize=True,
            add_generation_prompt=True,
            return_dict=True,
            return_tensors="pt",
        )
        with torch.inference_mode():
            logits = judge.model(**inputs).logits[0, -1].numpy().astype(np.float64)
        shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        forms = {"Yes": ["Yes", "yes"], "two": ["two", "Two", "2"], "one": ["one", "One", "1"]}[answer]
        begins = {judge.processor.tokenizer.encode(space + form)[0] for form in forms for space in ("", " ")}
        assert judge(image, [(question, answer)])[0] == pytest.approx(
            sum(shares[token] for token in begins), abs=TOLERANCE
        )


def test_what_is_no_judge_is_refused(tmp_path):
    with pytest.raises(MissingInputError, match="no such model of the judge"):
        load_judge(str(tmp_path / "nowhere"), None, CPU, 1)
    folder = save_tiny_judge(tmp_path, "llava")
    config = folder / "tokenizer_config.json"
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(CompatibilityError, match="no chat template"):
        load_judge(str(folder), None, CPU, 1)
    assert "chat_template" not in json.loads(config.read_text())


def test_weights_that_are_pickles_or_code_are_refused(tmp_path):
    folder = save_tiny_judge(tmp_path, "llava")
    weights = folder / "model.safetensors"
    weights.rename(folder / "pytorch_model.bin")
    with pytest.raises(CompatibilityError, match="safetensors"):
        load_judge(str(folder), None, CPU, 1)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModelForImageTextToText": "own.Own"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(CompatibilityError, match="processor cannot be loaded"):
        load_judge(str(folder), None, CPU, 1)
