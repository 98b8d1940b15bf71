"""Published datasets to compare: the curation's own fixtures."""

import re

import pytest

from softalign.data.curation.pipeline import curate
from softalign.data.curation.published import OpenedDataset
from tests.unit.data.curation.conftest import Handover, configure, handover, make_picture, store  # noqa: F401

HOSTILE = '</script><img src=x onerror=alert(1)>"\u202e.png'


@pytest.fixture
def publish(store, configure):  # noqa: F811
    def build(source, key, more=(), **options):
        return OpenedDataset(curate(configure(source, *more, **options), store, key), store)

    return build


def assert_fetches_nothing(page):
    """No address, no script, no element of the data: what a page shows is text."""
    assert not re.search(r"(?:src|href)=\"(?!data:|#)", page)
    assert "<script" not in page
    assert "onerror=" not in re.sub(r"&lt;.*?&gt;", "", page)
    assert "\u202e" not in page
