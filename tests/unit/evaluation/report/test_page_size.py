"""How large the page becomes where every image is a photograph."""

import base64
import io
import json
import re

import pytest
from PIL import Image

from softalign.evaluation.report import gallery
from softalign.evaluation.report.pictures import PAGE_BYTES
from softalign.evaluation.report.rendering import render
from softalign.geneval.prompts import official_prompts
from tests.photograph_pages import photograph_page

ARMS = ("base", "untrained", "adapter")


def sides_of(page):
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S).group(1))
    return [
        max(Image.open(io.BytesIO(base64.b64decode(image[2]))).size) for entry in data["entries"] for image in entry[3]
    ]


@pytest.mark.slow
@pytest.mark.parametrize("arms", [ARMS, ("base", "untrained", "champion", "adapter")])
def test_the_official_suite_in_all_arms_is_a_page_of_less_than_8_mb(arms):
    page = render(photograph_page(official_prompts(), 4, arms, num_pictures=60))
    print(len(arms), "arms:", len(page.encode()), "bytes; sides", sorted(set(sides_of(page))))
    assert 0.8 * PAGE_BYTES < len(page.encode()) < PAGE_BYTES
    assert min(sides_of(page)) >= 48 and max(sides_of(page)) >= 80


def test_a_page_takes_the_room_that_it_has_and_no_more(monkeypatch):
    prompts = official_prompts()[::60]
    page = photograph_page(prompts, 1, ARMS, num_pictures=4)
    roomy = render(page)
    assert set(sides_of(roomy)) == {256}
    limit = gallery.REST_OF_PAGE_BYTES + 60_000
    monkeypatch.setattr(gallery, "PAGE_BYTES", limit)
    tight = render(page)
    assert len(tight.encode()) < limit < len(roomy.encode())
    assert len(set(sides_of(tight))) == 2  # where verdicts differ, and where they do not
