"""Filters that ask a model: real ones of transformers, tiny and with random weights."""

import io
import json

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPProcessor,
    ViTConfig,
    ViTForImageClassification,
)

from softalign.config import FilterConfig, Runtime, load_recipe
from softalign.config.model_filters import ClipScoreFilter, ImageClassFilter
from softalign.data.curation.image_folder import ImageFolder
from softalign.data.curation.model_filters import ClipScore, ImageClass, judge_sample, model_judge
from softalign.data.curation.pipeline import curate
from softalign.data.curation.samples import ListedSample, Sample
from softalign.data.curation.shards import read_index
from softalign.errors import ConfigError, MissingInputError
from softalign.shapes.tokenizer import build_tokenizer
from softalign.stages.requests import StageInputs, curate_request
from softalign.store.store import Store

CPU = torch.device("cpu")
SIZES = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
CAPTIONS = ("a red circle", "two blue squares above a green triangle", "a photo of a yellow star")


@pytest.fixture(scope="module")
def processor():
    return CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})


@pytest.fixture(scope="module")
def clip(tmp_path_factory, processor):
    folder, tokenizer = str(tmp_path_factory.mktemp("clip")), build_tokenizer()
    text = {"vocab_size": len(tokenizer), "max_position_embeddings": tokenizer.model_max_length, **SIZES}
    text |= {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id}
    torch.manual_seed(0)
    vision = {"image_size": 16, "patch_size": 8, **SIZES}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(folder)
    CLIPProcessor(image_processor=processor, tokenizer=tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def classifier(tmp_path_factory, processor):
    folder, labels = str(tmp_path_factory.mktemp("vit")), ("normal", "nsfw", "gore")
    torch.manual_seed(1)
    config = ViTConfig(image_size=16, patch_size=8, id2label=dict(enumerate(labels)), **SIZES)
    ViTForImageClassification(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def test_a_clip_score_is_the_cosine_of_the_models_features(clip, processor, make_picture):
    found = ClipScore(ClipScoreFilter(model=clip, min_score=0.0), CPU).scores(make_picture(1), CAPTIONS)
    model, tokenizer = CLIPModel.from_pretrained(clip).eval(), build_tokenizer()
    pixels = processor(images=make_picture(1), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        image = model.visual_projection(model.vision_model(pixels).pooler_output)[0]
        for caption, score in zip(CAPTIONS, found, strict=True):
            tokens = tokenizer(caption, return_tensors="pt", padding="max_length", truncation=True)
            text = model.text_projection(model.text_model(**tokens).pooler_output)[0]
            assert torch.cosine_similarity(image, text, dim=0).item() == pytest.approx(score, abs=1e-5)
    assert len({round(score, 4) for score in found}) == 3


def test_a_score_does_not_depend_on_the_other_captions(clip, make_picture):
    scorer = ClipScore(ClipScoreFilter(model=clip, min_score=0.0), CPU)
    alone = [scorer.scores(make_picture(1), (caption,))[0] for caption in CAPTIONS]
    assert scorer.scores(make_picture(1), CAPTIONS) == pytest.approx(alone, abs=1e-6)
    assert np.isfinite(scorer.scores(make_picture(1), ("a red circle " * 500,))[0])


def encoded(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def test_captions_below_the_limit_are_left_out_by_their_place(clip, make_picture):
    raw = (None, *CAPTIONS[:2], "a red  circle", CAPTIONS[2])
    listed = ListedSample("s", "a.png", ImageFolder("/images"), raw)
    sample = Sample("s", "a.png", CAPTIONS, encoded(make_picture(1)), "png", "d", 0, 48, 40)
    scores = ClipScore(ClipScoreFilter(model=clip, min_score=0.0), CPU).scores(make_picture(1), CAPTIONS)
    limit = sorted(scores)[1]
    judge = model_judge(FilterConfig(models=[{"type": "clip_score", "model": clip, "min_score": limit}]), Runtime())
    judged = judge(listed, sample)
    lowest = scores.index(min(scores))
    assert judged.sample.captions == tuple(caption for caption in CAPTIONS if caption != CAPTIONS[lowest])
    (rejection,) = judged.rejections
    assert (rejection.reason, rejection.caption_index) == ("caption_clip_score", raw.index(CAPTIONS[lowest]))
    assert rejection.detail == f"{scores[lowest]:.3f}"
    strict = ClipScore(ClipScoreFilter(model=clip, min_score=1.0), CPU)
    nothing = judge_sample(listed, sample, [strict, None], repair=True)
    assert nothing.sample is None
    assert [entry.reason for entry in nothing.rejections] == ["caption_clip_score"] * 3 + ["no_caption_left"]


def test_images_of_a_class_are_left_out(classifier, make_picture):
    sizes = [
        ImageClass(ImageClassFilter(model=classifier, labels=labels), CPU) for labels in (("nsfw",), ("nsfw", "gore"))
    ]
    one, two = (model.probability(make_picture(1)) for model in sizes)
    rest = ImageClass(ImageClassFilter(model=classifier, labels=("normal",)), CPU).probability(make_picture(1))
    assert 0 < one < two and two + rest == pytest.approx(1.0, abs=1e-6)
    for limit, reason in ((one - 0.01, "image_class"), (one + 0.01, None)):
        config = ImageClassFilter(model=classifier, labels=("nsfw",), max_probability=limit)
        found = ImageClass(config, CPU).judge(make_picture(1), CAPTIONS)
        assert (found.image.reason if found.image else None) == reason
        assert found.captions == (None,) * 3


def test_a_recipe_asks_models_of_what_passed_the_others(clip, classifier, handover, make_picture, store, configure):
    for number in range(3):
        handover.add(f"{number}.png", [*CAPTIONS, "x"], make_picture(number))
    free = {"type": "image_class", "model": classifier, "labels": ["nsfw"], "max_probability": 1.0}
    every = curate(configure(handover.coco(), models=[free]), store, "all")
    assert every.num_captions == 9
    scorer = ClipScore(ClipScoreFilter(model=clip, min_score=0.0), CPU)
    scores = {(n, c): scorer.scores(make_picture(n), (c,))[0] for n in range(3) for c in CAPTIONS}
    limit = sorted(scores.values())[4] - 1e-4
    strict = {"type": "clip_score", "model": clip, "min_score": limit}
    manifest = curate(configure(handover.coco(), models=[free, strict]), store, "some")
    rows = [row for path in Store(store.uri).fetch(manifest).glob("*-*.parquet") for row in read_index(path)]
    assert {(int(row.file_name[0]), c) for row in rows for c in row.captions} == {
        k for k, s in scores.items() if s >= limit
    }


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        ({"type": "clip_score", "model": "{tmp}", "min_score": 0.2}, MissingInputError, "not there"),
        ({"type": "image_class", "model": "{vit}", "labels": ["cats"]}, ConfigError, "gore, normal, nsfw"),
    ],
)
def test_a_model_that_cannot_be_used_ends_the_stage(
    config, error, message, classifier, handover, store, configure, tmp_path
):
    (tmp_path / "empty").mkdir()
    config = {**config, "model": config["model"].format(tmp=tmp_path / "empty", vit=classifier)}
    with pytest.raises(error, match=message):
        curate(configure(handover.add_pictures(1).coco(), models=[config]), store, "k")


def test_another_model_is_another_request(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    filters = {"models": [{"type": "clip_score", "model": str(tmp_path), "min_score": 0.2}]}
    recipe = load_recipe("shapes", [f"curation.filters={json.dumps(filters)}"])
    given = StageInputs(recipe, Store(str(tmp_path / "store")))
    before = curate_request(given).key
    (tmp_path / "config.json").write_text("[]")
    assert curate_request(given).key != before


def test_an_impossible_filter_is_refused_with_the_recipe():
    for wrong in ({"min_score": 1.5}, {"type": "image_class", "labels": []}, {"labels": ["x"]}):
        with pytest.raises(ValidationError):
            FilterConfig(models=[{"type": "clip_score", "model": "m", **wrong}])
