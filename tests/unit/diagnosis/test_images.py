"""The images of a diagnosis: captions true of them, edits false, of as many kinds as there are."""

from types import SimpleNamespace

import torch

from softalign.config.training import EDIT_KINDS
from softalign.data.captions.hard_negatives import edited_captions
from softalign.diagnosis.images import MAX_EDITS_PER_KIND, held_out_images, rendered_images
from softalign.shapes.detector import detect
from softalign.shapes.scenes import SHAPES


def test_scenes_show_what_their_captions_say_and_not_what_the_edits_say():
    images = rendered_images(24, 3, lambda pixels: pixels)
    assert {edit.kind for image in images for edit in image.edits} == set(EDIT_KINDS)
    for image in images:
        pixels = ((image.latents_CHW.permute(1, 2, 0) + 1.0) * 127.5).round().to(torch.uint8).numpy()
        shown = {found.class_name for found in detect(pixels)}
        named = {shape for shape in SHAPES if shape in image.caption}
        assert shown == named, "every object is named"
        for edit in image.edits_of("object"):
            assert {shape for shape in SHAPES if shape in edit} != shown
        assert all(len(image.edits_of(kind)) <= MAX_EDITS_PER_KIND for kind in EDIT_KINDS)
        assert image.caption not in {edit.text for edit in image.edits}


def test_scenes_are_a_function_of_the_seed():
    first, again, other = (rendered_images(3, seed, lambda pixels: pixels) for seed in (0, 0, 1))
    assert [(image.caption, image.edits) for image in first] == [(image.caption, image.edits) for image in again]
    assert [image.caption for image in first] != [image.caption for image in other]


def test_photographs_have_the_edits_of_training_that_no_caption_of_theirs_says():
    captions = ("two red cups left of a dog", "three animals on a red mat")
    reader = SimpleNamespace(
        first_images=lambda number: [SimpleNamespace(latents_CHW=None, captions=captions)] * number
    )
    image, _ = held_out_images(reader, 2)
    assert image.caption == captions[0]
    every = {edit.text for edit in edited_captions(captions[0], captions)}
    assert {edit.text for edit in image.edits} < every
    assert {edit.kind for edit in image.edits} == set(EDIT_KINDS)
    assert not any("three" in edit for edit in image.edits_of("count")), "the other caption says three"
