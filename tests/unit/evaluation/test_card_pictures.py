"""The card's pictures are the evaluation's own images, of fixed prompts."""

import io
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from softalign.artifacts.card import CardPictures
from softalign.evaluation.card_pictures import CELL_PX, GAP_PX, MARGIN_PX, write_pictures
from softalign.evaluation.compare import _load_arm


@pytest.fixture(scope="module")
def arms(recorded):
    return _load_arm(recorded.reports.base, recorded.store), _load_arm(recorded.reports.adapter, recorded.store)


def test_the_first_images_of_each_tags_first_prompt_stand_side_by_side(tmp_path, arms, prompts):
    base, adapter = arms
    pictures = write_pictures(tmp_path / "pictures", base, adapter)
    assert pictures == CardPictures.model_validate_json((tmp_path / "pictures" / "pictures.json").read_bytes())
    firsts = {prompt.tag: prompt.prompt for prompt in reversed(prompts)}
    assert {row.tag: row.prompt for row in pictures.rows} == firsts
    sheet = np.asarray(Image.open(tmp_path / "pictures" / pictures.image).convert("RGB"))
    number = pictures.rows[0].num_images
    for arm, start in ((base, 0), (adapter, number * (CELL_PX + MARGIN_PX) + GAP_PX)):
        image = np.asarray(Image.open(io.BytesIO(arm.images.read(arm.results[0].filename))).convert("RGB"))
        shown = sheet[:CELL_PX, start : start + CELL_PX]
        assert np.array_equal(shown, image.repeat(CELL_PX // len(image), 0).repeat(CELL_PX // len(image), 1))
    for row in pictures.rows:
        for arm, count in ((base, row.num_correct_base), (adapter, row.num_correct_adapter)):
            own = [one.correct for one in arm.results if one.prompt == row.prompt][: row.num_images]
            assert count == sum(own)


def test_photographs_are_made_small(tmp_path, arms):
    def photograph(_filename):
        buffer = io.BytesIO()
        Image.effect_noise((512, 512), 50).save(buffer, "PNG")
        return buffer.getvalue()

    large = [
        SimpleNamespace(results=arm.results, images=SimpleNamespace(read=photograph), report=arm.report) for arm in arms
    ]
    pictures = write_pictures(tmp_path / "pictures", *large)
    path = tmp_path / "pictures" / pictures.image
    assert path.suffix == ".webp" and path.stat().st_size < 300_000
    with Image.open(path) as sheet:
        assert sheet.width == 2 * pictures.rows[0].num_images * (CELL_PX + MARGIN_PX) + GAP_PX


def test_other_outcomes_choose_no_other_prompts(tmp_path, arms):
    base, adapter = arms
    turned = replace(base, results=tuple(one.model_copy(update={"correct": not one.correct}) for one in base.results))
    first, second = write_pictures(tmp_path / "a", base, adapter), write_pictures(tmp_path / "b", turned, adapter)
    assert [row.prompt for row in first.rows] == [row.prompt for row in second.rows]
    assert (tmp_path / "a" / first.image).read_bytes() == (tmp_path / "b" / second.image).read_bytes()
