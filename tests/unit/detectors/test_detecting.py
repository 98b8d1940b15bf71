"""From pixels to detections: sizes, the official post-processing, colours, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from softalign.config import DetectorConfig
from softalign.detectors import golden, segmenter
from softalign.detectors.arithmetic import exact_arithmetic
from softalign.detectors.colors import TEMPLATES, crop_of, load_color_classifier, to_square
from softalign.detectors.golden import golden_findings
from softalign.detectors.instances import box_of, instances_of
from softalign.detectors.loading import loaded, require_models
from softalign.detectors.photographs import load_detector
from softalign.detectors.preprocessing import MEAN_RGB, STD_RGB, ImageSize, scaled_size, to_pixel_values
from softalign.detectors.segmenter import require_coco_classes
from softalign.detectors.self_test import (
    SOLID_COLORS,
    attention_error,
    color_findings,
    require_sound,
    segmenter_findings,
)
from softalign.errors import CompatibilityError, IntegrityError, MissingInputError
from softalign.geneval.prompts import CLASSES, COLORS
from softalign.store.offline import OFFLINE_VARIABLE
from tests.tiny_detector import build_segmenter

CPU = torch.device("cpu")
PHOTOGRAPHS = Path(__file__).parents[4] / "shared/data/coco/train2017"


@pytest.fixture(scope="module")
def detector(tiny_detector):
    return load_detector(tiny_detector, CPU)


@pytest.mark.parametrize(
    ("size", "scaled"),
    [((512, 512), (800, 800)), ((480, 640), (800, 1067)), ((300, 1000), (400, 1333)), ((1024, 1024), (800, 800))],
)
def test_the_short_side_becomes_800_unless_the_long_one_would_exceed_1333(size, scaled):
    assert scaled_size(ImageSize(*size)) == ImageSize(*scaled)


def test_pixels_are_normalised_and_padded_with_zeros_to_the_right_and_below(small_inputs):
    image = np.full((30, 40, 3), (200, 100, 50), dtype=np.uint8)
    values = to_pixel_values([image, image])
    assert values.shape == (2, 3, 96, 128) and values.dtype == torch.float32
    expected = (torch.tensor([200.0, 100.0, 50.0]) - torch.tensor(MEAN_RGB)) / torch.tensor(STD_RGB)
    torch.testing.assert_close(values[0, :, 50, 60], expected)
    wide = to_pixel_values([np.full((30, 47, 3), 9, dtype=np.uint8)])  # 96 x 150.4
    assert wide.shape == (1, 3, 96, 160)
    assert (wide[..., :150] != 0).all() and (wide[..., 150:] == 0).all()


def official_instances(class_logits, mask_logits, padded, scaled, original):
    """Return (class, score, box, mask) of the 100 best pairs: the official rule, written as one says it."""
    exponentials = np.exp(class_logits.double().numpy())
    probabilities = (exponentials / exponentials.sum(axis=1, keepdims=True))[:, :-1]
    pairs = [(p, q, c) for q, row in enumerate(probabilities) for c, p in enumerate(row)]
    found = []
    for probability, query, name in sorted(pairs, key=lambda pair: -pair[0])[:100]:
        options = {"mode": "bilinear", "align_corners": False}
        enlarged = torch.nn.functional.interpolate(mask_logits[query][None, None], size=padded, **options)
        enlarged = enlarged[..., : scaled[0], : scaled[1]]
        logits = torch.nn.functional.interpolate(enlarged, size=original, **options)[0, 0].double().numpy()
        inside = logits > 0
        if not inside.any():
            continue
        ys, xs = np.nonzero(inside)
        score = probability * (1 / (1 + np.exp(-logits[inside]))).mean()
        found.append((name, score, (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1), inside))
    return found


@pytest.mark.parametrize("seed", range(4))
def test_instances_are_those_of_the_official_post_processing(seed):
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randn(30, 81, generator=generator) * 4
    masks = torch.randn(30, 12, 16, generator=generator) - 1.5
    masks[3] = -1.0
    padded, scaled, original = (96, 128), (90, 121), (47, 63)
    expected = [one for one in official_instances(classes, masks, padded, scaled, original) if one[1] > 0.3]
    found = instances_of(classes, masks, ImageSize(*padded), ImageSize(*scaled), ImageSize(*original), above=0.3)
    assert len(found) == len(expected) > 5
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    for one, (name, score, box, mask) in zip(found, sorted(expected, key=lambda each: -each[1]), strict=True):
        assert (one.class_index, one.box) == (name, tuple(map(float, box)))
        assert one.score == pytest.approx(score, abs=1e-5)
        assert np.array_equal(one.mask, mask)


def test_no_more_than_100_pairs_of_query_and_class_are_looked_at():
    classes = torch.zeros(200, 81)
    classes[:, 7] = 20.0
    found = instances_of(classes, torch.full((200, 4, 4), 9.0), *[ImageSize(4, 4)] * 3, above=0.3)
    assert len(found) == 100


def test_the_box_of_an_empty_mask_is_zeros():
    assert box_of(np.zeros((3, 4), dtype=bool)) == (0.0, 0.0, 0.0, 0.0)


def test_a_crop_is_the_box_with_grey_outside_the_mask():
    image = np.full((8, 10, 3), 40, dtype=np.uint8)
    mask = np.zeros((8, 10), dtype=bool)
    mask[2:5, 3:6] = True
    mask[3, 4] = False
    crop = np.asarray(crop_of(image, box_of(mask), mask))
    assert crop.shape == (3, 3, 3)
    assert (crop[1, 1] == 0x99).all() and (np.delete(crop.reshape(9, 3), 4, axis=0) == 40).all()


def test_clip_sees_the_middle_square_of_a_crop():
    pixels = np.zeros((10, 40, 3), dtype=np.uint8)
    pixels[:, 15:25] = 255
    square = to_square(Image.fromarray(pixels), 20)
    assert square.shape == (3, 20, 20)
    assert (square[:, :, 2:-2] > 1.5).all()
    assert square[:, :, 0].mean() < square[:, :, 10].mean()


def test_a_colour_is_the_nearest_of_the_means_of_normalised_templates(tiny_detector):
    classify = load_color_classifier(tiny_detector.color_classifier, None, CPU)
    rng = np.random.default_rng(0)
    crops = [Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)) for _ in range(6)]
    expected = []
    for crop in crops:
        pixels = torch.from_numpy(to_square(crop, 16))[None]
        with torch.inference_mode():
            image = classify.model.get_image_features(pixel_values=pixels).pooler_output[0].double()
            scores = []
            for color in COLORS:
                total = 0
                for template in TEMPLATES:
                    tokens = classify.tokenizer([template.format(color=color, name="dog")], return_tensors="pt")
                    text = classify.model.get_text_features(**tokens).pooler_output[0].double()
                    total = total + text / text.norm() / 3
                scores.append(float(total @ image / total.norm()))
        expected.append(COLORS[int(np.argmax(scores))])
    assert classify(crops, "dog") == expected


def test_the_templates_are_genevals():
    filled = [template.format(color="red", name="car") for template in TEMPLATES]
    assert filled == ["a photo of a red car", "a photo of a red-colored car", "a photo of a red object"]


@pytest.mark.skipif(not PHOTOGRAPHS.is_dir(), reason="no photographs")
def test_photographs_are_detected_alike_alone_and_together(detector, small_inputs):
    paths = sorted(PHOTOGRAPHS.iterdir())[:5]
    images = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    together = detector(images)
    assert together == [detector([image])[0] for image in images]
    assert sum(map(len, together)) > 3
    for image, found in zip(images, together, strict=True):
        height, width, _ = image.shape
        assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
        for one in found:
            assert one.class_name in CLASSES and one.color in COLORS and 0.3 < one.score <= 1
            x0, y0, x1, y1 = one.box
            assert 0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height


@pytest.mark.skipif(not PHOTOGRAPHS.is_dir(), reason="no photographs")
def test_a_photograph_is_detected_at_the_official_size(detector):
    image = np.asarray(Image.open(min(PHOTOGRAPHS.iterdir())).convert("RGB"))
    seen = []
    hook = detector.segmenter.model.register_forward_pre_hook(
        lambda _module, _args, kwargs: seen.append(kwargs["pixel_values"].shape), with_kwargs=True
    )
    detector([image])
    hook.remove()
    assert len(seen) == 1 and min(seen[0][-2:]) == 800 and max(seen[0][-2:]) <= 1344


@pytest.mark.parametrize("change", ["one fewer", "two exchanged", "panoptic"])
def test_other_classes_are_refused(change):
    labels = list(CLASSES)
    if change == "one fewer":
        labels.pop()
    elif change == "two exchanged":
        labels[3], labels[4] = labels[4], labels[3]
    else:
        labels += ["banner", "blanket"]
    said = {"one fewer": "79 classes", "two exchanged": "3: airplane", "panoptic": "80: banner"}[change]
    with pytest.raises(CompatibilityError, match=said):
        require_coco_classes(dict(enumerate(labels)))


def test_classes_may_be_spelled_as_coco_and_voc_do():
    spelled = {"motorcycle": "motorbike", "computer mouse": "mouse", "tv": "tvmonitor", "couch": "sofa"}
    require_coco_classes({index: spelled.get(name, name) for index, name in enumerate(CLASSES)})


def test_a_sound_detector_passes_its_self_test(detector):
    assert attention_error(CPU) < 1e-5
    require_sound(detector.segmenter, detector.name_colors)


def test_what_is_wrong_with_a_detector_is_found(tiny_detector, monkeypatch):
    detector = load_detector(tiny_detector, CPU)
    weight = detector.name_colors.model.visual_projection.weight
    before = weight.detach().clone()
    with torch.no_grad():
        weight.normal_()
    assert "plain squares wrong" in next(color_findings(detector.name_colors))
    with torch.no_grad():
        weight.copy_(before)
        detector.segmenter.model.class_predictor.bias[3] = float("nan")
    assert any("not finite" in finding for finding in segmenter_findings(detector.segmenter))
    with pytest.raises(IntegrityError, match="not finite"):
        require_sound(detector.segmenter, detector.name_colors)


def _bicubic(images, device="cpu"):
    return to_pixel_values(
        [np.asarray(Image.fromarray(one).resize((1067, 800), Image.BICUBIC)) for one in images], device
    )


@pytest.mark.parametrize(
    ("to_input", "said"),
    [
        (
            lambda images, device: to_pixel_values([one[..., ::-1].copy() for one in images], device),
            "finds 5 instances",
        ),
        (_bicubic, "with score"),
        (lambda images, device: to_pixel_values(images, device) + 4.0, "known segmenter finds"),
    ],
    ids=["channels", "bicubic", "brightness"],
)
def test_a_machine_that_sees_a_known_picture_otherwise_is_found(monkeypatch, to_input, said):
    assert golden_findings.__wrapped__(CPU) == ()
    monkeypatch.setattr(segmenter, "to_pixel_values", to_input)
    findings = golden_findings.__wrapped__(CPU)
    assert findings and said in " ".join(findings)


def test_answers_of_another_architecture_are_not_judged(monkeypatch, caplog):
    monkeypatch.setattr(golden, "PARAMETERS", "of another version")
    monkeypatch.setattr(golden, "GOLDEN", (("couch", 0.9, 0.9),))
    assert golden_findings.__wrapped__(CPU) == ()
    assert "not known" in caplog.text


def test_wrong_deformable_attention_is_found():
    from transformers.models.mask2former.modeling_mask2former import multi_scale_deformable_attention as right

    def shifted(value, shapes, places, weights):
        return right(value, shapes, places + 0.01, weights)

    assert attention_error(CPU, shifted) > 1e-2


def test_a_segmenter_that_answers_otherwise_twice_is_found(detector, monkeypatch):
    noisy = type("Noisy", (), {})()
    noisy.device, model = CPU, detector.segmenter.model

    def call(pixel_values):
        outputs = model(pixel_values=pixel_values)
        outputs.class_queries_logits = outputs.class_queries_logits + torch.rand(()) * 1e-3
        return outputs

    noisy.model = call
    assert list(segmenter_findings(noisy)) == ["the segmenter answers otherwise when asked again"]


def test_the_plain_squares_are_genevals_colours():
    assert tuple(SOLID_COLORS) == COLORS


def test_exact_arithmetic_turns_tf32_off_and_back_on():
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        with exact_arithmetic():
            assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32
            assert torch.is_inference_mode_enabled()
        assert torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before[1]
    assert torch.backends.cudnn.allow_tf32 == before[0]


def test_models_that_are_not_there_are_said_before_anything_is_done(tiny_detector, tmp_path, monkeypatch):
    require_models(tiny_detector)
    with pytest.raises(MissingInputError, match=r"evaluate\.detector\.segmenter: \./nowhere"):
        require_models(tiny_detector.model_copy(update={"segmenter": "./nowhere"}))
    with pytest.raises(MissingInputError, match="a folder without it"):
        require_models(tiny_detector.model_copy(update={"color_classifier": str(tmp_path)}))
    monkeypatch.setenv(OFFLINE_VARIABLE, "1")
    with pytest.raises(MissingInputError, match=r"(?s)detector's model cannot be loaded.*--detections FILE"):
        require_models(DetectorConfig())


def test_a_model_that_lacks_weights_or_is_of_another_kind_is_refused(tiny_detector, tmp_path):
    from safetensors.torch import load_file, save_file
    from transformers import CLIPModel, Mask2FormerForUniversalSegmentation

    build_segmenter().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights.pop("class_predictor.bias")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CompatibilityError, match=r"class_predictor\.bias"):
        loaded(Mask2FormerForUniversalSegmentation, str(tmp_path), None, "segmenter")
    with pytest.raises(CompatibilityError):
        loaded(CLIPModel, str(tmp_path), None, "color_classifier")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CompatibilityError, match="safetensors"):
        loaded(Mask2FormerForUniversalSegmentation, str(tmp_path), None, "segmenter")
