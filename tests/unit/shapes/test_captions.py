"""Captions say the truth they claim to say, by the rules an evaluation decides with."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from softalign.geneval.decision import decide
from softalign.geneval.detections import Detection
from softalign.geneval.prompts import Clause, GenevalPrompt
from softalign.shapes.captions import (
    OPPOSITES,
    Caption,
    Phrase,
    altered_captions,
    careless_caption,
    complete_caption,
    incomplete_caption,
    is_true,
    kind_of_change,
    names_everything,
    wrong_caption,
)
from softalign.shapes.pretraining.data import sample_captioned_scene
from softalign.shapes.pretraining.recipe import PoolConfig
from softalign.shapes.scenes import MAX_OBJECTS, Scene, SceneObject, sample_crowded_scene, sample_scene
from softalign.shapes.tokenizer import MAX_LENGTH, build_tokenizer, vocabulary

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


def test_careful_writers_end_with_a_full_stop_that_is_one_token():
    tokenizer, rng = build_tokenizer(), np.random.default_rng(0)
    for _ in range(200):
        caption = complete_caption(sample_scene(rng), rng)
        careful = replace(caption, has_full_stop=True)
        assert careful.text == caption.text + "."
        ids, stopped = (tokenizer(text)["input_ids"] for text in (caption.text, careful.text))
        assert stopped[: len(ids) - 1] == ids[:-1]
        assert len(stopped) == len(ids) + 1 <= MAX_LENGTH


@given(seeds)
@settings(max_examples=200, deadline=None)
def test_careless_captions_make_only_the_mistakes_that_are_easily_made(seed):
    scene = sample_scene(np.random.default_rng(seed))
    truth, said = (
        careless_caption(scene, np.random.default_rng([seed, 1]), share_mistaken=share) for share in (0.0, 1.0)
    )
    assert is_true(truth, scene)
    assert said.relation == (OPPOSITES[truth.relation] if truth.relation else None)
    counts = [[phrase.count for phrase in caption.phrases] for caption in (truth, said)]
    changed = [[max(1, count + change) for count in counts[0]] for change in (-1, 1) if not truth.relation]
    assert counts[1] in [counts[0], *changed]
    assert sum(counts[1]) <= MAX_OBJECTS
    if len(truth.phrases) == 2 and truth.phrases[0].color:
        assert [phrase.color for phrase in said.phrases] == [phrase.color for phrase in truth.phrases][::-1]


def test_crowded_scenes_have_no_caption_and_more_objects_than_one_could_say():
    pool = PoolConfig(share_uncaptioned=0.3, share_careful=0.5, share_mistaken=0.45, share_incomplete=0, share_wrong=0)
    rng = np.random.default_rng(0)
    drawn = [sample_captioned_scene(rng, pool) for _ in range(2000)]
    crowded = [scene for scene, captions in drawn if not captions]
    assert len(crowded) / 2000 == pytest.approx(0.3, abs=0.04)
    assert {len(scene.objects) for scene in crowded} == set(range(4, 11))
    careful = [caption.has_full_stop for _, captions in drawn for caption in captions]
    assert np.mean(careful) == pytest.approx(0.5, abs=0.03)
    assert all(is_true(caption, scene) for scene, captions in drawn for caption in captions if caption.has_full_stop)
    assert len(sample_crowded_scene(rng).objects) >= 4


def test_each_fact_is_mistaken_as_often_as_asked():
    rng = np.random.default_rng(0)
    scenes = [sample_scene(rng) for _ in range(6000)]
    pairs = [
        [careless_caption(scene, np.random.default_rng([i, 1]), share) for share in (0.0, 0.4)]
        for i, scene in enumerate(scenes)
    ]
    opposite = [truth.relation != said.relation for truth, said in pairs if truth.relation]
    numbers = [
        truth.phrases[0].count != said.phrases[0].count
        for truth, said in pairs
        if len(truth.phrases) == 1 and truth.phrases[0].count > 1
    ]
    shapes = [
        {phrase.shape for phrase in truth.phrases} != {phrase.shape for phrase in said.phrases} for truth, said in pairs
    ]
    lone = [
        truth.phrases[0].color != said.phrases[0].color
        for truth, said in pairs
        if len(truth.phrases) == 1 and truth.phrases[0].color
    ]
    shares = [np.mean(mistaken) for mistaken in (opposite, numbers, shapes, lone)]
    assert shares == pytest.approx([0.4, 0.4, 0.4 / 3, 0.4 / 3], abs=0.04)


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
