"""Captions say the truth they claim to say, by the rules an evaluation decides with."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from softalign.geneval.decision import decide
from softalign.geneval.detections import Detection
from softalign.geneval.prompts import Clause, GenevalPrompt
from softalign.shapes.captions import (
    Caption,
    Phrase,
    altered_captions,
    complete_caption,
    incomplete_caption,
    is_true,
    kind_of_change,
    names_everything,
    wrong_caption,
)
from softalign.shapes.scenes import Scene, SceneObject, sample_scene
from softalign.shapes.tokenizer import MAX_LENGTH, vocabulary

seeds = st.integers(0, 2**32 - 1)


def geneval_decision(caption: Caption, scene: Scene) -> bool:
    """The evaluation's own verdict on perfect detections of the scene, with an exclude clause per phrase."""
    detections = [Detection(class_name=o.shape, score=0.99, box=o.box_px, color=o.color) for o in scene.objects]
    clauses = [Clause(class_name=p.shape, count=p.count, color=p.color) for p in caption.phrases]
    if caption.relation:
        clauses = [clauses[1], clauses[0].model_copy(update={"position": (caption.relation, 0)})]
    exclude = tuple(Clause(class_name=p.shape, count=p.count + 1) for p in caption.phrases)
    prompt = GenevalPrompt(tag="counting", include=tuple(clauses), exclude=exclude, prompt=caption.text)
    return decide(prompt, detections).is_correct


@given(seeds)
@settings(max_examples=300, deadline=None)
def test_complete_captions_are_true_and_name_everything(seed):
    rng = np.random.default_rng(seed)
    scene = sample_scene(rng)
    caption = complete_caption(scene, rng)
    assert is_true(caption, scene)
    assert geneval_decision(caption, scene)
    assert names_everything(caption, scene)


@given(seeds)
@settings(max_examples=300, deadline=None)
def test_wrong_captions_are_false_in_one_fact(seed):
    rng = np.random.default_rng(seed)
    scene = sample_scene(rng)
    caption = wrong_caption(scene, rng)
    assert not is_true(caption, scene)
    assert not geneval_decision(caption, scene)
    assert any(is_true(other, scene) for other in altered_captions(caption))


@given(seeds, st.integers(1, 2))
@settings(max_examples=300, deadline=None)
def test_incomplete_captions_are_true_and_leave_objects_out(seed, extra):
    rng = np.random.default_rng(seed)
    scene = sample_scene(rng, extra)
    caption = incomplete_caption(scene, rng)
    assert is_true(caption, scene)
    assert geneval_decision(caption, scene)
    assert not names_everything(caption, scene)


@given(seeds)
@settings(max_examples=200, deadline=None)
def test_captions_fit_the_tokenizer(seed):
    rng = np.random.default_rng(seed)
    words = wrong_caption(sample_scene(rng), rng).text.split()
    assert set(words) <= set(vocabulary())
    assert len(words) <= MAX_LENGTH - 2


def test_captions_are_a_function_of_the_generator():
    scene = sample_scene(np.random.default_rng(0))
    texts = [[make(scene, np.random.default_rng(7)).text for make in (complete_caption, wrong_caption)] for _ in "ab"]
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ("caption", "text"),
    [
        (Caption((Phrase("circle"),)), "a photo of a circle"),
        (Caption((Phrase("cross", 3),)), "a photo of three crosses"),
        (Caption((Phrase("square", 1, "red"),)), "a photo of a red square"),
        (Caption((Phrase("circle"), Phrase("square"))), "a photo of a circle and a square"),
        (Caption((Phrase("circle"), Phrase("cross")), "left of"), "a photo of a circle left of a cross"),
        (
            Caption((Phrase("circle", 2, "red"), Phrase("square", 1, "blue"))),
            "a photo of two red circles and a blue square",
        ),
    ],
)
def test_sentences(caption, text):
    assert caption.text == text


def test_every_kind_of_fact_gets_altered():
    rng = np.random.default_rng(0)
    kinds = set()
    for _ in range(300):
        scene = sample_scene(rng)
        truth = complete_caption(scene, rng)
        kinds |= {kind_of_change(truth, other) for other in altered_captions(truth)}
    assert kinds == {"relation", "count", "color", "shape"}


def test_diagonal_pairs_get_no_position_caption():
    objects = (
        SceneObject("circle", "red", 0, 0, 0.0, 0.0, 3.0),
        SceneObject("square", "blue", 2, 2, 0.0, 0.0, 3.0),
    )
    rng = np.random.default_rng(0)
    assert all(complete_caption(Scene(objects, 130), rng).relation is None for _ in range(200))


def test_scenes_outside_the_grammar_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="one or two shapes"):
        complete_caption(Scene((), 130), rng)
    single = Scene((SceneObject("circle", "red", 0, 0, 0.0, 0.0, 3.0),), 130)
    with pytest.raises(ValueError, match="two or more shapes"):
        incomplete_caption(single, rng)
